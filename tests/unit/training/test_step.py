"""A step as machine code is the step that torch takes, whatever the sizes of the batch."""

import logging
from dataclasses import replace
from resource import RUSAGE_SELF, getrusage

import numpy as np
import pytest
import torch

from chemscale.data.neighbours import edge_pairs, neighbour_edges
from chemscale.io import read_json
from chemscale.models import registry
from chemscale.models.graph import Graph
from chemscale.models.potential import Potential
from chemscale.records import read_metrics
from chemscale.training.engine import TorchEngine
from chemscale.training.frames import Batch
from chemscale.training.job import Datasets
from chemscale.training.run import run_cell
from chemscale.training.step import Objective, compiled_step, plain_step

LOG = logging.getLogger("test")
GRAPH = {"interactions": 1, "num_radial": 4, "cutoff": 4.0, "envelope": "smooth"}
SIZES = {
    "schnet": GRAPH | {"width": 8},
    "painn": GRAPH | {"width": 8, "interactions": 2, "vectors": True},
    "baseline": GRAPH | {"width": 8},
    "allegro": GRAPH | {"width": 8, "tensors": 4, "l_max": 1, "neighbours": 9.0},
    "spookynet": {
        **{"width": 8, "interactions": 2, "num_radial": 4, "cutoff": 3.0, "long_cutoff": 4.0},
        **dict.fromkeys(("repulsion", "electrostatics", "dispersion"), True),
    },
}


def _batch(num_atoms, seed):
    """Frames of so many atoms each, neighbours within 4 angstrom."""
    random = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3), -1).reshape(-1, 3) * 1.3
    positions = np.concatenate(
        [random.permutation(grid)[:count] + random.normal(size=(count, 3)) / 10 for count in num_atoms]
    )
    offsets = np.concatenate([[0], np.cumsum(num_atoms)])
    edges, _ = neighbour_edges(positions, offsets, 4.0)
    graph = Graph(
        torch.from_numpy(random.choice([1, 6, 8], offsets[-1])),
        torch.from_numpy(positions).float(),
        torch.from_numpy(edges),
        torch.from_numpy(np.repeat(np.arange(len(num_atoms)), num_atoms)),
        len(num_atoms),
        **dict(zip(("pair", "first"), map(torch.from_numpy, edge_pairs(edges)), strict=True)),
    )
    forces, energies = random.normal(size=(offsets[-1], 3)), random.normal(size=len(num_atoms))
    return Batch(graph, torch.from_numpy(forces).float(), torch.from_numpy(energies).float(), torch.tensor(num_atoms))


def _engine(family, knobs):
    model = Potential(registry.build(family, knobs, seed=0), torch.zeros(119), 1.0)
    settings = {"weight_decay": 0.0, "beta1": 0.9, "beta2": 0.99, "gradient_clip": 10.0, "average": 0.0}
    return Objective(model), TorchEngine(model, **settings)


def _gradient(step, engine, batch):
    """Loss, and the gradient for which the engine's next update would be made."""
    weights = torch.tensor([1.0, 1.0]) / torch.tensor([len(batch.graph.species), len(batch.atoms)])
    taken = {}
    engine.add = lambda gradient, add=engine.add: (add(gradient), taken.update(seen=True))
    loss = step(batch, weights)
    gradient = engine._gradient.clone()
    engine._gradient.zero_()
    return loss, gradient, "seen" in taken


@pytest.mark.parametrize(
    "family", [name if name == "painn" else pytest.param(name, marks=pytest.mark.machine_code) for name in SIZES]
)
def test_gradients_are_those_of_torch(family, tmp_path):
    objective, engine = _engine(family, SIZES[family])
    step = compiled_step(objective, engine, 3, {"family": family}, tmp_path, 1, LOG)
    for number, num_atoms in enumerate([[9, 3, 12], [2, 5], [20, 7, 11]]):
        batch = _batch(num_atoms, number)
        plain_loss, expected, _ = _gradient(plain_step(objective, engine), engine, batch)
        loss, gradient, compiled = _gradient(step, engine, batch)
        assert compiled
        torch.testing.assert_close(loss, plain_loss, rtol=1e-5, atol=0)
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    # memory that it frees is not given back to the system, which would cost a fault for each page at the next call
    batch = _batch([27] * 40, 8)
    for _ in range(5):
        _gradient(step, engine, batch)
    before = getrusage(RUSAGE_SELF).ru_minflt
    for _ in range(5):
        _gradient(step, engine, batch)
    assert getrusage(RUSAGE_SELF).ru_minflt - before < 100
    # a single frame is no size that it was traced with: torch takes that step
    batch = _batch([4], 9)
    _, expected, _ = _gradient(plain_step(objective, engine), engine, batch)
    _, gradient, compiled = _gradient(step, engine, batch)
    assert not compiled
    assert torch.equal(gradient, expected)


def test_a_cell_of_machine_code_learns_what_the_plain_one_does(make_cell, data_dir, tmp_path):
    knobs = {"width": 4, "interactions": 1, "num_radial": 4, "cutoff": 4.0, "envelope": "smooth"}
    plain = replace(make_cell("potentials"), family="schnet", knobs=knobs)
    compiled = replace(plain, engine={**plain.engine, "compiled": True})
    folder = Datasets(data_dir).compiled
    bits, built = [], []
    for run, cell in (("plain", plain), ("one", compiled), ("other", compiled)):
        run_cell(cell, tmp_path / run, Datasets(data_dir), "code", LOG, lambda: False)
        bits.append((cell.folder(tmp_path / run) / "metrics.jsonl").read_bytes())
        built.append([read_json(path)["build_s"] for path in folder.glob("*.json")])
    # built once, and the same bits by what was loaded
    assert (len(built[0]), len(built[1])) == (0, 1)
    assert built[1] == built[2]
    assert bits[1] == bits[2]
    losses = [
        read_metrics(cell.folder(tmp_path / run) / "metrics.json")
        for run, cell in (("plain", plain), ("one", compiled))
    ]
    assert losses[0]["test_loss"] == pytest.approx(losses[1]["test_loss"], rel=1e-3)
    assert bits[0] != bits[1]
