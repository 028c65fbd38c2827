"""Rows of `results/benchmarks/*.json`: what was measured, beside what, on which machine."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chemscale.io import read_json, write_json
from chemscale.provenance import machine, versions

FOLDER = Path(__file__).resolve().parents[2] / "results" / "benchmarks"


def timed_row(
    what: str,
    case: str,
    peer: str | None,
    ours: Sequence[float],
    theirs: Sequence[float] | None,
    *,
    unit: str,
    target: float | None,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """A row of paired rates, where more is better: medians, and the ratio of each pair."""
    ratios = None if theirs is None else [one / other for one, other in zip(ours, theirs, strict=True)]
    return {
        "what": what,
        "case": case,
        "peer": peer,
        "ours": round(statistics.median(ours), 4),
        "theirs": None if theirs is None else round(statistics.median(theirs), 4),
        "unit": unit,
        "ratio": None if ratios is None else round(statistics.median(ratios), 3),
        "ratio_min": None if ratios is None else round(min(ratios), 3),
        "ratio_max": None if ratios is None else round(max(ratios), 3),
        "target": target,
        "repeats": len(ours),
        "settings": settings,
        "machine": machine(),
        "versions": versions(),
    }


def write_rows(file: str, rows: list[dict[str, Any]]) -> None:
    """Put rows into a file of benchmarks, in the place of those of the same what, case and peer; and print them."""
    path = FOLDER / file
    names = {(row["what"], row["case"], row["peer"]) for row in rows}
    kept = [row for row in (read_json(path) if path.exists() else []) if _name(row) not in names]
    write_json(path, kept + rows)
    for row in rows:
        ratio = "" if row["ratio"] is None else f", {row['ratio']} times {row['peer']}"
        value, of = (row["ours"], "") if row["ours"] is not None else (row["theirs"], f" by {row['peer']}")
        print(f"{row['what']} ({row['case']}){of}: {value:,} {row['unit']}{ratio}", flush=True)


def _name(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["what"], row["case"], row["peer"]
