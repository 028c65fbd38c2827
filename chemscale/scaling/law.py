"""The forms of a scaling law: equation, parameters, source and domain of each.

All are sums of decreasing powers with or without an irreducible loss. Fits work on the logarithm of the loss, with axes
divided by their geometric mean (exponents and amplitudes are nearly collinear otherwise) and amplitudes as logarithms:
theta = (E, log A, beta, ...) in the order of `Law.parameters`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Index = NDArray[np.int64]

# Where parameters may lie: exponents by contract in (0, 5); amplitudes and E in units of the typical loss.
EXPONENT_BOUNDS = (1e-3, 5.0)
LOG_AMPLITUDE_BOUNDS = (-25.0, 15.0)
FLOOR_BOUNDS = (0.0, 10.0)


@dataclass(frozen=True)
class Term:
    """One decreasing power, amplitude * axis ** -exponent; axis "x" is whatever axis the fit is asked for."""

    amplitude: str
    exponent: str
    axis: str


@dataclass(frozen=True)
class Law:
    """A form: L = [E +] the sum of its terms.

    Attributes:
        name: as commands and tables call it.
        equation: as printed.
        source: the work that the form is taken from.
        domain: where it is meant to hold.
        floor: whether it has an irreducible loss E >= 0.
        terms: its powers.
        min_points: distinct design points that a fit needs before its exponent is believed.
        min_values: distinct values that it needs of each axis, in the order of `terms`.
    """

    name: str
    equation: str
    source: str
    domain: str
    floor: bool
    terms: tuple[Term, ...]
    min_points: int
    min_values: tuple[int, ...]

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the parameters, in the order of theta: (E,) A, beta or (E,) A, alpha, B, beta."""
        names = ("E",) if self.floor else ()
        return names + tuple(name for term in self.terms for name in (term.amplitude, term.exponent))

    @property
    def exponents(self) -> tuple[str, ...]:
        """The names of the exponents."""
        return tuple(term.exponent for term in self.terms)

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes of its terms: ("x",) or ("N", "D")."""
        return tuple(term.axis for term in self.terms)

    @property
    def straight(self) -> bool:
        """Whether it is a straight line in log-log."""
        return not self.floor and len(self.terms) == 1

    @property
    def bounds(self) -> tuple[Array, Array]:
        """Lower and upper bounds of theta, in scaled units."""
        pairs = ([FLOOR_BOUNDS] if self.floor else []) + [LOG_AMPLITUDE_BOUNDS, EXPONENT_BOUNDS] * len(self.terms)
        return np.array([low for low, _ in pairs]), np.array([high for _, high in pairs])

    def evaluate(self, theta: Array, log_x: Array) -> tuple[Array, Array]:
        """The logarithm of the loss and its derivatives.

        Args:
            theta: [M, p], a row per fit.
            log_x: [T, n], the logarithm of each term's axis at n points.

        Returns:
            log loss [M, n]; d log loss / d theta [M, n, p].
        """
        first = 1 if self.floor else 0
        amplitude, exponent = theta[:, first::2, None], theta[:, first + 1 :: 2, None]
        powers = np.exp(amplitude - exponent * log_x)  # [M, T, n]
        loss = powers.sum(1)
        if self.floor:
            loss = loss + theta[:, :1]
        shares = powers / loss[:, None]
        jacobian = np.empty((*loss.shape, theta.shape[1]))
        if self.floor:
            jacobian[..., 0] = 1 / loss
        jacobian[..., first::2] = shares.transpose(0, 2, 1)
        jacobian[..., first + 1 :: 2] = -(shares * log_x).transpose(0, 2, 1)
        return np.log(loss), jacobian

    def predict(self, parameters: Mapping[str, float], axes: Mapping[str, Array]) -> Array:
        """The loss at points, in the unit that E and the amplitudes have.

        Args:
            parameters: by name, as `parameters` lists them.
            axes: the value of each of `axes` at the points, arrays of equal shape.
        """
        loss = np.full(np.shape(axes[self.axes[0]]), parameters["E"] if self.floor else 0.0)
        for term in self.terms:
            loss = loss + parameters[term.amplitude] * np.asarray(axes[term.axis], float) ** -parameters[term.exponent]
        return loss


_HOFFMANN = "Hoffmann et al. 2022, arXiv 2203.15556, approach 3"
_KAPLAN = "Kaplan et al. 2020, arXiv 2001.08361"

LAWS: dict[str, Law] = {
    law.name: law
    for law in (
        Law(
            name="power",
            equation="L = A x^-beta",
            source=f"Frey et al. 2023, doi 10.1038/s42256-023-00740-3; {_KAPLAN}, eqs 1.1-1.3",
            domain="x far from where another resource or an irreducible loss takes over; a straight line in log-log",
            floor=False,
            terms=(Term("A", "beta", "x"),),
            min_points=3,
            min_values=(3,),
        ),
        Law(
            name="offset",
            equation="L = E + A x^-beta",
            source=f"one axis of {_HOFFMANN}; without E a fit always underestimates beta",
            domain="one resource varied, the others held; E holds the irreducible loss and whatever those others limit",
            floor=True,
            terms=(Term("A", "beta", "x"),),
            min_points=6,
            min_values=(6,),
        ),
        Law(
            name="joint_power",
            equation="L = A N^-alpha + B D^-beta",
            source=f"{_HOFFMANN}, without E",
            domain="a grid over parameters and data, with losses far above any irreducible one",
            floor=False,
            terms=(Term("A", "alpha", "N"), Term("B", "beta", "D")),
            min_points=12,
            min_values=(3, 5),
        ),
        Law(
            name="joint",
            equation="L = E + A N^-alpha + B D^-beta",
            source=_HOFFMANN,
            domain="a grid over parameters and data under one protocol",
            floor=True,
            terms=(Term("A", "alpha", "N"), Term("B", "beta", "D")),
            min_points=12,
            min_values=(3, 5),
        ),
    )
}
