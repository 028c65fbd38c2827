"""Units, their conversions, and the one function that prints a number.

Inside chemscale energies are eV, lengths angstrom, forces eV/angstrom; losses are nats per token (language) or
meV/angstrom (potentials). Conversion happens once, at ingest or at evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from chemscale.errors import ConfigError

HARTREE_TO_EV = 27.211386245988  # CODATA 2018
BOHR_TO_ANGSTROM = 0.529177210903  # CODATA 2018
KCAL_PER_MOL_TO_EV = 0.043364104241800934  # thermochemical calorie, CODATA 2018
MEV_PER_EV = 1000.0
ATOMIC_DIPOLE_TO_DEBYE = 2.541746473  # e * bohr, CODATA 2018

# the units that a data file may state, by name
ENERGY_UNITS = {
    "eV": 1.0,
    "meV": 1 / MEV_PER_EV,
    "hartree": HARTREE_TO_EV,
    "kcal/mol": KCAL_PER_MOL_TO_EV,
    "kJ/mol": KCAL_PER_MOL_TO_EV / 4.184,
}
LENGTH_UNITS = {"angstrom": 1.0, "bohr": BOHR_TO_ANGSTROM}

# How a column is printed; a column that is not named here is printed to four significant digits.
_EXPONENTS = ("alpha", "beta", "slope", "exponent")
_LOSSES = ("loss", "E", "mae", "rmse", "difference", "spread")
_SHARES = ("residual_rms", "seed_sd", "share")


def energy_in_ev(unit: str) -> float:
    """One `unit` of energy in eV; `ConfigError` where the name is none of `ENERGY_UNITS`."""
    return _known("energy_unit", unit, ENERGY_UNITS)


def length_in_angstrom(unit: str) -> float:
    """One `unit` of length in angstrom; `ConfigError` where the name is none of `LENGTH_UNITS`."""
    return _known("length_unit", unit, LENGTH_UNITS)


def _known(key: str, unit: str, units: Mapping[str, float]) -> float:
    if unit not in units:
        raise ConfigError(key, repr(unit), f"give one of {', '.join(units)}")
    return units[unit]


def _base(column: str) -> str:
    for ending in ("_low", "_high"):
        column = column.removesuffix(ending)
    return column


def format_number(value: float | int | None, column: str) -> str:
    """The printed form of a table's value: the page prints it and the audit compares with it.

    Exponents have three decimals, losses and other measures four significant digits, shares two decimals, whole numbers
    separators of thousands, FLOPs an exponent of ten; a missing value is a dash. `column` is the table's column.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"  # noqa: RUF001 (the dash that a table shows for no value)
    base = _base(column)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if base in _EXPONENTS:
        return f"{round(value, 3) + 0.0:.3f}"  # no minus before a rounded zero
    if base in _SHARES:
        return f"{100 * value:.2f} %"
    if base == "level":
        return f"{100 * value:g} %"
    if base.startswith("flops"):
        return f"{value:.2e}"
    if isinstance(value, int):
        return f"{value:,}"
    if 9999.5 <= abs(value) < 1e7 or (value.is_integer() and abs(value) < 1e7 and not base.endswith(_LOSSES)):
        return f"{value:,.0f}"
    return f"{value:.4g}" if 1e-3 <= abs(value) < 9999.5 or value == 0 else f"{value:.3e}"
