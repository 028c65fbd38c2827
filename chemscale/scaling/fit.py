"""Least squares on log residuals, for one data set or for thousands of resamples at once.

The objective is sum w_i (log L_i - log f(x_i))^2 with w_i = 1/sigma_i^2 where relative noise is given, else
equal weights: losses are positive and their noise is relative. Three steps:

1. starts: over a grid of exponents, E and the amplitudes are the solution of a linear problem in relative residuals
   (variable projection); the best grid points with non-negative amplitudes start the search, with and without E;
2. a Levenberg-Marquardt search within bounds, batched over data sets and starts in numpy;
3. a search counts as converged only where the gradient, on all parameters that are free to move, is orthogonal to the
   residuals to `TOLERANCE`, or the residuals vanish. It is reported, never assumed.

The power law is linear in log-log and solved directly; its exponent is left free, so that a loss that rises shows as a
negative exponent instead of one on a bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from chemscale.scaling.law import Array, Law

Flags = NDArray[np.bool_]

TOLERANCE = 1e-7  # cosine between residuals and the tangent of the law at a minimum
MAX_ITERATIONS = 200
STARTS = 12  # of a single fit; a resample starts from the fit, and from its own best with and without E
ON_BOUND = 1e-6  # distance from a bound, relative to the bounds' distance
_VANISHED = 1e-13  # root mean square of log residuals that are rounding


@dataclass(frozen=True)
class Scale:
    """What the axes and the loss are divided by: geometric means, so that theta is well conditioned."""

    log_x: Array  # [T]
    log_loss: float

    def parameters(self, law: Law, theta: Array) -> Array:
        """Theta [M, p] in scaled units as parameters [M, p] in the user's units."""
        first = 1 if law.floor else 0
        out = theta.copy()
        if law.floor:
            out[:, 0] = theta[:, 0] * np.exp(self.log_loss)
        exponents = theta[:, first + 1 :: 2]
        out[:, first::2] = np.exp(np.clip(theta[:, first::2] + self.log_loss + exponents * self.log_x, -700, 700))
        return out


@dataclass(frozen=True)
class Problem:
    """A law on fixed design points: scaled axes and weights, shared by the data and all their resamples."""

    law: Law
    log_x: Array  # [T, n], centred
    weights: Array  # [n], mean 1
    scale: Scale


@dataclass(frozen=True)
class Batch:
    """Fits of M data sets on the same points, in scaled units."""

    theta: Array  # [M, p]
    rss: Array  # [M], weighted
    converged: Flags  # [M]


@dataclass(frozen=True)
class Fit:
    """A law fitted to points.

    Attributes:
        law: the form.
        parameters: by name, in the units of loss and axes.
        theta: the same in scaled units, [p].
        fitted: log of the fitted loss at the points, [n].
        residuals: log L - log f at the points, [n].
        residual_rms: root mean square of the residuals.
        rss: the weighted sum of squares (weights of mean 1).
        converged: whether the search ended in a minimum.
        on_bound: parameters that ended on a bound.
        problem: the points, for further data sets on them.
    """

    law: Law
    parameters: dict[str, float]
    theta: Array
    fitted: Array
    residuals: Array
    residual_rms: float
    rss: float
    converged: bool
    on_bound: tuple[str, ...]
    problem: Problem


def fit(law: Law, axes: Mapping[str, Array], loss: Array, sigma: Array | None = None) -> Fit:
    """Fit a law to positive losses at n points; needs at least as many distinct points as parameters.

    Args:
        law: the form.
        axes: the values of each of `law.axes` at the points, positive, each [n].
        loss: the losses [n], positive.
        sigma: relative standard deviations of the losses [n]; only their ratios matter here.
    """
    logs = np.log(np.stack([np.asarray(axes[name], float) for name in law.axes]))
    log_loss = np.log(np.asarray(loss, float))
    weights = np.ones(log_loss.size) if sigma is None else np.asarray(sigma, float) ** -2.0
    scale = Scale(logs.mean(1), float(log_loss.mean()))
    problem = Problem(law, logs - scale.log_x[:, None], weights / weights.mean(), scale)
    batch = solve(problem, (log_loss - scale.log_loss)[None])
    theta = batch.theta[0]
    predicted = law.evaluate(theta[None], problem.log_x)[0][0]
    residuals = log_loss - scale.log_loss - predicted
    values = scale.parameters(law, theta[None])[0]
    return Fit(
        law=law,
        parameters=dict(zip(law.parameters, map(float, values), strict=True)),
        theta=theta,
        fitted=predicted + scale.log_loss,
        residuals=residuals,
        residual_rms=float(np.sqrt(np.mean(residuals**2))),
        rss=float(batch.rss[0]),
        converged=bool(batch.converged[0]),
        on_bound=_on_bound(law, theta),
        problem=problem,
    )


def _on_bound(law: Law, theta: Array) -> tuple[str, ...]:
    if law.straight:
        return ()  # solved without bounds
    low, high = law.bounds
    near = (theta - low < ON_BOUND * (high - low)) | (high - theta < ON_BOUND * (high - low))
    return tuple(name for name, there in zip(law.parameters, near, strict=True) if there)


def solve(problem: Problem, log_losses: Array, around: Array | None = None) -> Batch:
    """Fit M data sets on the points of `problem`.

    Args:
        problem: law, axes and weights.
        log_losses: scaled log losses [M, n].
        around: a theta [p] that the data sets were simulated from; they then start there and from their own best grid
            point with and without E, instead of from `STARTS` grid points.
    """
    if problem.law.straight:
        return _solve_power(problem, log_losses)
    starts = _starts(problem, log_losses, STARTS if around is None else 1)
    if around is not None:
        starts = np.concatenate([np.broadcast_to(around, (len(log_losses), 1, len(around))), starts], 1)
    count, tries, size = starts.shape
    batch = _search(problem, np.repeat(log_losses, tries, 0), starts.reshape(count * tries, size))
    # the lowest objective wins; among equals a converged search does
    rss = batch.rss.reshape(count, tries)
    converged = batch.converged.reshape(count, tries)
    lowest = rss.min(1, keepdims=True)
    equal = rss <= lowest * (1 + 1e-9) + log_losses.shape[1] * _VANISHED**2
    best = np.where(equal, converged.astype(float) + 1, 0).argmax(1)
    rows = np.arange(count)
    return Batch(batch.theta.reshape(count, tries, size)[rows, best], rss[rows, best], converged[rows, best])


def _solve_power(problem: Problem, log_losses: Array) -> Batch:
    root = np.sqrt(problem.weights)
    design = np.stack([np.ones_like(problem.log_x[0]), -problem.log_x[0]], 1)
    theta = log_losses * root @ np.linalg.pinv(design * root[:, None]).T
    residuals = (log_losses - theta @ design.T) * root
    return Batch(theta, (residuals**2).sum(1), np.ones(len(theta), bool))


def _grid(law: Law) -> Array:
    """Exponents [G, T] that starts are chosen from."""
    single = np.geomspace(0.02, 4.0, 32 if len(law.terms) == 1 else 16)
    return np.array(list(product(single, repeat=len(law.terms))))


def _starts(problem: Problem, log_losses: Array, each: int) -> Array:
    """The best `each` starts without E and, where the law has one, with it: [M, K, p].

    At fixed exponents f is linear in E and the amplitudes. With residuals relative to the mean of the data sets, which
    lie within their noise of each other, one factorisation per grid point serves all data sets.
    """
    law, (count, points) = problem.law, log_losses.shape
    low, high = law.bounds
    reference = np.exp(log_losses.mean(0))
    root = np.sqrt(problem.weights)
    target = np.exp(log_losses) / reference * root  # [M, n]
    grid = _grid(law)
    powers = np.exp(-grid[:, :, None] * problem.log_x)  # [G, T, n]
    chosen = []
    for floor in (False, True) if law.floor else (False,):
        basis = np.concatenate([np.ones((len(grid), 1, points)), powers], 1) if floor else powers
        design = (basis / reference * root).transpose(0, 2, 1)  # [G, n, q]
        if design.shape[2] > points:
            continue
        size = design.shape[2]
        linear = (target @ np.linalg.pinv(design).reshape(-1, points).T).reshape(count, -1, size)  # [M, G, q]
        # the rest of the target outside of the design's space, without its fitted values [M, G, n]
        bases = np.linalg.qr(design)[0].transpose(0, 2, 1).reshape(-1, points)
        inside = ((target @ bases.T).reshape(count, -1, size) ** 2).sum(2)
        rss = (target**2).sum(1)[:, None] - inside
        rss = np.where((linear > 0).all(2), rss, np.inf)  # [M, G]
        best = np.argsort(rss, 1, kind="stable")[:, :each]
        rows = np.arange(count)[:, None]
        amplitudes = linear[rows, best][..., 1 if floor else 0 :]
        theta = np.zeros((count, each, len(law.parameters)))
        first = 1 if law.floor else 0
        if floor:
            theta[..., 0] = linear[rows, best][..., 0]
        # a grid point with a negative amplitude is no solution, yet a start: the search mends it
        theta[..., first::2] = np.log(np.maximum(amplitudes, 1e-3))
        theta[..., first + 1 :: 2] = grid[best]
        chosen.append(np.clip(theta, low, high))
    return np.concatenate(chosen, 1)


def _search(problem: Problem, log_losses: Array, starts: Array) -> Batch:
    """Levenberg-Marquardt within bounds for M problems at once; rows leave the batch as they converge."""
    law, weights = problem.law, problem.weights
    low, high = law.bounds
    theta = starts.copy()
    predicted, jacobian = law.evaluate(theta, problem.log_x)
    residuals = log_losses - predicted
    rss = (weights * residuals**2).sum(1)
    damping = np.full(len(theta), 1e-3)
    converged = np.zeros(len(theta), bool)
    active = np.arange(len(theta))
    vanished = log_losses.shape[1] * _VANISHED**2
    diagonal = np.arange(theta.shape[1])
    for _ in range(MAX_ITERATIONS):
        weighted = (jacobian * weights[:, None]).transpose(0, 2, 1)
        gradient = (weighted @ residuals[..., None])[..., 0]
        hessian = weighted @ jacobian
        at = theta[active]
        frozen = ((at <= low) & (gradient < 0)) | ((at >= high) & (gradient > 0))
        lengths = np.sqrt(hessian[:, diagonal, diagonal])
        cosine = np.abs(gradient) / np.maximum(lengths * np.sqrt(rss[active])[:, None], 1e-300)
        done = (np.where(frozen, 0.0, cosine).max(1) < TOLERANCE) | (rss[active] < vanished)
        converged[active[done]] = True
        if done.all():
            break
        keep = ~done
        active, at, frozen = active[keep], at[keep], frozen[keep]
        gradient, hessian, lengths = gradient[keep], hessian[keep], lengths[keep]
        residuals, jacobian = residuals[keep], jacobian[keep]
        # unit columns; frozen parameters drop out; a vanished column (amplitude near zero) stays where it is
        lengths = np.where(frozen | (lengths < 1e-150), 1.0, lengths)
        scaled = hessian / (lengths[:, :, None] * lengths[:, None, :])
        scaled[frozen[:, :, None] | frozen[:, None, :]] = 0.0
        scaled[:, diagonal, diagonal] = np.where(frozen, 1.0, scaled[:, diagonal, diagonal]) + damping[active][:, None]
        right = np.where(frozen, 0.0, gradient) / lengths
        step = np.linalg.solve(scaled, right[..., None])[..., 0] / lengths
        trial = np.clip(at + step, low, high)
        predicted, trial_jacobian = law.evaluate(trial, problem.log_x)
        trial_residuals = log_losses[active] - predicted
        trial_rss = (weights * trial_residuals**2).sum(1)
        better = trial_rss <= rss[active]
        theta[active] = np.where(better[:, None], trial, at)
        rss[active] = np.where(better, trial_rss, rss[active])
        damping[active] = np.clip(damping[active] * np.where(better, 0.1, 8.0), 1e-15, 1e8)
        residuals = np.where(better[:, None], trial_residuals, residuals)
        jacobian = np.where(better[:, None, None], trial_jacobian, jacobian)
    return Batch(theta, rss, converged)
