"""Shared by the tests of whole studies: the folder of a finished one, and a copy of it to change."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Tree


@pytest.fixture(scope="module")
def honest(smoke_tree: Tree, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the finished smoke study, alone in a folder of another name; nobody changes them."""
    target = tmp_path_factory.mktemp("honest") / "study"
    shutil.copytree(smoke_tree.path / "results" / "smoke", target)
    return target


@pytest.fixture
def study(honest: Path, tmp_path: Path) -> Path:
    """A copy of the honest study, free to be changed."""
    return Path(shutil.copytree(honest, tmp_path / "study"))
