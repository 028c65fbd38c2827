"""A training step of a potential: its loss and every gradient, taken by torch operation by operation, or compiled."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from chemscale.models import compiled
from chemscale.models.potential import Potential
from chemscale.training.engine import TorchEngine
from chemscale.training.frames import Batch

Step = Callable[[Batch, Tensor], Tensor]
# atoms of a frame and edges of an atom for which machine code is laid out; it holds for any number
_ATOMS, _EDGES = 16, 13


class Objective(nn.Module):
    """What training minimises, of a potential."""

    def __init__(self, model: Potential) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, weights: Tensor) -> Tensor:
        """weights[0] times the sum of the lengths of force errors, and weights[1] times that of |dE| per atom."""
        energies, forces = self.model.energies_and_forces(batch.graph, create_graph=True)
        # the root's slope has to stay finite where an error vanishes
        force_errors = (forces - batch.forces).square().sum(1).add(1e-12).sqrt()
        energy_errors = (energies - batch.energies).abs() / batch.atoms
        return weights[0] * force_errors.sum() + weights[1] * energy_errors.sum()


def plain_step(objective: Objective, engine: TorchEngine) -> Step:
    """A step by torch itself: returns the loss of a batch and adds its gradient to the engine's."""

    def step(batch: Batch, weights: Tensor) -> Tensor:
        loss: Tensor = objective(batch, weights)
        engine.backward(loss)
        return loss.detach()

    return step


def compiled_step(
    objective: Objective,
    engine: TorchEngine,
    frames: int,
    identity: dict[str, Any],
    folder: Path,
    threads: int,
    log: logging.Logger,
) -> Step:
    """A step by machine code: forward, forces and the gradients of all parameters as one flat graph of operations.

    It is the gradient of `plain_step` but for rounding.

    Args:
        objective: what is minimised.
        engine: holds the parameters and takes the gradient.
        frames: of a whole batch.
        identity: what decides the code, see `compiled.package`.
        folder: of compiled packages.
        threads: of the processor.
        log: told how long compiling took.
    """
    place = engine.flat.device
    buffers = dict(objective.named_buffers())
    names = [f"model.{name}" for name in engine.named(engine.flat)]

    def function(flat: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        values = [value.detach().requires_grad_() for value in engine.named(flat).values()]
        state = dict(zip(names, values, strict=True)) | dict(zip(buffers, others, strict=False))
        loss = functional_call(objective, state, _batch(*others[len(buffers) :]))
        gradients = torch.autograd.grad(loss, values, allow_unused=True, materialize_grads=True)
        return loss.detach(), torch.cat([gradient.flatten() for gradient in gradients])

    number: int | str = "frames" if frames > 1 else 1
    shapes: list[compiled.Shape] = [
        *compiled.graph_shapes(torch.float32),
        (torch.float32, ("atoms", 3)),
        (torch.float32, (number,)),
        (torch.int64, (number,)),
        (torch.float32, (2,)),
    ]
    edges = frames * _ATOMS * _EDGES
    about = {"frames": frames, "atoms": frames * _ATOMS, "edges": edges, "pairs": edges // 2}
    others = [engine.flat, *objective.parameters(), *buffers.values()]
    example, sizes = compiled.example(shapes, about, others, place)
    package = compiled.package(
        folder,
        identity,
        function,
        [engine.flat, *buffers.values(), *example],
        [*({} for _ in range(len(buffers) + 1)), *sizes],
        threads,
        log,
    )
    plain = plain_step(objective, engine)

    def step(batch: Batch, weights: Tensor) -> Tensor:
        # a size of 1 or 0 is none that machine code was traced with
        if min(len(batch.atoms) if frames > 1 else 2, batch.graph.edges.shape[1] // 2) < 2:
            return plain(batch, weights)
        loss, gradient = package(engine.flat, *buffers.values(), *_tensors(batch, weights))
        engine.add(gradient)
        return loss

    return step


def _tensors(batch: Batch, weights: Tensor) -> list[Tensor]:
    """What a step depends on, beside the parameters; `_batch` undoes it."""
    return [*compiled.graph_tensors(batch.graph), batch.forces, batch.energies, batch.atoms, weights]


def _batch(*tensors: Tensor) -> tuple[Batch, Tensor]:
    *of_graph, forces, energies, atoms, weights = tensors
    return Batch(compiled.graph_of(of_graph, energies.shape[0]), forces, energies, atoms), weights
