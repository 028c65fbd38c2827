"""Noise of the runs and of the test set, and the intervals that follow from them.

A resample is parametric: losses at the design points are drawn around the fitted law, with

- run noise: Gaussian on the log loss, standard deviation sd/sqrt(number of seeds). The sd is pooled over the design
  points with two or more seeds; it is itself uncertain, so each resample draws it anew, sd sqrt(dof / chi2(dof)). Few
  replicates are not resampled: of four points, two or fewer distinct ones are left a third of the time;
- test noise: test clusters (molecules' constitutions, time blocks) drawn with replacement, the same draw for all
  cells of a test set. What all cells share then moves amplitudes and not exponents.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from chemscale.errors import RecordError
from chemscale.scaling.law import Array, Index


@dataclass(frozen=True)
class Noise:
    """Relative standard deviation of the loss of one run, over seeds at a fixed design point; None where unknown."""

    sd: float | None
    dof: int


@dataclass(frozen=True)
class Draws:
    """The random numbers of `len(uniform)` resamples of P design points, made once and used by every fit on them."""

    normal: Array  # [R, P] standard normal
    uniform: Array  # [R] in (0, 1): quantile of the sd that a resample draws
    shifts: Array  # [R, P] change of log loss when test clusters are resampled

    def take(self, points: Index | list[int]) -> Draws:
        """The draws of some of the points."""
        index = np.asarray(points, np.int64)
        return Draws(self.normal[:, index], self.uniform, self.shifts[:, index])

    def sd_factors(self, dof: int) -> Array:
        """Factors [R] by which an sd that was estimated with `dof` degrees of freedom may differ from the true one."""
        return np.asarray(np.sqrt(dof / stats.chi2.ppf(self.uniform, dof)))


def pooled_noise(log_losses: Array, points: Index) -> Noise:
    """The noise of a run from replicates.

    Args:
        log_losses: [runs].
        points: the index of each run's design point, [runs].
    """
    _, index, counts = np.unique(points, return_inverse=True, return_counts=True)
    dof = int((counts - 1).sum())
    if dof == 0:
        return Noise(None, 0)
    means = np.bincount(index, log_losses) / counts
    return Noise(float(np.sqrt(((log_losses - means[index]) ** 2).sum() / dof)), dof)


def draw(points: int, resamples: int, seed: int, stream: str, shifts: Array | None = None) -> Draws:
    """The random numbers of a family's resamples; a function of its arguments alone.

    Args:
        points: number of design points.
        resamples: number of resamples.
        seed: of the study's fits.
        stream: names the random stream, for instance the family.
        shifts: from `cluster_shifts`; None where test clusters are unknown.
    """
    random = np.random.default_rng([seed, *_words(stream)])
    uniform = random.uniform(size=resamples)
    normal = random.standard_normal((resamples, points))
    return Draws(normal, uniform, np.zeros((resamples, points)) if shifts is None else shifts)


def cluster_shifts(cells: pd.DataFrame, clusters: pd.DataFrame, points: Index, resamples: int, seed: int) -> Array:
    """The change of each design point's log loss under resampled test clusters, [R, P].

    The draw depends on the seed and the names of the clusters only, so that families with the same test set are paired.

    Args:
        cells: columns cell, test_loss.
        clusters: columns cell, cluster, loss_sum, count; every cell with the same clusters.
        points: the index of each cell's design point, [cells].
        resamples: number of resamples.
        seed: of the study's fits.

    Raises:
        RecordError: cells have different clusters, or a cell's clusters do not sum to its test loss.
    """
    names = cells["cell"].tolist()
    mine = clusters[clusters["cell"].isin(names)]
    sums = mine.pivot(index="cluster", columns="cell", values="loss_sum")
    counts = mine.pivot(index="cluster", columns="cell", values="count")
    missing = [name for name in names if name not in sums.columns]
    missing += [str(name) for name, holes in sums.isna().any().items() if holes]
    if missing:
        raise RecordError("resample test clusters", f"{missing[0]} without all clusters", "gather the study again")
    sums, counts = sums.sort_index()[names], counts.sort_index()[names]
    total, number = sums.to_numpy(float), counts.to_numpy(float)
    losses = total.sum(0) / number.sum(0)
    stated = cells["test_loss"].to_numpy(float)
    off = np.abs(losses / stated - 1) > 1e-9
    if off.any():
        at = int(off.argmax())
        raise RecordError(
            f"resample the test clusters of {names[at]}",
            f"a loss of {losses[at]:.10g} from them and {stated[at]:.10g} in the record",
            "gather the study again",
        )
    size = len(sums)
    random = np.random.default_rng([seed, *_words("\n".join(map(str, sums.index)))])
    picks = random.multinomial(size, np.full(size, 1 / size), resamples).astype(float)
    resampled = (picks @ total) / (picks @ number)  # [R, cells]
    share = np.zeros((len(names), int(points.max()) + 1))
    share[np.arange(len(names)), points] = 1 / np.bincount(points)[points]
    return np.asarray(np.log(resampled @ share) - np.log(losses @ share))


def _words(text: str) -> list[int]:
    """A text as integers that seed a generator."""
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return [int.from_bytes(digest[at : at + 4], "little") for at in range(0, 16, 4)]
