"""The order of data: batches as a pure function of (seed, step), whatever was interrupted or resumed before."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Molecules are sorted by length within windows of this many batches: attention takes a block as wide as the longest
# molecule of a batch, whose empty share falls to some per cent while the composition of a batch stays random.
_WINDOW = 32


def _permutation(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """A permutation of 0 ... count - 1 that depends on nothing but its arguments."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64))).permutation(count)


class TokenBatches:
    """Batches of whole molecules of similar length, each of at most `batch_tokens` tokens."""

    def __init__(self, lengths: NDArray[np.int64], batch_tokens: int, seed: int, *, given_order: bool = False) -> None:
        """Batches of a subset.

        Args:
            lengths: computed tokens of each of its molecules.
            batch_tokens: the most tokens of a batch, unless one molecule has more.
            seed: of the order.
            given_order: take the molecules as they are given, and not in a new random order each epoch: the batches of
                the first molecules are then those of a smaller subset, see `settled`.
        """
        self.lengths, self.batch_tokens, self.seed, self.given_order = lengths, batch_tokens, seed, given_order

    def epoch(self, epoch: int) -> list[NDArray[np.int64]]:
        """The batches of an epoch, in order: indices into the subset; every molecule stands in exactly one."""
        return [batch for window in self._windows(epoch) for batch in window]

    def settled(self) -> int:
        """How many first batches any larger subset that begins with this one has, too, in the given order."""
        return sum(len(window) for window in list(self._windows(0))[:-1])

    def _windows(self, epoch: int) -> Iterator[list[NDArray[np.int64]]]:
        """The batches of an epoch, window by window.

        A window depends on no molecule after it; that the last one is whole, only molecules after it could tell.
        """
        count = len(self.lengths)
        order = np.arange(count) if self.given_order else _permutation(count, self.seed, epoch)
        ends = self.lengths[order].cumsum()
        window_of = (ends - 1) // (_WINDOW * self.batch_tokens)
        for number, chunk in enumerate(np.split(order, np.flatnonzero(np.diff(window_of)) + 1)):
            chunk = chunk[np.argsort(self.lengths[chunk], kind="stable")]
            ends = self.lengths[chunk].cumsum()
            batches = []
            first = taken = 0
            while first < len(chunk):
                end = max(first + 1, int(np.searchsorted(ends, taken + self.batch_tokens, "right")))
                batches.append(chunk[first:end])
                first, taken = end, ends[end - 1]
            shuffled = _permutation(len(batches), self.seed + 2**32, epoch * 2**32 + number)
            yield [batches[index] for index in shuffled]

    def from_step(self, step: int) -> Iterator[NDArray[np.int64]]:
        """The endless stream of batches from a step on."""
        return islice(self._stream(), step, None)

    def _stream(self) -> Iterator[NDArray[np.int64]]:
        epoch = 0
        while True:
            yield from self.epoch(epoch)
            epoch += 1

    def steps_in(self, epochs: int) -> int:
        """The number of batches in so many epochs."""
        return sum(len(self.epoch(epoch)) for epoch in range(epochs))


def micro_batches(
    lengths: NDArray[np.int64], batch: NDArray[np.int64], ranks: int, limit: int | None
) -> list[list[NDArray[np.int64]]]:
    """The parts of a step's batch that each rank takes: as many for each, of about as many tokens each.

    A batch that one rank can take as a whole stays whole. Otherwise its molecules, in order of length, are cut at equal
    shares of the tokens: into the fewest parts that divide by the ranks and of which none has more than `limit`
    tokens. A molecule that is longer has a part of its own, and where molecules are fewer than ranks, a part may be
    empty.
    """
    if ranks == 1 and (limit is None or lengths[batch].sum() <= limit):
        return [[batch]]
    ordered = batch[np.argsort(lengths[batch], kind="stable")]
    ends = np.cumsum(lengths[ordered])
    count = ranks
    while True:
        # a molecule belongs to the share in which its middle lies
        shares = (ends - lengths[ordered] / 2) * count // ends[-1]
        parts = [ordered[shares == share] for share in range(count)]
        if limit is None or all(len(part) < 2 or lengths[part].sum() <= limit for part in parts):
            return [parts[rank::ranks] for rank in range(ranks)]
        count += ranks


class FrameBatches:
    """Batches of `batch_frames` frames in a new random order each epoch; an epoch's last batch may be smaller."""

    def __init__(self, count: int, batch_frames: int, seed: int) -> None:
        self.count, self.batch_frames, self.seed = count, batch_frames, seed

    def from_step(self, step: int) -> Iterator[NDArray[np.int64]]:
        """The endless stream of batches from a step on: indices into the subset."""
        in_epoch = self.steps_in(1)
        epoch, skip = divmod(step, in_epoch)
        while True:
            order = _permutation(self.count, self.seed, epoch)
            for batch in range(skip, in_epoch):
                yield order[batch * self.batch_frames : (batch + 1) * self.batch_frames]
            epoch, skip = epoch + 1, 0

    def steps_in(self, epochs: int) -> int:
        """The number of batches in so many epochs."""
        return epochs * math.ceil(self.count / self.batch_frames)


def total_steps(protocol: dict[str, Any], batches: TokenBatches | FrameBatches) -> int:
    """The number of optimiser steps that a protocol asks for; the most there can be for `to_convergence`."""
    match protocol["kind"]:
        case "one_pass":
            return batches.steps_in(1)
        case "fixed_epochs":
            return batches.steps_in(protocol["epochs"])
        case _:
            return int(protocol["steps"])
