"""`chemscale fit` on anybody's table: replicates, refusals, and what is wrong in one message."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chemscale.errors import InputError
from chemscale.scaling.table import fit_table
from chemscale.scaling.table_file import MAX_BYTES, MAX_COLUMNS, MAX_PARQUET_BYTES, MAX_ROWS

FAULTS = Path(__file__).resolve().parents[2] / "data" / "faults"


def grid(noise=0.005, seeds=2):
    random = np.random.default_rng(0)
    rows = []
    for n in (1e3, 1e4, 1e5):
        for d in (1e3, 3e3, 1e4, 3e4, 1e5, 3e5):
            for seed in range(seeds):
                loss = (0.8 + 20 * n**-0.4 + 30 * d**-0.5) * np.exp(noise * random.standard_normal())
                rows.append({"N": n, "D": d, "loss": loss, "seed": seed, "run": f"r{len(rows)}"})
    return pd.DataFrame(rows)


def test_a_joint_law_from_parquet_and_from_csv(tmp_path):
    table = grid()
    table.to_parquet(tmp_path / "t.parquet")
    table.to_csv(tmp_path / "t.csv", index=False)
    found = fit_table(tmp_path / "t.parquet", form="joint")
    assert found == fit_table(tmp_path / "t.csv", form="joint")
    assert found["verdict"] == "accepted", found["reasons"]
    assert found["num_runs"] == len(table)
    assert set(found["parameters"]) == {"E", "A", "alpha", "B", "beta"} == set(found["intervals"])
    for name, truth in (("alpha", 0.4), ("beta", 0.5)):
        low, high = found["intervals"][name]
        assert low < truth < high


def test_one_axis_of_a_grid_is_refused_as_mixed(tmp_path):
    grid().to_csv(tmp_path / "t.csv", index=False)
    found = fit_table(tmp_path / "t.csv", x="D")
    assert found["verdict"] == "refused"
    assert any(reason.startswith("mixed_axis") for reason in found["reasons"])


def test_columns_of_other_names(tmp_path):
    table = grid().query("N == 1e5").rename(columns={"D": "frames", "loss": "mae"}).drop(columns="N")
    table.to_csv(tmp_path / "t.csv", index=False)
    found = fit_table(tmp_path / "t.csv", form="offset", x="D", level=0.99, columns={"D": "frames", "loss": "mae"})
    low, high = found["intervals"]["beta"]
    assert low < 0.5 < high


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("N,loss\n1,2\n", {"form": "cubic"}, "'cubic'"),
        ("N,loss\n1,2\n", {"level": 1.5}, "--level"),
        ("N,loss\n1,2\n", {"x": "D"}, "column D"),
        ("N,D,loss\n1,2,2\n", {}, "N and D"),
        ("N,loss\n1,2\n10,abc\n", {"x": "N"}, "line 3, column loss"),
        ("N,loss\n1,2\n10,-1\n", {"x": "N"}, "line 3, column loss"),
        ("N,loss\n0,2\n", {"x": "N"}, "line 2, column N"),
        ("N,loss\n", {"x": "N"}, "no rows"),
        ("", {"x": "N"}, "no CSV"),
        ("N,loss\n1,2\n", {"form": "joint", "x": "N"}, "--x"),
        ("N,loss\n1000,3,5\n", {"x": "N"}, "no CSV"),
        ("N,loss,loss\n1,2,3\n", {"x": "N"}, "two columns 'loss'"),
        ("N,loss,seed\n1,2,0\n10,2,0\n1,2,0\n", {"x": "N"}, "line 4: found a run that stands"),
        ("N,loss\n1,2\n", {"level": 0.9999}, "--level"),
        ("N,loss\n1,2\n", {"level": float("nan")}, "--level"),
        ("N,loss\n1,2\n10,1_0\n", {"x": "N"}, "line 3, column loss: found 1_0"),
        ("N,loss\n1,2\n10,\n", {"x": "N"}, "line 3, column loss: found nothing"),
        ("N,loss\n1,2\n10\n", {"x": "N"}, "line 3, column loss: found nothing"),
        ("N,loss\n1,inf\n", {"x": "N"}, "line 2, column loss"),
        ("N,loss\n1,1e300\n", {"x": "N"}, "line 2, column loss"),
        (
            "N;loss\n1;2\n10;1,5\n",
            {"x": "N"},
            "line 3, column loss: found 1,5; give a positive, finite number with a dec",
        ),
        ("N loss\n1 2\n", {"x": "N"}, "separate columns by commas, semicolons, tabs or bars"),
        ("N;D,E\n1;2\n", {"x": "N"}, "commas and semicolons in the header"),
        ('N,note,loss\n1,"a,2\n10,b",2\n100,c,1\n', {"x": "N"}, "line 2: found a quotation mark"),
        (
            'N,loss,note\n1,2,"a\n10,2,b\n100,1,c"\n',
            {"x": "N"},
            "line 2: found a quotation mark that takes in 2 more lines",
        ),
        ('N,loss,note\n1,2,"a\nb"\n10,x,c\n', {"x": "N"}, "line 4, column loss: found x"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, options, message):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        fit_table(path, **options)
    assert message in str(error.value)
    assert error.value.exit_code == 2


def test_a_parquet_with_an_index_and_one_that_is_damaged(tmp_path):
    table = grid().query("N == 1e5").drop(columns="N").set_index("D")
    table.to_parquet(tmp_path / "t.parquet")
    assert fit_table(tmp_path / "t.parquet", form="offset")["parameters"]["beta"] == pytest.approx(0.5, abs=0.1)
    table.reset_index().assign(loss="many").set_index("run").to_parquet(tmp_path / "text.parquet")
    with pytest.raises(InputError, match="row 1, column loss"):
        fit_table(tmp_path / "text.parquet", form="offset")
    whole = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="whole Parquet"):
        fit_table(tmp_path / "cut.parquet")


def test_seeds_whose_tokens_differ_a_little_are_replicates(tmp_path):
    table = grid().query("N == 1e5").drop(columns=["N", "run"])
    table["D"] *= 1 + 0.01 * table["seed"]
    table.to_csv(tmp_path / "t.csv", index=False)
    near = fit_table(tmp_path / "t.csv", form="offset")
    # as points of their own they leave no replicates, so that the scatter has to stand in for the noise
    table.drop(columns="seed").to_csv(tmp_path / "t.csv", index=False)
    apart = fit_table(tmp_path / "t.csv", form="offset")
    assert near["parameters"]["beta"] == pytest.approx(apart["parameters"]["beta"], rel=0.1)
    assert near["intervals"] != apart["intervals"]


def test_two_points_are_a_refused_record_and_no_error(tmp_path):
    (tmp_path / "t.csv").write_text("N,loss\n10,2\n100,1\n")
    found = fit_table(tmp_path / "t.csv")
    assert found["verdict"] == "refused"
    assert found["parameters"] == {"A": None, "beta": None}
    assert found["reasons"]


# --- levels of the design ---------------------------------------------------------------------------------------------


def test_a_seed_of_its_own_for_each_run_joins_no_runs(tmp_path):
    found = fit_table(FAULTS / "wide_cluster_unique_seed.csv", form="offset")
    assert found["parameters"] == pytest.approx({"E": 0.2, "A": 80, "beta": 0.4}, rel=1e-6)
    assert found["verdict"] == "accepted"
    pd.read_csv(FAULTS / "wide_cluster_unique_seed.csv").drop(columns="seed").to_csv(tmp_path / "t.csv", index=False)
    assert found == fit_table(tmp_path / "t.csv", form="offset")


def test_values_that_lie_close_together_are_many_values():
    found = fit_table(FAULTS / "min_dense.csv")
    assert found["verdict"] == "accepted", found["reasons"]
    assert found["parameters"] == pytest.approx({"A": 300, "beta": 0.35}, rel=1e-6)


@pytest.mark.parametrize("step", [1.01, 1.049])
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_seeds_that_return_along_dense_values_join_no_runs(step, seeds, tmp_path):
    d = 1000 * step ** np.arange(int(np.log(30) / np.log(step)))
    table = pd.DataFrame({"D": d, "loss": 0.2 + 80 * d**-0.4, "seed": np.arange(len(d)) % seeds})
    table.to_csv(tmp_path / "t.csv", index=False)
    found = fit_table(tmp_path / "t.csv", form="offset")
    assert found["parameters"] == pytest.approx({"E": 0.2, "A": 80, "beta": 0.4}, rel=1e-5)
    assert not any("replicates" in note for note in found["notes"] if "degrees" not in note)


def replicated(random, noise=0.01, spread=0.01):
    """Five levels of D with three runs each, whose tokens differ a little."""
    level = np.repeat(1000 * 4.0 ** np.arange(6), 3)
    d = level * (1 + spread * random.uniform(-1, 1, len(level)))
    loss = (0.5 + 30 * d**-0.5) * np.exp(noise * random.standard_normal(len(d)))
    return pd.DataFrame({"D": d, "loss": loss, "level": level.astype(int), "seed": np.tile([0, 1, 2], 6)})


@pytest.mark.parametrize("columns", [["seed"], ["num_samples"], ["size"], ["num_samples", "size", "seed"]])
def test_replicates_show_the_noise_and_leave_the_law_alone(columns, tmp_path):
    table = replicated(np.random.default_rng(1))
    table = table.assign(num_samples=table["level"], size=[f"w{level}" for level in table["level"]])
    table[["D", "loss"]].to_csv(tmp_path / "bare.csv", index=False)
    table[["D", "loss", *columns]].to_csv(tmp_path / "named.csv", index=False)
    bare, named = (fit_table(tmp_path / f"{name}.csv", form="offset") for name in ("bare", "named"))
    assert bare["parameters"] == named["parameters"]
    assert named["notes"] == [
        "18 runs at 18 values are replicates of 6 design points, whose values differ by at most 5 %"
    ]
    assert any("0 degrees of freedom" in note for note in bare["notes"])


def test_the_noise_of_replicates_holds_nothing_of_their_different_data(tmp_path):
    # by 2 % of D alone the loss differs by 1 %: an interval from that would be no point
    table = replicated(np.random.default_rng(2), noise=0.0, spread=0.02)
    table.to_csv(tmp_path / "t.csv", index=False)
    found = fit_table(tmp_path / "t.csv", form="offset")
    assert found["verdict"] == "accepted", found["reasons"]
    low, high = found["intervals"]["beta"]
    assert high - low < 1e-6
    assert found["parameters"]["beta"] == pytest.approx(0.5, rel=1e-6)


def test_a_little_difference_in_the_other_axis_mixes_nothing(tmp_path):
    n = np.geomspace(1e4, 1e6, 8)
    d = 1e6 * (1 + 0.01 * np.arange(8) / 8)
    pd.DataFrame({"N": np.repeat(n, 2), "D": np.tile(d[:2], 8), "loss": np.repeat(5 * n**-0.2, 2)}).to_csv(
        tmp_path / "t.csv", index=False
    )
    assert fit_table(tmp_path / "t.csv", x="N")["verdict"] == "accepted"


# --- settings that vary within replicates -----------------------------------------------------------------------------


def test_a_sweep_of_learning_rates_is_reported(tmp_path):
    found = fit_table(FAULTS / "lr_sweep.csv")
    assert found["verdict"] == "refused"
    assert len(found["reasons"]) == 1
    assert "the column lr takes 4 values" in found["reasons"][0]
    assert "keep the run with the lowest loss of each design point" in found["reasons"][0]
    # what the reason says to do
    table = pd.read_csv(FAULTS / "lr_sweep.csv")
    table.loc[table.groupby("D")["loss"].idxmin()].to_csv(tmp_path / "best.csv", index=False)
    best = fit_table(tmp_path / "best.csv")
    assert best["verdict"] == "accepted", best["reasons"]
    assert best["parameters"]["beta"] == pytest.approx(0.344, abs=5e-4)


@pytest.mark.parametrize("name", ["lr", "config/peak-lr", "knob", "schedule"])
def test_a_setting_is_known_by_its_name_or_by_its_effect(name, tmp_path):
    random = np.random.default_rng(5)
    d = np.repeat(np.geomspace(1e3, 1e6, 6), 4)
    value = np.tile([1, 2, 3, 4], 6)
    loss = 9 * d**-0.2 * np.exp(0.02 * (value - 2.2) ** 2 + 0.002 * random.standard_normal(len(d)))
    table = pd.DataFrame({"D": d, "loss": loss, name: [f"v{number}" for number in value], "seed": value % 2})
    table.to_csv(tmp_path / "t.csv", index=False)
    found = fit_table(tmp_path / "t.csv")
    assert found["verdict"] == "refused"
    assert f"the column {name} takes 4 values" in found["reasons"][0]


def test_a_setting_without_an_effect_is_a_caution_by_its_name_alone(tmp_path):
    random = np.random.default_rng(6)
    d = np.repeat(np.geomspace(1e3, 1e6, 6), 4)
    loss = 9 * d**-0.2 * np.exp(0.005 * random.standard_normal(len(d)))
    table = pd.DataFrame({"D": d, "loss": loss, "knob": np.tile([1, 2, 3, 4], 6)})
    table.to_csv(tmp_path / "t.csv", index=False)
    assert fit_table(tmp_path / "t.csv")["verdict"] == "accepted"
    table.rename(columns={"knob": "batch_size"}).to_csv(tmp_path / "t.csv", index=False)
    found = fit_table(tmp_path / "t.csv")
    assert found["verdict"] == "caution"
    assert "batch_size takes 4 values" in found["reasons"][0]
    assert "no effect on the loss shows" in found["reasons"][0]


def test_a_random_search_is_a_sweep(tmp_path):
    random = np.random.default_rng(8)
    d, rate = np.repeat(np.geomspace(1e3, 1e6, 6), 4), 10 ** random.uniform(-4, -2, 24)
    loss = 9 * d**-0.2 * np.exp(0.05 * (np.log10(rate) + 3.2) ** 2 + 0.002 * random.standard_normal(24))
    pd.DataFrame({"D": d, "loss": loss, "learning_rate": rate}).to_csv(tmp_path / "t.csv", index=False)
    found = fit_table(tmp_path / "t.csv")
    assert found["verdict"] == "refused"
    assert "the column learning_rate takes 4 values" in found["reasons"][0]
    assert "the loss depends on it" in found["reasons"][0]


def test_measured_quantities_and_names_of_runs_are_no_settings(tmp_path):
    random = np.random.default_rng(7)
    d = np.repeat(np.geomspace(1e3, 1e6, 6), 3)
    loss = 9 * d**-0.2 * np.exp(0.005 * random.standard_normal(len(d)))
    table = pd.DataFrame({"D": d, "loss": loss})
    table.assign(
        val_loss=loss * 1.01,
        wall_s=random.uniform(10, 20, len(d)).round(3),
        name=[f"run-{at}" for at in range(len(d))],
        project="scaling",
        git="0ab3",
        host=np.tile(["a", "b", "c"], 6),
    ).to_csv(tmp_path / "t.csv", index=False)
    found = fit_table(tmp_path / "t.csv")
    assert found["verdict"] == "accepted", found["reasons"]
    note = "replicates differ in the columns val_loss, wall_s, name, host, too: none of them may be a setting"
    assert note in found["notes"]


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_read_from_the_header(delimiter, tmp_path):
    table = grid().query("N == 1e5")
    table.to_csv(tmp_path / "comma.csv", index=False)
    table.assign(note="a, b; c").to_csv(tmp_path / "t.csv", index=False, sep=delimiter)
    found, plain = (fit_table(tmp_path / f"{name}.csv", x="D", form="offset") for name in ("t", "comma"))
    assert found == plain


def test_semicolons_are_read():
    found = fit_table(FAULTS / "semi_fit.csv")
    assert found["num_runs"] == 2
    assert "2 distinct values of D" in found["reasons"][0]


def test_blank_rows_are_counted(tmp_path):
    (tmp_path / "t.csv").write_text("D,loss\n1000,3\n,\n10000,2\n\n100000,1\n")
    found = fit_table(tmp_path / "t.csv")
    assert (found["num_rows"], found["num_runs"], found["left_out"]) == (5, 3, {"blank": 2})


def message(path, **options):
    with pytest.raises(InputError) as error:
        fit_table(path, **options)
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 2000
    return str(error.value)


def test_what_is_no_regular_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "fifo.csv")
    (tmp_path / "zero.csv").symlink_to("/dev/zero")
    (tmp_path / "zero.parquet").symlink_to("/dev/zero")
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    (tmp_path / "folder.csv").mkdir()
    expected = {
        "fifo.csv": "a FIFO",
        "zero.csv": "a device",
        "zero.parquet": "a device",
        "folder.csv": "a folder",
        "loop.csv": "Too many levels of symbolic links",
        "none.csv": "no such file",
        "a\0.csv": "a name that no file can have",
        "x" * 500: "File name too long",
    }
    for name, found in expected.items():
        assert found in message(tmp_path / name)


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    with open(tmp_path / "sparse.csv", "wb") as stream:
        stream.truncate(2**40)
    assert f"of at most {MAX_BYTES:,} bytes" in message(tmp_path / "sparse.csv")
    (tmp_path / "sparse.csv").rename(tmp_path / "sparse.parquet")
    assert f"of at most {MAX_PARQUET_BYTES:,} bytes" in message(tmp_path / "sparse.parquet")
    (tmp_path / "long.csv").write_text("D,loss\n" + "1,1\n" * (MAX_ROWS + 1))
    assert f"found {MAX_ROWS + 1:,} rows" in message(tmp_path / "long.csv")
    names = [f"c{at}" for at in range(10_000)]
    (tmp_path / "wide.csv").write_text(",".join(["D", "loss", *names]) + "\n")
    assert "10,002 columns" in message(tmp_path / "wide.csv")
    pq.write_table(pa.table({name: [1.0] for name in ["D", "loss", *names]}), tmp_path / "wide.parquet")
    assert f"{MAX_COLUMNS:,} columns" in message(tmp_path / "wide.parquet")
    ones = pa.array(np.ones(10**6))
    pq.write_table(pa.table({"D": ones, "loss": ones}), tmp_path / "long.parquet")
    assert "1,000,000 rows" in message(tmp_path / "long.parquet")
    d = np.arange(1.0, 7000)
    pd.DataFrame({"D": d, "loss": 1 / d}).to_csv(tmp_path / "t.csv", index=False)
    assert "6,999 different design points" in message(tmp_path / "t.csv")


def test_names_that_nobody_can_read_are_shown_on_one_line(tmp_path):
    pd.DataFrame({"D": [1.0], "lo\nss\x1b[31m": [1.0], "x" * 500: [1]}).to_parquet(tmp_path / "t.parquet")
    found = message(tmp_path / "t.parquet")
    assert "'lo\\nss\\x1b[31m'" in found
    assert "\x1b" not in found
