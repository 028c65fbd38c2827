"""Gap and dipole moment against literature and symmetry; which molecules a probe is given, and where each went."""

import hashlib

import numpy as np
import pytest

from chemscale.data import prepare_properties, xtb
from chemscale.data.prepare_properties import load, prepare, properties_folder
from chemscale.data.properties import candidates, compute, gap_and_dipole
from chemscale.data.sampling import sample
from chemscale.errors import DataError
from chemscale.io import read_json, read_parquet

SETTINGS = {"num_molecules": 20, "max_heavy_atoms": 6, "seed": 0}


def of(smiles):
    return gap_and_dipole(*xtb.embed(smiles, 1))


def test_water_has_the_dipole_moment_of_the_method():
    # GFN2-xTB: 2.2 to 2.3 D (experiment 1.85); the experiment's geometry, in angstrom
    positions = np.array([[0.0, 0.0, 0.0], [0.9572, 0.0, 0.0], [-0.23999, 0.92663, 0.0]])
    gap, dipole = gap_and_dipole(np.array([8, 1, 1]), positions)
    assert dipole == pytest.approx(2.25, abs=0.1)
    # it does not depend on where the molecule stands, nor on how it is turned
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    assert gap_and_dipole(np.array([8, 1, 1]), positions @ turn + 3) == pytest.approx((gap, dipole), abs=1e-6)


def test_gaps_are_those_of_tblites_own_orbitals():
    from tblite.interface import Calculator

    numbers, positions = xtb.embed("c1ccccc1", 1)
    found = Calculator("GFN2-xTB", numbers, positions / 0.529177210903)
    found.set("verbosity", 0)
    energies = found.singlepoint().get("orbital-energies") * 27.211386
    # benzene: 30 valence electrons
    gap, dipole = of("c1ccccc1")
    assert gap == pytest.approx(energies[15] - energies[14], abs=1e-3)
    assert dipole < 0.02  # by symmetry


def test_gaps_fall_with_conjugation_and_dipoles_tell_polar_molecules():
    ethylene, butadiene, hexatriene = (of(text)[0] for text in ("C=C", "C=CC=C", "C=CC=CC=C"))
    assert ethylene > butadiene > hexatriene > 1
    assert of("CC#N")[1] > 3 > 1 > of("CCC")[1]


def rows(smiles):
    return [{"row": f"{place:032x}", "smiles": text, "selfies": "[C]"} for place, text in enumerate(smiles)]


def test_candidates_are_small_neutral_closed_shells_once_each():
    asked = ["CCO", "C[C@H](O)F", "C[C@@H](O)F", "C", "[Na+].[Cl-]", "C[N+](C)(C)C", "[CH3]", "C[N+](=O)[O-]",
             "CCCCCCCCCC", "[Pt]Cl", "c1ccccc1C", "C=CO", "CC=O"]  # fmt: skip
    found = {molecule.smiles: molecule.cluster for molecule in candidates(rows(asked), 7)}
    assert found == {"CCO": "CCO", "C[C@H](O)F": "CC(O)F", "C[N+](=O)[O-]": "C[N+](=O)[O-]",
                     "c1ccccc1C": "c1ccccc1", "C=CO": "C=CO"}  # fmt: skip


def test_a_molecule_that_cannot_be_computed_has_a_reason(monkeypatch):
    (molecule,) = candidates(rows(["CCO"]), 7)

    def fail(*_):
        raise xtb.Failure("embedding_failed")

    monkeypatch.setattr(xtb, "embed", fail)
    (outcome,) = compute(([molecule], 0))
    assert (outcome.gap, outcome.dipole, outcome.rejected) == (None, None, "embedding_failed")


@pytest.fixture
def folder(tmp_path, write_data):
    alphabet = ["C", "N", "O", "F", "Cl", "CC", "CO", "CN", "C=C", "C#N", "C=O"]
    texts = [one + "C" + other for one in ("C", "N", "O", "CC", "CO") for other in alphabet]
    data = [
        {"smiles": text, "selfies": "[C]", "group": text, "split": ("train", "validation", "test")[place % 3 and 2]}
        for place, text in enumerate(texts)
    ]
    data += [{"smiles": "CC(C)C(C)C", "selfies": "[C]", "group": "v", "split": "validation"}]
    return tmp_path / "molecules", write_data(tmp_path / "molecules", data)


def test_the_stage_takes_molecules_of_the_test_split_alone(folder, monkeypatch):
    monkeypatch.setattr(prepare_properties, "ordered_map", lambda function, tasks, workers: map(function, tasks))
    path, manifest = folder
    prepare(path, SETTINGS, "code", 1)
    table, told = load(path, SETTINGS)
    assert told["asked"] == 20 == told["kept"] + sum(told["rejected"].values())
    assert told["data_digest"] == manifest["digest"]
    test = set(sample(path, "test", 1000, "any", 0, ["row"])["row"].to_pylist())
    assert set(table["row"].to_pylist()) <= test
    assert len(set(table["smiles"].to_pylist())) == table.num_rows
    before = (properties_folder(path, SETTINGS) / "properties.parquet").read_bytes()
    prepare(path, SETTINGS, "code", 1)
    assert (properties_folder(path, SETTINGS) / "properties.parquet").read_bytes() == before
    # the first of one seed are others than those of another
    prepare(path, SETTINGS | {"seed": 1}, "code", 1)
    assert load(path, SETTINGS | {"seed": 1})[0]["row"].to_pylist() != table["row"].to_pylist()


def test_too_few_molecules_and_changed_files_are_told(folder, monkeypatch):
    monkeypatch.setattr(prepare_properties, "ordered_map", lambda function, tasks, workers: map(function, tasks))
    path, _ = folder
    with pytest.raises(DataError, match="in the test split"):
        prepare(path, SETTINGS | {"num_molecules": 500}, "code", 1)
    prepare(path, SETTINGS, "code", 1)
    file = properties_folder(path, SETTINGS) / "properties.parquet"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert hashlib.sha256(file.read_bytes()).hexdigest() != read_json(file.parent / "manifest.json")["sha256"]
    with pytest.raises(DataError, match="changed file"):
        load(path, SETTINGS)


def test_a_sample_is_fixed_by_its_seed_and_key(folder):
    path, _ = folder
    whole = sample(path, "test", 10_000, "a", 0, ["smiles"])["smiles"].to_pylist()
    first = sample(path, "test", 5, "a", 0, ["smiles"])["smiles"].to_pylist()
    assert len(first) == 5
    assert set(first) <= set(whole)
    assert sample(path, "test", 5, "a", 0, ["smiles"])["smiles"].to_pylist() == first
    assert sample(path, "test", 5, "a", 1, ["smiles"])["smiles"].to_pylist() != first
    shards = [row for file in sorted(path.rglob("shard-*.parquet")) for row in read_parquet(file).to_pylist()]
    assert whole == [row["smiles"] for row in shards if row["split"] == "test"]
