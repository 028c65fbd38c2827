"""Reading a study's config: YAML without silent loss, and one message for what is wrong in it."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from yaml.constructor import ConstructorError

from chemscale.config import DATA_KINDS, StudyConfig
from chemscale.errors import ConfigError
from chemscale.io import read_text

MAX_CONFIG_BYTES = 2**20
MAX_VALUES = 200_000  # of a config, once all its aliases are unfolded
_MAX_CHARACTERS = 2**22  # of these values
_MAX_DEPTH = 50  # of mappings and lists
_MAX_DIGITS = 100
_TAG = "tag:yaml.org,2002:"
_AMBIGUOUS = "ambiguous"
# plain scalars that YAML 1.1, which Snakemake reads, and YAML 1.2 take for different values
_TWO_WAYS = {
    r"yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF": "a truth value: write true or false, or quote the text",
    r"[-+]?0[0-9_]+|[-+]?0[bx][0-9a-fA-F_]+|0o[0-7]+": "a number to another base: write a decimal, or quote the text",
    r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?": "a number to base 60: write a decimal, or quote the text",
    r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt \t].*)?": "a date: quote the text",
    r"=": "a key's value: quote the text",
}
_PLAIN_SCALARS = (
    (_TAG + "merge", re.compile(r"<<$")),
    (_TAG + "null", re.compile(r"(?:~|null|Null|NULL|)$")),
    (_TAG + "bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$")),
    (_AMBIGUOUS, re.compile(f"(?:{'|'.join(_TWO_WAYS)})$")),
    (_TAG + "int", re.compile(r"[-+]?(?:0|[1-9][0-9_]*)$")),
    (
        _TAG + "float",
        re.compile(
            r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?$"
            r"|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
        ),
    ),
)


class _Extent(NamedTuple):
    """What a node of the file holds once its aliases are unfolded."""

    values: int
    characters: int
    depth: int


class _StrictLoader(yaml.SafeLoader):
    """YAML without silent loss and within bounds.

    A key that stands twice in a mapping, a tag, and a scalar that versions of YAML read differently are errors; so are
    aliases that unfold to more than `MAX_VALUES`, before anything is made of them.
    """

    # no resolver of YAML 1.1: see `_PLAIN_SCALARS`
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (of the base class)

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._extents: dict[yaml.Node, _Extent] = {}
        self._open = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """The next node; an error where it, unfolded, is too large."""
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        if (tag := getattr(event, "tag", None)) is not None:
            raise _refused(f"the tag {tag!r}, which no config takes", event.start_mark)
        self._open += 1
        if self._open > _MAX_DEPTH:
            raise _refused(f"mappings or lists that are more than {_MAX_DEPTH} deep", event.start_mark)
        node = super().compose_node(parent, index)
        self._open -= 1
        assert node is not None, "the stream has a document"
        if isinstance(event, yaml.AliasEvent):
            if node not in self._extents:
                raise _refused(f"the alias *{event.anchor} within what it names", event.start_mark)
            return node
        if isinstance(node, yaml.ScalarNode):
            extent = _Extent(1, len(node.value), 1)
        else:
            pairs = node.value if isinstance(node, yaml.MappingNode) else [node.value]
            parts = [self._extents[child] for pair in pairs for child in pair]
            extent = _Extent(
                1 + sum(part.values for part in parts),
                sum(part.characters for part in parts),
                1 + max((part.depth for part in parts), default=0),
            )
        if extent.values > MAX_VALUES or extent.characters > _MAX_CHARACTERS:
            limit = f"{MAX_VALUES:,} values or {_MAX_CHARACTERS:,} characters"
            raise _refused(f"more than {limit}, its aliases unfolded", event.start_mark)
        if extent.depth > _MAX_DEPTH:
            raise _refused(
                f"mappings or lists that are more than {_MAX_DEPTH} deep, aliases unfolded", event.start_mark
            )
        self._extents[node] = extent
        return node

    def construct_unique(self, node: yaml.MappingNode) -> dict[Any, Any]:
        """A mapping whose keys are text, each of which stands once."""
        # checked before a merge ("<<") is flattened into the node: overriding a merged key is what merging is for
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag == _TAG + "merge":
                continue
            if not isinstance(key, yaml.ScalarNode):
                raise _refused("a key that is a list or a mapping, which is no name", key.start_mark)
            if key.tag != _TAG + "str":
                raise _refused(f"the key {key.value!r} is no name", key.start_mark)
            if key.value in seen:
                raise _refused(f"the key {key.value!r} stands twice", key.start_mark)
            seen.add(key.value)
        return self.construct_mapping(node)

    def construct_int(self, node: yaml.ScalarNode) -> int:
        """A whole number of decimal digits."""
        if len(node.value) > _MAX_DIGITS:
            raise _refused(f"a number of {len(node.value):,} digits", node.start_mark)
        return int(node.value.replace("_", ""))

    def refuse_ambiguous(self, node: yaml.ScalarNode) -> None:
        """An error that says what to write in place of a scalar that is read in two ways."""
        words = next(words for pattern, words in _TWO_WAYS.items() if re.fullmatch(pattern, node.value))
        raise _refused(f"{node.value!r}, which some readers of YAML take for {words}", node.start_mark)


def _refused(problem: str, mark: Any) -> ConstructorError:
    return ConstructorError(None, None, problem, mark)


for _tag, _pattern in _PLAIN_SCALARS:
    _StrictLoader.add_implicit_resolver(_tag, _pattern, None)
_StrictLoader.add_constructor(_TAG + "map", _StrictLoader.construct_unique)
_StrictLoader.add_constructor(_TAG + "int", _StrictLoader.construct_int)
_StrictLoader.add_constructor(_AMBIGUOUS, _StrictLoader.refuse_ambiguous)


def load_config(path: Path) -> StudyConfig:
    """The checked config of a YAML file; `ConfigError` names file, key path, value found and what is allowed."""
    text = read_text(Path(path), MAX_CONFIG_BYTES, ConfigError, "name an existing YAML file")
    try:
        raw = yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"read the config {path}", f"no valid YAML: {_place(error, text)}", "correct it") from None
    if raw is None:
        raise ConfigError(f"read the config {path}", "nothing", "write a mapping of keys to values")
    if not isinstance(raw, dict):
        raise ConfigError(f"read the config {path}", f"a {type(raw).__name__}", "write a mapping of keys to values")
    if "__use_yte__" in raw:
        found = "'__use_yte__', by which Snakemake runs code that stands in the file"
        raise ConfigError(
            f"{path}: __use_yte__", found, "never give this file to Snakemake; remove the key and the code"
        )
    try:
        return StudyConfig.model_validate(raw)
    except ValidationError as error:
        raise _explain(path, error) from None


def _place(error: yaml.YAMLError, text: str) -> str:
    """What is wrong with a YAML text, and in which line."""
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return f"line {line}: the character {chr(error.character)!r}"
    assert isinstance(error, yaml.MarkedYAMLError), "all others have a mark"
    problem, mark = error.problem, error.problem_mark or error.context_mark
    begin = error.context_mark
    context = f" ({error.context} from line {begin.line + 1} on)" if error.context and begin is not None else ""
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}{context}" if mark else f"{problem}{context}"


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
    elif not where and kind == "value_error":
        # what is wrong with the study as a whole: found is told by the check, and is not the whole file
        found_text, _, do = first["msg"].removeprefix("Value error, ").partition(": ")
        asked = str(path)
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
