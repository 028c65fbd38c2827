"""One set of versions: the lock, the extras of the package and the environments for clusters agree."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# the extras that each environment is built of, beside the package's own dependencies
STACKS = {"data": ["data"], "train": ["train", "zero"], "study": ["data", "study", "workflow"]}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(lines: list[str]) -> dict[str, str]:
    found = {}
    for line in lines:
        name, version = re.fullmatch(r"([A-Za-z0-9._-]+)==([^\s;]+)", line).groups()  # type: ignore[union-attr]
        assert normal(name) not in found, f"{name} is pinned twice"
        found[normal(name)] = version
    return found


def lock() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return pins([line for line in lines if line and not line.startswith("#")])


def names(requirements: list[str]) -> set[str]:
    return {normal(re.match(r"[A-Za-z0-9._-]+", requirement).group()) for requirement in requirements}  # type: ignore[union-attr]


def test_every_requirement_is_locked() -> None:
    required = names(EXTRAS["dependencies"])
    for extra in EXTRAS["optional-dependencies"].values():
        required |= names(extra)
    assert required <= set(lock())


def test_every_environment_has_a_stack() -> None:
    assert {path.stem for path in (ROOT / "envs").glob("*.yaml")} == set(STACKS)


@pytest.mark.parametrize("stack", STACKS)
def test_environments_agree_with_the_lock_and_the_extras(stack: str) -> None:
    environment = yaml.safe_load((ROOT / "envs" / f"{stack}.yaml").read_text())
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    pinned = pins(pip)
    locked = lock()
    assert pinned == {name: locked[name] for name in pinned}
    required = names(EXTRAS["dependencies"])
    for extra in STACKS[stack]:
        required |= names(EXTRAS["optional-dependencies"][extra])
    assert set(pinned) == required


def test_the_lock_is_of_the_constraint_on_torch() -> None:
    assert lock()["torch"] == "2.13.0"
