"""The engine: what a train loop asks of the machinery that holds weights, gradients and the optimiser's state.

Two bodies: `TorchEngine` here, each rank with all weights, and DeepSpeed's ZeRO in `chemscale.training.zero`, where the
ranks share them. The weights of the first live in one flat buffer, so that clipping, AdamW and the
running average are a handful of operations whatever the number of layers: for cells of a few thousand parameters the
number of operations is the cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from chemscale.families import LANGUAGE
from chemscale.grid import Cell
from chemscale.training.ranks import Ranks

EPSILON = 1e-8
# elements of the parameters that one part of the state holds, about: what a writer keeps in memory at a time
PART = 2**24
# elements of the gradient whose squares are held at a time
_NORM_PART = 2**20


class Engine(Protocol):
    """What `training/lm.py` and `training/potential.py` rely on.

    `module` is what a loop calls. A step is any number of `backward`, whose gradients add up, and one `update`; all
    ranks make as many passes. What `weights` gives belongs to the engine that gave it, which alone can tell what is in
    it.
    """

    module: nn.Module

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a share of the step's loss."""

    def update(self, rate: float) -> float:
        """Add up the gradients of all ranks, clip, update at this learning rate; returns the norm before clipping."""

    def evaluated(self, weights: Any = None) -> AbstractContextManager[None]:
        """A context in which the module holds the averaged weights, or what `weights` gave earlier."""

    def weights(self, into: Any = None) -> Any:
        """A copy of the weights that are evaluated; in the memory of an earlier one, where one is given."""

    def named(self, weights: Any) -> dict[str, Tensor]:
        """What `weights` gave earlier, by the names of the parameters, on rank 0; all ranks call it."""

    def state(self, best: Any = None) -> Iterator[dict[str, Tensor]]:
        """Everything that a continuation needs, and the weights `best`, in parts: KIND/PARAMETER to fp32 tensors.

        The kinds are weights, moment, square and, where there are any, average and best. Names and shapes are those of
        the module: they tell nothing of the engine, and any other one can go on from them.
        """

    def load_state(self, parts: Iterable[Mapping[str, Tensor]], steps: int) -> Any:
        """Continue from a `state()` after so many steps, bit for bit; returns the best weights, None without."""


class TorchEngine:
    """AdamW (Loshchilov & Hutter 2019) with clipped gradients and averaged weights; ranks add up their gradients.

    Weight decay acts on matrices only. `average` is the decay per step of the running average of the weights, bias
    corrected by its own ramp min(average, (1 + t) / (10 + t)); 0 turns it off. With precision `bf16` the module
    computes in it, with rounded weights; what is updated, averaged and kept is fp32, and so is the sum of gradients.
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
        precision: str = "fp32",
        ranks: Ranks | None = None,
        initial: Iterable[tuple[str, Tensor]] | None = None,
        place: torch.device | None = None,
    ) -> None:
        """`initial`: the weights to begin with, where the module is on the meta device; `place` is their device."""
        self.module, self._ranks = module, ranks or Ranks()
        named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
        # matrices first, so that decay is one slice of the flat buffer
        named.sort(key=lambda entry: entry[1].ndim < 2)
        self._places: dict[str, tuple[int, int, torch.Size]] = {}
        start = 0
        for name, parameter in named:
            self._places[name] = (start, start + parameter.numel(), parameter.shape)
            start += parameter.numel()
        self._flat = torch.empty(start, device=place or named[0][1].device)
        for name, value in initial or ((name, parameter.detach()) for name, parameter in named):
            first, end, shape = self._places[name]
            self._flat[first:end].view(shape).copy_(value)
        del named
        # what the module computes with
        self._held = self._flat if precision == "fp32" else self._flat.bfloat16()
        self._flat.copy_(self._held)
        self._gradient = torch.zeros_like(self._flat)
        self._parameters = [
            with_parameter(module, name, self._held[first:end].view(shape))
            for name, (first, end, shape) in self._places.items()
        ]
        if precision == "fp32":
            for parameter, (first, end, shape) in zip(self._parameters, self._places.values(), strict=True):
                parameter.grad = self._gradient[first:end].view(shape)
        else:
            for parameter, name in zip(self._parameters, self._places, strict=True):
                parameter.register_post_accumulate_grad_hook(partial(self._add, name))  # type: ignore[no-untyped-call]
        matrices = sum(parameter.numel() for parameter in self._parameters if parameter.ndim >= 2)
        self._moment, self._square = torch.zeros_like(self._flat), torch.zeros_like(self._flat)
        # what decays, and what does not
        self._groups = [(slice(matrices), weight_decay), (slice(matrices, None), 0.0)]
        self._beta1, self._beta2, self._clip, self._average_decay = beta1, beta2, gradient_clip, average
        self._average = self._flat.clone() if average else None
        self._steps = 0

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a share of the step's loss."""
        loss.backward()  # type: ignore[no-untyped-call]

    @property
    def flat(self) -> Tensor:
        """All parameters as the module computes with them, one after another; `named` tells them apart."""
        return self._held

    def add(self, gradient: Tensor) -> None:
        """Add a gradient that the caller has computed, laid out as `flat`."""
        self._gradient.add_(gradient)

    def _add(self, name: str, parameter: Tensor) -> None:
        """Add a parameter's rounded gradient to the sum as soon as it is there, so that few are held at a time."""
        start, end, shape = self._places[name]
        assert parameter.grad is not None
        self._gradient[start:end].view(shape).add_(parameter.grad)
        parameter.grad = None

    def update(self, rate: float) -> float:
        """Clip the gradient, update at this learning rate; returns the gradient's norm before clipping."""
        self._ranks.add_up(self._gradient)
        # torch.sum adds in pairs; torch.linalg.vector_norm adds one by one, and is wrong by 1e-4 at 3 million elements
        squares = torch.stack([part.square().sum() for part in torch.split(self._gradient, _NORM_PART)])
        norm = float(squares.sum().sqrt())
        self._steps += 1
        for group, weight_decay in self._groups:
            step_of_adamw(
                self._flat[group],
                self._gradient[group],
                self._moment[group],
                self._square[group],
                step=self._steps,
                rate=rate,
                betas=(self._beta1, self._beta2),
                weight_decay=weight_decay,
                divisor=max(1.0, norm / self._clip),
            )
        self._gradient.zero_()
        if self._held is not self._flat:
            self._held.copy_(self._flat)
        if self._average is not None:
            decay = min(self._average_decay, (1 + self._steps) / (10 + self._steps))
            self._average.lerp_(self._flat, 1 - decay)
        return norm

    @contextmanager
    def evaluated(self, weights: Tensor | None = None) -> Iterator[None]:
        """A context in which the module holds the averaged weights, or what `weights` gave earlier."""
        shown = self._average if weights is None else weights
        if shown is None:
            yield
            return
        rounded = self._held is not self._flat
        if rounded:
            self._held.copy_(shown)
        else:
            self._show(shown)
        try:
            yield
        finally:
            if rounded:
                self._held.copy_(self._flat)
            else:
                self._show(self._flat)

    def _show(self, flat: Tensor) -> None:
        """Point the module's parameters at the memory of a flat tensor."""
        for parameter, (start, end, shape) in zip(self._parameters, self._places.values(), strict=True):
            parameter.data = flat[start:end].view(shape)

    def weights(self, into: Tensor | None = None) -> Tensor:
        """A copy of the weights that are evaluated, as one flat tensor."""
        evaluated = self._flat if self._average is None else self._average
        return evaluated.clone() if into is None else into.copy_(evaluated)

    def named(self, weights: Tensor) -> dict[str, Tensor]:
        """What `weights` gave earlier, by the names of the parameters."""
        return {name: weights[start:end].view(shape) for name, (start, end, shape) in self._places.items()}

    def _kinds(self, best: Tensor | None) -> dict[str, Tensor]:
        kinds = {"weights": self._flat, "moment": self._moment, "square": self._square}
        kinds |= {} if self._average is None else {"average": self._average}
        return kinds if best is None else kinds | {"best": best}

    def state(self, best: Tensor | None = None) -> Iterator[dict[str, Tensor]]:
        """Everything that a continuation needs, and the weights `best`, in parts: see `Engine`."""
        kinds = self._kinds(best)
        part: dict[str, Tensor] = {}
        held = 0
        for name, (start, end, shape) in self._places.items():
            if part and held + end - start > PART:
                yield part
                part, held = {}, 0
            part |= {f"{kind}/{name}": flat[start:end].view(shape) for kind, flat in kinds.items()}
            held += end - start
        yield part

    def load_state(self, parts: Iterable[Mapping[str, Tensor]], steps: int) -> Tensor | None:
        """Continue from a `state()` after so many steps, bit for bit; returns the best weights, None without."""
        best = torch.empty_like(self._flat)
        kinds = self._kinds(best)
        missing = {f"{kind}/{name}" for kind in kinds for name in self._places}
        for part in parts:
            for key, value in part.items():
                kind, _, name = key.partition("/")
                start, end, shape = self._places[name]
                kinds[kind][start:end].view(shape).copy_(value)
                missing.discard(key)
        without_best = {f"best/{name}" for name in self._places}
        assert not missing or missing == without_best, f"a whole state lacks {sorted(missing)[:3]}"
        self._held.copy_(self._flat)
        self._steps = steps
        return None if missing else best


def step_of_adamw(
    weights: Tensor,
    gradient: Tensor,
    moment: Tensor,
    square: Tensor,
    *,
    step: int,
    rate: float,
    betas: tuple[float, float],
    weight_decay: float,
    divisor: float,
) -> None:
    """One step of AdamW (Loshchilov & Hutter 2019) in place, the `step`th from 1, on the gradient over `divisor`.

    Torch's fused kernel passes through memory once, where its operations one by one take ten passes; its optimiser
    class would import torch's compiler, at 1.5 s a process. The gradient is divided in place.
    """
    torch._fused_adamw_(
        [weights],
        [gradient],
        [moment],
        [square],
        [],
        [torch.tensor(float(step), device=weights.device)],
        amsgrad=False,
        lr=rate,
        beta1=betas[0],
        beta2=betas[1],
        weight_decay=weight_decay,
        eps=EPSILON,
        maximize=False,
        grad_scale=torch.tensor(divisor, device=weights.device),
    )


def with_parameter(module: nn.Module, name: str, value: Tensor) -> nn.Parameter:
    """Let a module's parameter, which may be on the meta device, be one that lies in the memory of `value`."""
    owner, _, own = name.rpartition(".")
    parameter = nn.Parameter(value)
    setattr(module.get_submodule(owner), own, parameter)
    return parameter


def make(
    module: nn.Module,
    cell: Cell,
    ranks: Ranks,
    initial: Iterable[tuple[str, Tensor]] | None = None,
    place: torch.device | None = None,
) -> Engine:
    """The engine that a cell names, for a module whose weights are drawn.

    Or for one on the meta device and its `initial` weights, which will be on the device `place`: no more of them is
    held at a time than the engine itself needs.
    """
    settings: dict[str, Any] = {
        name: cell.training[name] for name in ("weight_decay", "beta1", "beta2", "gradient_clip", "average")
    }
    if cell.domain == LANGUAGE:
        settings["precision"] = cell.training["precision"]
    if cell.engine["zero"] == 0:
        return TorchEngine(module, ranks=ranks, initial=initial, place=place, **settings)
    from chemscale.training.zero import ZeroEngine

    return ZeroEngine(
        module,
        stage=cell.engine["zero"],
        offload=cell.engine["offload"],
        ranks=ranks,
        initial=initial,
        place=place,
        **settings,
    )
