"""Our side: a training step as a cell takes it, and predictions as the calculator makes them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from side import ALLEGRO, CUTOFF, INTERACTIONS, RADIAL, RATE, WIDTH, serve

from chemscale.inference.potential import TrainedPotential
from chemscale.inference.predictor import Predictor
from chemscale.models import registry
from chemscale.models.graph import Graph
from chemscale.models.potential import Potential
from chemscale.training.engine import TorchEngine
from chemscale.training.frames import Batch
from chemscale.training.step import Objective, compiled_step, plain_step

LOG = logging.getLogger("potentials")


def knobs_of(model: str) -> dict[str, Any]:
    """The size that both sides have."""
    if model == "allegro":
        return {**ALLEGRO, "cutoff": CUTOFF, "envelope": "smooth"}
    knobs = {"width": WIDTH, "interactions": INTERACTIONS, "num_radial": RADIAL, "cutoff": CUTOFF, "envelope": "cosine"}
    return knobs | ({"vectors": True} if model == "painn" else {})


def set_up(what: str, model: str, tensors: dict[str, torch.Tensor], setting: str) -> Callable[[], Any]:
    """`setting`: plain, or the folder of compiled packages."""
    knobs = knobs_of(model)
    potential = Potential(registry.build(model, knobs, seed=0), torch.zeros(119), 1.0)
    graph = Graph(
        *(tensors[name] for name in ("species", "positions", "edges", "frame")),
        len(tensors["atoms"]),
        tensors.get("shifts"),
        pair=tensors["pair"],
        first=tensors["first"],
    )
    folder = None if setting == "plain" else Path(setting)
    if what == "predict":
        trained = TrainedPotential(potential.eval(), model, knobs, (1, 6, 8), {})
        predictor = Predictor(trained, compiled=folder, threads=1)
        return lambda: predictor.predict(graph)
    settings = {"weight_decay": 0.01, "beta1": 0.9, "beta2": 0.999, "gradient_clip": 10.0, "average": 0.99}
    engine = TorchEngine(potential, **settings)
    objective = Objective(potential)
    batch = Batch(graph, tensors["forces"], tensors["energies"], tensors["atoms"])
    identity = {"benchmark of": model, "knobs": knobs}
    frames = len(tensors["atoms"])
    step = (
        plain_step(objective, engine)
        if folder is None
        else compiled_step(objective, engine, frames, identity, folder, 1, LOG)
    )
    weights = torch.tensor([1 / len(graph.species), 1 / frames])

    def work() -> None:
        step(batch, weights).item()
        engine.update(RATE)

    return work


if __name__ == "__main__":
    serve(set_up)
