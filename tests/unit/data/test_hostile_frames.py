"""Files of frames from strangers: each ends soon in one clear error or in counted rejects, and runs nothing."""

from __future__ import annotations

import json
import os
import resource
import sqlite3
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import ase.db
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from chemscale.data import sources
from chemscale.data.blocks import Rejected
from chemscale.data.structures import Structure, read
from chemscale.errors import DataError

h5py = pytest.importorskip("h5py")

ROOT = Path(__file__).resolve().parents[3]
METHANE = np.array(
    [[0, 0, 0], [0.63, 0.63, 0.63], [-0.63, -0.63, 0.63], [-0.63, 0.63, -0.63], [0.63, -0.63, -0.63]], dtype=float
)
GOOD = "5\nProperties=species:S:1:pos:R:3:forces:R:3 energy=-1.5\n" + "".join(
    f"{symbol} {' '.join(map(str, position))} 0.1 0.2 0.3\n" for symbol, position in zip("CHHHH", METHANE, strict=True)
)
KEYS = ("atomic_numbers", "coordinates", "wb97x_dz.energy", "wb97x_dz.forces")


def section(path, parser):
    return {"kind": "structures", "source": "file", "path": str(path), "format": parser, "energy_unit": "eV",
            "length_unit": "angstrom"}  # fmt: skip


def read_all(path, parser):
    """Everything that a file gives, as the stages find it and read it."""
    located = sources.locate(section(path, parser), path.parent / "cache", {})
    return list(read(located, section(path, parser)))


def refused(path, parser, message):
    with pytest.raises(DataError, match=message) as caught:
        read_all(path, parser)
    assert len(str(caught.value).splitlines()) == 1
    assert caught.value.exit_code == 2


def reasons(path, parser):
    return [item.reason if isinstance(item, Rejected) else "kept" for item in read_all(path, parser)]


# --- what is no file --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parser", ["extxyz", "ase_db", "md17", "ani1x"])
def test_what_is_no_regular_file(tmp_path, parser):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "fifo")
    (tmp_path / "broken").symlink_to(tmp_path / "nothing")
    (tmp_path / "folder").mkdir()
    for path, message in [
        (tmp_path / "fifo", "a FIFO"),
        (tmp_path / "link", "a FIFO behind a link"),
        (tmp_path / "broken", "a link to nothing"),
        (tmp_path / "folder", "a folder"),
        (tmp_path / "none", "no such file"),
        (Path("/dev/zero"), "a device"),
        (Path("/proc/self/environ"), "an empty file"),
    ]:
        refused(path, parser, message)


@pytest.mark.parametrize("parser", ["extxyz", "ase_db", "md17", "ani1x"])
@pytest.mark.parametrize("begin", [b"", GOOD.encode(), b"SQLite format 3\0", b"PK\3\4", b"\x89HDF\r\n\x1a\n"])
def test_a_sparse_file_of_a_terabyte(tmp_path, parser, begin):
    path = tmp_path / "sparse"
    path.write_bytes(begin)
    os.truncate(path, 1 << 40)
    refused(path, parser, "a sparse file with a hole of 1,099,5|a web page|an empty file")


# --- extended XYZ -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1000000000\nenergy=1\nH 0 0 0\n", "the number of atoms of frame 0 in line 1"),
        ("999999999\nenergy=1\nH 0 0 0\n", "at most 10,000 atoms in frame 0 .* found 999,999,999"),
        ("999999\nenergy=1\nH 0 0 0\n", "999999 atoms in frame 0 .* the end of the file after 1"),
        ("9" * (1 << 21), "more than 1,048,576 characters"),
        (f"5\n{'x' * (1 << 21)}", "line 2 of .*more than 1,048,576 characters"),
        (GOOD + " " * (1 << 21), "line 8 of .*more than 1,048,576 characters"),
        ("\x00" * 3000, "the number of atoms of frame 0 in line 1"),
        ("-5\n\n", "the number of atoms of frame 0"),
    ],
    ids=["ten digits", "nine digits", "six digits", "digits", "comment", "blanks", "NUL", "negative"],
)
def test_numbers_of_atoms_and_lines_without_end(tmp_path, text, message):
    path = tmp_path / "own.xyz"
    path.write_text(text)
    refused(path, "extxyz", message)


@pytest.mark.parametrize(
    "comment",
    [
        "Properties=species:S:1:pos:R:3:x:R:1000000000 energy=1",
        "Properties=species:S:1:pos:R:3:x:R:-1000000000:y:R:1000000000 energy=1",
        "Properties=species:S:1:pos:R:three energy=1",
        f'Properties=species:S:1:pos:R:3:forces:R:3 energy=1 x="_JSON {"[" * 100_000}"',
        f'Properties=species:S:1:pos:R:3:forces:R:3 energy=1 x="_JSON {"9" * 5000}"',
        'Properties=species:S:1:pos:R:3:forces:R:3 energy=1 Lattice="nan nan"',
        "Properties=species:S:1:pos:R:3:forces:R:3 energy=1 =",
        "Properties=species:S:1:pos:R:3:positions:R:3:forces:R:3 energy=1",
        "Properties=species:S:1:species:S:1:pos:R:3 energy=1",
        "Properties energy=1",
        "Properties=pos:R:3 energy=1",
    ],
    ids=lambda text: text[:60],
)
def test_comments_that_take_memory_or_make_no_sense(tmp_path, comment):
    path = tmp_path / "own.xyz"
    body = GOOD.split("\n", 2)[2]
    path.write_text(f"5\n{comment}\n{body}{GOOD}")
    assert reasons(path, "extxyz") in (["unreadable", "kept"], ["unknown_element", "kept"])


def test_cells_of_nothing_and_of_nan(tmp_path):
    path = tmp_path / "own.xyz"
    body = GOOD.split("\n", 2)[2]
    cells = [
        'Lattice="0 0 0 0 0 0 0 0 0"',
        f'Lattice="{" ".join(["nan"] * 9)}"',
        f'Lattice="{" ".join(["0"] * 9)}" pbc="F F F"',
    ]
    path.write_text("".join(f"5\nProperties=species:S:1:pos:R:3:forces:R:3 energy=1 {cell}\n{body}" for cell in cells))
    assert reasons(path, "extxyz") == ["periodic", "periodic", "kept"]


def test_frames_of_very_many_atoms(tmp_path):
    def text(atoms):
        edge = round(atoms ** (1 / 3) + 0.5)
        grid = np.argwhere(np.ones((edge, edge, edge)))[:atoms] * 2.5
        rows = "".join(f"He {x} {y} {z} 0 0 0\n" for x, y, z in grid)
        return f"{atoms}\nProperties=species:S:1:pos:R:3:forces:R:3 energy=1\n{rows}"

    path = tmp_path / "own.xyz"
    on_top = text(600).replace("He 0.0 0.0 2.5 ", "He 0.0 0.0 0.1 ")
    path.write_text(text(10_001) + text(10_000) + text(600) + on_top + GOOD)
    assert reasons(path, "extxyz") == ["too_many_atoms", "kept", "kept", "atoms_too_close", "kept"]


# --- HDF5 -------------------------------------------------------------------------------------------------------------


def hdf5(path, change=None, frames=2):
    """A good file of two groups, of which a function changes the second before it is written."""
    arrays = dict(zip(KEYS, (np.array([6, 1, 1, 1, 1]), np.tile(METHANE, (frames, 1, 1)), np.zeros(frames),
                             np.full((frames, 5, 3), 0.1)), strict=True))  # fmt: skip
    with h5py.File(path, "w") as file:
        for name in ("a", "b"):
            group = file.create_group(name)
            for key, values in arrays.items():
                group[key] = values
        if change is not None:
            change(file, file["b"])
    return path


def replaced(make, key="coordinates"):
    def change(file, group):
        shape, dtype = group[key].shape, group[key].dtype
        del group[key]
        make(group, key, shape, dtype)

    return change


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret"
    path.write_bytes(np.tile(METHANE, (2, 1, 1)).tobytes())
    return path


def test_a_good_file_of_hdf5(tmp_path):
    assert reasons(hdf5(tmp_path / "own.h5"), "ani1x") == ["kept"] * 4


@pytest.mark.parametrize("key", KEYS)
def test_external_storage_is_refused(tmp_path, secret, key):
    make = replaced(
        lambda group, key, shape, dtype: group.create_dataset(key, shape, dtype, external=[(str(secret), 0, 240)]), key
    )
    refused(hdf5(tmp_path / "own.h5", make), "ani1x", f"read {key} in .*group b: found an array stored in other files")


def test_virtual_datasets_are_refused(tmp_path):
    other = hdf5(tmp_path / "other.h5")

    def make(group, key, shape, dtype):
        layout = h5py.VirtualLayout(shape, dtype)
        layout[:] = h5py.VirtualSource(str(other), f"a/{key}", shape)
        group.create_virtual_dataset(key, layout)

    refused(hdf5(tmp_path / "own.h5", replaced(make)), "ani1x", "an array stored in other files")


@pytest.mark.parametrize("kind", ["soft", "external", "external to a FIFO", "loop"])
@pytest.mark.parametrize("place", ["array", "group"])
def test_links_are_refused(tmp_path, kind, place):
    other = hdf5(tmp_path / "other.h5")
    os.mkfifo(tmp_path / "fifo")

    def change(file, group):
        holder, name = (group, "coordinates") if place == "array" else (file, "b")
        target = "/a/coordinates" if place == "array" else "/a"
        del holder[name]
        holder[name] = {
            "soft": h5py.SoftLink(target),
            "external": h5py.ExternalLink(str(other), target),
            "external to a FIFO": h5py.ExternalLink(str(tmp_path / "fifo"), target),
            "loop": h5py.SoftLink(f"{holder.name.rstrip('/')}/{name}"),
        }[kind]

    refused(hdf5(tmp_path / "own.h5", change), "ani1x", "found a link, which may lead to any file")


def of_shape(shape=None, dtype="f8", **options):
    """A change that makes the positions anew, of a shape and a type, without a value."""
    return replaced(
        lambda group, key, old, _: group.create_dataset(key, old if shape is None else shape, dtype, **options)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (of_shape((1 << 33, 5, 3), chunks=(64, 5, 3)), "at most 100 times the stored size"),
        (of_shape((1 << 33, 5, 3)), "at most 100 times the stored size"),
        (of_shape(chunks=(1 << 25, 5, 3), maxshape=(None, 5, 3)), "chunks of more than"),
        (replaced(lambda group, key, *_: group.create_dataset(key, data=h5py.Empty("f8"))), "without a shape"),
        (of_shape(dtype=h5py.string_dtype()), "found pickled objects"),
        (of_shape(dtype=[("x", "f8")]), "values of type"),
        (replaced(lambda group, key, *_: group.create_group(key)), "coordinates in .*group b"),
    ],
    ids=["unwritten chunks", "unwritten", "chunks", "no shape", "text", "compound", "group"],
)
def test_arrays_of_hdf5_that_claim_too_much(tmp_path, change, message):
    refused(hdf5(tmp_path / "own.h5", change), "ani1x", message)


def test_a_charge_that_lies_in_another_file(tmp_path, secret):
    def change(file, group):
        group.create_dataset("charge", (2,), "f4", external=[(str(secret), 0, 8)])

    refused(hdf5(tmp_path / "own.h5", change), "ani1x", "an array stored in other files")


# --- npz --------------------------------------------------------------------------------------------------------------


def npz(path, **changed):
    arrays = {
        "z": np.array([6, 1, 1, 1, 1]),
        "R": METHANE[None],
        "E": np.zeros(1),
        "F": np.full((1, 5, 3), 0.1),
    } | changed
    np.savez(path, **arrays)
    return path


def header(text):
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    "text",
    [
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 5, 3), }\n",
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (9223372036854775807, 5, 3), }\n",
        b"{'descr': '|O', 'fortran_order': False, 'shape': (1, 5, 3), }\n",
        b"(" * 9000,
        b"{'descr': '<f8', 'fortran_order': True, 'shape': (100000000, 5, 3), }\n",
        b"\xff\xff",
        b"'''",
    ],
    ids=["negative", "huge", "objects", "deep", "by columns", "bytes", "open text"],
)
def test_headers_of_arrays(tmp_path, text):
    path = npz(tmp_path / "own.npz")
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, header(text) if name == "R.npy" else content)
    refused(path, "md17", "own.npz")


@pytest.mark.parametrize("parser", ["md17", "ani1x"])
def test_arrays_that_grow_a_thousand_times(tmp_path, monkeypatch, parser):
    monkeypatch.setattr("chemscale.data.published_frames._LARGE", 1 << 20)
    if parser == "md17":
        path = tmp_path / "own.npz"
        zeros = np.zeros((20_000, 5, 3))
        np.savez_compressed(path, z=np.array([6, 1, 1, 1, 1]), R=zeros, E=np.zeros(20_000), F=zeros)
    else:
        path = hdf5(
            tmp_path / "own.h5",
            of_shape((20_000, 5, 3), chunks=(10_000, 5, 3), compression="gzip", data=np.zeros((20_000, 5, 3))),
        )
    refused(path, parser, "at most 100 times the stored size")


def test_a_molecule_of_very_many_atoms(tmp_path):
    path = npz(tmp_path / "own.npz", z=np.ones(20_000), R=np.zeros((1, 20_000, 3)), F=np.zeros((1, 20_000, 3)))
    refused(path, "md17", "at most 10,000 atoms")


# --- databases of ASE -------------------------------------------------------------------------------------------------


def database(path, rows=2):
    with ase.db.connect(path) as target:
        for _ in range(rows):
            atoms = Atoms("CH4", METHANE)
            atoms.calc = SinglePointCalculator(atoms, energy=-1.5, forces=np.full((5, 3), 0.1))
            target.write(atoms, data={"x": np.arange(3)})
    return path


def changed(path, *statements):
    with sqlite3.connect(path) as connection:
        for statement in statements:
            connection.execute(*statement if isinstance(statement, tuple) else (statement,))
    connection.close()
    return path


def data_blob(value):
    text = json.dumps(value).encode()
    return (8).to_bytes(8, "little") + text


BOMB = {"__ndarray__": [[1 << 40], "float64", [1.0]]}


@pytest.mark.parametrize(
    "statement",
    [
        ("UPDATE systems SET data = ? WHERE id = 1", (data_blob({"x": {"__ndarray__": [[1 << 40], "float64", 0]}}),)),
        ("UPDATE systems SET data = ? WHERE id = 1", (data_blob({"x": {"__ndarray__": [[-1], "object", 0]}}) + b"x",)),
        ("UPDATE systems SET data = ? WHERE id = 1", (json.dumps({"x": BOMB}),)),
        ("UPDATE systems SET data = ? WHERE id = 1", ("[" * 100_000,)),
        ("UPDATE systems SET data = ? WHERE id = 1", (b"\x80\x04cos\nsystem\n.",)),
        ("UPDATE systems SET key_value_pairs = ? WHERE id = 1", (json.dumps({"x": BOMB}),)),
        ("UPDATE systems SET key_value_pairs = ? WHERE id = 1", ("not JSON",)),
        ("UPDATE systems SET calculator_parameters = ? WHERE id = 1", ("{" * 100_000,)),
        ("UPDATE systems SET numbers = ? WHERE id = 1", (b"123",)),
        ("UPDATE systems SET numbers = ? WHERE id = 1", (5,)),
        ("UPDATE systems SET positions = ? WHERE id = 1", (b"",)),
        ("UPDATE systems SET forces = ? WHERE id = 1", (b"12345678",)),
        ("UPDATE systems SET energy = ? WHERE id = 1", ("a word",)),
        ("UPDATE systems SET pbc = ? WHERE id = 1", ("a word",)),
    ],
    ids=range(14),
)
def test_rows_that_are_not_as_ase_writes_them(tmp_path, statement):
    found = reasons(changed(database(tmp_path / "own.db"), statement), "ase_db")
    assert found in (["unreadable", "kept"], ["periodic", "kept"])


def test_names_that_cannot_be_stored(tmp_path):
    names = [json.dumps({"name": "\ud800", "smiles": "C\udfff"}), json.dumps({"name": "x" * 10_000})]
    statements = [
        ("UPDATE systems SET key_value_pairs = ? WHERE id = ?", (name, row + 1)) for row, name in enumerate(names)
    ]
    path = changed(database(tmp_path / "own.db"), *statements)
    (first, second) = read_all(path, "ase_db")
    assert (first.smiles, second.smiles) == (None, None)
    located = {"files": [str(path)], "parser": "ase_db", "energy_unit": "eV", "length_unit": "angstrom"}
    assert [item.reason for item in read(located, {"molecule_key": "name"})] == ["no_molecule", "no_molecule"]


def test_objects_in_json_stay_json(tmp_path):
    made = {"x": {"__ase_objtype__": "atoms", "numbers": [1], "positions": [[0, 0, 0]]}}
    statement = ("UPDATE systems SET data = ? WHERE id = 1", (data_blob(made),))
    assert reasons(changed(database(tmp_path / "own.db"), statement), "ase_db") == ["kept", "kept"]


ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x AS id FROM n"


@pytest.mark.parametrize(
    ("statements", "message"),
    [
        (["ALTER TABLE systems RENAME TO old", f"CREATE VIEW systems AS {ENDLESS}"], "no plain table"),
        (["ALTER TABLE systems RENAME TO old"], "no table systems"),
        (["ALTER TABLE systems RENAME COLUMN energy TO total"], "no column energy"),
        (["UPDATE information SET value = '99' WHERE name = 'version'"], "version 99 of ASE's tables"),
        (["DROP TABLE information"], "no such table: information"),
        (["UPDATE systems SET data = zeroblob(20000000) WHERE id = 2"], "too big"),
    ],
    ids=["view", "renamed", "column", "version", "information", "blob"],
)
def test_tables_that_are_not_ases(tmp_path, statements, message):
    refused(changed(database(tmp_path / "own.db"), *statements), "ase_db", message)


def test_tables_that_a_database_names_are_not_read(tmp_path):
    names = json.dumps({"external_table_names": [f"({ENDLESS})"]})
    path = changed(
        database(tmp_path / "own.db"),
        ("INSERT INTO information VALUES ('external_table_name', ?)", (f"({ENDLESS})",)),
        ("INSERT INTO information VALUES ('metadata', ?)", (names,)),
    )
    before = path.read_bytes()
    assert reasons(path, "ase_db") == ["kept", "kept"]
    assert path.read_bytes() == before


def test_no_database(tmp_path):
    path = tmp_path / "own.db"
    path.write_bytes(b"SQLite format 3\0" + os.urandom(5000))
    refused(path, "ase_db", "no database of ASE")
    path.write_text("[" * 5000)
    refused(path, "ase_db", "it is not SQLite")


# --- memory and time --------------------------------------------------------------------------------------------------


def test_the_worst_of_them_end_within_a_gigabyte_and_ten_seconds(tmp_path):
    """One process with a limit of address space beyond what imports take, and of time."""
    lines = tmp_path / "lines.xyz"
    lines.write_text("999999\n\n" + "H 0 0 0\n" * 900_000)
    wide = tmp_path / "wide.xyz"
    wide.write_text("10000\n\n" + ("x" * 100_000 + "\n") * 400 + "H 0 0 0\n" * 9_600 + GOOD)
    bomb = ("UPDATE systems SET data = ? WHERE id = 1", (json.dumps({"x": BOMB}),))
    paths = {
        "extxyz": [lines, wide],
        "ani1x": [hdf5(tmp_path / "own.h5", of_shape((1 << 33, 5, 3)))],
        "ase_db": [changed(database(tmp_path / "own.db"), bomb)],
    }
    named = {parser: list(map(str, files)) for parser, files in paths.items()}
    code = f"""
    import re
    from pathlib import Path
    from chemscale.data.structures import read
    from chemscale.errors import DataError
    def peak():
        # ru_maxrss would begin with the memory of the process that started this one
        return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
    import ase.io.extxyz, h5py
    for parser, files in {named!r}.items():
        for file in files:
            located = {{"files": [file], "parser": parser, "energy_unit": "eV", "length_unit": "angstrom"}}
            try:
                print(len(list(read(located, {{}}))))
            except DataError as error:
                print(str(error)[:60])
    print(peak())
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True, text=True, timeout=60, check=True, env=environment,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (30, 30)),
    )  # fmt: skip
    *ends, peak = done.stdout.splitlines()
    assert len(ends) == 4
    assert ends[0].startswith("999999 atoms in frame 0")
    assert ends[1] == "2"
    assert ends[2].startswith("at most 100 times the stored size")
    assert ends[3] == "2"
    assert int(peak) < 1 << 30


def test_the_good_frame_of_these_tests_is_good(tmp_path):
    path = tmp_path / "own.xyz"
    path.write_text(GOOD)
    (frame,) = read_all(path, "extxyz")
    assert isinstance(frame, Structure)
