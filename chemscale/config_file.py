"""Reading a study's config: YAML without silent loss, and one message for what is wrong in it."""

from __future__ import annotations

import difflib
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from chemscale.config import DATA_KINDS, StudyConfig
from chemscale.errors import ConfigError


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML without silent loss: a key that stands twice in a mapping is an error."""


def _unique_mapping(loader: _UniqueKeyLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    # checked before a merge ("<<") is flattened into the node: overriding a merged key is what merging is for
    keys = [key_node for key_node, _ in node.value if key_node.tag != "tag:yaml.org,2002:merge"]
    seen: set[Any] = set()
    for key_node in keys:
        key = loader.construct_object(key_node)
        if not isinstance(key, str | int | float):
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is no name", key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node)


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def load_config(path: Path) -> StudyConfig:
    """The checked config of a YAML file; `ConfigError` names file, key path, value found and what is allowed."""
    try:
        raw = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except FileNotFoundError:
        raise ConfigError(f"read the config {path}", "no such file", "name an existing YAML file") from None
    except OSError as error:
        raise ConfigError(f"read the config {path}", f"no readable file ({error.strerror})", "name a file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"read the config {path}", f"no UTF-8 text ({error})", "save it as UTF-8") from None
    except yaml.YAMLError as error:
        found = " ".join(str(error).split())
        raise ConfigError(f"read the config {path}", f"no valid YAML: {found}", "mend that line") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"read the config {path}", f"{type(raw).__name__}", "write a mapping of keys to values")
    try:
        return StudyConfig.model_validate(raw)
    except ValidationError as error:
        raise _explain(path, error) from None


def _explain(path: Path, error: ValidationError) -> ConfigError:
    """One message for the first error of a config, with the number of further ones."""
    errors = error.errors(include_url=False)
    first = errors[0]
    # pydantic puts the discriminator's tag into the location of a data section; the user never wrote that
    where = [str(part) for part in first["loc"]]
    if where[:1] == ["data"] and len(where) > 2:
        del where[2]
    key = ".".join(where) or "(top level)"
    kind, found = first["type"], first["input"]
    if kind == "extra_forbidden":
        allowed = _allowed_keys(where)
        close = difflib.get_close_matches(where[-1], allowed, n=1)
        asked, found_text = f"{path}: {key}", "an unknown key"
        do = f"did you mean {close[0]!r}? " if close else ""
        do += f"allowed here: {', '.join(allowed)}" if allowed else "remove it"
    elif kind.startswith("union_tag"):
        asked = f"{path}: {key}.kind"
        found_text = repr(found["kind"]) if isinstance(found, dict) and "kind" in found else "nothing"
        do = f"name one of {', '.join(DATA_KINDS)}"
    elif kind == "missing":
        asked, found_text, do = f"{path}: {key}", "nothing", "this key is required"
    else:
        text = repr(found)
        asked = f"{path}: {key}"
        found_text = text if len(text) < 120 else text[:117] + "..."
        do = first["msg"].removeprefix("Value error, ")
    if len(errors) > 1:
        do += f" (and {len(errors) - 1} more)"
    return ConfigError(asked, found_text, do)


def _allowed_keys(where: list[str]) -> list[str]:
    """The keys that the mapping around the last part of `where` takes; empty where that can't be told."""
    annotation: Any = StudyConfig
    for part in where[:-1]:
        container = next((option for option in _options(annotation) if get_origin(option) in (dict, list)), None)
        if container is not None:
            annotation = get_args(container)[-1]
            continue
        found = [model.model_fields[part].annotation for model in _models(annotation) if part in model.model_fields]
        if not found:
            return []
        annotation = found[0]
    return sorted({name for model in _models(annotation) for name in model.model_fields})


def _options(annotation: Any) -> list[Any]:
    """The members of a union, without None and without annotations."""
    if get_origin(annotation) is Annotated:
        return _options(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [option for member in get_args(annotation) for option in _options(member)]
    return [annotation]


def _models(annotation: Any) -> list[type[BaseModel]]:
    return [option for option in _options(annotation) if isinstance(option, type) and issubclass(option, BaseModel)]
