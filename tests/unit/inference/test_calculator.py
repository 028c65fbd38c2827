"""The calculator in ASE: derivatives, cells, neighbour lists, what it refuses and what it warns of."""

import itertools
import warnings

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.fd import calculate_numerical_stress
from ase.md.langevin import Langevin
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

import chemscale
from chemscale.errors import InputError, RecordError
from chemscale.inference.calculator import OutsideTraining, _cell_shifts, _NeighbourList
from chemscale.inference.export import export
from chemscale.inference.potential import load
from chemscale.io import read_json, write_json
from chemscale.models import registry, weights
from chemscale.models.potential import Potential

KNOBS = {"width": 8, "interactions": 2, "num_radial": 6, "cutoff": 4.0, "envelope": "smooth", "vectors": True}
SEEN = {"species": [1, 6, 8], "closest": {"1-1": 1.4, "1-6": 0.9, "1-8": 0.9, "6-6": 1.2, "6-8": 1.2, "8-8": 1.9}}
CELL = "results/smoke/cells/painn/w8/n32/seed0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A potential of drawn weights, as an export."""
    return _save(tmp_path_factory.mktemp("potential"), "painn", KNOBS)


def _save(path, family, knobs):
    generator = torch.Generator().manual_seed(3)
    core = registry.build(family, knobs, seed=0)
    with torch.no_grad():
        for parameter in core.parameters():  # some begin as zeros
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    reference = 50 * torch.randn(119, generator=generator, dtype=torch.float64)
    weights.save(path, Potential(core, reference, 0.7).state_dict(), {"family": family, "knobs": knobs, **SEEN})
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
    moved, one_moved = atoms.copy(), atoms.copy()
    moved.positions += np.array([3, -2, 1]) @ atoms.cell.array  # out of the cell
    one_moved.positions[1] += np.array([0, 2, -1]) @ atoms.cell.array
    wrapped = moved.copy()
    wrapped.positions += 0.7
    wrapped.wrap()
    for structure in (atoms, double, moved, one_moved, wrapped):
        structure.calc = chemscale.calculator(folder, dtype="float64")
    assert double.get_potential_energy() == pytest.approx(2 * atoms.get_potential_energy(), rel=1e-10)
    np.testing.assert_allclose(double.get_stress(), atoms.get_stress(), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(double.get_forces(), np.tile(atoms.get_forces(), (2, 1)), rtol=1e-8, atol=1e-10)
    for same in (moved, one_moved, wrapped):
        assert same.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), rel=1e-10)
        np.testing.assert_allclose(same.get_forces(), atoms.get_forces(), rtol=1e-8, atol=1e-10)


def test_axes_that_are_not_periodic_need_no_cell(folder):
    slab = _crystal()
    slab.pbc = [True, True, False]
    bare = slab.copy()
    bare.cell[2] = 0
    energies = []
    for structure in (slab, bare, _crystal()):
        structure.calc = chemscale.calculator(folder, dtype="float64")
        energies.append(structure.get_potential_energy())
    assert energies[0] == energies[1] != pytest.approx(energies[2], rel=1e-6)
    # without a volume there is no stress
    assert "stress" in slab.calc.results
    assert "stress" not in bare.calc.results


def test_a_molecule_far_from_the_origin_keeps_its_digits(folder):
    near, far = molecule("CH3OH"), molecule("CH3OH")
    far.positions += 4096.0
    for structure in (near, far):
        structure.calc = chemscale.calculator(folder)
    np.testing.assert_allclose(far.get_forces(), near.get_forces(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pbc", list(itertools.product([True, False], repeat=3)))
def test_edges_are_all_pairs_within_reach(pbc):
    atoms, reach = _crystal() * (1, 2, 1), 4.3
    atoms.positions += np.array([2, -1, 0]) @ atoms.cell.array
    atoms.pbc = pbc
    ranges = [range(-4, 5) if periodic else (0,) for periodic in pbc]
    expected = set()
    for image in itertools.product(*ranges):
        vectors = atoms.positions[None] - atoms.positions[:, None] + np.array(image) @ atoms.cell.array
        lengths = np.linalg.norm(vectors, axis=2)
        expected |= {(i, j, *image) for i, j in np.argwhere((lengths < reach) & (lengths > 1e-6)).tolist()}
    home = _cell_shifts(atoms)
    listed = _NeighbourList(atoms, home, reach, np.zeros((119, 119)))
    # images are counted from where the cell has the atoms
    turns = np.linalg.solve(atoms.cell.array.T, home.T).T.round().astype(int)
    receiver, sender = listed.edges
    images = listed.images - turns[sender] + turns[receiver]
    found = list(zip(receiver.tolist(), sender.tolist(), *images.T.tolist(), strict=True))
    assert len(found) == len(expected)
    assert set(found) == expected


def test_an_atom_that_has_left_its_cell_is_where_it_was(folder):
    atoms = _crystal()
    atoms.calc = chemscale.calculator(folder)
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    atoms.positions[1] += np.array([2000, -1500, 300]) @ atoms.cell.array
    assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-5)
    np.testing.assert_allclose(atoms.get_forces(), forces, atol=2e-6)


@pytest.mark.parametrize("make", [_crystal, lambda: molecule("CH3CH2OH")], ids=["crystal", "molecule"])
def test_a_list_that_is_used_again_changes_nothing(folder, make):
    atoms = make()
    atoms.calc = chemscale.calculator(folder, dtype="float64")
    random = np.random.default_rng(2)
    lists = []
    for _ in range(12):
        atoms.positions += 0.04 * random.normal(size=atoms.positions.shape)
        energy = atoms.get_potential_energy()
        if not lists or atoms.calc._list is not lists[-1]:
            lists.append(atoms.calc._list)
        fresh = atoms.copy()
        fresh.calc = chemscale.calculator(folder, dtype="float64")
        assert energy == pytest.approx(fresh.get_potential_energy(), rel=1e-12)
    assert 1 < len(lists) < 12


def test_one_calculator_serves_structure_after_structure(folder):
    shared = chemscale.calculator(folder, dtype="float64")
    stretched = _crystal()
    stretched.set_cell(1.02 * stretched.cell.array)  # the atoms stay where they are
    other = molecule("CH3OH")
    other.numbers[1] = 6  # the elements alone change
    for structure in (molecule("CH3OH"), other, _crystal(), stretched, molecule("H2O")):
        structure.calc = shared
        energy = structure.get_potential_energy()
        structure.calc = chemscale.calculator(folder, dtype="float64")
        assert energy == structure.get_potential_energy()


def test_ase_relaxes_and_moves_a_structure_by_it(folder):
    atoms = molecule("CH4")
    atoms.calc = chemscale.calculator(folder, dtype="float64")
    before = atoms.get_potential_energy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OutsideTraining)
        assert BFGS(atoms, logfile=None).run(fmax=0.01, steps=200)
        assert atoms.get_potential_energy() < before
        atoms.rattle(0.02, seed=0)
        dynamics = VelocityVerlet(atoms, 0.1 * units.fs)
        total = atoms.get_total_energy()
        dynamics.run(20)
        assert atoms.get_total_energy() == pytest.approx(total, abs=1e-4)
        settings = {"temperature_K": 300, "friction": 0.01 / units.fs, "fixcm": False}
        Langevin(atoms, 0.5 * units.fs, rng=np.random.default_rng(0), **settings).run(20)
    assert 0 < atoms.get_temperature() < 2000


def test_charge_and_spin_reach_a_family_that_knows_them(tmp_path):
    knobs = {"width": 8, "interactions": 1, "num_radial": 6, "cutoff": 4.0, "long_cutoff": 8.0,
             "repulsion": True, "electrostatics": True, "dispersion": True}  # fmt: skip
    _save(tmp_path, "spookynet", knobs)
    radical, energies = molecule("CH3"), set()
    radical.calc = chemscale.calculator(tmp_path, dtype="float64")
    energies.add(round(radical.get_potential_energy(), 8))
    assert not radical.calc.outside_training
    for charge, spin in ((0, 1), (1, 0), (1, 2)):
        radical.calc = chemscale.calculator(tmp_path, charge=charge, spin=spin, dtype="float64")
        # no frame that a potential is trained on has any
        with pytest.warns(OutsideTraining, match=f"charge {charge} and {spin} unpaired electrons"):
            energies.add(round(radical.get_potential_energy(), 8))
        assert radical.calc.outside_training
    assert len(energies) == 4


@pytest.mark.machine_code
def test_machine_code_serves_periodic_cells(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiled, plain = (chemscale.calculator(folder, dtype="float64", compiled=compiled) for compiled in (True, False))
    # a single atom with its images is less than machine code is traced with
    for atoms in (_crystal() * (2, 1, 1), _crystal(), Atoms("C", cell=[2.2] * 3, pbc=True)):
        found = []
        for asked in (compiled, plain):
            asked.calculate(atoms)
            found.append([asked.results[name] for name in ("energy", "forces", "stress")])
        for one, other in zip(*found, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-10)
    assert len(list((tmp_path / "chemscale" / "compiled").glob("*.pt2"))) == 1


def test_what_it_cannot_answer_is_told(folder, tmp_path):
    ammonia = molecule("NH3")
    ammonia.calc = chemscale.calculator(folder)
    with pytest.raises(InputError, match="N, which training never saw; give a structure of H, C, O"):
        ammonia.get_potential_energy()
    methane = molecule("CH4")
    methane.calc = chemscale.calculator(folder)
    methane.positions[0, 0] = np.nan
    with pytest.raises(InputError, match="a position or a cell vector that is no number"):
        methane.get_potential_energy()
    methane.positions[0] = methane.positions[1]
    with (
        pytest.warns(OutsideTraining, match="H and C 0.00 angstrom apart"),
        pytest.raises(InputError, match="atoms are not in one place"),
    ):
        methane.get_potential_energy()
    monoxide = Atoms("CO", [[0, 0, 0], [0, 0, 1e6]], calculator=chemscale.calculator(folder))
    with pytest.raises(InputError, match=r"atoms 1e\+06 angstrom apart; see whether a run has blown up"):
        monoxide.get_potential_energy()
    # what it says of one structure is not left for another
    calculator = chemscale.calculator(folder)
    calculator.calculate(molecule("CH4"))
    with pytest.raises(InputError, match="never saw"):
        calculator.calculate(ammonia)
    assert (calculator.results, calculator.outside_training) == ({}, False)
    boxless = Atoms("CO", [[0, 0, 0], [0, 0, 1.15]], pbc=True, calculator=chemscale.calculator(folder))
    with pytest.raises(InputError, match="periodic axes without cell vectors"):
        boxless.get_potential_energy()
    with pytest.raises(InputError, match=r"charge 1 and spin 0 of a painn.*take spookynet"):
        chemscale.calculator(folder, charge=1)
    with pytest.raises(InputError, match="float32 or float64"):
        chemscale.calculator(folder, dtype="half")
    with pytest.raises(InputError, match="no weights"):
        chemscale.calculator(tmp_path)


def test_damaged_weights_are_refused(folder, tmp_path):
    spec = read_json(folder / weights.SPEC)
    whole = (folder / weights.WEIGHTS).read_bytes()
    damaged = whole[:-1] + bytes([whole[-1] ^ 1])
    without = {name: value for name, value in spec.items() if name != "closest"}
    wider = {**spec, "knobs": {**KNOBS, "width": 9}}
    for number, (blob, told, message) in enumerate(
        [
            (damaged, spec, "it was changed"),
            (whole[:99], spec, "no safetensors"),
            (whole, without, "closest None in place of distances"),
            (whole, wider, r"found 2,985 numbers for a model of 3,420 parameters"),
            (whole, {**spec, "family": "chemgpt"}, "name a potential"),
        ]
    ):
        place = tmp_path / str(number)
        place.mkdir()
        (place / weights.WEIGHTS).write_bytes(blob)
        write_json(place / weights.SPEC, told)
        with pytest.raises(InputError, match=message):
            chemscale.calculator(place)
    (tmp_path / "0" / weights.SPEC).write_text("{")
    with pytest.raises(RecordError, match="no valid JSON"):
        chemscale.calculator(tmp_path / "0")


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
        for length, outside in ((1.15, False), (0.91, True)):
            atoms.positions[1, 2] = length
            atoms.get_potential_energy()
            assert atoms.calc.outside_training == outside


def test_a_pair_of_elements_that_training_never_saw_within_reach_is_flagged(tmp_path):
    trained = load(_save(tmp_path, "painn", KNOBS))
    spec = weights.read_spec(tmp_path)
    weights.save(tmp_path, trained.potential.state_dict(), {**spec, "closest": {"1-6": 0.9}})
    atoms = Atoms("HC", [[0, 0, 0], [0, 0, 3.0]], calculator=chemscale.calculator(tmp_path))
    atoms.get_potential_energy()
    assert not atoms.calc.outside_training
    atoms.numbers[0] = 8
    with pytest.warns(OutsideTraining, match=r"C and O 3.00"):
        atoms.get_potential_energy()
    assert atoms.calc.outside_training
    atoms.positions[1, 2] = 4.2  # in the list, for its skin, but out of reach
    atoms.get_potential_energy()
    assert not atoms.calc.outside_training


def test_an_isolated_atom_has_its_reference_and_no_forces(folder):
    atoms = Atoms("O")
    atoms.calc = chemscale.calculator(folder, dtype="float64")
    reference = load(folder).potential.reference[8]
    alone = atoms.get_potential_energy()
    atoms.set_cell([50, 50, 50])
    atoms.pbc = True
    assert atoms.get_potential_energy() == alone == pytest.approx(float(reference), abs=20)
    np.testing.assert_array_equal(atoms.get_stress(), 0)
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
    assert read_json(out / weights.SPEC) == read_json(cell / "checkpoint" / weights.SPEC)
    for taken in (out, out / "README.md"):
        with pytest.raises(InputError, match="not empty"):
            export(cell, taken, "ase")
    with pytest.raises(InputError, match="name a potential"):
        export(smoke_tree.path / "results/smoke/cells/chemgpt/w16/n400/seed0", tmp_path / "new", "ase")
    with pytest.raises(InputError, match="name a language cell"):
        export(cell, tmp_path / "new", "hf")
