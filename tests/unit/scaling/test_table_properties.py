"""Run tables of every kind: an error of ours or a record, and planted laws come back whatever stands beside them."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chemscale.errors import InputError
from chemscale.scaling.law import LAWS
from chemscale.scaling.table import fit_table

EXAMPLES = settings(max_examples=200, derandomize=True, deadline=None)
VERDICTS = {"accepted", "caution", "refused"}
DELIMITERS = st.sampled_from([",", ";", "\t", "|"])
ODD_CELLS = [
    *(
        "",
        " ",
        "nan",
        "NaN",
        "inf",
        "-inf",
        "None",
        "0",
        "-1",
        "1e400",
        "1e-400",
        "1e99",
        "1e-99",
        "1_000",
        "1,5",
        "1.5",
    ),
    *(
        "0x10",
        "abc",
        "Ü",
        "'",
        '"',
        '""',
        "a\nb",
        "1 000",
        "٣",
        "\x00",
        "\u2028",
        "=1+1",
        "true",
        "1e",
        ".",
        "1.",
        ".5",
    ),
]
NUMBERS = st.sampled_from(["1", "10", "100", "1000", "1e4", "2.5", "3.25", " 7 ", "+8", "1E5"])
NAMES = st.sampled_from(
    [
        "loss",
        "N",
        "D",
        "C",
        "seed",
        "run",
        "lr",
        "size",
        "num_samples",
        "note",
        "",
        " loss",
        "loss ",
        "Loss",
        "x;y",
        '"',
    ]
)
FORMS = st.sampled_from(sorted(LAWS))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables")


def judge(path: Path, form: str, x: str | None) -> dict[str, Any] | None:
    """The record of a table, which holds together whatever the table holds; None where the table is an error."""
    try:
        found = fit_table(path, form=form, x=x, resamples=200)
    except InputError:
        return None
    json.dumps(found, allow_nan=False)
    assert found["verdict"] in VERDICTS
    assert bool(found["reasons"]) == (found["verdict"] != "accepted")
    assert found["num_rows"] == found["num_runs"] + sum(found["left_out"].values())
    return found


def is_number(text: str) -> bool:
    """Whether pandas, which reads the table for itself, takes a cell for a positive number that a loss may be."""
    value = pd.to_numeric(pd.Series([text.strip()]), errors="coerce")[0]
    return bool(math.isfinite(value)) and 1e-100 <= value <= 1e100


@EXAMPLES
@given(st.data())
def test_any_text_gives_an_error_or_a_record(folder, data):
    names = data.draw(st.lists(NAMES, min_size=1, max_size=5))
    cell = st.one_of(NUMBERS, NUMBERS, NUMBERS, st.sampled_from(ODD_CELLS))
    rows = data.draw(st.lists(st.lists(cell, min_size=len(names), max_size=len(names)), max_size=8))
    delimiter, quoted = data.draw(DELIMITERS), data.draw(st.booleans())
    stream = io.StringIO()
    if quoted:
        end = data.draw(st.sampled_from(["\n", "\r\n"]))
        csv.writer(stream, delimiter=delimiter, lineterminator=end).writerows([names, *rows])
    else:
        stream.write("\n".join(delimiter.join(row) for row in [names, *rows]))
    path = folder / "any.csv"
    path.write_text(stream.getvalue(), encoding=data.draw(st.sampled_from(["utf-8", "utf-8-sig"])), newline="")
    found = judge(path, data.draw(FORMS), data.draw(st.sampled_from([None, "N", "D"])))
    if found is not None and quoted:
        at = [name.strip() for name in names].index("loss")
        assert found["num_rows"] == len(rows)
        assert all(is_number(row[at]) for row in rows if any(cell.strip() for cell in row))


@EXAMPLES
@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"D,loss\n", b"\xff\xfeD\x00,\x00"]),
    st.sampled_from(["csv", "parquet"]),
)
def test_any_bytes_give_an_error_or_a_record(folder, content, header, ending):
    path = folder / f"bytes.{ending}"
    path.write_bytes(header + content)
    judge(path, "power", None)


COLUMNS = {
    "numbers": st.floats(allow_nan=True, allow_infinity=True),
    "positive": st.floats(1e-3, 1e6),
    "whole": st.integers(-5, 10**6),
    "flags": st.booleans(),
    "text": st.sampled_from(ODD_CELLS),
    "missing": st.none(),
    "lists": st.lists(st.integers(0, 3), max_size=2),
    "times": st.datetimes(),
    "decimals": st.decimals(0, 1000, places=3),
    "bytes": st.binary(max_size=3),
}


@EXAMPLES
@given(st.data())
def test_any_parquet_gives_an_error_or_a_record(folder, data):
    rows = data.draw(st.integers(0, 8))
    names = data.draw(st.lists(st.sampled_from(["loss", "N", "D", "C", "seed", "lr", "note"]), unique=True, min_size=1))
    kinds = st.one_of(st.sampled_from(["positive", "whole"]), st.sampled_from(sorted(COLUMNS)))
    table = pd.DataFrame(
        {
            name: pd.Series(data.draw(st.lists(COLUMNS[data.draw(kinds)], min_size=rows, max_size=rows)), dtype=object)
            for name in names
        }
    )
    path = folder / "any.parquet"
    (table if data.draw(st.booleans()) else table.convert_dtypes()).to_parquet(path)
    found = judge(path, data.draw(FORMS), data.draw(st.sampled_from([None, "N", "D"])))
    if found is not None:
        assert found["num_rows"] == rows
        assert ((table["loss"].astype(float) > 0) & np.isfinite(table["loss"].astype(float))).all()


@st.composite
def planted(draw: st.DrawFn) -> tuple[pd.DataFrame, dict[str, float]]:
    """Runs that follow a power law exactly, with columns beside them that say nothing of the loss."""
    count, seeds = draw(st.integers(4, 9)), draw(st.integers(1, 3))
    ratio = draw(st.floats(1.06, 6))
    truth = {"A": draw(st.floats(0.5, 500)), "beta": draw(st.floats(0.05, 1.5))}
    # by any step, over a decade at least
    count = max(count, math.ceil(math.log(10) / math.log(ratio)) + 2)
    levels = draw(st.floats(10, 1e6)) * ratio ** np.arange(count)
    d = np.repeat(levels, seeds)
    rows = len(d)
    extra: dict[str, Any] = {
        "seed": draw(st.sampled_from([np.tile(np.arange(seeds), count), np.arange(rows), np.zeros(rows, int)])),
        "run": [f"r{at}" for at in range(rows)],
        "num_samples": draw(st.sampled_from([np.repeat(np.arange(count), seeds), np.arange(rows) // 4, np.ones(rows)])),
        "size": draw(st.sampled_from(["w8", *[np.arange(rows) % 2]])),
        "N": 1000,
        "lr": draw(st.sampled_from([0.001, np.repeat(levels**-0.1, seeds)])),
        "note": "a, b; c",
        "empty": "",
        "noise": np.random.default_rng(draw(st.integers(0, 9))).uniform(size=rows),
    }
    chosen = draw(st.lists(st.sampled_from(sorted(extra)), unique=True))
    if {"seed", "run"} & set(chosen) and "run" not in chosen and seeds > 1:
        chosen.append("run")  # equal rows would be one run that stands there twice
    table = pd.DataFrame({"D": d, "loss": truth["A"] * d ** -truth["beta"]}).assign(
        **{name: extra[name] for name in chosen}
    )
    order = np.random.default_rng(draw(st.integers(0, 9))).permutation(rows)
    names = draw(st.permutations(list(table.columns)))
    return table.iloc[order][names], truth


@EXAMPLES
@given(planted(), DELIMITERS, st.booleans())
def test_planted_laws_come_back_exactly(folder, study, delimiter, parquet):
    table, truth = study
    path = folder / f"planted.{'parquet' if parquet else 'csv'}"
    if parquet:
        table.to_parquet(path, index=False)
    else:
        table.to_csv(path, index=False, sep=delimiter)
    found = judge(path, "power", "D")
    assert found is not None
    assert found["parameters"] == pytest.approx(truth, rel=1e-6)
    assert found["verdict"] == "accepted", found["reasons"]


ODD_NUMBERS = st.sampled_from([0.0, -1.0, 1e308, -1e308, 1e-320, -1e-320, 5e-324, math.inf, math.nan, 0.001, 3.0])
BESIDE = st.one_of(
    st.lists(ODD_NUMBERS, min_size=12, max_size=12),
    st.lists(st.floats(), min_size=12, max_size=12),
    st.lists(st.sampled_from(ODD_CELLS), min_size=12, max_size=12),
    st.lists(st.integers(0, 2), min_size=12, max_size=12),
    st.lists(st.booleans(), min_size=12, max_size=12),
    st.lists(st.one_of(st.none(), st.sampled_from([1, 2])), min_size=12, max_size=12),
)


@EXAMPLES
@given(st.dictionaries(st.sampled_from(["lr", "knob", "note", "size", "num_samples", "val.loss"]), BESIDE, max_size=4))
def test_no_column_beside_replicates_changes_the_law(folder, columns):
    d = np.repeat([100.0, 1000.0, 10_000.0, 100_000.0], 3)
    loss = 9 * d**-0.2 * np.exp(0.01 * np.random.default_rng(0).standard_normal(12))
    bare = pd.DataFrame({"D": d, "loss": loss})
    bare.to_parquet(folder / "bare.parquet")
    bare.assign(**columns).to_parquet(folder / "beside.parquet")
    plain, found = judge(folder / "bare.parquet", "power", "D"), judge(folder / "beside.parquet", "power", "D")
    assert plain is not None
    assert found is not None
    assert found["parameters"] == plain["parameters"]
    assert all(reason.startswith("mixed_replicates") for reason in found["reasons"])


@EXAMPLES
@given(planted(), st.integers(0, 9))
def test_the_order_of_rows_changes_nothing(folder, study, seed):
    random = np.random.default_rng(seed)
    table = study[0].assign(loss=lambda frame: frame["loss"] * np.exp(0.01 * random.standard_normal(len(frame))))
    records = []
    for name, rows in (("one", table), ("other", table.sample(frac=1, random_state=seed))):
        rows.to_csv(folder / f"{name}.csv", index=False)
        records.append(fit_table(folder / f"{name}.csv", x="D", resamples=200))
    assert records[0] == records[1]
