"""The calculator in ASE: derivatives, cells, neighbour lists, what it refuses and what it warns of."""

import itertools
import warnings

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.fd import calculate_numerical_stress
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from safetensors.torch import load_file, save_file

import chemscale
from chemscale.errors import InputError, RecordError
from chemscale.inference.calculator import OutsideTraining
from chemscale.inference.export import export
from chemscale.io import read_json
from chemscale.models import registry, weights
from chemscale.models.potential import Potential

KNOBS = {"width": 8, "interactions": 2, "num_radial": 6, "cutoff": 4.0, "envelope": "smooth", "vectors": True}
SEEN = {"species": [1, 6, 8], "closest": {"1-1": 1.4, "1-6": 0.9, "1-8": 0.9, "6-6": 1.2, "6-8": 1.2, "8-8": 1.9}}
CELL = "results/smoke/cells/painn/w8/n32/seed0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A potential of drawn weights, as an export."""
    import torch

    torch.manual_seed(3)
    potential = Potential(registry.build("painn", KNOBS, seed=0), torch.randn(119).double() * 50, 0.7)
    path = tmp_path_factory.mktemp("potential")
    weights.save(path, potential.state_dict(), {"family": "painn", "knobs": KNOBS, **SEEN})
    return path


def _crystal():
    """Carbon in a cell smaller than the cutoff, deformed and with its atoms moved."""
    atoms = bulk("C", "diamond", a=3.6)
    atoms.rattle(0.1, seed=1)
    atoms.set_cell(atoms.cell.array + 0.1 * np.random.default_rng(0).normal(size=(3, 3)), scale_atoms=True)
    return atoms


@pytest.mark.parametrize("make", [_crystal, lambda: molecule("CH3CH2OH")], ids=["crystal", "molecule"])
def test_forces_are_minus_the_slope_of_the_energy(folder, make):
    atoms = make()
    atoms.calc = chemscale.calculator(folder, dtype="float64")
    forces, step = atoms.get_forces(), 1e-4
    for atom, axis in itertools.product(range(2), range(3)):
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * step
            moved.calc = chemscale.calculator(folder, dtype="float64")
            energies.append(moved.get_potential_energy())
        assert forces[atom, axis] == pytest.approx(-(energies[0] - energies[1]) / (2 * step), rel=1e-5, abs=1e-6)


def test_stress_is_the_slope_in_the_strain(folder):
    atoms = _crystal()
    atoms.calc = chemscale.calculator(folder, dtype="float64")
    expected = calculate_numerical_stress(atoms, eps=1e-5)
    np.testing.assert_allclose(atoms.get_stress(), expected, rtol=1e-5, atol=1e-8)


def test_a_larger_cell_of_the_same_crystal_is_the_same(folder):
    atoms = _crystal()
    double = atoms * (2, 1, 1)
    moved = atoms.copy()
    moved.positions += np.array([3, -2, 1]) @ atoms.cell.array  # out of the cell
    partly = atoms.copy()
    partly.pbc = [True, True, False]
    for structure in (atoms, double, moved, partly):
        structure.calc = chemscale.calculator(folder, dtype="float64")
    assert double.get_potential_energy() == pytest.approx(2 * atoms.get_potential_energy(), rel=1e-10)
    np.testing.assert_allclose(double.get_stress(), atoms.get_stress(), rtol=1e-8, atol=1e-10)
    assert moved.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), rel=1e-10)
    assert partly.get_potential_energy() != pytest.approx(atoms.get_potential_energy(), rel=1e-6)


def test_a_list_that_is_used_again_changes_nothing(folder):
    atoms = _crystal()
    atoms.calc = chemscale.calculator(folder, dtype="float64")
    random = np.random.default_rng(2)
    lists = set()
    for _ in range(12):
        atoms.positions += 0.04 * random.normal(size=atoms.positions.shape)
        energy = atoms.get_potential_energy()
        lists.add(id(atoms.calc._list))
        fresh = atoms.copy()
        fresh.calc = chemscale.calculator(folder, dtype="float64")
        assert energy == pytest.approx(fresh.get_potential_energy(), rel=1e-12)
    assert 1 < len(lists) < 12


def test_ase_relaxes_and_moves_a_structure_by_it(folder):
    atoms = molecule("CH3OH")
    atoms.calc = chemscale.calculator(folder)
    before = atoms.get_potential_energy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OutsideTraining)
        BFGS(atoms, logfile=None, maxstep=0.02).run(steps=5)
        assert atoms.get_potential_energy() < before
        dynamics = VelocityVerlet(atoms, 0.1 * units.fs)
        total = atoms.get_total_energy()
        dynamics.run(20)
    assert atoms.get_total_energy() == pytest.approx(total, abs=2e-3)


def test_what_it_cannot_answer_is_told(folder, tmp_path):
    water = molecule("NH3")
    water.calc = chemscale.calculator(folder)
    with pytest.raises(InputError, match="N, which training never saw; a structure of H, C, O"):
        water.get_potential_energy()
    methane = molecule("CH4")
    methane.calc = chemscale.calculator(folder)
    methane.positions[0, 0] = np.nan
    with pytest.raises(InputError, match="no number"):
        methane.get_potential_energy()
    with pytest.raises(InputError, match=r"charge 1 and spin 0 of a painn.*take spookynet"):
        chemscale.calculator(folder, charge=1)
    with pytest.raises(InputError, match="no weights"):
        chemscale.calculator(tmp_path)
    state = load_file(folder / weights.WEIGHTS)
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    save_file(state, damaged / weights.WEIGHTS)
    (damaged / weights.SPEC).write_text((folder / weights.SPEC).read_text().replace('"sha256": "', '"sha256": "0'))
    with pytest.raises(RecordError, match="changed"):
        chemscale.calculator(damaged)


def test_a_structure_far_outside_of_training_is_flagged_and_warned_of_once(folder):
    atoms = Atoms("CO", [[0, 0, 0], [0, 0, 1.15]])
    atoms.calc = chemscale.calculator(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        atoms.get_potential_energy()
        assert not atoms.calc.outside_training
    atoms.positions[1, 2] = 0.9
    with pytest.warns(OutsideTraining, match=r"C and O 0.90 angstrom apart"):
        atoms.get_potential_energy()
    assert atoms.calc.outside_training
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        atoms.positions[1, 2] = 0.91
        atoms.get_potential_energy()


def test_an_isolated_atom_has_its_reference_and_no_forces(folder):
    atoms = Atoms("O")
    atoms.calc = chemscale.calculator(folder, dtype="float64")
    assert np.isfinite(atoms.get_potential_energy())
    np.testing.assert_array_equal(atoms.get_forces(), 0)


def test_an_export_is_the_cell(smoke_tree, tmp_path):
    cell, out = smoke_tree.path / CELL, tmp_path / "out"
    assert export(cell, out, "ase")["cell"] == "cells/painn/w8/n32/seed0"
    ethanol = molecule("CH3CH2OH")
    energies = []
    for place in (cell, out):
        ethanol.calc = chemscale.calculator(place)
        energies.append((ethanol.get_potential_energy(), ethanol.get_forces().tolist()))
    assert energies[0] == energies[1]
    card = (out / "README.md").read_text()
    for value in ("painn w8", "smoke", read_json(cell / "metrics.json")["subset_digest"], "meV/angstrom", "H, C, "):
        assert value in card
    with pytest.raises(InputError, match="not empty"):
        export(cell, out, "ase")
    with pytest.raises(InputError, match="name a potential"):
        export(smoke_tree.path / "results/smoke/cells/chemgpt/w16/n400/seed0", tmp_path / "new", "ase")
    with pytest.raises(InputError, match="name a language cell"):
        export(cell, tmp_path / "new", "hf")
