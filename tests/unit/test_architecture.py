"""The design's one-way imports, and that every rule's digest covers the code behind it."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from chemscale.families import FAMILIES
from chemscale.planning.code import STAGES, family_modules

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "chemscale"
MODULES = sorted(path.relative_to(PACKAGE).with_suffix("").as_posix() for path in PACKAGE.rglob("*.py"))
# rows of the design: a module imports only from rows with a smaller number, or from its own folder
ROWS = {
    "cost": 1,
    "data": 1,
    "study": 2,
    "models": 2,
    "scaling": 2,
    "inference": 3,
    "planning": 3,
    "evaluation": 4,
    "training": 5,
    "reporting": 6,
    "audit": 6,
    "cli": 7,
    # the package's front: like the command line, it imports what a call needs when it is made
    "__init__": 7,
}
FOUNDATION = {
    "catalogue",
    "errors",
    "units",
    "families",
    "grid",
    "config",
    "config_file",
    "config_values",
    "io",
    "job_records",
    "locks",
    "provenance",
    "records",
    "evaluations",
    "gathering",
    "stage",
}
# what decides no output of a stage by itself: its effect is in the rules' inputs and other params, or in no output
BASIS = {
    "__init__",
    "errors",
    "io",
    "locks",
    "families",
    "grid",
    "config",
    "config_file",
    "config_values",
    "study",
    "provenance",
}


@cache
def imports(module: str) -> frozenset[str]:
    """Everything that a module imports, anywhere in it, as dotted names of modules."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            found.add(node.module or "")
            # `from chemscale.data import shards` names a module by its second part
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def own_imports(module: str) -> set[str]:
    """The modules of chemscale that a module imports, as paths below the package."""
    paths = {name.removeprefix("chemscale").lstrip(".").replace(".", "/") for name in imports(module) if is_own(name)}
    return {path for path in paths if path in MODULES} | {
        f"{path}/__init__" for path in paths if f"{path}/__init__" in MODULES
    }


def is_own(name: str) -> bool:
    return name == "chemscale" or name.startswith("chemscale.")


def row(module: str) -> int:
    if module in FOUNDATION:
        return 0
    return ROWS[module.partition("/")[0]]


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module: str) -> None:
    folder = module.partition("/")[0] if "/" in module else None
    for used in own_imports(module):
        same = used.partition("/")[0] == folder if folder else row(module) == 0 == row(used)
        assert same or row(used) < row(module), f"{module} (row {row(module)}) imports {used} (row {row(used)})"


@pytest.mark.parametrize("module", MODULES)
def test_orchestration_and_torch_stay_where_they_belong(module: str) -> None:
    roots = {name.partition(".")[0] for name in imports(module)}
    assert "snakemake" not in roots
    if row(module) < 2 or module.partition("/")[0] in ("scaling", "planning", "reporting", "audit"):
        assert "torch" not in roots


def test_third_party_packages_are_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    declared = {requirement.split(">")[0].lower() for requirements in lists for requirement in requirements}
    # what is of use beside a GPU alone is not installed for the tests
    distributions = {"pynvml": ["nvidia-ml-py"], **packages_distributions()}
    for module in MODULES:
        for root in {name.partition(".")[0] for name in imports(module)} - {"chemscale", "", *sys.stdlib_module_names}:
            names = {name.lower() for name in distributions.get(root, [root])}
            assert names & declared, f"{module} imports {root}, which no extra of pyproject.toml names"


def closure(modules: set[str]) -> set[str]:
    """The modules and everything of chemscale below them, but for the basis."""
    found: set[str] = set()
    waiting = set(modules)
    while waiting:
        module = waiting.pop()
        found.add(module)
        waiting |= own_imports(module) - found - BASIS
    return {module for module in found if not module.endswith("__init__")}


def expand(names: tuple[str, ...]) -> set[str]:
    return {module for module in MODULES for name in names if module == name or module.startswith(f"{name}/")}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_familys_digest_covers_what_its_training_imports(family: str) -> None:
    listed = set(family_modules(family))
    loop = "training/lm" if FAMILIES[family].domain == "language" else "training/potential"
    needed = closure({"training/run", loop, FAMILIES[family].module})
    assert needed <= listed, f"not in the digest: {sorted(needed - listed)}"


def test_a_familys_digest_names_no_other_family() -> None:
    for family in FAMILIES:
        others = {other.module for other in FAMILIES.values()} - {FAMILIES[family].module}
        assert not others & set(family_modules(family))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stages_digest_covers_what_it_imports(stage: str) -> None:
    listed = expand(STAGES[stage])
    assert listed, f"{stage} names no module"
    assert closure(listed) <= listed, f"not in the digest: {sorted(closure(listed) - listed)}"


def test_planning_the_workflow_never_pays_for_torch() -> None:
    modules = "chemscale.planning.code, chemscale.planning.packs, chemscale.study"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
