"""Which fits a study gets, and what they rest on."""

import numpy as np
import pandas as pd
import pytest

from chemscale.errors import RecordError
from chemscale.scaling.study_fits import FIT_COLUMNS, fit_study, frontier

SETTINGS = {"level": 0.99, "resamples": 400, "seed": 0}
ALPHA, BETA = 0.3, 0.25


def study(noise=0.005, protocol="equal_steps(100)"):
    """The cells of a planted study: four sizes, six subsets, two seeds at the corners."""
    random = np.random.default_rng(0)
    rows = []
    sizes, subsets = (8, 16, 32, 64), (64, 128, 256, 512, 1024, 2048)
    for width in sizes:
        for n in subsets:
            corner = width in (8, 64) and n in (64, 2048)
            for seed in (0, 1) if corner else (0,):
                params = 10 * width**2
                loss = (3000 * params**-ALPHA + 900 * n**-BETA) * np.exp(noise * random.standard_normal())
                rows.append(
                    {
                        "cell": f"cells/painn/w{width}/n{n}/seed{seed}",
                        "family": "painn",
                        "domain": "potentials",
                        "size": f"w{width}",
                        "num_samples": n,
                        "seed": seed,
                        "control": None,
                        "protocol": protocol,
                        "loss_unit": "meV/angstrom",
                        "num_params_non_embedding": params,
                        "tokens_unique": pd.NA,
                        "frames_unique": n,
                        "flops_full": params * 1000,
                        "test_loss": loss,
                    }
                )
    return pd.DataFrame(rows)


NO_CLUSTERS = pd.DataFrame({"cell": [], "cluster": [], "loss_sum": [], "count": []})
NO_CONTROLS = study().iloc[:0]


def test_every_law_with_and_without_a_floor():
    found = fit_study(study(), NO_CLUSTERS, NO_CONTROLS, SETTINGS)
    assert list(found.columns) == list(FIT_COLUMNS)
    forms = found.groupby("axis")["form"].agg(set)
    assert forms["N"] == forms["D"] == forms["C"] == {"power", "offset"}
    assert forms["ND"] == {"joint_power", "joint"}
    joint = found.set_index("fit_id").loc["painn/L(N,D)/joint_power"]
    assert joint["verdict"] == "accepted", joint["reasons"]
    assert joint["alpha_low"] < ALPHA < joint["alpha_high"]
    assert joint["beta_low"] < BETA < joint["beta_high"]
    assert joint["n_points"] == 24
    assert joint["n_runs"] == 28
    assert joint["seed_dof"] == 4
    # four sizes are too few for a floor over N
    offset = found.set_index("fit_id").loc["painn/L(N)/offset"]
    assert offset["verdict"] == "refused"
    assert any("too_few_values" in reason for reason in offset["reasons"])


def test_single_axes_hold_the_other_at_its_largest():
    found = fit_study(study(), NO_CLUSTERS, NO_CONTROLS, SETTINGS).set_index("fit_id")
    assert found.loc["painn/L(N)/power", "at"] == "num_samples=2048"
    assert found.loc["painn/L(D)/power", "at"] == "size=w64"
    used, out = found.loc["painn/L(N)/power", ["cells_used", "cells_left_out"]]
    assert len(used) == 6
    assert len(used) + len(out) == 28


def test_a_function_of_its_tables_alone():
    cells = study()
    one = fit_study(cells, NO_CLUSTERS, NO_CONTROLS, SETTINGS)
    other = fit_study(cells.sample(frac=1, random_state=3), NO_CLUSTERS, NO_CONTROLS, SETTINGS)
    for column in ("beta", "beta_low", "beta_high", "residual_rms"):
        np.testing.assert_allclose(one[column], other[column], rtol=1e-9)


def test_two_protocols_make_no_law():
    cells = study()
    cells.loc[0, "protocol"] = "one_pass"
    found = fit_study(cells, NO_CLUSTERS, NO_CONTROLS, SETTINGS)
    assert (found["verdict"] == "refused").all()
    assert all(any("mixed_protocols" in reason for reason in reasons) for reasons in found["reasons"])


def test_a_control_among_the_cells_is_an_error():
    cells = study()
    cells.loc[0, "control"] = "more_steps"
    with pytest.raises(RecordError, match="control"):
        fit_study(cells, NO_CLUSTERS, NO_CONTROLS, SETTINGS)


def test_a_cell_without_a_loss_is_left_out_by_name():
    cells = study()
    cells.loc[3, "test_loss"] = np.nan
    found = fit_study(cells, NO_CLUSTERS, NO_CONTROLS, SETTINGS)
    assert all(any(cells.loc[3, "cell"] in left for left in out) for out in found["cells_left_out"])


def test_the_frontier_is_the_lower_envelope():
    points = pd.DataFrame({"C": [1.0, 1.1, 2.0, 4.0, 8.0], "loss": [5.0, 4.0, 4.5, 3.0, 3.5]})
    # 1.0 and 1.1 are of one compute, the better one stands for them; 2.0 and 8.0 lose to cheaper ones
    assert frontier(points) == [1, 3]


def test_verdicts_depend_on_neither_seed_nor_level():
    cells = study(noise=0.02)
    one, other = (
        fit_study(cells, NO_CLUSTERS, NO_CONTROLS, settings)
        for settings in (SETTINGS, {"level": 0.5, "resamples": 200, "seed": 7})
    )
    assert set(one["verdict"]) == {"accepted", "caution", "refused"}
    for column in ("verdict", "reasons", "lack_of_fit_p"):
        pd.testing.assert_series_equal(one[column], other[column])
