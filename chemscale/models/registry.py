"""Models by name: a family's module is imported only when a cell asks for it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from chemscale.families import FAMILIES


def build(family: str, knobs: dict[str, Any], *, seed: int, **options: Any) -> nn.Module:
    """The model of a family and size, every weight fixed by `seed`.

    `options` are what the family's own `build` takes besides: `vocab_size` and `embedding_std` for a language model.
    """
    module = _module(family)
    generator = torch.Generator().manual_seed(seed)
    model: nn.Module = module.build(knobs, generator=generator, **options)
    return model


def outline(
    family: str, knobs: dict[str, Any], *, seed: int, vocab_size: int, embedding_std: float
) -> tuple[nn.Module, Iterator[tuple[str, Tensor]]]:
    """A language model on the meta device, and the weights of which `build` makes it: names and values, one by one."""
    with torch.device("meta"), _Undrawn():
        model = _module(family).outline(knobs, vocab_size)
    return model, model.initial(torch.Generator().manual_seed(seed), embedding_std)


class _Undrawn(TorchFunctionMode):
    """Leaves out the weights that torch's modules draw for themselves: on the meta device that imports its compiler."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(function, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return function(*args, **kwargs)


def _module(family: str) -> Any:
    return importlib.import_module("chemscale." + FAMILIES[family].module.replace("/", "."))
