"""Structure files that a config names: a molecule that ASE reads, or one line that says why not."""

import os

import pytest

from chemscale.data.starts import starts
from chemscale.errors import DataError

WATER = "3\n\nO 0 0 0.12\nH 0 0.76 -0.47\nH 0 -0.76 -0.47\n"


def section(path):
    return {"kind": "trajectories", "molecules": {"mine": {"smiles": None, "structure": str(path)}}}


def test_a_structure_is_read(tmp_path):
    (tmp_path / "water.xyz").write_text(WATER)
    (start,) = starts(section(tmp_path / "water.xyz"))
    assert start.numbers.tolist() == [8, 1, 1]
    assert start.positions[1].tolist() == [0, 0.76, -0.47]


def test_what_is_no_structure_file_is_refused_before_it_is_opened(tmp_path):
    os.mkfifo(tmp_path / "fifo.xyz")
    (tmp_path / "zero.xyz").symlink_to("/dev/zero")
    (tmp_path / "sparse.xyz").touch()
    os.truncate(tmp_path / "sparse.xyz", 2**40)
    (tmp_path / "text.xyz").write_text("no\n\x1b[2Jatoms\n")
    for name, found in [
        ("fifo.xyz", "a FIFO"),
        ("zero.xyz", "a device"),
        ("sparse.xyz", "1,099,511,627,776 bytes"),
        ("none.xyz", "no such file"),
        (".", "a folder"),
        ("text.xyz", "no structure that ASE reads"),
    ]:
        with pytest.raises(DataError, match=f"found {found}") as error:
            starts(section(tmp_path / name))
        assert str(error.value).isprintable()
