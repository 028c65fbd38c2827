"""Users' extended XYZ: names as they are written, keys that are missing, and files of every kind against ASE."""

from __future__ import annotations

import io
import math
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from ase.io.extxyz import key_val_str_to_dict, read_xyz
from hypothesis import given, settings
from hypothesis import strategies as st

from chemscale.data import ingest
from chemscale.data.blocks import Rejected
from chemscale.data.extended_xyz import comment_values
from chemscale.data.structures import Structure, counts, read
from chemscale.errors import DataError

FAULTS = Path(__file__).resolve().parents[2] / "data" / "faults"
METHANE = np.array(
    [[0, 0, 0], [0.63, 0.63, 0.63], [-0.63, -0.63, 0.63], [-0.63, 0.63, -0.63], [0.63, -0.63, -0.63]], dtype=float
)


def source(path):
    return {"files": [str(path)], "parser": "extxyz", "energy_unit": "eV", "length_unit": "angstrom"}


def taken(path, section=None):
    """Structures, and rejected frames by reason; `counts` must agree."""
    items = list(read(source(path), section or {}))
    found: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    for item in items:
        found[item.molecule] += item.count if isinstance(item, Rejected) else 1
        if isinstance(item, Rejected):
            rejected[item.reason] += item.count
    assert counts(source(path), section or {}) == dict(found)
    return [item for item in items if isinstance(item, Structure)], dict(rejected)


def write(path, comments, columns="species:S:1:pos:R:3:forces:R:3"):
    lines = []
    for number, comment in enumerate(comments):
        lines += ["5", f"Properties={columns} energy=-{number}.5 {comment}"]
        lines += [
            f"{symbol} {' '.join(map(repr, position.tolist()))} 0.1 0.2 0.3"
            for symbol, position in zip("CHHHH", METHANE + 0.001 * number, strict=True)
        ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


# --- names ------------------------------------------------------------------------------------------------------------


def test_names_are_what_the_file_says():
    structures, rejected = taken(FAULTS / "names.xyz", {"molecule_key": "name"})
    assert rejected == {}
    assert [structure.molecule for structure in structures] == [
        *("T", "F", "001", "1", "1e5", "100000.0", "yes", "None", "N", "nan", "true", "false", "07", "7", "A B", "x=y"),
        *("10.0", "10", "C_1", "C-2"),
    ]


@pytest.mark.parametrize(
    ("comment", "name"),
    [
        ("name=1_0", "1_0"),
        ("name='1 2 3'", "1 2 3"),
        ('name="a \\"b\\" c"', 'a "b" c'),
        ("name={T F}", "T F"),
        ("name=[1,2]", "1,2"),
        ("name = 007", "007"),
        ('name="_JSON [1]"', "_JSON [1]"),
        ("name=-0", "-0"),
        ("name=\u0663", "\u0663"),
        ("name=a=b=c", "a=b=c"),
    ],
)
def test_names_in_quotes_and_brackets(tmp_path, comment, name):
    structures, _ = taken(write(tmp_path / "own.xyz", [comment]), {"molecule_key": "name"})
    assert [structure.molecule for structure in structures] == [name]


@pytest.mark.parametrize("comment", ["", "name", 'name=""'])
def test_a_frame_without_a_name(tmp_path, comment):
    assert taken(write(tmp_path / "own.xyz", [comment]), {"molecule_key": "name"})[1] == {"no_molecule": 1}


def test_the_smiles_of_hydrogen_fluoride_is_no_truth_value(tmp_path):
    structures, _ = taken(write(tmp_path / "own.xyz", ["smiles=F", "smiles=C"]))
    assert [structure.smiles for structure in structures] == ["F", "C"]


def test_a_key_that_stands_twice(tmp_path):
    path = write(tmp_path / "own.xyz", ["total_charge=1 total_charge=0", "colour=1 colour=1"])
    structures, rejected = taken(path)
    assert (len(structures), rejected) == (1, {"unreadable": 1})


# --- missing keys -----------------------------------------------------------------------------------------------------


def test_energies_under_another_key_are_named(section, build, tmp_path, in_process):
    told = {"kind": "structures", "source": "file", "path": str(FAULTS / "totenergy.xyz"), "format": "extxyz",
            "energy_unit": "eV", "length_unit": "angstrom", "validation": 0.0, "test": 0.0}  # fmt: skip
    with pytest.raises(DataError) as caught:
        build(section(**told), tmp_path / "set")
    assert "4 no_energy" in str(caught.value)
    assert "it has E0, TotEnergy, numbers, positions" in str(caught.value)
    assert "set energy_key" in str(caught.value)
    # the next thing that the file lacks
    with pytest.raises(DataError, match=r"4 no_forces.*without Properties=, only symbols and positions are read"):
        build(section(**told, energy_key="TotEnergy"), tmp_path / "other")


def test_rejects_by_charge_are_explained_in_the_manifest(section, build, tmp_path, in_process):
    comments = ["", "", "", "", "", "", "", "", "", "", "total_charge=-1", "my_charge_kind=3"]
    path = write(tmp_path / "own.xyz", [f"name=m{number} {comment}" for number, comment in enumerate(comments)])
    told = {"kind": "structures", "source": "file", "path": str(path), "format": "extxyz", "energy_unit": "eV",
            "length_unit": "angstrom", "molecule_key": "name", "validation": 0.0, "test": 0.0}  # fmt: skip
    manifest = build(section(**told, max_reject_share=0.5), tmp_path / "set")
    assert (manifest["rows_in"], manifest["rejected"]) == (12, {"charged": 1})
    assert manifest["warnings"][:2] == [
        "frames rejected as charged: 1; the first: total_charge -1",
        "the key 'my_charge_kind' looks like charge or spin, but is not known: it was ignored (frames: 1)",
    ]
    assert str(tmp_path) not in " ".join(manifest["warnings"])
    assert ingest.UNIT_FRAMES > 12  # one chunk of work: no frame is counted twice


# --- any file against ASE ---------------------------------------------------------------------------------------------

WORDS = st.text("abcXYZ019._-+eT/ \"'{}[]=,\\\t\u00e9\u0663", max_size=12)
KEYS = st.one_of(
    st.sampled_from(
        [
            *("charge", "Charge", "total_charge", "spin", "multiplicity", "MAGMOM", "initial_charges", "charges"),
            *(
                "name",
                "smiles",
                "energy",
                "free_energy",
                "config_type",
                "pbc",
                "Lattice",
                "stress",
                "uid",
                "Properties",
            ),
            *("magmom", "q", "S", "dipole", "momenta", "virial", "nelec", "my spin"),
        ]
    ),
    WORDS,
)
VALUES = st.one_of(
    st.sampled_from(["0", "1", "-1", "+1", "0.0", "2", "T", "F", "nan", "inf", "1e5", "001", "0 0 0", "1 0 0 0 0", ""]),
    st.integers(-3, 3).map(str),
    st.floats().map(repr),
    WORDS,
)
COMMENTS = st.lists(
    st.tuples(KEYS, VALUES, st.sampled_from(["{}={}", '{}="{}"', "{}={{{}}}", "{} = {}", "{}"])), max_size=5
)


def in_text(comments):
    return " ".join(form.format(key, value) for key, value, form in comments)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.one_of(COMMENTS.map(in_text), st.text(max_size=40).filter(lambda text: len(text.splitlines()) < 2)))
def test_comment_lines_are_split_as_ase_splits_them(comment):
    try:
        expected = key_val_str_to_dict(comment)
    except IndexError:
        with pytest.raises(ValueError, match="without a key"):
            comment_values(comment)
        return
    except (ValueError, RecursionError):
        # of a value, which comes later than the split
        comment_values(comment)
        return
    found = dict(comment_values(comment))
    assert list(found) == list(expected)
    for key, value in expected.items():
        if isinstance(value, str) and not value.startswith("_JSON"):
            assert found[key] == value or (found[key], value) == ("", "T")  # a key alone
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            assert float(found[key]) == value


COLUMNS = st.permutations(["species:S:1", "pos:R:3", "forces:R:3"])
EXTRA = st.lists(
    st.tuples(
        st.sampled_from(
            ["charge", "initial_charges", "magmoms", "initial_magmoms", "tags", "label", "Z", "forces", "q"]
        ),
        st.sampled_from(["R", "I", "S", "L", "X"]),
        st.integers(-1, 3),
    ),
    max_size=2,
)
CELLS = st.sampled_from(["0", "1", "-1", "0.5", "T", "F", "C", "nan", "1e400", "99999999999999999999", "x", "-0.25"])


@st.composite
def frames(draw):
    """A frame of methane as text, its columns in any order, with whatever beside them."""
    columns = [*draw(COLUMNS), *(f"{name}:{kind}:{number}" for name, kind, number in draw(EXTRA))]
    rows = []
    for symbol, position in zip("CHHHH", METHANE, strict=True):
        cells = {"species": [symbol], "pos": [f"{number:.3f}" for number in position], "forces": ["0.1", "-0.2", "0.3"]}
        row = []
        for column in columns:
            name, _, number = column.rsplit(":", 2)
            row += cells.pop(name, None) or [draw(CELLS) for _ in range(int(number))]
        rows.append(draw(st.sampled_from([" ", "\t", "   "])).join(row))
    comment = f"Properties={':'.join(columns)} energy={draw(st.sampled_from(['-1.5', '2', 'nan', 'x', '1e400']))}"
    extra = in_text(draw(COMMENTS))
    comment = draw(st.sampled_from([f"{comment} {extra}", f"{extra} {comment}"]))
    return "\n".join(["5", " ".join(comment.splitlines()), *rows]) + "\n"


def by_ase(text):
    """A frame read by ASE alone: energy, positions, forces and stated charges; None where it cannot be read."""
    try:
        atoms = next(read_xyz(io.StringIO(text), index=0))
        charges = [atoms.info.get(key, 0) for key in ("charge", "Charge", "total_charge")]
        return float(atoms.get_potential_energy()), atoms.positions, atoms.get_forces(), charges
    except Exception:
        return None


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.lists(frames(), min_size=1, max_size=4), st.sampled_from([{}, {"molecule_key": "name"}]))
def test_kept_frames_are_those_of_ase_and_every_other_one_is_counted(tmp_path_factory, texts, section):
    path = tmp_path_factory.mktemp("frames") / "own.xyz"
    path.write_text("".join(texts), encoding="utf-8")
    begun = time.monotonic()
    structures, rejected = taken(path, section)
    assert time.monotonic() - begun < 10
    assert len(structures) + sum(rejected.values()) == len(texts)
    expected = [by_ase(text) for text in texts]
    orders = {}
    kept = []
    # frames are told apart by their place in the file
    for number, item in enumerate(read(source(path), section)):
        if isinstance(item, Structure):
            kept.append(number)
            energy, positions, forces, charges = expected[number]
            assert not np.any(charges)
            assert item.energy == energy
            np.testing.assert_array_equal(item.positions, positions)
            np.testing.assert_array_equal(item.forces, forces)
            orders.setdefault(item.molecule, []).append(item.order)
    assert all(found == sorted(set(found)) for found in orders.values())
    assert len(kept) == len(structures)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.lists(
            st.sampled_from(["5", "1", "0", "999999999", "", "H 0 0 0", "C 0 0 0 1 2 3", "energy=1", "x", "-1"])
        ).map(lambda lines: "\n".join(lines).encode()),
    )
)
def test_files_of_anything_end_in_one_clear_error_or_in_counted_frames(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("files") / "own.xyz"
    path.write_bytes(content)
    begun = time.monotonic()
    try:
        structures, rejected = taken(path)
        message = None
        frames = len(structures) + sum(rejected.values())
    except DataError as error:
        message, frames = str(error), None
    assert time.monotonic() - begun < 10
    assert frames != 0
    if message is not None:
        assert len(message.splitlines()) == 1
        assert str(path) in message
