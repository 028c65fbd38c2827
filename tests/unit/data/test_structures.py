"""Frames of published and own files: values against conversions by hand, rejects, damaged files, and units."""

from __future__ import annotations

import io
import json
import pickle
import sqlite3
import tarfile
import tracemalloc
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pytest
import scipy.constants
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_masses

from chemscale.data import conformers, xtb
from chemscale.data.blocks import Rejected
from chemscale.data.structures import Structure, counts, read
from chemscale.data.unit_check import UnitCheck
from chemscale.errors import DataError, InputError

h5py = pytest.importorskip("h5py")

BAD = Path(__file__).resolve().parents[2] / "data" / "bad"
CASES = json.loads((BAD / "frames.json").read_text(encoding="utf-8"))

# conversions of one's own, from CODATA by scipy
KCAL_MOL = 4184 / scipy.constants.Avogadro / scipy.constants.electron_volt
HARTREE = scipy.constants.value("Hartree energy in eV")
BOHR = scipy.constants.value("Bohr radius") * 1e10

WATER = np.array([[0, 0, 0.1173], [0, 0.7572, -0.4692], [0, -0.7572, -0.4692]])
METHANE = np.array(
    [[0, 0, 0], [0.63, 0.63, 0.63], [-0.63, -0.63, 0.63], [-0.63, 0.63, -0.63], [0.63, -0.63, -0.63]], dtype=float
)


def located(parser, *files, energy_unit="eV", length_unit="angstrom"):
    return {"files": files, "parser": parser, "energy_unit": energy_unit, "length_unit": length_unit}


def taken(source, section=None):
    """The structures, and the rejected frames by reason; what `counts` says must agree."""
    section = section or {}
    items = list(read(source, section))
    found = Counter()
    for item in items:
        found[item.molecule] += item.count if isinstance(item, Rejected) else 1
    assert counts(source, section) == dict(found)
    rejected = Counter()
    for item in items:
        if isinstance(item, Rejected):
            rejected[item.reason] += item.count
    return [item for item in items if isinstance(item, Structure)], dict(rejected)


def where(source, section=None):
    return [item.where for item in read(source, section or {}) if isinstance(item, Rejected)]


# --- published files: keys, types and units as they are published -----------------------------------------------------


def rmd17_file(folder, frames=6, molecule="water", compressed=True, **changed):
    random = np.random.default_rng(1)
    arrays = {
        "nuclear_charges": np.array([8, 1, 1], dtype=np.uint8),
        "coords": WATER + random.normal(0, 0.02, (frames, 3, 3)),
        "energies": -47_900 + random.normal(0, 3, frames),
        "forces": random.normal(0, 25, (frames, 3, 3)),
        "old_indices": random.permutation(3 * frames)[:frames].astype(np.int64),
        "old_energies": -47_910 + random.normal(0, 3, frames),
        "old_forces": random.normal(0, 25, (frames, 3, 3)),
    } | changed
    path = folder / f"rmd17_{molecule}.npz"
    save = np.savez_compressed if compressed else np.savez
    save(path, **{key: value for key, value in arrays.items() if value is not None})
    return path, arrays


def md17_file(folder, frames=6, **changed):
    random = np.random.default_rng(2)
    arrays = {
        "name": np.array("water"),
        "theory": np.array("PBE+vdW-TS"),
        "type": np.array("d"),
        "md5": np.array("d41d8cd98f00b204e9800998ecf8427e"),
        "z": np.array([8, 1, 1], dtype=np.uint8),
        "R": WATER + random.normal(0, 0.02, (frames, 3, 3)),
        "E": -47_900 + random.normal(0, 3, (frames, 1)),
        "F": random.normal(0, 25, (frames, 3, 3)),
    } | changed
    path = folder / "md17_water.npz"
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return path, arrays


def ani1x_file(folder, sizes=(("C1H4", 5), ("H2O1", 4)), change=None):
    random = np.random.default_rng(3)
    groups = {}
    for name, frames in sizes:
        numbers, positions = ([6, 1, 1, 1, 1], METHANE) if name == "C1H4" else ([8, 1, 1], WATER)
        shape = (frames, len(numbers), 3)
        groups[name] = {
            "atomic_numbers": np.array(numbers, dtype=np.uint8),
            "coordinates": (positions + random.normal(0, 0.02, shape)).astype(np.float32),
            "wb97x_dz.energy": -76.4 + random.normal(0, 0.01, frames),
            "wb97x_dz.forces": random.normal(0, 0.07, shape).astype(np.float32),
            "ccsd(t)_cbs.energy": np.full(frames, np.nan),
        }
    if change is not None:
        change(groups)
    path = folder / "ani1x-release.h5"
    with h5py.File(path, "w") as file:
        for name, datasets in groups.items():
            for key, values in datasets.items():
                file.create_dataset(f"{name}/{key}", data=values)
    return path, groups


def test_conversions_are_those_of_codata():
    assert pytest.approx((0.0433641, 27.211386, 0.529177211), rel=1e-6) == (KCAL_MOL, HARTREE, BOHR)


@pytest.mark.parametrize("compressed", [True, False])
def test_rmd17_in_its_units_and_in_the_order_of_the_trajectory(tmp_path, compressed):
    path, arrays = rmd17_file(tmp_path, compressed=compressed)
    structures, rejected = taken(located("rmd17", path, energy_unit="kcal/mol"))
    assert rejected == {}
    for row, structure in enumerate(structures):
        assert (structure.molecule, structure.formula, structure.smiles) == ("water", "H2O", None)
        assert structure.order == arrays["old_indices"][row]
        assert structure.numbers.dtype == np.uint8
        assert structure.numbers.tolist() == [8, 1, 1]
        assert structure.energy == pytest.approx(arrays["energies"][row] * KCAL_MOL, rel=1e-9)
        np.testing.assert_array_equal(structure.positions, arrays["coords"][row])
        np.testing.assert_allclose(structure.forces, arrays["forces"][row] * KCAL_MOL, rtol=1e-9)
    # the new energies and forces, not those of MD17 that stand beside them
    assert structures[0].energy != pytest.approx(arrays["old_energies"][0] * KCAL_MOL, rel=1e-9)


def test_only_the_molecules_asked_for_are_read(tmp_path):
    files = [rmd17_file(tmp_path, molecule=molecule)[0] for molecule in ("ethanol", "uracil")]
    source = located("rmd17", *files, energy_unit="kcal/mol")
    assert counts(source, {}) == {"ethanol": 6, "uracil": 6}
    structures, _ = taken(source, {"molecules": ["uracil"]})
    assert {structure.molecule for structure in structures} == {"uracil"}
    with pytest.raises(DataError, match=r"molecules: urasil in .*found the molecules ethanol, uracil"):
        next(read(source, {"molecules": ["urasil"]}))


@pytest.mark.parametrize("by_columns", [False, True])
def test_md17_by_rows_and_by_columns(tmp_path, by_columns, monkeypatch):
    monkeypatch.setattr("chemscale.data.published_frames._DISTANCES", 18)  # two frames at once
    path, arrays = md17_file(tmp_path, frames=7)
    if by_columns:
        path, arrays = md17_file(tmp_path, **{key: np.asfortranarray(arrays[key]) for key in "REF"})
    structures, _ = taken(located("md17", path, energy_unit="kcal/mol"))
    assert [structure.order for structure in structures] == list(range(7))
    for row, structure in enumerate(structures):
        assert structure.energy == pytest.approx(arrays["E"][row, 0] * KCAL_MOL, rel=1e-9)
        np.testing.assert_array_equal(structure.positions, arrays["R"][row])
        np.testing.assert_allclose(structure.forces, arrays["F"][row] * KCAL_MOL, rtol=1e-9)


def test_ani1x_in_its_units_without_what_was_not_computed(tmp_path):
    def change(groups):
        groups["C1H4"]["wb97x_dz.energy"][1] = np.nan
        groups["C1H4"]["wb97x_dz.forces"][3, 2, 1] = np.nan

    path, groups = ani1x_file(tmp_path, change=change)
    source = located("ani1x", path, energy_unit="hartree")
    structures, rejected = taken(source)
    assert rejected == {"not_computed": 2}
    assert where(source) == [f"{path}, group C1H4, row 1"]
    methane = [structure for structure in structures if structure.molecule == "C1H4"]
    assert [structure.order for structure in methane] == [0, 2, 4]
    assert methane[0].formula == "CH4"
    for structure in methane:
        group, row = groups["C1H4"], structure.order
        assert structure.energy == pytest.approx(group["wb97x_dz.energy"][row] * HARTREE, rel=1e-9)
        np.testing.assert_array_equal(structure.positions, group["coordinates"][row].astype(float))
        np.testing.assert_allclose(structure.forces, group["wb97x_dz.forces"][row].astype(float) * HARTREE, rtol=1e-9)
    assert counts(source, {"molecules": ["H2O1"]}) == {"H2O1": 4}
    assert {structure.molecule for structure in taken(source, {"molecules": ["H2O1"]})[0]} == {"H2O1"}


def test_lengths_in_bohr_change_positions_and_forces(tmp_path):
    path, arrays = rmd17_file(tmp_path, coords=np.broadcast_to(WATER / BOHR, (6, 3, 3)))
    structures, _ = taken(located("rmd17", path, energy_unit="meV", length_unit="bohr"))
    np.testing.assert_allclose(structures[0].positions, WATER, rtol=1e-8)
    np.testing.assert_allclose(structures[0].forces, arrays["forces"][0] * 1e-3 / BOHR, rtol=1e-8)
    assert structures[0].energy == pytest.approx(arrays["energies"][0] * 1e-3)


@pytest.mark.parametrize(("parser", "most"), [("rmd17", 8000), ("ani1x", 8000), ("extxyz", 1200)])
def test_memory_does_not_grow_with_the_frames(tmp_path, monkeypatch, parser, most):
    monkeypatch.setattr("chemscale.data.published_frames._DISTANCES", 2000)

    def peak(frames):
        if parser == "rmd17":
            path, _ = rmd17_file(tmp_path, frames=frames, compressed=False)
        elif parser == "ani1x":
            path, _ = ani1x_file(tmp_path, sizes=(("H2O1", frames),))
        else:
            path = tmp_path / "own.xyz"
            path.write_text((BAD / "frames" / "good.xyz").read_text() * (frames // 2))
        tracemalloc.start()
        total = sum(1 for _ in read(located(parser, path), {}))
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert total == frames
        return highest

    peak(2)  # what is imported or cached once
    # all frames would take 1 MB more; what waits for the collector of garbage differs by some
    assert peak(most) < peak(most // 4) + 300_000


# --- own files --------------------------------------------------------------------------------------------------------


def own_atoms(energy=-14.5, shift=0.0, **info):
    atoms = Atoms("OHH", WATER + shift, info=info)
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=np.arange(9.0).reshape(3, 3) / 7 - 0.5)
    return atoms


def test_extended_xyz_as_ase_writes_it(tmp_path):
    frames = [own_atoms(-14.5 + row, 0.1 * row, name=f"m{row % 2}", smiles="O") for row in range(5)]
    path = tmp_path / "own.xyz"
    ase.io.write(path, frames, format="extxyz")
    structures, rejected = taken(located("extxyz", path), {"molecule_key": "name"})
    assert rejected == {}
    assert [(structure.molecule, structure.order) for structure in structures] == [
        ("m0", 0),
        ("m1", 0),
        ("m0", 1),
        ("m1", 1),
        ("m0", 2),
    ]
    for frame, structure in zip(frames, structures, strict=True):
        assert (structure.formula, structure.smiles) == ("H2O", "O")
        assert structure.energy == frame.get_potential_energy()
        np.testing.assert_allclose(structure.positions, frame.positions, atol=1e-8)
        np.testing.assert_allclose(structure.forces, frame.get_forces(), atol=1e-8)
    by_formula, _ = taken(located("extxyz", path))
    assert {structure.molecule for structure in by_formula} == {"H2O"}
    assert [structure.order for structure in by_formula] == list(range(5))


def test_places_go_on_in_the_next_file(tmp_path):
    for name in ("a.xyz", "b.xyz"):
        ase.io.write(tmp_path / name, [own_atoms(), own_atoms()], format="extxyz")
    structures, _ = taken(located("extxyz", tmp_path / "a.xyz", tmp_path / "b.xyz"))
    assert [structure.order for structure in structures] == [0, 1, 2, 3]


def test_energies_and_forces_in_units_of_ones_own(tmp_path):
    path = tmp_path / "own.xyz"
    ase.io.write(path, own_atoms(-76.0), format="extxyz")
    (structure,), _ = taken(located("extxyz", path, energy_unit="hartree"))
    assert structure.energy == pytest.approx(-76.0 * HARTREE, rel=1e-9)
    np.testing.assert_allclose(structure.forces, own_atoms().get_forces() * HARTREE, atol=1e-6)


def test_where_a_frame_of_text_is_rejected(tmp_path):
    path = BAD / "frames" / "no_energy.xyz"
    assert where(located("extxyz", path))[0].startswith(f"{path}, frame 1 (line 6) (it has forces, numbers, positions")
    path = BAD / "frames" / "huge_force.xyz"
    assert where(located("extxyz", path)) == [f"{path}, frame 1 (line 6)"]


def test_molecules_that_are_not_asked_for_are_neither_given_nor_counted(tmp_path):
    path = tmp_path / "own.xyz"
    ase.io.write(path, [own_atoms(name="a"), own_atoms(name="b"), own_atoms(name="a")], format="extxyz")
    structures, rejected = taken(located("extxyz", path), {"molecule_key": "name", "molecules": ["b"]})
    assert ([structure.molecule for structure in structures], rejected) == (["b"], {})
    # a frame that can't be read may be of any molecule
    path.write_text(path.read_text() + "1\nProperties=species:S:1:pos:R:3\nH 0 0 zero\n")
    _, rejected = taken(located("extxyz", path), {"molecule_key": "name", "molecules": ["b"]})
    assert rejected == {"unreadable": 1}


def database(path, rows, **written):
    with ase.db.connect(path, type="db") as target:
        for atoms in rows:
            target.write(atoms, **written)
    return path


def test_a_database_in_the_order_of_its_ids(tmp_path):
    path = database(tmp_path / "own.db", [own_atoms(-14.5 + row, 0.1 * row) for row in range(5)], name="w", smiles="O")
    structures, rejected = taken(located("ase_db", path), {"molecule_key": "name"})
    assert rejected == {}
    assert [structure.energy for structure in structures] == [-14.5, -13.5, -12.5, -11.5, -10.5]
    assert [structure.order for structure in structures] == list(range(5))
    assert {(structure.molecule, structure.smiles) for structure in structures} == {("w", "O")}
    np.testing.assert_allclose(structures[3].positions, WATER + 0.3)
    np.testing.assert_allclose(structures[3].forces, own_atoms().get_forces())


def test_what_a_database_lacks_or_has_under_another_name(tmp_path):
    plain = Atoms("OHH", WATER)
    path = database(tmp_path / "own.db", [plain], dft_energy=-14.5, data={"dft_forces": np.ones((3, 3))})
    database(path, [plain])
    structures, rejected = taken(located("ase_db", path), {"energy_key": "dft_energy", "forces_key": "dft_forces"})
    assert [structure.forces.tolist() for structure in structures] == [np.ones((3, 3)).tolist()]
    assert rejected == {"no_energy": 1}


def test_data_of_a_database_as_text_and_as_bytes(tmp_path):
    path = database(tmp_path / "own.db", [Atoms("OHH", WATER)] * 2, data={"e": -14.5, "f": np.ones((3, 3))})
    # as ASE wrote it before version 9 of its tables
    text = json.dumps({"e": -14.5, "f": {"__ndarray__": [[3, 3], "float64", [2.0] * 9]}})
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE systems SET data = ? WHERE id = 2", (text,))
    connection.close()
    structures, rejected = taken(located("ase_db", path), {"energy_key": "e", "forces_key": "f"})
    assert rejected == {}
    assert [structure.energy for structure in structures] == [-14.5, -14.5]
    with ase.db.connect(path) as rows:
        for row, structure in zip(rows.select(sort="id"), structures, strict=True):
            np.testing.assert_array_equal(structure.forces, row.data["f"])


def test_a_periodic_row_of_a_database(tmp_path):
    atoms = own_atoms()
    atoms.pbc, atoms.cell = [True, False, False], [9, 9, 9]
    atoms.calc = SinglePointCalculator(atoms, energy=-14.5, forces=np.zeros((3, 3)))
    path = database(tmp_path / "own.db", [own_atoms(), atoms])
    source = located("ase_db", path)
    assert taken(source)[1] == {"periodic": 1}
    assert where(source) == [f"{path}, id 2"]


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_bad_files(case):
    source = located(case["parser"], BAD / case["file"], **case.get("located", {}))
    expect = case["expect"]
    if "error" in expect:
        for function in (read, counts) if "located" not in case else (read,):
            with pytest.raises(InputError) as caught:
                list(function(source, case["section"]))
            assert expect["error"] in str(caught.value)
            assert "located" in case or case["parser"] == "xyz2" or str(BAD / case["file"]) in str(caught.value)
        return
    structures, rejected = taken(source, case["section"])
    assert (len(structures), rejected) == (expect["frames"], expect["rejected"])
    check = UnitCheck()
    for structure in structures:
        check.add(structure)
    found = check.warnings()
    assert len(found) == ("warning" in expect)
    assert expect.get("warning", "") in " ".join(found)


def refused(source, message, section=None):
    """Both functions refuse the source before they give anything, and name its file."""
    with pytest.raises(DataError, match=message) as caught:
        next(read(source, section or {}))
    assert str(source["files"][0]) in str(caught.value)
    with pytest.raises(DataError, match=message):
        counts(source, section or {})


@pytest.mark.parametrize("parser", ["rmd17", "md17", "ani1x", "extxyz", "ase_db"])
def test_no_file(tmp_path, parser):
    refused(located(parser, tmp_path / "none"), "no such file")
    with pytest.raises(DataError, match="found no file"):
        counts(located(parser), {})


def test_arrays_that_an_archive_lacks(tmp_path):
    path, _ = rmd17_file(tmp_path, forces=None, old_indices=None)
    refused(
        located("rmd17", path, energy_unit="kcal/mol"),
        "^forces, old_indices in .*found the arrays nuclear_charges, coords, energies, old_energies, old_forces",
    )
    path, _ = md17_file(tmp_path)
    refused(located("rmd17", path), "nuclear_charges, coords, energies, forces, old_indices in .*found the arrays name")


@pytest.mark.parametrize(
    "changed",
    [
        {"energies": np.zeros(5)},
        {"forces": np.zeros((5, 3, 3))},
        {"old_indices": np.arange(7)},
        {"coords": np.zeros((6, 4, 3))},
        {"coords": np.zeros((6, 9))},
        {"nuclear_charges": np.zeros(0, np.uint8), "coords": np.zeros((6, 0, 3)), "forces": np.zeros((6, 0, 3))},
        {"energies": np.zeros((6, 2))},
        {"forces": np.float64(0)},
    ],
    ids=["energies", "forces", "places", "atoms", "flat", "none", "columns", "scalar"],
)
def test_arrays_that_do_not_fit_each_other(tmp_path, changed):
    path, _ = rmd17_file(tmp_path, **changed)
    refused(located("rmd17", path), r"arrays of the same frames and atoms in .*found nuclear_charges \[")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"old_indices": np.arange(6) + 0.5}, "whole numbers as old_indices"),
        ({"nuclear_charges": np.array([8, 1, np.nan])}, "whole numbers as nuclear_charges"),
    ],
    ids=["places", "charges"],
)
def test_numbers_that_are_not_whole(tmp_path, changed, message):
    path, _ = rmd17_file(tmp_path, **changed)
    with pytest.raises(DataError, match=message):
        next(read(located("rmd17", path), {}))


def test_whole_numbers_of_another_type(tmp_path):
    path, _ = rmd17_file(tmp_path, nuclear_charges=np.array([8.0, 1, 1]), old_indices=np.arange(6.0))
    structures, _ = taken(located("rmd17", path))
    assert [structure.order for structure in structures] == list(range(6))
    assert structures[0].numbers.tolist() == [8, 1, 1]


def test_symbols_instead_of_numbers(tmp_path):
    path, _ = md17_file(tmp_path, z=np.array(["O", "H", "H"]))
    refused(located("md17", path), "numbers as z in .*found values of type <U1")


def test_an_archive_that_would_run_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    path, _ = md17_file(tmp_path, E=np.array([Evil()] * 6, dtype=object))
    refused(located("md17", path), "numbers as E in .*found pickled objects")
    pickled = tmp_path / "md17_pickled.npz"
    pickled.write_bytes(pickle.dumps({"R": Evil()}))
    refused(located("md17", pickled), "no npz archive")
    assert not (tmp_path / "ran").exists()


def test_an_array_that_is_none(tmp_path):
    path, _ = md17_file(tmp_path)
    with zipfile.ZipFile(path, "w") as archive:
        for key in "zREF":
            archive.writestr(f"{key}.npy", b"no array")
    refused(located("md17", path), "read z in .*no array of numpy")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_an_archive_cut_short(tmp_path, share):
    path, _ = rmd17_file(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refused(located("rmd17", path), "no npz archive, or a damaged one")


@pytest.mark.parametrize("compressed", [True, False])
def test_an_archive_with_damaged_content(tmp_path, compressed):
    path, _ = rmd17_file(tmp_path, frames=2000, compressed=compressed)
    content = bytearray(path.read_bytes())
    content[40_000:40_040] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(DataError, match="a damaged one"):
        list(read(located("rmd17", path), {}))


def test_an_array_that_holds_less_than_it_says(tmp_path):
    path, arrays = md17_file(tmp_path)
    with zipfile.ZipFile(path, "w") as archive:
        for key in "zREF":
            stream = io.BytesIO()
            np.save(stream, arrays[key])
            archive.writestr(f"{key}.npy", stream.getvalue()[: -8 if key == "F" else None])
    with pytest.raises(DataError, match=r"read F in .*an array that is cut short"):
        list(read(located("md17", path), {}))


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_the_tar_archive_itself_whole_or_cut_short(tmp_path, share):
    path, _ = rmd17_file(tmp_path)
    packed = tmp_path / "rmd17.tar.bz2"
    with tarfile.open(packed, "w:bz2") as archive:
        archive.add(path, "rmd17/npz_data/rmd17_water.npz")
    content = packed.read_bytes()
    packed.write_bytes(content[: int(len(content) * share)])
    refused(located("rmd17", packed), "no npz archive")


def test_no_frames(tmp_path):
    empty = {"coords": np.zeros((0, 3, 3)), "forces": np.zeros((0, 3, 3)), "energies": np.zeros(0)}
    refused(located("rmd17", rmd17_file(tmp_path, **empty, old_indices=np.zeros(0, int))[0]), "no frames")
    refused(located("ani1x", ani1x_file(tmp_path, sizes=(("C1H4", 0),))[0]), "no frames")
    refused(located("ani1x", ani1x_file(tmp_path, sizes=())[0]), "no frames")
    path = database(tmp_path / "own.db", [own_atoms()])
    with ase.db.connect(path) as target:
        target.delete([1])
    refused(located("ase_db", path), "no frames")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"energies": np.array([np.nan, 0, 0, 0, 0, 0])}, {"not_computed": 1}),
        ({"forces": np.full((6, 3, 3), np.inf)}, {"not_finite": 6}),
        ({"coords": np.full((6, 3, 3), np.inf)}, {"not_finite": 6}),
        ({"coords": np.full((6, 3, 3), np.nan)}, {"not_finite": 6}),
        ({"coords": np.zeros((6, 3, 3))}, {"atoms_too_close": 6}),
        ({"forces": np.zeros((6, 4, 3))}, {"wrong_shape": 6}),
        ({"forces": np.zeros((6, 3))}, {"wrong_shape": 6}),
        ({"nuclear_charges": np.array([8, 1, 0])}, {"unknown_element": 6}),
        ({"nuclear_charges": np.array([8, 1, 119])}, {"unknown_element": 6}),
        ({"forces": np.where(np.arange(6)[:, None, None] < 2, 301.0, np.zeros((6, 3, 3)))}, {"force_too_large": 2}),
    ],
    ids=lambda value: next(iter(value)),
)
def test_frames_of_an_archive_that_are_rejected(tmp_path, changed, reason):
    path, _ = rmd17_file(tmp_path, **changed)
    structures, rejected = taken(located("rmd17", path))
    assert rejected == reason
    assert len(structures) == 6 - sum(reason.values())
    assert where(located("rmd17", path)) == [f"{path}, row 0"]


def test_a_frame_with_two_faults_is_counted_once(tmp_path):
    coords, energies = np.broadcast_to(WATER, (6, 3, 3)).copy(), np.zeros(6)
    coords[4], energies[4], coords[5] = 0, np.nan, 0
    path, _ = rmd17_file(tmp_path, coords=coords, energies=energies)
    structures, rejected = taken(located("rmd17", path))
    assert (len(structures), rejected) == (4, {"not_computed": 1, "atoms_too_close": 1})


def test_hdf5_without_keys_or_groups(tmp_path):
    path, _ = ani1x_file(tmp_path, change=lambda groups: groups["H2O1"].pop("wb97x_dz.forces"))
    refused(
        located("ani1x", path),
        r"wb97x_dz.forces in .*group H2O1: found the keys atomic_numbers, ccsd\(t\)_cbs.energy, coordinates",
    )
    with h5py.File(path, "w") as file:
        file["energies"] = np.zeros(3)
    refused(located("ani1x", path), "a group for every formula in .*found the array energies")
    with h5py.File(path, "w") as file:
        file["C1H4/atomic_numbers/x"] = np.zeros(3)
    refused(located("ani1x", path), "atomic_numbers, coordinates, wb97x_dz.energy, wb97x_dz.forces in .*C1H4")


def test_hdf5_whose_arrays_do_not_fit_or_are_no_numbers(tmp_path):
    path, _ = ani1x_file(tmp_path, change=lambda groups: groups["C1H4"].update({"wb97x_dz.energy": np.zeros(4)}))
    refused(located("ani1x", path), r"arrays of the same frames and atoms in .*C1H4: .*wb97x_dz.energy \[4\]")
    path, _ = ani1x_file(tmp_path, change=lambda groups: groups["C1H4"].update({"atomic_numbers": ["C"] + ["H"] * 4}))
    refused(located("ani1x", path), "numbers as atomic_numbers in .*C1H4: found pickled objects|values of type")


def test_forces_of_another_shape_reject_their_group_alone(tmp_path):
    path, _ = ani1x_file(tmp_path, change=lambda groups: groups["C1H4"].update({"wb97x_dz.forces": np.zeros((5, 15))}))
    structures, rejected = taken(located("ani1x", path, energy_unit="hartree"))
    assert rejected == {"wrong_shape": 5}
    assert {structure.molecule for structure in structures} == {"H2O1"}


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_hdf5_cut_short(tmp_path, share):
    path, _ = ani1x_file(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refused(located("ani1x", path), "no HDF5 file, or a damaged one")


def test_a_database_that_is_not_ases_is_left_as_it_is(tmp_path):
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE energies (energy REAL)")
    connection.close()
    before = path.read_bytes()
    refused(located("ase_db", path), "no database of ASE.*no table systems")
    assert path.read_bytes() == before


def test_a_database_cut_short(tmp_path):
    path = database(tmp_path / "own.db", [own_atoms() for _ in range(200)])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"own\.db after id .*no database of ASE, or a damaged one"):
        list(read(located("ase_db", path), {}))


# --- units ------------------------------------------------------------------------------------------------------------


def springs(frames=60, seed=0, temperature=500.0):
    """Thermal frames of a methane whose every pair of atoms is bound by a spring; eV and eV/angstrom."""
    random = np.random.default_rng(seed)
    numbers = np.array([6, 1, 1, 1, 1], dtype=np.uint8)
    first, second = np.triu_indices(5, 1)
    rest = np.linalg.norm(METHANE[first] - METHANE[second], axis=1)
    stiffness = np.where(first == 0, 30.0, 4.0)
    structures = []
    for order in range(frames):
        positions = METHANE + random.normal(0, np.sqrt(8.617e-5 * temperature / 30), (5, 3))
        turn, _ = np.linalg.qr(random.normal(size=(3, 3)))
        apart = positions[first] - positions[second]
        distances = np.linalg.norm(apart, axis=1)
        pulls = -(stiffness * (distances - rest) / distances)[:, None] * apart
        forces = np.zeros((5, 3))
        np.add.at(forces, first, pulls)
        np.add.at(forces, second, -pulls)
        energy = float((stiffness * (distances - rest) ** 2).sum() / 2)
        turn *= np.sign(np.linalg.det(turn))
        structures.append(
            Structure("CH4", "CH4", order, numbers, positions @ turn, energy - 1102.0, forces @ turn, None)
        )
    return structures


def warnings_of(structures, energy=1.0, forces=1.0, lengths=1.0):
    check = UnitCheck()
    for structure in structures:
        check.add(
            replace(
                structure,
                energy=structure.energy * energy,
                forces=structure.forces * forces,
                positions=structure.positions * lengths,
            )
        )
    return check.warnings()


FACTORS = [1 / KCAL_MOL, HARTREE, HARTREE / KCAL_MOL, 1000.0]
FACTORS = [*FACTORS, *(1 / factor for factor in FACTORS)]


@pytest.fixture(scope="module")
def thermal():
    """Frames of ethanol on GFN2-xTB along its normal modes, at 300 and at 1,000 K."""
    random = xtb.random_state(0)
    surface, minimum = xtb.minimum("CCO", random)
    hessian = conformers.numerical_hessian(surface, minimum)
    wavenumbers, modes = conformers.normal_modes(hessian, minimum, atomic_masses[surface.numbers])
    numbers = surface.numbers.astype(np.uint8)
    found = {}
    for temperature in (300.0, 1000.0):
        moves = conformers.draw_displacements(wavenumbers, modes, temperature, 60, random)
        found[temperature] = [
            Structure(
                "ethanol", "C2H6O", order, numbers, minimum + move, *surface.energy_and_forces(minimum + move), None
            )
            for order, move in enumerate(moves)
        ]
    return found


def test_right_units_give_no_warning(thermal):
    assert warnings_of(springs()) == []
    assert warnings_of(springs(temperature=100)) == []
    for structures in thermal.values():
        assert warnings_of(structures) == []
    # the zero of the energies is nobody's business
    shifted = [replace(structure, energy=structure.energy + 5000) for structure in springs()]
    assert warnings_of(shifted) == []
    assert UnitCheck().warnings() == []


@pytest.mark.parametrize("factor", FACTORS, ids=lambda factor: f"{factor:.3g}")
def test_a_factor_of_units_is_found(thermal, factor):
    for structures in (springs(), *thermal.values()):
        (alone,) = warnings_of(structures, energy=factor)
        assert "energies and forces have different units" in alone
        assert f"{max(factor, 1 / factor):.4g} between" in alone
        forces = warnings_of(structures, forces=factor)
        assert ["check energy_unit" in forces[0], "different units" in forces[1]] == [True, True]
        (both,) = warnings_of(structures, energy=factor, forces=factor)
        assert "check energy_unit" in both


@pytest.mark.parametrize("factor", [BOHR, 1 / BOHR])
def test_lengths_and_forces_in_bohr_are_found(thermal, factor):
    for structures in (springs(), thermal[300.0]):
        (lengths,) = warnings_of(structures, lengths=factor, forces=1 / factor)
        assert "check length_unit" in lengths
        assert "1.89 between angstrom and bohr" in lengths
        (forces,) = warnings_of(structures, forces=factor)
        assert "1.89 between angstrom and bohr" in forces


def test_gradients_instead_of_forces_are_found(thermal):
    for structures in (springs(), *thermal.values()):
        (found,) = warnings_of(structures, forces=-1)
        assert "gradients" in found


def test_energies_that_tell_nothing_raise_no_alarm():
    random = np.random.default_rng(0)
    unrelated = [replace(structure, energy=random.normal()) for structure in springs()]
    assert warnings_of(unrelated) == []
    assert warnings_of([replace(structure, energy=0.0) for structure in springs()]) == []
    assert warnings_of(springs(5), energy=627.5) == []
    atom = replace(
        springs(1)[0], numbers=np.array([1], dtype=np.uint8), positions=np.zeros((1, 3)), forces=np.zeros((1, 3))
    )
    assert "mean square of 0 eV/angstrom" in " ".join(warnings_of([atom]))


def test_the_check_looks_at_a_bounded_number_of_frames(monkeypatch):
    monkeypatch.setattr(UnitCheck, "_FRAMES_PER_MOLECULE", 30)
    monkeypatch.setattr(UnitCheck, "_FRAMES", 50)
    check = UnitCheck()
    for name in ("a", "b", "c"):
        for structure in springs():
            check.add(replace(structure, molecule=name))
    assert check._frames == 50
    assert len(check._seen) == 2
    assert check.warnings() == []
