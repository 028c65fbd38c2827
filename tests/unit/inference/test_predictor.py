"""Predictions are the potential's own, in eV, by torch and as machine code, whatever the sizes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from chemscale.data.neighbours import edge_pairs, neighbour_edges
from chemscale.inference.potential import TrainedPotential
from chemscale.inference.predictor import Predictor
from chemscale.models import registry
from chemscale.models.graph import Graph
from chemscale.models.potential import Potential

KNOBS = {"width": 8, "interactions": 1, "num_radial": 4, "cutoff": 4.0, "envelope": "smooth", "vectors": True}


def _trained():
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(119, generator=generator, dtype=torch.float64) * 300
    potential = Potential(registry.build("painn", KNOBS, seed=0), reference, 1.7)
    return TrainedPotential(potential, "painn", KNOBS, (1, 6, 8), {})


def _graph(num_atoms, seed):
    random = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3), -1).reshape(-1, 3) * 1.3
    positions = np.concatenate(
        [random.permutation(grid)[:count] + random.normal(size=(count, 3)) / 10 for count in num_atoms]
    )
    edges, _ = neighbour_edges(positions, np.concatenate([[0], np.cumsum(num_atoms)]), 4.0)
    return Graph(
        torch.from_numpy(random.choice([1, 6, 8], len(positions))),
        torch.from_numpy(positions),
        torch.from_numpy(edges),
        torch.from_numpy(np.repeat(np.arange(len(num_atoms)), num_atoms)),
        len(num_atoms),
        **dict(zip(("pair", "first"), map(torch.from_numpy, edge_pairs(edges)), strict=True)),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_predictions_are_the_potentials_with_its_references(dtype):
    graph = _graph([5, 9], 0)
    model = _trained().potential.double()
    energies, forces = model.energies_and_forces(graph, create_graph=False)
    found, found_forces = Predictor(_trained(), dtype=dtype).predict(graph)
    assert (found.dtype, found_forces.dtype) == (torch.float64, dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(found, model.total_energies(energies.detach(), graph), rtol=0, atol=10 * tolerance)
    torch.testing.assert_close(found_forces.double(), forces * 1.7, rtol=10 * tolerance, atol=10 * tolerance)


def test_gradients_of_edges_are_those_of_the_forces():
    graph = _graph([7], 1)
    graph = replace(graph, shifts=torch.zeros(graph.edges.shape[1], 3, dtype=torch.float64))
    _, forces, of_edges = Predictor(_trained(), dtype=torch.float64).with_edges(graph)
    # an edge goes from the receiving atom to the sending one
    summed = torch.zeros_like(forces).index_add(0, graph.edges[0], of_edges).index_add(0, graph.edges[1], -of_edges)
    torch.testing.assert_close(forces, summed)


def test_machine_code_predicts_the_same(tmp_path):
    plain, compiled = Predictor(_trained()), Predictor(_trained(), compiled=tmp_path)
    for num_atoms in ([2, 11, 5], [20, 8]):
        graph = _graph(num_atoms, len(num_atoms))
        shifts = 0.1 * torch.randn(graph.edges.shape[1], 3, generator=torch.Generator().manual_seed(0))
        # an edge and the one back are of one pair
        shifts = torch.where((graph.edges[0] < graph.edges[1])[:, None], 1, -1) * shifts[graph.first][graph.pair]
        graph = replace(graph, shifts=shifts)
        for one, other in zip(plain.with_edges(graph), compiled.with_edges(graph), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert len(list(tmp_path.glob("*.pt2"))) == 1
