"""Energies, forces and parameter counts of other people's code with the same weights; tests/peers made the numbers."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from chemscale.cost.parameters import count
from chemscale.families import reach
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


def _stored(name):
    """What their code computed: its knobs and number of parameters, weights by our names, and other tensors."""
    with safe_open(FOLDER / f"{name}.safetensors", "pt") as stored:
        about = stored.metadata()
        values = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    weights = {name.removeprefix("weights."): value for name, value in values.items() if name.startswith("weights.")}
    return json.loads(about["knobs"]), int(about["parameters"]), weights, values


def _check_molecules(model, cutoff, values):
    """Compare energies and forces of the five molecules, each a frame of its own."""
    for molecule in range(5):
        positions, species = values[f"{molecule}.positions"], values[f"{molecule}.species"]
        distances = (positions[:, None] - positions).norm(dim=-1)
        edges = torch.nonzero((distances < cutoff) & (distances > 0)).T
        frame = torch.zeros(len(species), dtype=torch.int64)
        energy, forces = model.energies_and_forces(Graph(species, positions, edges, frame, 1), create_graph=False)
        torch.testing.assert_close(energy.detach(), values[f"{molecule}.energy"], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(forces, values[f"{molecule}.forces"], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", ["invariant", "vectors", "tensors"])
def test_allegro_is_that_of_nequip_allegro(size):
    knobs, parameters, weights, values = _stored(f"allegro_{size}")
    knobs = {"envelope": "smooth"} | knobs
    model = Potential(registry.build("allegro", knobs, seed=0), torch.zeros(119), 1.0)
    assert {name: value.shape for name, value in weights.items()} == {
        name: parameter.shape for name, parameter in model.core.named_parameters()
    }
    model.core.load_state_dict(weights)
    # their tables of species have four rows
    assert count("allegro", knobs, None).non_embedding + 4 * knobs["width"] == parameters
    _check_molecules(model, knobs["cutoff"], values)


@pytest.mark.parametrize(
    ("name", "family"),
    [("schnetpack_schnet", "schnet"), ("schnetpack_painn", "painn"), ("torch_geometric_schnet", "schnet")],
)
def test_schnet_and_painn_are_those_of_their_peers(name, family):
    knobs, parameters, weights, values = _stored(name)
    model = Potential(registry.build(family, knobs, seed=0), torch.zeros(119), 1.0)
    model.core.load_state_dict(weights)
    assert count(family, knobs, None).total == parameters
    _check_molecules(model, knobs["cutoff"], values)


@pytest.mark.parametrize("terms", ["whole", "cut", "network"])
def test_spookynet_is_that_of_its_authors(terms):
    """With all physical terms, without and with a cutoff of the far ones, and without any; for ions and radicals."""
    knobs, parameters, weights, values = _stored(f"spookynet_{terms}")
    model = Potential(registry.build("spookynet", knobs, seed=0), torch.zeros(119), 1.0)
    assert {name: value.shape for name, value in weights.items()} == {
        name: value.shape for name, value in model.core.state_dict().items() if name != "unit"
    }
    model.core.load_state_dict(weights | {"unit": torch.ones(())})
    # theirs counts a constant of D4 that is not trained
    assert count("spookynet", knobs, None).total == parameters - knobs["dispersion"]
    positions, frame = values["positions"], values["frame"]
    distances = (positions[:, None] - positions).norm(dim=-1)
    near = (frame[:, None] == frame) & (distances < reach("spookynet", knobs)) & (distances > 0)
    graph = Graph(
        values["species"],
        positions,
        torch.nonzero(near).T,
        frame,
        5,
        charge=values["charge"],
        spin=values["spin"],
    )
    energies, forces = model.energies_and_forces(graph, create_graph=False)
    torch.testing.assert_close(energies.detach(), values["energies"], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(forces, values["forces"], rtol=1e-10, atol=1e-11)
