"""Graphs, and those of torch-geometric."""

import pytest
import torch
from torch_geometric import data as geometric

from chemscale.errors import DataError
from chemscale.models import registry
from chemscale.models.graph import Graph, from_geometric
from chemscale.models.potential import Potential

KNOBS = {"width": 8, "interactions": 2, "num_radial": 4, "cutoff": 4.0, "envelope": "smooth", "vectors": True}


def _data(num_atoms, seed):
    positions = torch.randn(num_atoms, 3, generator=torch.Generator().manual_seed(seed))
    # in theirs, a message goes from the first row to the second one: half of all pairs, so that the order tells
    edges = torch.combinations(torch.arange(num_atoms)).T
    return geometric.Data(z=torch.arange(1, num_atoms + 1), pos=positions, edge_index=edges)


def test_a_batch_of_torch_geometric_is_read_as_it_is_meant():
    parts = [_data(3, 0), _data(4, 1)]
    graph = from_geometric(geometric.Batch.from_data_list(parts))
    model = Potential(registry.build("painn", KNOBS, seed=0), torch.zeros(119), 1.0)
    energies, forces = model.energies_and_forces(graph, create_graph=False)
    assert (energies.shape, forces.shape) == ((2,), (7, 3))
    for index, part in enumerate(parts):
        own = Graph(part.z, part.pos, part.edge_index.flip(0), torch.zeros_like(part.z), 1)
        energy, force = model.energies_and_forces(own, create_graph=False)
        torch.testing.assert_close(energies[index : index + 1], energy)
        torch.testing.assert_close(forces[graph.frame == index], force)
        single, _ = model.energies_and_forces(from_geometric(part), create_graph=False)
        torch.testing.assert_close(single, energy)


def test_a_batch_without_neighbours_is_refused():
    with pytest.raises(DataError, match="no edge_index"):
        from_geometric(geometric.Data(z=torch.ones(2, dtype=torch.int64), pos=torch.zeros(2, 3)))
