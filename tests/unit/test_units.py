"""One function prints every number."""

import math

import pytest

from chemscale.errors import ConfigError
from chemscale.units import HARTREE_TO_EV, KCAL_PER_MOL_TO_EV, energy_in_ev, format_number, length_in_angstrom


@pytest.mark.parametrize(
    ("value", "column", "text"),
    [
        (0.41234, "beta", "0.412"),
        (0.41234, "beta_low", "0.412"),
        (1.23456, "test_loss", "1.235"),
        (208.9, "test_force_mae", "208.9"),
        (1712, "num_params", "1,712"),
        (16000.0, "D", "16,000"),
        (2.0, "test_loss", "2"),
        (None, "E", "–"),
        (math.nan, "E", "–"),
        (0.0123, "residual_rms", "1.23 %"),
        (420_000_000_000_000, "flops_full", "4.20e+14"),
        (0.9, "level", "90 %"),
        (113_712.5, "x_max", "113,712"),
        (3.2e10, "x_max", "3.200e+10"),
        (7_362_969_600, "peak_memory_bytes", "7,362,969,600"),
        (True, "holds", "yes"),
        (-0.5, "beta", "-0.500"),
    ],
)
def test_printed_form(value, column, text):
    assert format_number(value, column) == text


def test_conversions_agree_with_ase():
    units = pytest.importorskip("ase.units")
    assert pytest.approx(units.Hartree, rel=1e-7) == HARTREE_TO_EV
    assert pytest.approx(units.kcal / units.mol, rel=1e-7) == KCAL_PER_MOL_TO_EV


@pytest.mark.parametrize(
    ("unit", "value"),
    [("eV", 1.0), ("meV", 0.001), ("hartree", 27.211386246), ("kcal/mol", 0.0433641042), ("kJ/mol", 0.0103642697)],
)
def test_units_of_energy(unit, value):
    assert energy_in_ev(unit) == pytest.approx(value, rel=1e-8)


def test_units_of_length():
    assert length_in_angstrom("angstrom") == 1
    assert length_in_angstrom("bohr") == pytest.approx(0.529177210903, rel=1e-10)


@pytest.mark.parametrize("unit", ["", "ev", "Hartree", "angstrom"])
def test_an_unknown_unit_is_an_error_that_names_those_known(unit):
    with pytest.raises(ConfigError, match=rf"energy_unit: found '{unit}'; give one of eV, meV, hartree"):
        energy_in_ev(unit)
    with pytest.raises(ConfigError, match="length_unit: found 'nm'; give one of angstrom, bohr"):
        length_in_angstrom("nm")
