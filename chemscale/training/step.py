"""A training step of a potential: its loss and every gradient, taken by torch operation by operation, or compiled."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from chemscale.models import compiled
from chemscale.models.graph import Graph
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

    taken = {size for value in (*objective.parameters(), *buffers.values()) for size in value.shape}
    example, sizes = _example(frames, taken, place)
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
        if min(len(batch.atoms) if frames > 1 else 2, batch.graph.edges.shape[1]) < 2:
            return plain(batch, weights)
        loss, gradient = package(engine.flat, *buffers.values(), *_tensors(batch, weights))
        engine.add(gradient)
        return loss

    return step


def _tensors(batch: Batch, weights: Tensor) -> list[Tensor]:
    """What a step depends on, beside the parameters; `_batch` undoes it."""
    graph = batch.graph
    of_graph = [graph.species, graph.positions, graph.edges, graph.frame]
    return [*of_graph, batch.forces, batch.energies, batch.atoms, weights]


def _batch(
    species: Tensor,
    positions: Tensor,
    edges: Tensor,
    frame: Tensor,
    forces: Tensor,
    energies: Tensor,
    atoms: Tensor,
    weights: Tensor,
) -> tuple[Batch, Tensor]:
    graph = Graph(species, positions, edges, frame, energies.shape[0])
    return Batch(graph, forces, energies, atoms), weights


def _example(frames: int, taken: Iterable[int], place: torch.device) -> tuple[list[Tensor], list[dict[int, str]]]:
    """Tensors of the kinds and about the sizes of a batch's, and the names of those sizes that may change.

    Tracing takes equal sizes for the same one, so that these differ from all others.
    """
    taken = {*taken, 0, 1, 2, 3}

    def unlike(size: int) -> int:
        while size in taken:
            size += 1
        taken.add(size)
        return size

    count = unlike(frames) if frames > 1 else 1
    atoms = unlike(count * _ATOMS)
    edges = unlike(atoms * _EDGES)
    of_atoms = {0: "atoms"}
    of_frames = {0: "frames"} if frames > 1 else {}

    def numbers(*shape: int) -> Tensor:
        return torch.ones(shape, dtype=torch.int64, device=place)

    def values(*shape: int) -> Tensor:
        return torch.zeros(shape, device=place)

    example: list[tuple[Tensor, dict[int, str]]] = [
        (numbers(atoms), of_atoms),
        (values(atoms, 3), of_atoms),
        (numbers(2, edges), {1: "edges"}),
        (numbers(atoms), of_atoms),
        (values(atoms, 3), of_atoms),
        (values(count), of_frames),
        (numbers(count), of_frames),
        (values(2), {}),
    ]
    return [tensor for tensor, _ in example], [names for _, names in example]
