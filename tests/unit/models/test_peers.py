"""Energies, forces and parameter counts of other people's code with the same weights; tests/peers made the numbers."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from chemscale.cost.parameters import count
from chemscale.models import registry
from chemscale.models.graph import Graph
from chemscale.models.potential import Potential

FOLDER = Path(__file__).resolve().parents[2] / "data" / "peers"


@pytest.fixture(autouse=True)
def _double():
    """Build models in float64: constants that were rounded to float32 first would differ in the eighth digit."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("size", ["invariant", "vectors", "tensors"])
def test_allegro_is_that_of_nequip_allegro(size):
    with safe_open(FOLDER / f"allegro_{size}.safetensors", "pt") as stored:
        about = stored.metadata()
        values = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    knobs = {"envelope": "smooth"} | json.loads(about["knobs"])
    model = Potential(registry.build("allegro", knobs, seed=0), torch.zeros(119), 1.0)
    weights = {name.removeprefix("weights."): value for name, value in values.items() if name.startswith("weights.")}
    assert {name: value.shape for name, value in weights.items()} == {
        name: parameter.shape for name, parameter in model.core.named_parameters()
    }
    model.core.load_state_dict(weights)
    # their tables of species have four rows
    assert count("allegro", knobs, None).non_embedding + 4 * knobs["width"] == int(about["parameters"])
    for molecule in range(5):
        positions, species = values[f"{molecule}.positions"], values[f"{molecule}.species"]
        distances = (positions[:, None] - positions).norm(dim=-1)
        edges = torch.nonzero((distances < knobs["cutoff"]) & (distances > 0)).T
        frame = torch.zeros(len(species), dtype=torch.int64)
        energy, forces = model.energies_and_forces(Graph(species, positions, edges, frame, 1), create_graph=False)
        torch.testing.assert_close(energy.detach(), values[f"{molecule}.energy"], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(forces, values[f"{molecule}.forces"], rtol=1e-10, atol=1e-12)
