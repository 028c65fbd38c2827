"""One law for one set of design points: fit, noise, interval, verdict.

Where the noise comes from:

- replicates with at least `MIN_DOF` degrees of freedom: the resamples have that noise. How often their scatter
  around their own fits reaches the one observed is the p-value of the form (an F-test that knows of test clusters and
  of the law's curvature). Around `WIDENED_P` the noise of the resamples grows to the larger of noise and scatter, and
  a note says so; far beyond the noise the fit is refused (`verdict.check_scatter`);
- otherwise the scatter around the fit itself. It cannot tell noise from lack of fit, which a note says; curvature that
  is left in the residuals is tested instead.

Intervals are percentiles of the resampled parameters: in simulations of studies like ours they covered as well as the
basic and the bias-corrected ones for exponents (86 to 91 % at a level of 90 %) and better for amplitudes and E.

The printed intervals have the level, the number of resamples and the seed that the study asks for. The verdict and the
p-value come from other resamples, which are the same in every study (`bootstrap.judge_draws`), at levels of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from chemscale.scaling import verdict
from chemscale.scaling.bootstrap import MIN_DOF, Draws, Noise, judge_draws
from chemscale.scaling.fit import Fit, Flags, fit, solve
from chemscale.scaling.law import Array, Index, Law

CURVE_POINTS = 33
BLOCK = 2**21  # derivatives of the losses of data sets that are solved at once


@dataclass(frozen=True)
class Points:
    """Design points: the mean loss over `runs` seeds at values of the axes.

    Attributes:
        axes: by the law's axis names ("x", or "N" and "D"), each [n].
        labels: the axes in words, such as {"x": "N"}.
        loss: [n], positive.
        runs: number of seeds behind each loss, [n].
    """

    axes: Mapping[str, Array]
    labels: Mapping[str, str]
    loss: Array
    runs: Array


@dataclass(frozen=True)
class Resamples:
    """The resamples that have a fit.

    Attributes:
        parameters: [R, p], in the order of `law.parameters`.
        kept: which of the draws they are, [R].
    """

    parameters: Array
    kept: Index


@dataclass(frozen=True)
class Estimate:
    """A fitted law with its intervals and the verdict on it.

    Attributes:
        law: the form.
        fit: None where there are too few points to fit anything.
        intervals: (low, high) of each parameter; empty where none could be had.
        level: of the intervals.
        lack_of_fit_p: p-value of the form against the noise of replicates; None where untested.
        reasons: of a refusal or a caution; empty where the fit is accepted.
        notes: what a reader of the interval has to know.
        resamples: behind the intervals.
        judged: behind the verdict.
    """

    law: Law
    fit: Fit | None
    intervals: dict[str, tuple[float, float]]
    level: float
    lack_of_fit_p: float | None
    reasons: tuple[verdict.Reason, ...]
    notes: tuple[str, ...]
    resamples: Resamples = field(repr=False)
    judged: Resamples = field(repr=False)

    @property
    def verdict(self) -> str:
        """`accepted`, `caution` or `refused`."""
        return verdict.verdict_of(self.reasons)

    def curve(self, low: float, high: float) -> tuple[Array, Array, Array, Array]:
        """The law between two values of its single axis: x, loss, and the ends of the loss's interval."""
        assert self.fit is not None
        assert self.law.axes == ("x",)
        x = np.geomspace(low, high, CURVE_POINTS)
        loss = self.law.predict(self.fit.parameters, {"x": x})
        if not len(self.resamples.kept):
            return x, loss, np.full_like(x, np.nan), np.full_like(x, np.nan)
        columns = dict(zip(self.law.parameters, self.resamples.parameters.T[:, :, None], strict=True))
        floor = columns["E"] if self.law.floor else 0.0
        # in logarithms: an exponent far below 0 would leave the floats
        terms = np.exp(np.clip(np.log(columns["A"]) - columns["beta"] * np.log(x), -700, 700))
        lows, highs = quantiles(floor + terms, self.level)
        return x, loss, lows, highs


def estimate(
    law: Law, points: Points, noise: Noise, draws: Draws, level: float, judged: Draws | None = None
) -> Estimate:
    """Fit `law` to `points` and judge the fit.

    Args:
        law: the form.
        points: at least one design point.
        noise: of one run, from the family's replicates.
        draws: random numbers for these points, behind the intervals.
        level: of the intervals, in (0, 1).
        judged: random numbers behind the verdict; None where test clusters are unknown.
    """
    reasons = verdict.check_points(law, points.axes, points.labels)
    count, size = len(points.loss), len(law.parameters)
    replicates = noise.sd is not None and noise.dof >= MIN_DOF
    values = {axis: verdict.distinct_values(points.axes[axis]) for axis in law.axes}
    if count < size + (not replicates) or any(found < 2 for found in values.values()):
        if not reasons:
            reasons = [verdict.Reason("too_few_points", f"{count} points for {size} parameters", "run more")]
        none = Resamples(np.empty((0, size)), np.empty(0, np.int64))
        return Estimate(law, None, {}, level, None, tuple(reasons), (), none, none)
    judged = judge_draws(count, "points") if judged is None else judged
    fitted = fit(law, points.axes, points.loss, points.runs**-0.5)
    reasons += verdict.check_fit(fitted)
    notes: list[str] = []
    freedom = count - size
    # the scatter of one run around the law, and of one design point
    run_scatter = float(np.sqrt(fitted.rss * points.runs.mean() / max(freedom, 1)))
    point_scatter = float(np.sqrt((fitted.residuals**2).sum() / max(freedom, 1)))
    p_value: float | None = None
    if replicates:
        assert noise.sd is not None
        sds = [_Sd(noise.sd * points.runs**-0.5, noise.dof)]
        parameters, rss, converged = _resample(fitted, sds, judged)
        if freedom:
            # rounding alone is no scatter: without the allowance, exact data would have an arbitrary p-value
            p_value = float((1 + (rss >= fitted.rss * (1 - 1e-9) - count * 1e-24).sum()) / (1 + len(rss)))
            reasons += verdict.check_scatter(run_scatter, noise.sd, p_value)
            if share := verdict.widened(p_value):
                # by degrees: a step would let a verdict hang on the last digit of the p-value
                larger = np.maximum(noise.sd * points.runs**-0.5, point_scatter)
                sds = [_Sd((1 - share) * sds[0].values, noise.dof), _Sd(share * larger, freedom)]
                parameters, _, converged = _resample(fitted, sds, judged)
                wide = (1 - share) * noise.sd + share * max(noise.sd, point_scatter)
                notes.append(
                    f"scatter around the law exceeds the noise between seeds (p = {p_value:.2g}): the interval is "
                    f"widened from {100 * noise.sd:.2f} % to {100 * wide:.2f} %"
                )
    else:
        sds = [_Sd(run_scatter * points.runs**-0.5, freedom)]
        parameters, _, converged = _resample(fitted, sds, judged)
        notes.append(
            f"{noise.dof} degrees of freedom from replicates, fewer than {MIN_DOF}: the noise is the scatter around "
            "the law, which hides lack of fit"
        )
        reasons += verdict.check_structure(*_curvature(fitted))
    behind = Resamples(parameters[converged], np.flatnonzero(converged))
    reasons += verdict.check_failures(1 - float(converged.mean()))
    if len(behind.kept):
        nested = {at: _intervals(law, behind, at) for at in verdict.LEVELS}
        reasons += verdict.check_intervals(fitted, nested)
    parameters, _, converged = _resample(fitted, sds, draws)
    printed = Resamples(parameters[converged], np.flatnonzero(converged))
    intervals = _intervals(law, printed, level) if len(printed.kept) else {}
    return Estimate(law, fitted, intervals, level, p_value, tuple(reasons), tuple(notes), printed, behind)


@dataclass(frozen=True)
class _Sd:
    """A part of the noise of the design points: relative sds [n], known with `dof` degrees of freedom."""

    values: Array
    dof: int


def _resample(fitted: Fit, sds: list[_Sd], draws: Draws) -> tuple[Array, Array, Flags]:
    """Parameters [R, p], weighted sums of squares [R] and convergence [R] of data sets drawn around a fit."""
    problem = fitted.problem
    spread = sum((sd.values * draws.sd_factors(sd.dof)[:, None] for sd in sds), np.zeros_like(draws.normal))
    simulated = fitted.fitted - problem.scale.log_loss + spread * draws.normal + draws.shifts
    # many points are solved in blocks, in bounded memory
    rows = max(1, BLOCK // (simulated.shape[1] * len(fitted.theta)))
    batches = [solve(problem, simulated[at : at + rows], fitted.theta) for at in range(0, len(simulated), rows)]
    theta, rss, converged = (
        np.concatenate([getattr(batch, name) for batch in batches]) for name in ("theta", "rss", "converged")
    )
    return problem.scale.parameters(problem.law, theta), rss, converged


def _intervals(law: Law, resamples: Resamples, level: float) -> dict[str, tuple[float, float]]:
    lows, highs = quantiles(resamples.parameters, level)
    return {name: (float(low), float(high)) for name, low, high in zip(law.parameters, lows, highs, strict=True)}


def quantiles(values: Array, level: float) -> tuple[Array, Array]:
    """The ends of the central interval; the k-th of R values stands at k/(R+1), which covers exactly in expectation."""
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail], axis=0, method="weibull")
    return low, high


def _curvature(fitted: Fit) -> tuple[float, float]:
    """Whether residuals follow squares and products of the log axes: rms of that part, and its p-value (F-test)."""
    problem = fitted.problem
    root = np.sqrt(problem.weights)
    tangent = problem.law.evaluate(fitted.theta[None], problem.log_x)[1][0] * root[:, None]
    log_x = problem.log_x
    curved = np.stack([log_x[i] * log_x[j] for i in range(len(log_x)) for j in range(i + 1)], 1) * root[:, None]
    basis = np.linalg.qr(tangent)[0]
    curved = np.linalg.qr(curved - basis @ (basis.T @ curved))[0]
    residuals = fitted.residuals * root
    explained = float(((curved.T @ residuals) ** 2).sum())
    terms, freedom = curved.shape[1], len(residuals) - tangent.shape[1] - curved.shape[1]
    if freedom < 1:
        return 0.0, 1.0
    left = max(float((residuals**2).sum()) - explained, 1e-300)
    p_value = float(stats.f.sf(explained / terms / (left / freedom), terms, freedom))
    return float(np.sqrt(explained / len(residuals))), p_value
