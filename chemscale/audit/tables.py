"""Checks of what was computed from the records: tables, fits, and the numbers on the page."""

from __future__ import annotations

from html.parser import HTMLParser
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pandas as pd

from chemscale import __version__
from chemscale.audit.findings import Findings
from chemscale.audit.pictures import read_page, without_drawings
from chemscale.data.passport import passport_rows
from chemscale.errors import RecordError
from chemscale.gathering import tables
from chemscale.io import canonical_json, read_json, read_parquet
from chemscale.scaling.study_fits import contrast_table, control_table, fit_study, local_slopes
from chemscale.units import format_number

# The column that names a row of each table that the page prints from.
ROW_KEYS = {
    "cells": "cell",
    "controls": "cell",
    "fits": "fit_id",
    "control_effects": "effect_id",
    "slopes": "slope_id",
    "contrasts": "contrast_id",
    "data": "name",
    "passport": "entry",
    "evaluation": "entry",
    "plan": "cell",
}


def read_table(root: Path, name: str) -> pd.DataFrame:
    """A table of the study."""
    table: pd.DataFrame = read_parquet(root / "tables" / f"{name}.parquet").to_pandas()
    return table


def check_gathered(root: Path, study: dict[str, Any], findings: Findings) -> None:
    """`cells`, `controls`, `test_clusters` and `evaluation` hold the raw records, value for value."""
    for name, expected in tables(root, study).items():
        found = read_table(root, name)
        findings.same_tables(f"tables/{name}.parquet", found, expected, ROW_KEYS.get(name), close=False)


def check_data_table(root: Path, study: dict[str, Any], findings: Findings) -> None:
    """`data` holds the numbers of the manifests."""
    found = _by_key(root, "data", "name")
    findings.same_names("tables/data.parquet", found, study["data"])
    for name in study["data"]:
        manifest = read_json(root / "data" / name / "manifest.json")
        settings, source = manifest["settings"], manifest["source"]
        expected = {
            "name": name,
            "kind": settings["kind"],
            **{key: source[key] for key in ("version", "licence", "citation")},
            "tokenizer_digest": manifest["tokenizer_digest"],
            "rows_in": manifest["rows_in"],
            "rows_kept": manifest["rows_kept"],
            "rows_rejected": sum(manifest["rejected"].values()),
            "rejected": canonical_json(manifest["rejected"]),
            "digest": manifest["digest"],
            "source": source["name"],
            **{f"rejected_{reason}": number for reason, number in manifest["rejected"].items()},
        }
        for split, numbers in manifest["splits"].items():
            expected |= {f"{split}_{what}": value for what, value in numbers.items() if what != "digest"}
        # a column that the manifest says nothing of is another data set's, and null here
        for column in sorted(found[name].keys() | expected.keys()):
            where = f"tables/data.parquet: row {name}, column {column}"
            findings.equal(where, found[name].get(column), expected.get(column))


def check_passport_table(root: Path, study: dict[str, Any], findings: Findings) -> None:
    """`passport` holds the numbers of the passports."""
    found = _by_key(root, "passport", "entry")
    expected: dict[str, dict[str, Any]] = {}
    for name in study["data"]:
        rows = passport_rows(name, read_json(root / "data" / name / "passport.json"))
        expected |= {row["entry"]: row for row in rows}
    for entry in findings.same_names("tables/passport.parquet", found, expected):
        for column in sorted(found[entry].keys() | expected[entry].keys()):
            where = f"tables/passport.parquet: row {entry}, column {column}"
            findings.equal(where, found[entry].get(column), expected[entry].get(column))


def check_fits(root: Path, study: dict[str, Any], findings: Findings) -> None:
    """Every fit, interval, verdict, control effect, slope and contrast follows from the gathered tables."""
    cells, controls, clusters = (read_table(root, name) for name in ("cells", "controls", "test_clusters"))
    settings, contrasts = study["config"]["fits"], study["config"]["contrasts"]
    for name, expected in (
        ("fits", fit_study(cells, clusters, controls, settings)),
        ("control_effects", control_table(cells, controls)),
        ("slopes", local_slopes(cells)),
        ("contrasts", contrast_table(cells, clusters, contrasts, settings)),
    ):
        found = read_table(root, name)
        findings.same_tables(f"tables/{name}.parquet", found, expected, ROW_KEYS[name], close=True)


class _Numbers(HTMLParser):
    """The elements of a page that name a table's value, and their text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.numbers: list[tuple[str, str, str, str]] = []
        self.broken: list[str] = []
        self._open: tuple[str, str, str] | None = None
        self._tag = ""
        self._text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin a number, or note what has no place inside one."""
        given = {name: value or "" for name, value in attrs if name.startswith("data-")}
        named = {name: given[name] for name in ("data-table", "data-row", "data-column") if name in given}
        if self._open is not None:
            self.broken.append(f"an element inside the number {self._open}")
        if not named:
            return
        if len(named) < 3:
            self.broken.append(f"line {self.getpos()[0]}: an element with {', '.join(named)} alone")
            return
        self._open, self._tag, self._text = (named["data-table"], named["data-row"], named["data-column"]), tag, []

    def handle_data(self, data: str) -> None:
        """Collect a number's text."""
        if self._open is not None:
            self._text.append(data)

    def handle_endtag(self, tag: str) -> None:
        """End a number."""
        if self._open is not None and tag == self._tag:
            self.numbers.append((*self._open, "".join(self._text)))
            self._open = None


def check_page(root: Path, study: dict[str, Any], findings: Findings) -> None:
    """Every number on the page is the table's, and the numbers that a report owes are there.

    Numbers inside figures are left to `pictures.check_pictures`.
    """
    parser = _Numbers()
    parser.feed(without_drawings(read_page(root)))
    parser.close()
    for broken in parser.broken:
        findings.differ(f"report/index.html: {broken}")
    rows = {name: _by_key(root, name, key) for name, key in ROW_KEYS.items()}
    printed: set[tuple[str, str, str]] = set()
    for table, row, column, text in parser.numbers:
        where = f"report/index.html: {table}, row {row}, column {column}"
        if column not in rows.get(table, {}).get(row, {}):
            findings.differ(f"{where}: the tables have no such value")
            continue
        findings.equal(where, text, format_number(rows[table][row][column], column))
        printed.add((table, row, column))
    for place in _owed(rows) - printed:
        findings.differ(f"report/index.html: {', '.join(place)} is not on the page")


def check_text(root: Path, page: str, findings: Findings) -> None:
    """The page is `page`, the one that this version of chemscale makes of the folder, character by character.

    Drawings are left to `pictures.check_pictures`.
    """
    found, expected = without_drawings(read_page(root)), without_drawings(page)
    findings.compared += 1
    if found == expected:
        return
    lines = list(zip_longest(found.splitlines(), expected.splitlines()))
    different = [(number, *pair) for number, pair in enumerate(lines, 1) if pair[0] != pair[1]]
    number, mine, other = different[0] if different else (len(lines), "another end of line", "")
    where = f"report/index.html: {len(different)} lines differ from what chemscale {__version__} makes of the folder"
    at = next((at for at, (one, two) in enumerate(zip(mine or "", other or "", strict=False)) if one != two), 0)
    shown = ["nothing" if text is None else repr(text[max(0, at - 40) : at + 60]) for text in (mine, other)]
    findings.differ(f"{where}; first line {number}: {shown[0]}, {shown[1]} follows from the folder")


def _by_key(root: Path, name: str, key: str) -> dict[str, dict[str, Any]]:
    """A table's rows as plain values, by the column that names a row; `RecordError` where two rows have one name."""
    path = root / "tables" / f"{name}.parquet"
    rows = read_parquet(path).to_pylist()
    found = {str(row[key]): row for row in rows}
    if len(found) < len(rows):
        raise RecordError(f"read {path}", f"{len(rows)} rows of {len(found)} names", "run the stage that writes it")
    return found


def _owed(tables: dict[str, dict[str, dict[str, Any]]]) -> set[tuple[str, str, str]]:
    """The numbers that must be on the page.

    Exponents and contrasts that are not refused, with their intervals, every cell's test loss, and what was found of
    cells beyond their loss.
    """
    owed = {("cells", cell, "test_loss") for cell in tables["cells"]}
    for entry, row in tables["evaluation"].items():
        if row["value"] is not None and (row["metric"].endswith("_mae") or row["subject"] == "model"):
            owed |= {("evaluation", entry, column) for column in ("value", "low", "high") if row[column] is not None}
    for fit_id, fit in tables["fits"].items():
        for name in ("alpha", "beta"):
            if fit["verdict"] != "refused" and fit[name] is not None:
                owed |= {("fits", fit_id, f"{name}{end}") for end in ("", "_low", "_high")}
    for contrast_id, contrast in tables["contrasts"].items():
        if contrast["verdict"] != "refused":
            owed |= {("contrasts", contrast_id, column) for column in ("value", "low", "high")}
    return owed
