"""Contrasts: planted differences are found, intervals cover as they say, and what cannot be said is refused."""

import numpy as np
import pandas as pd
import pytest

from chemscale import study
from chemscale.scaling.contrasts import CONTRAST_COLUMNS, MIN_SUBSETS, QUANTITIES, contrast_table, corrected
from chemscale.scaling.law import LAWS

SETTINGS = {"level": 0.9, "resamples": 400, "seed": 0}
WIDE = SETTINGS | {"level": 0.99}  # where a single study must not miss by chance
SUBSETS = (64, 128, 256, 512, 1024)
NOISE = 0.006
NO_CLUSTERS = pd.DataFrame({"cell": [], "cluster": [], "loss_sum": [], "count": []})


def sides(first=("painn_scalar", "w32"), second=("painn", "w32")):
    return [{"family": family, "size": size} for family, size in (first, second)]


VECTORS = {"vectors": {"role": "primary", "matched": "none", "between": sides()}}


def series(random, family, beta=0.3, size="w32", subsets=SUBSETS, seeds=(0, 1, 2), floor=0.0, noise=NOISE):
    """The cells of one size, whose losses follow floor + 900 n^-beta with noise between seeds."""
    return pd.DataFrame(
        {
            "cell": f"cells/{family}/{size}/n{n}/seed{seed}",
            "family": family,
            "domain": "potentials",
            "size": size,
            "num_samples": n,
            "seed": seed,
            "protocol": "equal_steps(100)",
            "num_params_non_embedding": 10 * int(size[1:]) ** 2,
            "tokens_unique": pd.NA,
            "frames_unique": n,
            "flops_full": 1000,
            "learning_rate": 0.001,
            "test_loss": (floor + 900 * n**-beta) * np.exp(noise * random.standard_normal()),
        }
        for n in subsets
        for seed in seeds
    )


def pair(random, beta=0.3, other=0.3, **kwargs):
    return pd.concat([series(random, "painn_scalar", beta, **kwargs), series(random, "painn", other, **kwargs)])


def on_clusters(cells, shared, random=None, own=0.0):
    """Test clusters of the cells, and the cells with the losses that follow from them.

    `shared` are numbers by which the exponent is larger on each cluster, for every cell alike; `own` is the sd of a
    cluster's difficulty for one family alone.
    """
    parts, losses = [], []
    difficulty = {
        family: own * random.standard_normal(len(shared)) if own else np.zeros(len(shared))
        for family in cells["family"].unique()
    }
    for _, cell in cells.iterrows():
        loss = cell["test_loss"] * cell["num_samples"] ** -shared * np.exp(difficulty[cell["family"]])
        names = [f"k{at}" for at in range(len(shared))]
        parts.append(pd.DataFrame({"cell": cell["cell"], "cluster": names, "loss_sum": 10 * loss, "count": 10}))
        losses.append(loss.mean())
    return cells.assign(test_loss=losses), pd.concat(parts)


def found(cells, clusters=NO_CLUSTERS, contrasts=VECTORS, settings=SETTINGS):
    return contrast_table(cells, clusters, contrasts, settings).set_index("contrast_id")


def test_both_sides_know_how_many_subsets_a_contrast_needs():
    assert study.MIN_SUBSETS == MIN_SUBSETS == LAWS["power"].min_points


def test_a_planted_difference_is_found_with_its_sign():
    table = found(pair(np.random.default_rng(0), 0.25, 0.35), settings=WIDE)
    assert list(contrast_table(pair(np.random.default_rng(0)), NO_CLUSTERS, {}, SETTINGS)) == list(CONTRAST_COLUMNS)
    assert set(table["quantity"]) == set(QUANTITIES)
    row = table.loc["vectors/exponent_data"]
    assert row["verdict"] == "accepted", row["reasons"]
    assert row["low"] < 0.1 < row["high"]
    assert row["value"] == pytest.approx(row["of_second"] - row["of_first"])
    assert row["excludes_zero"]
    assert (row["form"], row["metric"], row["protocol"]) == ("power", "test_loss", "equal_steps(100)")
    assert (row["n_points"], row["n_runs"], row["seed_dof"]) == (5, 30, 10)
    assert (row["x_min"], row["x_max"]) == (64, 1024)
    losses = table.loc["vectors/log_loss_mean"]
    assert losses["value"] == pytest.approx(-0.1 * np.log(SUBSETS).mean(), abs=0.01)
    largest = table.loc["vectors/log_loss_largest"]
    assert largest["low"] < -0.1 * np.log(1024) < largest["high"]
    assert (largest["n_points"], largest["n_runs"], largest["x_min"]) == (1, 6, 1024)
    # five values carry no form with a floor
    offset = table.loc["vectors/exponent_data_offset"]
    assert offset["verdict"] == "refused"
    assert "too_few_values" in offset["reasons"][0]
    assert offset[["value", "low", "high", "excludes_zero"]].isna().all()


def test_a_run_that_went_wrong_at_another_size_changes_nothing():
    random = np.random.default_rng(3)
    cells, small = pair(random, other=0.35), series(random, "painn", size="w8", subsets=SUBSETS[-1:])
    plain = found(pd.concat([cells, small]))
    wrong = small.assign(test_loss=small["test_loss"] * [1.0, 1.5, 1.0])
    shown = found(pd.concat([cells, wrong]))
    assert plain["excludes_zero"].all()
    assert shown["excludes_zero"].all()
    widths, widths_plain = (table["high"] - table["low"] for table in (shown, plain))
    np.testing.assert_allclose(widths, widths_plain, rtol=0.15)
    assert all(any("elsewhere in the family" in note for note in notes) for notes in shown["notes"])
    assert not any("elsewhere in the family" in note for notes in plain["notes"] for note in notes)


def test_a_run_that_went_wrong_in_a_series_is_named():
    cells = pair(np.random.default_rng(3))
    at = cells.index[cells["cell"] == f"cells/painn/w32/n{SUBSETS[2]}/seed1"]
    cells.loc[at, "test_loss"] *= 1.5
    for notes in found(cells)["notes"]:
        assert any(f"of the noise between seeds comes of w32/n{SUBSETS[2]}" in note for note in notes)


def test_what_two_series_differ_in_is_told():
    cells = pair(np.random.default_rng(1))
    last = SUBSETS[-1]
    cells = cells[~cells["cell"].str.endswith(f"painn/w32/n{last}/seed2")]
    cells = cells[~cells["cell"].str.contains(f"painn_scalar/w32/n{SUBSETS[0]}/")]
    cells.loc[cells["family"] == "painn", ["learning_rate", "flops_full"]] = [0.004, 1500]
    notes = found(cells)["notes"].iloc[0]
    assert f"left out: n{SUBSETS[0]}, of which painn_scalar w32 has no loss" in notes
    assert f"unequal numbers of runs at n{last} (3 and 2)" in notes
    assert "training FLOPs 1000 and 1500, 1.5 to 1" in notes
    assert "peak rate 0.001 and 0.004, 4 to 1" in notes


def test_order_turns_the_sign_and_nothing_else():
    cells = pair(np.random.default_rng(0), 0.25, 0.35)
    turned = {"vectors": VECTORS["vectors"] | {"between": sides()[::-1]}}
    one, other = found(cells), found(cells, contrasts=turned)
    for quantity in ("exponent_data", "log_loss_mean", "log_loss_largest"):
        a, b = one.loc[f"vectors/{quantity}"], other.loc[f"vectors/{quantity}"]
        np.testing.assert_allclose([a["value"], a["low"], a["high"]], [-b["value"], -b["high"], -b["low"]], rtol=1e-9)


def test_a_function_of_its_tables_alone():
    cells = pair(np.random.default_rng(0))
    cells, clusters = on_clusters(cells, np.random.default_rng(1).normal(0, 0.05, 20))
    one, other = found(cells, clusters), found(cells.sample(frac=1, random_state=1), clusters)
    for column in ("value", "low", "high"):
        np.testing.assert_allclose(one[column].astype(float), other[column].astype(float), rtol=1e-9)


def test_exponents_above_a_floor():
    wide = (32, 128, 512, 2048, 8192, 32768)
    random = np.random.default_rng(0)
    first = series(random, "painn_scalar", 0.4, subsets=wide, floor=30.0)
    row = found(pd.concat([first, series(random, "painn", 0.6, subsets=wide, floor=30.0)])).loc[
        "vectors/exponent_data_offset"
    ]
    assert row["verdict"] == "accepted", row["reasons"]
    assert row["low"] < 0.2 < row["high"]
    assert row["excludes_zero"]


@pytest.mark.parametrize("shared", [False, True])
def test_intervals_cover_equal_exponents_about_as_often_as_they_say(shared):
    trials = 80
    covered = dict.fromkeys(("exponent_data", "log_loss_mean", "log_loss_largest"), 0)
    for seed in range(trials):
        random = np.random.default_rng(seed)
        cells, clusters = pair(random), NO_CLUSTERS
        if shared:
            # clusters that are hard for both, and a part of that for one alone: the truth is that of all clusters
            cells, clusters = on_clusters(cells, random.normal(0, 0.03, 40), random, own=0.03)
        table = found(cells, clusters, settings=SETTINGS | {"resamples": 200, "seed": seed})
        for quantity in covered:
            row = table.loc[f"vectors/{quantity}"]
            assert row["paired"] == shared
            covered[quantity] += row["low"] <= 0 <= row["high"]
    for quantity, count in covered.items():
        # 90 % of 80 is 72; three standard deviations of a binomial are 8
        assert count >= 64, f"{quantity}: {count} of {trials}"
    assert min(covered.values()) < trials, "intervals that are much too wide"


def test_test_clusters_that_both_share_cancel():
    cells, clusters = on_clusters(pair(np.random.default_rng(0)), np.random.default_rng(1).normal(0, 0.1, 30))
    paired = found(cells, clusters)
    # the same losses on clusters of other names: drawn apart
    names = clusters["cluster"].where(~clusters["cell"].str.contains("/painn/"), "x" + clusters["cluster"])
    apart = found(cells, clusters.assign(cluster=names))
    alone = found(cells)
    assert paired["paired"].all()
    assert not apart["paired"].any()
    for quantity in ("exponent_data", "log_loss_mean", "log_loss_largest"):
        width, wide, bare = (
            table.loc[f"vectors/{quantity}", "high"] - table.loc[f"vectors/{quantity}", "low"]
            for table in (paired, apart, alone)
        )
        assert width < 0.5 * wide
        assert width == pytest.approx(bare, rel=0.1)


def test_contrasts_of_a_role_are_corrected_among_themselves():
    random = np.random.default_rng(0)
    cells = pd.concat([series(random, family) for family in ("painn_scalar", "painn", "schnet", "allegro")])
    contrasts = VECTORS | {
        f"to_{family}": {"role": "secondary", "matched": "none", "between": sides(("schnet", "w32"), (family, "w32"))}
        for family in ("painn", "painn_scalar", "allegro", "spookynet")
    }
    table = found(cells, contrasts=contrasts)
    primary, secondary = (table[table["role"] == role] for role in ("primary", "secondary"))
    assert (primary["comparisons"].unique(), primary["level"].unique()) == ([1], [0.9])
    # the one without any cell counts: what the config asks is what is corrected for
    assert secondary["comparisons"].unique() == [4]
    np.testing.assert_allclose(secondary["level"], 0.975)
    assert (table["level_nominal"] == 0.9).all()
    assert set(secondary[secondary["verdict"] == "refused"]["contrast"]) >= {"to_spookynet"}
    row, nominal = (
        found(cells, contrasts=only).loc["to_painn/exponent_data"]
        for only in (contrasts, {"to_painn": contrasts["to_painn"]})
    )
    assert row["value"] == nominal["value"]
    assert row["low"] < nominal["low"] < nominal["high"] < row["high"]
    assert corrected(0.95, 5) == pytest.approx(0.99)


def test_two_sizes_of_one_family():
    random = np.random.default_rng(0)
    cells = pd.concat([series(random, "painn", 0.2, "w8"), series(random, "painn", 0.3, "w32")])
    sizes = {"size": {"role": "primary", "matched": "none", "between": sides(("painn", "w8"), ("painn", "w32"))}}
    row = found(cells, contrasts=sizes, settings=WIDE).loc["size/exponent_data"]
    assert row["low"] < 0.1 < row["high"]
    assert row["excludes_zero"]


def refusals(table, quantity="exponent_data"):
    row = table.loc[f"vectors/{quantity}"]
    assert row["verdict"] == "refused"
    assert np.isnan(row["value"])
    assert pd.isna(row["excludes_zero"])
    return {reason.partition(":")[0] for reason in row["reasons"]}


def test_without_replicates_nothing_is_said():
    random = np.random.default_rng(0)
    cells = pd.concat([series(random, "painn_scalar", seeds=(0,)), series(random, "painn")])
    table = found(cells)
    for quantity in QUANTITIES:
        assert refusals(table, quantity) == {"too_few_replicates"}
    assert "of painn_scalar" in table["reasons"].iloc[0][0]
    # two runs more tell the noise of a loss, but less well than a law asks
    more = pd.concat([cells, series(random, "painn_scalar", seeds=(1,), subsets=(64, 1024))])
    table = found(more)
    assert refusals(table) == {"too_few_replicates"}
    assert table.loc["vectors/log_loss_mean", "verdict"] == "accepted"
    assert table.loc["vectors/log_loss_mean", "seed_dof"] == 2


def test_fewer_subsets_than_the_config_named():
    cells = pair(np.random.default_rng(0))
    kept = (cells["family"] == "painn") | (cells["num_samples"] < 200)
    table = found(cells[kept])
    assert refusals(table) == {"too_few_subsets"}
    assert (table["n_points"] == [2, 2, 2, 1]).all()
    assert refusals(found(cells[cells["family"] == "painn"])) == {"too_few_subsets", "too_few_replicates"}
    # a cell that did not end with a loss is none
    cells["test_loss"] = cells["test_loss"].where(~cells["num_samples"].isin([64, 128, 256]))
    assert "too_few_subsets" in refusals(found(cells))


def test_a_law_that_is_refused_gives_no_difference():
    random = np.random.default_rng(0)
    flat = pd.concat([series(random, "painn_scalar"), series(random, "painn", 0.0)])
    table = found(flat)
    assert refusals(table) & {"not_falling", "wide_interval"}
    assert table.loc["vectors/exponent_data", "reasons"][0].partition(": ")[2].startswith("painn w32: ")
    assert table.loc["vectors/log_loss_mean", "verdict"] == "accepted"
    narrow = pair(random, subsets=(100, 200, 300, 400, 500))
    assert refusals(found(narrow)) == {"narrow_range"}


def test_two_protocols_are_not_compared():
    cells = pair(np.random.default_rng(0)).reset_index(drop=True)
    cells.loc[0, "protocol"] = "one_pass"
    for quantity in QUANTITIES:
        assert refusals(found(cells), quantity) == {"mixed_protocols"}


def test_what_a_contrast_claims_depends_on_neither_seed_nor_level():
    random = np.random.default_rng(11)
    cells = pair(random, 0.30, 0.33)
    claims = [
        found(cells, settings={"level": level, "resamples": resamples, "seed": seed})[
            ["verdict", "excludes_zero", "reasons"]
        ]
        for level, resamples, seed in ((0.9, 400, 0), (0.5, 200, 1), (0.99, 1000, 2))
    ]
    for other in claims[1:]:
        pd.testing.assert_frame_equal(claims[0], other)


def test_a_difference_at_the_edge_of_its_interval_carries_a_caution():
    row = found(pair(np.random.default_rng(0), 0.3, 0.3)).loc["vectors/log_loss_mean"]
    # moved until the low end of the interval at 90 % is 0
    cells = pair(np.random.default_rng(0), 0.3, 0.3)
    second = cells["family"] == "painn"
    cells.loc[second, "test_loss"] *= np.exp(-row["low"])
    near = found(cells).loc["vectors/log_loss_mean"]
    assert near["verdict"] == "caution"
    assert near["reasons"][0].startswith("near_zero: the interval [")
    cells.loc[second, "test_loss"] *= np.exp(row["high"] - row["low"])
    clear = found(cells).loc["vectors/log_loss_mean"]
    assert (clear["verdict"], clear["excludes_zero"]) == ("accepted", True)
