"""What the controls show: data at equal steps, steps at equal data, and the slopes between neighbours."""

import numpy as np
import pandas as pd
import pytest

from chemscale.scaling.effects import DATA_EFFECT, STEPS_EFFECT, control_table, local_slopes


def cell(size, num_samples, loss, seed=0, steps=100, control=None, kind="equal_steps"):
    width = int(size[1:])
    head = "cells" if control is None else f"controls/{control}"
    return {
        "cell": f"{head}/painn/{size}/n{num_samples}/seed{seed}",
        "family": "painn",
        "size": size,
        "num_samples": num_samples,
        "seed": seed,
        "control": control,
        "protocol": f"{kind}({steps})",
        "domain": "potentials",
        "loss_unit": "meV/angstrom",
        "steps": steps,
        "num_params_non_embedding": 10 * width**2,
        "tokens_unique": pd.NA,
        "frames_unique": num_samples,
        "test_loss": loss,
    }


def table(*rows):
    columns = list(cell("w8", 1, 1.0))
    return pd.DataFrame(rows, columns=columns)


# two seeds of one point, 2 % apart: the relative sd of a run is 0.02 / sqrt(2) of the log losses
REPLICATES = (cell("w8", 64, 200.0), cell("w8", 64, 200.0 * np.exp(0.02), seed=1))
SPREAD = 0.02 / np.sqrt(2)


def test_data_at_equal_steps():
    grid = table(*REPLICATES, cell("w8", 256, 150.0), cell("w8", 1024, 120.0))
    (row,) = control_table(grid, table()).to_dict("records")
    assert row["kind"] == DATA_EFFECT
    assert (row["n_small"], row["n_large"]) == (64, 1024)
    small = np.mean([200.0, 200.0 * np.exp(0.02)])
    assert row["difference"] == pytest.approx(small - 120.0)
    # a mean of two runs, and a single one
    spread = SPREAD * np.sqrt(small**2 / 2 + 120.0**2)
    assert row["seed_spread"] == pytest.approx(spread)
    assert row["ratio"] == pytest.approx((small - 120.0) / spread)
    assert row["holds"]


def test_two_spreads_are_seldom_passed_by_chance_whatever_the_number_of_runs():
    random = np.random.default_rng(0)
    for count in (1, 3):
        passed = 0
        for _ in range(100):
            replicated = [
                cell("w8", n, 200 * np.exp(0.02 * random.standard_normal()), seed) for n in (8, 16) for seed in range(9)
            ]
            sides = [
                cell("w8", n, 200 * np.exp(0.02 * random.standard_normal()), seed)
                for n in (4, 64)
                for seed in range(count)
            ]
            (row,) = control_table(table(*sides, *replicated), table()).to_dict("records")
            passed += row["holds"]
        # a difference above two sd: one time in 44
        assert passed <= 6


def test_a_difference_within_the_spread_does_not_hold():
    grid = table(*REPLICATES, cell("w8", 1024, 198.0))
    (row,) = control_table(grid, table()).to_dict("records")
    assert not row["holds"]


def test_without_replicates_nothing_holds():
    grid = table(cell("w8", 64, 200.0), cell("w8", 1024, 100.0))
    (row,) = control_table(grid, table()).to_dict("records")
    assert np.isnan(row["seed_spread"])
    assert not row["holds"]


def test_unequal_steps_are_no_data_effect():
    grid = table(*REPLICATES, cell("w8", 1024, 100.0, steps=400))
    assert control_table(grid, table()).empty


def test_more_steps_on_the_same_seeds():
    grid = table(*REPLICATES, cell("w8", 1024, 120.0))
    others = table(cell("w8", 64, 190.0, steps=200, control="more"), cell("w8", 1024, 90.0, steps=200, control="more"))
    found = control_table(grid, others)
    steps = found[found["kind"] == STEPS_EFFECT].set_index("n_small")
    # seed 1 of the grid has no counterpart and stays out
    assert steps.loc[64, "loss_small"] == 200.0
    assert steps.loc[64, "difference"] == pytest.approx(10.0)
    assert steps.loc[1024, "difference"] == pytest.approx(30.0)
    assert (steps["steps_large"] == 200).all()
    # the control is itself a comparison of data at equal steps
    assert set(found[found["kind"] == DATA_EFFECT]["control"].fillna("")) == {"", "more"}


def test_slopes_of_a_planted_power_law():
    rows = [
        cell(f"w{width}", n, 500 * (10 * width**2) ** -0.1 * n**-0.2) for width in (8, 16, 32) for n in (64, 256, 1024)
    ]
    found = local_slopes(table(*rows))
    by_axis = found.groupby("axis")["slope"]
    np.testing.assert_allclose(by_axis.get_group("D"), 0.2)
    np.testing.assert_allclose(by_axis.get_group("N"), 0.1)
    assert len(found) == 12
    assert found["slope_sd"].isna().all()
