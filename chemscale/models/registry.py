"""Models by name: a family's module is imported only when a cell asks for it."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import nn

from chemscale.families import FAMILIES


def build(family: str, knobs: dict[str, Any], *, seed: int, **options: Any) -> nn.Module:
    """The model of a family and size, every weight fixed by `seed`.

    `options` are what the family's own `build` takes besides: `vocab_size` and `embedding_std` for a language model.
    """
    module = importlib.import_module("chemscale." + FAMILIES[family].module.replace("/", "."))
    generator = torch.Generator().manual_seed(seed)
    model: nn.Module = module.build(knobs, generator=generator, **options)
    return model
