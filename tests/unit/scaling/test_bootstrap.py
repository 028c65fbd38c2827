"""Noise from replicates, and test clusters that are resampled alike for all cells."""

import numpy as np
import pandas as pd
import pytest

from chemscale.errors import RecordError
from chemscale.scaling.bootstrap import Noise, cluster_sums, draw, pooled_noise


def test_noise_is_pooled_over_design_points():
    logs = np.array([0.0, 0.2, 1.0, 1.1, 1.2, 5.0])
    found = pooled_noise(logs, np.array([0, 0, 1, 1, 1, 2]))
    assert found.dof == 3
    assert found.sd == pytest.approx(np.sqrt((2 * 0.1**2 + 2 * 0.1**2) / 3))
    assert pooled_noise(logs, np.arange(6)) == Noise(None, 0)


def test_noise_of_many_small_groups_is_the_planted_one():
    random = np.random.default_rng(0)
    points = np.repeat(np.arange(2000), 2)
    found = pooled_noise(0.02 * random.standard_normal(4000) + points, points)
    assert found.sd == pytest.approx(0.02, rel=0.06)
    assert found.dof == 2000


def test_draws_are_a_function_of_seed_and_stream():
    one, same, other = (draw(4, 50, 0, stream) for stream in ("painn", "painn", "schnet"))
    np.testing.assert_array_equal(one.normal, same.normal)
    assert not np.array_equal(one.normal, other.normal)
    np.testing.assert_array_equal(one.take([2, 0]).normal, one.normal[:, [2, 0]])


def test_an_uncertain_sd_is_drawn_with_its_chi_square():
    factors = draw(1, 20_000, 0, "x").sd_factors(5)
    # sd^2 dof / drawn^2 follows chi-square with dof degrees of freedom: mean dof
    assert np.mean(5 / factors**2) == pytest.approx(5, rel=0.03)


@pytest.fixture
def tables():
    """Three cells on 40 test clusters; the second has twice the losses of the first, the third its own pattern."""
    random = np.random.default_rng(0)
    counts = random.integers(5, 60, 40)
    per_token = {"a": random.uniform(1, 2, 40), "c": random.uniform(1, 2, 40)}
    per_token["b"] = 2 * per_token["a"]
    clusters = pd.concat(
        [
            pd.DataFrame(
                {"cell": cell, "cluster": [f"k{i:02}" for i in range(40)], "loss_sum": loss * counts, "count": counts}
            )
            for cell, loss in sorted(per_token.items())
        ]
    )
    losses = {cell: float((loss * counts).sum() / counts.sum()) for cell, loss in per_token.items()}
    cells = pd.DataFrame({"cell": list(losses), "test_loss": list(losses.values())})
    return cells.sort_values("cell", ignore_index=True), clusters


def test_clusters_are_drawn_alike_for_all_cells(tables):
    cells, clusters = tables
    shifts = cluster_sums(cells, clusters).shifts(np.arange(3), 300, 0)
    # a loss that is twice another's in every cluster moves exactly with it: the draw is paired
    np.testing.assert_allclose(shifts[:, 0], shifts[:, 1], atol=1e-12)
    assert np.abs(shifts[:, 0] - shifts[:, 2]).max() > 1e-3
    again = cluster_sums(cells, clusters.sample(frac=1, random_state=1)).shifts(np.arange(3), 300, 0)
    np.testing.assert_array_equal(shifts, again)


def test_shifts_have_the_spread_of_a_mean_over_clusters(tables):
    cells, clusters = tables
    shifts = cluster_sums(cells, clusters).shifts(np.arange(3), 4000, 0)
    mine = clusters[clusters["cell"] == "a"]
    ratio, counts = cells["test_loss"][0], mine["count"].to_numpy()
    # the delta method for a ratio of sums
    deviation = mine["loss_sum"].to_numpy() - ratio * counts
    expected = np.sqrt((deviation**2).sum()) / counts.sum() / ratio
    assert shifts[:, 0].std() == pytest.approx(expected, rel=0.05)


def test_seeds_of_one_point_are_averaged(tables):
    cells, clusters = tables
    shifts = cluster_sums(cells, clusters).shifts(np.array([0, 0, 1]), 50, 0)
    assert shifts.shape == (50, 2)


def test_clusters_that_contradict_the_record_are_named(tables):
    cells, clusters = tables
    wrong = cells.assign(test_loss=cells["test_loss"] * [1, 1.001, 1])
    with pytest.raises(RecordError, match="clusters of b"):
        cluster_sums(wrong, clusters).shifts(np.arange(3), 10, 0)
    with pytest.raises(RecordError, match="c without all clusters"):
        cluster_sums(cells, clusters[:-1]).shifts(np.arange(3), 10, 0)
