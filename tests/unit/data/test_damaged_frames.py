"""Good files of frames with some bytes changed: one clear error or counted frames, and never a traceback."""

from __future__ import annotations

import io
import time

import ase.db
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from hypothesis import given, settings
from hypothesis import strategies as st

from chemscale.data.blocks import Rejected
from chemscale.data.structures import read
from chemscale.errors import DataError

h5py = pytest.importorskip("h5py")

NUMBERS = np.array([8, 1, 1])
WATER = np.array([[0, 0, 0.1173], [0, 0.7572, -0.4692], [0, -0.7572, -0.4692]])
FORCES = np.full((3, 3), 0.1)


def hdf5():
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        group = file.create_group("H2O")
        group["atomic_numbers"], group["coordinates"] = NUMBERS, WATER[None]
        group["wb97x_dz.energy"], group["wb97x_dz.forces"] = np.zeros(1), FORCES[None]
        group["charge"] = np.zeros(1)
        group.attrs["multiplicity"] = 1
    return stream.getvalue()


def npz():
    stream = io.BytesIO()
    np.savez_compressed(
        stream, z=NUMBERS, R=WATER[None], E=np.zeros(1), F=FORCES[None], charge=np.array(0), charges=np.zeros((1, 3))
    )
    return stream.getvalue()


def database(folder):
    atoms = Atoms(NUMBERS, WATER, charges=[0.2, -0.1, -0.1])
    atoms.calc = SinglePointCalculator(atoms, energy=-1.5, forces=FORCES)
    with ase.db.connect(folder / "own.db") as target:
        target.write(atoms, name="a", multiplicity=1, data={"charge": 0, "x": np.arange(3)})
    return (folder / "own.db").read_bytes()


def xyz():
    rows = "".join(
        f"{symbol} {' '.join(map(str, place))} 0.1 0.2 0.3\n" for symbol, place in zip("OHH", WATER, strict=True)
    )
    return (f"3\nProperties=species:S:1:pos:R:3:forces:R:3 name='a b' charge=0 energy=-1.5\n{rows}" * 2).encode()


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return {"ani1x": hdf5(), "md17": npz(), "extxyz": xyz(), "ase_db": database(tmp_path_factory.mktemp("good"))}


CHANGES = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255), st.integers(0, 3)), max_size=6)


@pytest.mark.parametrize("parser", ["ani1x", "md17", "extxyz", "ase_db"])
@settings(derandomize=True, deadline=None, max_examples=200)
@given(changes=CHANGES)
def test_changed_bytes(good, tmp_path_factory, parser, changes):
    content = bytearray(good[parser])
    for place, byte, repeats in changes:
        begin = int(place * len(content))
        # one byte for another, or some more in its place
        content[begin : begin + 1] = bytes([byte] * (repeats or 1))
    path = tmp_path_factory.getbasetemp() / f"changed.{parser}"
    path.write_bytes(content)
    begun = time.monotonic()
    located = {"files": [str(path)], "parser": parser, "energy_unit": "eV", "length_unit": "angstrom"}
    message, frames = None, 0
    try:
        for item in read(located, {}):
            frames += item.count if isinstance(item, Rejected) else 1
    except DataError as error:
        message = str(error)
    assert time.monotonic() - begun < 10
    if not changes:
        assert (message, frames) == (None, 2 if parser == "extxyz" else 1)
    if message is None:
        assert frames > 0
    else:
        assert len(message.splitlines()) == 1
