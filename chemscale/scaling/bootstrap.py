"""Noise of the runs and of the test set, and the intervals that follow from them.

A resample is parametric: losses at the design points are drawn around the fitted law, with

- run noise: Gaussian on the log loss, standard deviation sd/sqrt(number of seeds). The sd is pooled over the design
  points of the family with two or more seeds, or over those in question alone where theirs is another (`noise_of`); it
  is itself uncertain, so each resample draws it anew, sd sqrt(dof / chi2(dof)). Few replicates are not resampled: of
  four points, two or fewer distinct ones are left a third of the time;
- test noise: test clusters (molecules' constitutions, time blocks) drawn with replacement, the same draw for all
  cells of a test set. What all cells share then moves amplitudes and not exponents.

Printed intervals come from the resamples that the study's settings ask for (`draw`). Verdicts come from resamples of
their own (`judge_draws`), whose number and random numbers nobody chooses: the same data always get the same verdict.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats
from scipy.stats import qmc

from chemscale.errors import RecordError
from chemscale.scaling.law import Array, Index

MIN_DOF = 3  # of replicates, from which on the noise is theirs
# two variances are taken for different, and one of many for an outlier, below this p-value
UNEVEN_P = 0.01
JUDGE_RESAMPLES = 1024  # behind a verdict; a power of two, as Sobol points need
JUDGE_SEED = 0


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


def noise_of(
    log_losses: Array, points: Index, chosen: Sequence[int], names: Sequence[str]
) -> tuple[Noise, tuple[str, ...]]:
    """The noise of a run at some design points of a family, and what a reader has to know of it.

    It is the family's, unless the replicates of the chosen points have another variance than all others (an F-test at
    `UNEVEN_P`): a run that went wrong elsewhere then says nothing of them. A design point that has more of the noise
    than chance would give one of so many is named (Cochran's test of an outlying variance, 1941, as an F-test).

    Args:
        log_losses: of all runs of the family, [runs].
        points: the index of each run's design point, [runs].
        chosen: the design points in question.
        names: of the design points.
    """
    mine = np.isin(points, chosen)
    found, notes = pooled_noise(log_losses, points), []
    own, others = (pooled_noise(log_losses[which], points[which]) for which in (mine, ~mine))
    if own.sd and others.sd and own.dof >= MIN_DOF:
        ratio = (own.sd / others.sd) ** 2
        if 2 * min(stats.f.cdf(ratio, own.dof, others.dof), stats.f.sf(ratio, own.dof, others.dof)) < UNEVEN_P:
            found = own
            notes.append(
                f"the noise between seeds is that of these points, {100 * own.sd:.2f} %: elsewhere in the family it is "
                f"{100 * others.sd:.2f} %"
            )
            log_losses, points = log_losses[mine], points[mine]
    for point in np.unique(points):
        here = points == point
        one, rest = (pooled_noise(log_losses[which], points[which]) for which in (here, ~here))
        if one.sd and rest.sd:
            # of all design points with replicates, any might be the outlier
            count = len(np.unique(points))
            p_value = count * float(stats.f.sf((one.sd / rest.sd) ** 2, one.dof, rest.dof))
            if p_value < UNEVEN_P:
                losses = ", ".join(f"{loss:.4g}" for loss in np.exp(np.sort(log_losses[here])))
                share = one.dof * one.sd**2 / (one.dof * one.sd**2 + rest.dof * rest.sd**2)
                notes.append(
                    f"{100 * share:.0f} % of the noise between seeds comes of {names[point]} (losses {losses}), more "
                    "than chance gives one point: see whether a run went wrong there"
                )
    return found, tuple(notes)


def draw(points: int, resamples: int, seed: int, stream: str, shifts: Array | None = None) -> Draws:
    """The random numbers of a family's resamples; a function of its arguments alone.

    Args:
        points: number of design points.
        resamples: number of resamples.
        seed: of the study's fits.
        stream: names the random stream, for instance the family.
        shifts: from `ClusterSums.shifts`; None where test clusters are unknown.
    """
    random = np.random.default_rng([seed, *_words(stream)])
    uniform = random.uniform(size=resamples)
    normal = random.standard_normal((resamples, points))
    return Draws(normal, uniform, np.zeros((resamples, points)) if shifts is None else shifts)


def judge_draws(points: int, stream: str, shifts: Array | None = None) -> Draws:
    """The random numbers of the resamples that verdicts come from, always the same for so many design points.

    They are scrambled Sobol points: quantiles of an exponent vary between scrambles by about 2 %, where those of 400
    independent resamples vary by 5 to 10 %.

    Args:
        points: number of design points, at most 21,200.
        stream: names the order of the resamples, for instance the family, so that two families are independent.
        shifts: from `ClusterSums.judge_shifts`; None where test clusters are unknown.
    """
    sobol = qmc.Sobol(points + 1, scramble=True, rng=np.random.default_rng(JUDGE_SEED))
    order = np.random.default_rng([JUDGE_SEED, *_words(stream)]).permutation(JUDGE_RESAMPLES)
    quantiles = np.clip(sobol.random(JUDGE_RESAMPLES)[order], 2.0**-31, 1 - 2.0**-31)
    normal = stats.norm.ppf(quantiles[:, 1:])
    return Draws(normal, quantiles[:, 0], np.zeros_like(normal) if shifts is None else shifts)


@dataclass(frozen=True)
class ClusterSums:
    """The test clusters of some cells.

    Attributes:
        names: of the clusters, [K].
        total: each cluster's summed test loss in each cell, [K, cells].
        number: its count of tokens or force components there, [K, cells].
    """

    names: list[str]
    total: Array
    number: Array

    def shifts(self, points: Index, resamples: int, seed: int) -> Array:
        """The change of each design point's log loss under resampled test clusters, [R, P].

        The draw depends on the seed and the names of the clusters only, so that families with the same test set are
        paired.

        Args:
            points: the index of each cell's design point, [cells].
            resamples: number of resamples.
            seed: of the study's fits.
        """
        size = len(self.names)
        random = np.random.default_rng([seed, *_words("\n".join(self.names))])
        picks = random.multinomial(size, np.full(size, 1 / size), resamples).astype(float)
        resampled = (picks @ self.total) / (picks @ self.number)  # [R, cells]
        share = np.zeros((len(points), int(points.max()) + 1))
        share[np.arange(len(points)), points] = 1 / np.bincount(points)[points]
        losses = self.total.sum(0) / self.number.sum(0)
        return np.asarray(np.log(resampled @ share) - np.log(losses @ share))

    def judge_shifts(self, points: Index) -> Array:
        """The same for the resamples that verdicts come from, [JUDGE_RESAMPLES, P]."""
        return self.shifts(points, JUDGE_RESAMPLES, JUDGE_SEED)


def cluster_sums(cells: pd.DataFrame, clusters: pd.DataFrame) -> ClusterSums:
    """The test clusters of cells.

    Args:
        cells: columns cell, test_loss.
        clusters: columns cell, cluster, loss_sum, count; every cell with the same clusters.

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
    return ClusterSums([str(name) for name in sums.index], total, number)


def _words(text: str) -> list[int]:
    """A text as integers that seed a generator."""
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return [int.from_bytes(digest[at : at + 4], "little") for at in range(0, 16, 4)]
