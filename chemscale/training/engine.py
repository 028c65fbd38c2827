"""The engine: what a train loop asks of the machinery that holds weights, gradients and the optimiser's state.

One body so far: plain torch in one process. All weights live in one flat buffer, so that clipping, AdamW and the
running average are a handful of operations whatever the number of layers: for cells of a few thousand parameters the
number of operations is the cost.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

_EPSILON = 1e-8


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
        self._decayed, self._weight_decay = self._flat[:matrices], weight_decay
        self._moment, self._square = torch.zeros_like(self._flat), torch.zeros_like(self._flat)
        self._beta1, self._beta2, self._clip, self._average_decay = beta1, beta2, gradient_clip, average
        self._average = self._flat.clone() if average else None
        self._steps = 0

    def step(self, loss: Tensor, rate: float) -> float:
        """Differentiate `loss`, clip, update at this learning rate; returns the gradient's norm before clipping."""
        self._gradient.zero_()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = float(torch.linalg.vector_norm(self._gradient))
        if norm > self._clip:
            self._gradient.mul_(self._clip / norm)
        self._steps += 1
        self._update(rate)
        if self._average is not None:
            decay = min(self._average_decay, (1 + self._steps) / (10 + self._steps))
            self._average.lerp_(self._flat, 1 - decay)
        return norm

    def _update(self, rate: float) -> None:
        """One step of AdamW; torch's own optimiser class would import its compiler, at 1.5 s a process."""
        self._decayed.mul_(1 - rate * self._weight_decay)
        self._moment.lerp_(self._gradient, 1 - self._beta1)
        self._square.mul_(self._beta2).addcmul_(self._gradient, self._gradient, value=1 - self._beta2)
        correction1, correction2 = 1 - self._beta1**self._steps, 1 - self._beta2**self._steps
        root = self._square.sqrt().div_(math.sqrt(correction2)).add_(_EPSILON)
        self._flat.addcdiv_(self._moment, root, value=-rate / correction1)

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
        state = {
            "weights": self._flat,
            "moment": self._moment,
            "square": self._square,
            "steps": torch.tensor(self._steps),
        }
        return state if self._average is None else state | {"average": self._average}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from a `state()`; bit for bit."""
        self._flat.copy_(state["weights"])
        self._moment.copy_(state["moment"])
        self._square.copy_(state["square"])
        self._steps = int(state["steps"])
        if self._average is not None:
            self._average.copy_(state["average"])
