"""A first estimate of a training run's peak memory, for the plan: state, activations and the process itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chemscale.cost.parameters import count

# Measured on Linux: an idle process after importing torch and the package, with a prepared data set.
_BASE = 400 * 2**20
_FLOAT = 4


def peak_bytes(family: str, knobs: Mapping[str, Any], vocab_size: int | None, batch: int) -> int:
    """Peak bytes of training one cell in fp32; good to a factor of two for small cells, whose process dominates.

    `batch` is tokens (language) or atoms (potentials) in a step. State is weights, gradient, two moments and the
    average; activations are counted per token from the layers' widths, or per edge, twice through.
    """
    state = 5 * _FLOAT * count(family, knobs, vocab_size).total
    width = knobs["width"]
    if vocab_size is not None:
        activations = _FLOAT * batch * (knobs["layers"] * 20 * width + 4 * vocab_size)
    else:
        per_edge = knobs["num_radial"] + knobs["interactions"] * width * (4 if family == "schnet" else 14)
        activations = 4 * _FLOAT * batch * 10 * per_edge
    return int(_BASE + state + activations)
