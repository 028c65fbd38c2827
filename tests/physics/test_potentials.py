"""Symmetries, derivatives and limits of every potential, in float64 with all weights randomised."""

import itertools

import numpy as np
import pytest
import torch

from chemscale.data.neighbours import edge_pairs
from chemscale.families import FAMILIES, POTENTIALS, reach
from chemscale.models import registry
from chemscale.models.graph import Graph
from chemscale.models.potential import Potential

pytestmark = pytest.mark.physics

# a family that holds a knob of another's model is among the sizes of that one
FAMILY_NAMES = [name for name, family in FAMILIES.items() if family.domain == POTENTIALS and not family.architecture]
SIZES = [
    {"width": 8, "interactions": 2, "num_radial": 6, "cutoff": 4.0, "envelope": "smooth"},
    {"width": 16, "interactions": 3, "num_radial": 20, "cutoff": 5.0, "envelope": "smooth"},
]
ALLEGRO = {"width": 8, "tensors": 4, "num_radial": 6, "cutoff": 4.0, "envelope": "smooth", "neighbours": 9.0}
SPOOKYNET = {"width": 8, "interactions": 2, "num_radial": 6, "cutoff": 4.0, "long_cutoff": 5.5}
TERMS = ("repulsion", "electrostatics", "dispersion")
LADDERS = {
    "schnet": [*SIZES, SIZES[0] | {"envelope": "cosine"}],
    "baseline": SIZES,
    "painn": [size | {"vectors": vectors} for vectors in (True, False) for size in SIZES],
    "allegro": [
        ALLEGRO | {"l_max": l_max, "interactions": layers} for l_max, layers in ((0, 2), (1, 2), (2, 2), (2, 3))
    ],
    "spookynet": [SPOOKYNET | dict.fromkeys(TERMS, terms) for terms in (True, False)],
}
CASES = [(family, knobs) for family in FAMILY_NAMES for knobs in LADDERS[family]]
SPECIES = torch.tensor([6, 6, 8, 1, 1, 1, 1, 7, 1])


def _positions(seed=0):
    """Nine atoms about 1 angstrom or more apart, in no symmetric arrangement."""
    random = np.random.default_rng(seed)
    chosen = []
    while len(chosen) < len(SPECIES):
        point = random.uniform(-2, 2, 3)
        if all(np.linalg.norm(point - other) > 1.0 for other in chosen):
            chosen.append(point)
    return torch.tensor(np.array(chosen))


def _edges(positions, cutoff):
    distances = (positions[:, None] - positions[None]).norm(dim=-1)
    return torch.nonzero((distances < cutoff) & ~torch.eye(len(positions), dtype=bool)).T.flip(0)


def _potential(family, knobs):
    """A potential in float64 whose every weight, zeros included, is drawn anew."""
    torch.manual_seed(1)
    model = Potential(registry.build(family, knobs, seed=0), torch.randn(119), 1.7).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5 if parameter.ndim > 1 else 0.3)
    model.family, model.reach = family, reach(family, knobs)
    model.cutoffs = {knobs["cutoff"], model.reach}
    return model


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{LADDERS[case[0]].index(case[1])}")
def potential(request):
    return _potential(*request.param)


def _evaluate(model, species, positions):
    frame = torch.zeros(len(species), dtype=torch.int64)
    energies, forces = model.energies_and_forces(
        Graph(species, positions, _edges(positions, model.reach), frame, 1), create_graph=False
    )
    return energies.detach(), forces


def _rotation(seed):
    matrix, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return torch.tensor(matrix if np.linalg.det(matrix) > 0 else -matrix)


@pytest.mark.parametrize("kind", ["rotation", "reflection", "translation"])
def test_energy_is_invariant_and_forces_turn_with_the_frame(potential, kind):
    positions = _positions()
    energy, forces = _evaluate(potential, SPECIES, positions)
    matrix, shift = torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    if kind == "rotation":
        matrix = _rotation(3)
    elif kind == "reflection":
        matrix = _rotation(4) @ torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))
    else:
        shift = torch.tensor([12.0, -7.0, 3.0], dtype=torch.float64)
    moved_energy, moved_forces = _evaluate(potential, SPECIES, positions @ matrix.T + shift)
    if FAMILIES[potential.family].turned and kind != "translation":
        # the far end of the axis: it has to learn this
        assert abs(float(moved_energy - energy)) > 1e-3
        return
    torch.testing.assert_close(moved_energy, energy, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(moved_forces, forces @ matrix.T, rtol=1e-8, atol=1e-9)


def test_order_of_atoms_is_nothing(potential):
    order = torch.from_numpy(np.random.default_rng(5).permutation(len(SPECIES)))
    energy, forces = _evaluate(potential, SPECIES, _positions())
    permuted_energy, permuted_forces = _evaluate(potential, SPECIES[order], _positions()[order])
    torch.testing.assert_close(permuted_energy, energy, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(permuted_forces, forces[order], rtol=1e-8, atol=1e-9)


def test_forces_are_minus_the_finite_differences_of_the_energy(potential):
    positions, step = _positions(2), 2e-5
    _, forces = _evaluate(potential, SPECIES, positions)
    numerical = torch.zeros_like(forces)
    for atom, axis in itertools.product(range(len(SPECIES)), range(3)):
        energies = []
        for sign in (1, -1):
            moved = positions.clone()
            moved[atom, axis] += sign * step
            energies.append(_evaluate(potential, SPECIES, moved)[0])
        numerical[atom, axis] = -((energies[0] - energies[1]) / (2 * step)).squeeze()
    torch.testing.assert_close(forces, numerical, rtol=1e-6, atol=1e-6 * float(forces.abs().max()))


def test_energy_and_forces_are_smooth_through_the_cutoff(potential):
    """An atom that crosses a cutoff changes energy and forces by no jump: the energy by the force times the step."""
    base = torch.tensor([[0.0, 0, 0], [1.1, 0.2, 0], [0.1, 1.2, 0.3]], dtype=torch.float64)
    species, step = torch.tensor([6, 8, 1, 7]), 1e-7
    for cutoff in potential.cutoffs:
        values = []
        for distance in (cutoff - step, cutoff + step):
            away = torch.tensor([[distance, 0.0, 0.0]], dtype=torch.float64)
            positions = torch.cat([base, base[:1] - away])
            values.append(_evaluate(potential, species, positions))
        (before, forces), (after, forces_after) = values
        torch.testing.assert_close(after - before, 2 * step * forces[3:, 0], rtol=0, atol=1e-9)
        torch.testing.assert_close(forces_after, forces, rtol=0, atol=1e-6)


def test_two_far_molecules_add_up(potential):
    if potential.family == "spookynet":
        pytest.skip("attention and the spread of missing charge know no distance: see the next test")
    first, second = _positions(0), _positions(6)
    alone = [_evaluate(potential, SPECIES, positions) for positions in (first, second)]
    both = _evaluate(potential, torch.cat([SPECIES, SPECIES]), torch.cat([first, second + 50.0]))
    torch.testing.assert_close(both[0], alone[0][0] + alone[1][0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(both[1], torch.cat([alone[0][1], alone[1][1]]), rtol=1e-8, atol=1e-9)


def test_nothing_but_attention_and_charges_makes_far_molecules_of_spookynet_one():
    first, second = _positions(0), _positions(6)
    both = torch.cat([SPECIES, SPECIES]), torch.cat([first, second + 50.0])

    def change(model):
        alone = [_evaluate(model, SPECIES, positions)[0] for positions in (first, second)]
        return float((_evaluate(model, *both)[0] - alone[0] - alone[1]).abs())

    model = _potential("spookynet", SPOOKYNET | dict.fromkeys(TERMS, True))
    assert change(model) > 1e-6
    for interaction in model.core.interactions:
        # the last of the blocks side by side gives what is attended to
        torch.nn.init.zeros_(interaction.branches.linear.weight.data[-1])
        torch.nn.init.zeros_(interaction.branches.linear.bias.data[-SPOOKYNET["width"] :])
    # what is missing from two molecules' charges is spread over both
    assert change(model) > 1e-6
    for layer in (model.core.readout.weight.data, model.core.species.weight.data.T):
        torch.nn.init.zeros_(layer[1])
    assert change(model) < 1e-10


def test_a_batch_gives_each_frame_what_it_has_alone(potential):
    first, second = _positions(0), _positions(6)[:5]
    edges = torch.cat([_edges(first, potential.reach), _edges(second, potential.reach) + len(first)], dim=1)
    frame = torch.tensor([0] * len(first) + [1] * len(second))
    graph = Graph(torch.cat([SPECIES, SPECIES[:5]]), torch.cat([first, second]), edges, frame, 2)
    energies, forces = potential.energies_and_forces(graph, create_graph=False)
    for index, positions in enumerate((first, second)):
        energy, force = _evaluate(potential, SPECIES[: len(positions)], positions)
        torch.testing.assert_close(energies[index : index + 1].detach(), energy, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(forces[frame == index], force, rtol=1e-8, atol=1e-9)


def test_what_is_computed_once_a_pair_changes_nothing(potential):
    positions = _positions()
    edges = _edges(positions, potential.reach)
    pair, first = map(torch.from_numpy, edge_pairs(edges.numpy()))
    frame = torch.zeros(len(SPECIES), dtype=torch.int64)
    graph = Graph(SPECIES, positions, edges, frame, 1, pair=pair, first=first)
    energy, forces = potential.energies_and_forces(graph, create_graph=False)
    expected, expected_forces = _evaluate(potential, SPECIES, positions)
    torch.testing.assert_close(energy.detach(), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(forces, expected_forces, rtol=1e-10, atol=1e-10)


def test_totals_add_references_in_float64(potential):
    interaction = torch.tensor([1.25], dtype=torch.float32)
    frame = torch.zeros(len(SPECIES), dtype=torch.int64)
    graph = Graph(SPECIES, _positions(), _edges(_positions(), potential.reach), frame, 1)
    total = potential.total_energies(interaction, graph)
    expected = 1.25 * float(potential.scale) + float(potential.reference[SPECIES].sum())
    assert total.dtype == torch.float64
    assert float(total) == pytest.approx(expected, rel=1e-14)
