"""Conformers: the surface and its modes against ASE and finite differences, the sampling against statistics."""

import numpy as np
import pandas as pd
import pytest
from ase import Atoms
from ase.data import atomic_masses
from ase.vibrations import Vibrations
from tblite.ase import TBLite

from chemscale.data import conformers, simulation, xtb
from chemscale.data.starts import Start
from chemscale.errors import DataError

SECTION = {
    "kind": "conformers",
    "source": "xtb",
    "molecules": None,
    "molecules_from": "chemicals",
    "elements": ["C", "H", "N", "O"],
    "min_heavy_atoms": 2,
    "max_heavy_atoms": 3,
    "exclude": [],
    "num_molecules": 2,
    "frames_per_molecule": 3,
    "temperature": 500.0,
    "seed": 0,
    "validation": 0.0,
    "test": 0.0,
    "rows_per_shard": 4,
    "max_reject_share": 0.05,
}
KT = 8.617333262e-5 * 500


def _molecule(smiles):
    return Start(smiles, smiles, smiles)


def test_forces_are_the_slope_of_the_energy():
    surface, positions = xtb.minimum("CCO", xtb.random_state(0, "CCO"))
    positions = positions + np.random.default_rng(0).normal(0, 0.05, positions.shape)
    _, forces = surface.energy_and_forces(positions)
    slopes = np.zeros_like(positions)
    # steps large enough that the energy's own noise, 1e-9 eV, stays below 1e-6; four points for their error
    step = 4e-3
    for index in np.ndindex(positions.shape):
        for factor, weight in ((-2, 1), (-1, -8), (1, 8), (2, -1)):
            moved = positions.copy()
            moved[index] += factor * step
            slopes[index] += weight * surface.energy_and_forces(moved)[0] / (12 * step)
    assert np.abs(forces).max() > 1
    np.testing.assert_allclose(forces, -slopes, atol=1e-4)


def test_the_surface_is_that_of_tblites_own_calculator():
    surface, positions = xtb.minimum("CN", xtb.random_state(0, "CN"))
    atoms = Atoms(surface.numbers, positions, calculator=TBLite(method="GFN2-xTB", accuracy=0.01, verbosity=0))
    energy, forces = surface.energy_and_forces(positions)
    # ASE's hartree is CODATA 2014's, 8e-9 of it away
    assert energy == pytest.approx(atoms.get_potential_energy(), rel=1.2e-8)
    np.testing.assert_allclose(forces, atoms.get_forces(), atol=1e-4)
    assert np.abs(forces).max() < 0.03


@pytest.mark.parametrize(("smiles", "count"), [("O", 3), ("O=C=O", 4), ("C=O", 6)])
def test_modes_are_those_of_ases_vibrations(smiles, count, tmp_path):
    surface, positions = xtb.minimum(smiles, xtb.random_state(1, smiles))
    hessian = conformers.numerical_hessian(surface, positions)
    wavenumbers, modes = conformers.normal_modes(hessian, positions, atomic_masses[surface.numbers])
    atoms = Atoms(surface.numbers, positions, calculator=TBLite(method="GFN2-xTB", accuracy=0.01, verbosity=0))
    reference = Vibrations(atoms, name=str(tmp_path / "vibrations"))
    reference.run()
    expected = np.sort(reference.get_frequencies().real)[-count:]
    assert modes.shape == (count, len(positions), 3)
    np.testing.assert_allclose(wavenumbers, expected, atol=5)


def test_displacements_hold_the_harmonic_energy_and_move_no_centre_of_mass():
    surface, positions = xtb.minimum("C=O", xtb.random_state(0, "C=O"))
    masses = atomic_masses[surface.numbers]
    hessian = conformers.numerical_hessian(surface, positions)
    wavenumbers, modes = conformers.normal_modes(hessian, positions, masses)
    drawn = conformers.draw_displacements(wavenumbers, modes, 500.0, 20_000, np.random.default_rng(0))
    flat = drawn.reshape(len(drawn), -1)
    energy = 0.5 * np.einsum("ni,ij,nj->n", flat, hessian, flat)
    # equipartition: kT/2 for each of the six modes; cutting at three standard deviations takes 0.3 %
    assert energy.mean() == pytest.approx(6 * KT / 2, rel=0.02)
    np.testing.assert_allclose(np.einsum("a,nad->nd", masses, drawn), 0, atol=1e-9)


def test_soft_and_imaginary_modes_move_as_one_of_200_wavenumbers():
    modes = np.zeros((3, 3, 3))
    modes[range(3), range(3), 0] = 1.0
    drawn = conformers.draw_displacements(
        np.array([-500.0, 20.0, 200.0]), modes, 500.0, 4000, np.random.default_rng(0)
    )[:, :, 0]
    expected = np.sqrt(KT) / (200 / 521.4709)
    np.testing.assert_allclose(drawn.std(axis=0), expected, rtol=0.05)
    assert np.abs(drawn).max() == pytest.approx(3 * expected)


def test_molecules_are_chosen_by_cid_one_of_each_constitution():
    compounds = [
        (9, "C[C@H](N)O"),
        (8, "CCO"),
        (7, "C[C@@H](N)O"),
        (6, "CCCC"),
        (5, "[13CH3]C"),
        (4, "[Na]C"),
        (3, "C[O]"),
        (2, "CC.O"),
        (1, "C[NH3+]"),
        (0, "C"),
    ]
    section = {**SECTION, "max_heavy_atoms": 4, "num_molecules": 3}
    chosen = conformers.choose(section, compounds)
    assert [molecule.smiles for molecule in chosen] == ["CCCC", "C[C@@H](N)O", "CCO"]
    assert chosen[1].group == "CC(N)O"
    without = conformers.choose({**section, "num_molecules": 2, "exclude": ["C[C@H](N)O"]}, compounds)
    assert [molecule.smiles for molecule in without] == ["CCCC", "CCO"]
    with pytest.raises(DataError, match="no SMILES"):
        conformers.choose({**section, "exclude": ["C("]}, compounds)
    with pytest.raises(DataError, match="3 in the source"):
        conformers.choose({**section, "num_molecules": 4}, compounds)


@pytest.fixture
def of_two(monkeypatch):
    """Let the source of molecules be methanol and hydrogen cyanide alone, each a unit of work."""
    monkeypatch.setattr(simulation, "_UNIT_MOLECULES", 1)
    monkeypatch.setattr(simulation.sources, "chemicals", lambda: iter([(1, "CO"), (2, "C#N")]))


def _shards(folder):
    return pd.concat([pd.read_parquet(path) for path in sorted((folder / "shards").glob("*.parquet"))])


def test_the_same_bytes_whatever_the_workers_and_chunks(tmp_path, build, of_two):
    manifests = [
        build(SECTION, tmp_path / run / "xtb-0", workers=workers, chunks=chunks)
        for run, (workers, chunks) in {"a": (1, 1), "b": (2, 2)}.items()
    ]
    assert manifests[0] == manifests[1]
    manifest = manifests[0]
    assert (manifest["rows_in"], manifest["rows_kept"], manifest["rejected"]) == (6, 6, {})
    assert [shard["frames"] for shard in manifest["shards"]] == [4, 2]
    table = _shards(tmp_path / "a" / "xtb-0")
    sizes = {"CO": 6, "C#N": 3}
    for smiles, part in table.groupby("smiles"):
        assert sorted(part["frame"]) == [0, 1, 2]
        assert {len(species) for species in part["species"]} == {sizes[smiles]}
        # a molecule's frames are one group, and so lie in one split
        assert part["group"].nunique() == part["split"].nunique() == 1
        # the frames themselves: those that the molecule gives by itself
        expected = conformers.sample((_molecule(smiles), SECTION)).rows
        for row in part.to_dict("records"):
            np.testing.assert_array_equal(row["positions"], expected[row["frame"]]["positions"])
            assert row["energy"] == pytest.approx(expected[row["frame"]]["energy"], rel=1e-10)
            np.testing.assert_allclose(row["forces"], expected[row["frame"]]["forces"], atol=1e-7)


def test_rejects_are_counted_and_too_many_leave_no_manifest(tmp_path, build, in_process, monkeypatch):
    monkeypatch.setattr(simulation.sources, "chemicals", lambda: iter([(1, "CO")]))
    hot = {**SECTION, "temperature": 30_000.0, "frames_per_molecule": 20, "num_molecules": 1}
    found = conformers.sample((_molecule("CO"), hot))
    assert set(found.rejected) <= {"atoms_too_close", "force_too_large", "scf_failed"}
    assert found.rejected["force_too_large"] > 0
    assert len(found.rows) + sum(found.rejected.values()) == 20
    with pytest.raises(DataError, match="force_too_large"):
        build(hot, tmp_path)
    assert not (tmp_path / "manifest.json").exists()
    manifest = build(hot | {"max_reject_share": 0.999}, tmp_path)
    assert (manifest["rows_in"], manifest["rejected"]) == (20, dict(found.rejected))
    assert manifest["rows_kept"] == len(found.rows)


def test_a_split_without_frames_is_refused(tmp_path, build, in_process, of_two):
    section = {**SECTION, "test": 0.01, "validation": 0.01}
    with pytest.raises(DataError, match="none in validation and test"):
        build(section, tmp_path)
    assert not (tmp_path / "manifest.json").exists()


def test_a_molecule_without_a_minimum_rejects_all_its_frames(monkeypatch):
    monkeypatch.setattr(xtb, "_MINIMUM_STEPS", 1)
    found = conformers.sample((_molecule("CCO"), SECTION))
    assert (found.rows, dict(found.rejected)) == ([], {"not_converged": 3})


def test_atoms_in_one_place_have_no_energy():
    surface = xtb.Surface(np.array([6, 8]))
    with pytest.raises(xtb.Failure, match="scf_failed"):
        surface.energy_and_forces(np.zeros((2, 3)))
    assert np.isfinite(surface.energy_and_forces(np.array([[0, 0, 0], [0, 0, 1.13]]))[0])
