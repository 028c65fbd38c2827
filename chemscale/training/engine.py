"""The engine: what a train loop asks of the machinery that holds weights, gradients and the optimiser's state.

One body so far: plain torch in one process. All weights live in one flat buffer, so that clipping, AdamW and the
running average are a handful of operations whatever the number of layers: for cells of a few thousand parameters the
number of operations is the cost.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn


class Engine(Protocol):
    """What `training/lm.py` and `training/potential.py` rely on."""

    def step(self, loss: Tensor, rate: float) -> float:
        """Differentiate `loss`, clip, update at this learning rate; returns the gradient's norm before clipping."""

    def evaluated(self, weights: Tensor | None = None) -> Iterator[None]:
        """A context in which the module holds the averaged weights, or `weights`."""

    def weights(self) -> Tensor:
        """A copy of the weights that are evaluated, as one flat tensor."""

    def state(self) -> dict[str, Tensor]:
        """Everything that a continuation needs, by name."""

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from a `state()`; bit for bit."""


class TorchEngine:
    """AdamW (Loshchilov & Hutter 2019) with clipped gradients and averaged weights, in one process.

    Weight decay acts on matrices only. `average` is the decay per step of the running average of the weights, bias
    corrected by its own ramp min(average, (1 + t) / (10 + t)); 0 turns it off.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        weight_decay: float,
        beta1: float,
        beta2: float,
        gradient_clip: float,
        average: float,
    ) -> None:
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        # matrices first, so that decay is one slice of the flat buffer
        ordered = sorted(parameters, key=lambda parameter: parameter.ndim < 2)
        self._flat = torch.cat([parameter.detach().reshape(-1) for parameter in ordered])
        self._gradient = torch.zeros_like(self._flat)
        start = 0
        for parameter in ordered:
            end = start + parameter.numel()
            parameter.data = self._flat[start:end].view_as(parameter)
            parameter.grad = self._gradient[start:end].view_as(parameter)
            start = end
        matrices = sum(parameter.numel() for parameter in ordered if parameter.ndim >= 2)
        groups = []
        for part, decay in ((slice(0, matrices), weight_decay), (slice(matrices, start), 0.0)):
            if part.start < part.stop:
                weights = nn.Parameter(self._flat[part])
                weights.grad = self._gradient[part]
                groups.append({"params": [weights], "weight_decay": decay})
        self._optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(beta1, beta2), eps=1e-8, fused=True)
        self._clip, self._average_decay = gradient_clip, average
        self._average = self._flat.clone() if average else None
        self._steps = 0

    def step(self, loss: Tensor, rate: float) -> float:
        """Differentiate `loss`, clip, update at this learning rate; returns the gradient's norm before clipping."""
        self._gradient.zero_()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = float(torch.linalg.vector_norm(self._gradient))
        if norm > self._clip:
            self._gradient.mul_(self._clip / norm)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._steps += 1
        if self._average is not None:
            decay = min(self._average_decay, (1 + self._steps) / (10 + self._steps))
            self._average.lerp_(self._flat, 1 - decay)
        return norm

    @contextmanager
    def evaluated(self, weights: Tensor | None = None) -> Iterator[None]:
        """A context in which the module holds the averaged weights, or `weights`."""
        held = self._flat.clone()
        self._flat.copy_(self.weights() if weights is None else weights)
        try:
            yield
        finally:
            self._flat.copy_(held)

    def weights(self) -> Tensor:
        """A copy of the weights that are evaluated, as one flat tensor."""
        return (self._flat if self._average is None else self._average).clone()

    def state(self) -> dict[str, Tensor]:
        """Everything that a continuation needs, by name."""
        state = {"weights": self._flat, "steps": torch.tensor(self._steps)}
        if self._average is not None:
            state["average"] = self._average
        for index, entry in self._optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{index}.{name}": value for name, value in entry.items()}
        return state

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from a `state()`; bit for bit."""
        self._flat.copy_(state["weights"])
        self._steps = int(state["steps"])
        if self._average is not None:
            self._average.copy_(state["average"])
        entries: dict[int, dict[str, Tensor]] = {}
        for name, value in state.items():
            if name.startswith("optimizer."):
                _, index, entry = name.split(".", 2)
                entries.setdefault(int(index), {})[entry] = value.clone()
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": entries, "param_groups": groups})
