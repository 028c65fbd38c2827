"""`chemscale fit` on anybody's table: replicates, refusals, and what is wrong in one message."""

import numpy as np
import pandas as pd
import pytest

from chemscale.errors import InputError
from chemscale.scaling.table import fit_table


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
