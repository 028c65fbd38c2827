"""How many tokens a rank computes at a time, and how it treats memory between: asked by training and by its models."""

from __future__ import annotations

import math

from chemscale.families import LANGUAGE
from chemscale.grid import Cell

# Where a pass's features are at most so many bytes, what a step frees is kept: it is asked for anew at once.
_SMALL_FEATURES = 2**22


def micro_batch_tokens(batch_tokens: int, longest: int, ranks: int, limit: int | None) -> int:
    """The most tokens that a rank computes at a time, of a step's batch whose longest molecule has `longest` tokens.

    A batch is cut at equal shares, between molecules: see `training/sampler.micro_batches`. Where a share just fits
    into `limit`, molecules decide whether it is cut once more: this is the larger answer.
    """
    if ranks == 1 and (limit is None or batch_tokens <= limit):
        return max(batch_tokens, longest)
    parts = 1 if limit is None else math.ceil(batch_tokens / ranks / limit)
    share = batch_tokens // (ranks * parts) + longest // 2
    return max(share if limit is None else min(share, limit), longest)


def tokens_of_pass(cell: Cell, longest: int) -> int:
    """The most tokens that a rank of a language cell computes at a time; `longest` are those of a molecule."""
    engine = cell.engine
    return micro_batch_tokens(cell.training["batch_tokens"], longest, engine["ranks"], engine["micro_tokens"])


def spares_memory(cell: Cell) -> bool:
    """Whether a cell gives large blocks back to the system when they are free: see `training/run.py`."""
    if cell.domain != LANGUAGE:
        return False
    features = tokens_of_pass(cell, 1) * cell.knobs["width"] * (4 if cell.training["precision"] == "fp32" else 2)
    return bool(cell.engine["recompute"]) or cell.engine["zero"] > 0 or features > _SMALL_FEATURES
