from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from chemscale.errors import RecordError
from chemscale.io import read_json, read_parquet, write_json
from chemscale.reporting.figures import draw_all, plots
from chemscale.reporting.page import cell_columns, contrast_reading, primary_findings, reason_parts, render, write_page
from chemscale.reporting.results import Contrast, Row, load_results
from chemscale.units import format_number

VOID = {"meta", "link", "br", "img", "input", "hr"}
KEYS = {
    "cells": "cell",
    "controls": "cell",
    "fits": "fit_id",
    "control_effects": "effect_id",
    "slopes": "slope_id",
    "contrasts": "contrast_id",
    "data": "name",
    "passport": "entry",
    "evaluation": "entry",
}


@dataclass
class Page(HTMLParser):
    """What a page holds, read by the standard library alone."""

    spans: list[tuple[str, str, str, str]] = field(default_factory=list)  # table, row, column, text
    tags: list[str] = field(default_factory=list)
    attributes: list[tuple[str, str, str]] = field(default_factory=list)  # tag, name, value
    headings: list[str] = field(default_factory=list)
    text: str = ""  # outside of marked numbers, figures, style and script
    svg_text: str = ""
    raw: dict[str, str] = field(default_factory=dict)  # style, script

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.marked: tuple[str, str, str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in values.items()]
        if tag not in VOID:
            self.open.append(tag)
        if "data-table" in values:
            assert tag == "span"
            self.marked = (values["data-table"], values["data-row"], values["data-column"])
            self.spans.append((*self.marked, ""))
        elif re.fullmatch("h[1-6]", tag):
            self.headings.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "span":
            self.marked = None

    def handle_data(self, data: str) -> None:
        if self.marked:
            self.spans[-1] = (*self.marked, self.spans[-1][3] + data)
        elif self.open and self.open[-1] in ("style", "script"):
            self.raw[self.open[-1]] = data
        elif "svg" in self.open:
            self.svg_text += data
        else:
            self.text += data


def parse(text: str) -> Page:
    page = Page()
    page.feed(text)
    page.close()
    assert not page.open
    return page


def check_numbers(root: Path, page: Page) -> None:
    """Every marked number is the one that its table has at that place."""
    tables = {
        name: {row[key]: row for row in read_parquet(root / "tables" / f"{name}.parquet").to_pylist()}
        for name, key in KEYS.items()
    }
    assert page.spans
    for table, row, column, text in page.spans:
        assert text == format_number(tables[table][row][column], column), (table, row, column)


@pytest.fixture(scope="module")
def page(planted: Path) -> Page:
    return parse((planted / "report" / "index.html").read_text(encoding="utf-8"))


def test_every_marked_number_is_the_tables(planted: Path, page: Page) -> None:
    check_numbers(planted, page)
    assert {table for table, *_ in page.spans} == set(KEYS)


def test_every_cell_law_and_control_is_on_the_page(planted: Path, page: Page) -> None:
    shown = {(table, row) for table, row, *_ in page.spans}
    for table, key in KEYS.items():
        for row in read_parquet(planted / "tables" / f"{table}.parquet").to_pylist():
            # what all evaluated cells share is printed once
            shared = table == "evaluation" and (
                row["subject"] in ("training_sample", "validation") or row["metric"] in ("molecules", "scaffolds")
            )
            assert shared or (table, row[key]) in shown


def test_shared_steps_have_a_column_where_there_are_some(planted: Path) -> None:
    family = load_results(planted).families[0]
    assert "shared_steps" not in cell_columns(family)
    first = replace(family.cells[0], values=family.cells[0].values | {"shared_steps": 40})
    assert "shared_steps" in cell_columns(replace(family, cells=[first, *family.cells[1:]]))


def test_losses_and_exponents_stand_nowhere_unmarked(planted: Path, page: Page) -> None:
    cells = read_parquet(planted / "tables" / "cells.parquet").to_pylist()
    fits = read_parquet(planted / "tables" / "fits.parquet").to_pylist()
    printed = {format_number(cell["test_loss"], "test_loss") for cell in cells}
    printed |= {format_number(fit["beta"], "beta") for fit in fits if fit["verdict"] == "accepted"}
    for number in printed:
        assert not re.search(rf"(?<![\d.,]){re.escape(number)}(?![\d,]|\.\d)", page.text), number


def test_first_screen_answers_beside_the_published_values(planted: Path, page: Page) -> None:
    fits = read_parquet(planted / "tables" / "fits.parquet").to_pylist()
    answer = next(fit for fit in fits if fit["fit_id"] == "chemgpt/L(D)/offset")
    assert answer["verdict"] == "accepted"  # the planted exponent is 0.45
    assert answer["beta_low"] < 0.45 < answer["beta_high"]
    opening = page.text[: page.text.index("Is the data axis about data?")]
    for words in ("0.17", "0.26", "Not comparable", "L(D)", "test_loss", "equal_steps(900)", "size=w40"):
        assert words in opening
    first = [span[:3] for span in page.spans[:60]]
    for column in ("beta", "beta_low", "beta_high"):
        assert ("fits", answer["fit_id"], column) in first


def test_nothing_is_loaded_from_anywhere(page: Page) -> None:
    for tag, name, value in page.attributes:
        if name in ("src", "srcset", "href", "xlink:href", "action", "data", "poster"):
            assert value.startswith(("#", "data:")), (tag, name, value)
        assert not name.startswith("on"), (tag, name)
        assert "url(" not in value.replace("url(#", ""), (tag, name, value)
    assert "url(" not in page.raw["style"]
    assert "@import" not in page.raw["style"]
    assert not re.search(r"fetch|XMLHttp|import\(|https?:", page.raw["script"])
    assert "http-equiv" in {name for _, name, _ in page.attributes}


def test_structure_is_one_that_others_can_read_aloud(page: Page) -> None:
    attributes = page.attributes
    assert ("html", "lang", "en") in attributes
    assert page.headings[0] == "h1"
    assert page.headings.count("h1") == 1
    assert page.headings.count("h2") > 8
    ids = [value for _, name, value in attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {value[1:] for _, name, value in attributes if name == "href" and value.startswith("#")} <= set(ids)
    assert page.tags.count("caption") == page.tags.count("table") > 8
    labels = [value for tag, name, value in attributes if tag == "svg" and name == "aria-label"]
    assert len(labels) == page.tags.count("svg") == page.tags.count("figure") > 10
    assert all(len(label) > 40 for label in labels)


def test_nothing_is_wider_than_a_telephone(page: Page) -> None:
    # wide tables scroll in their own container; nothing else has a width of its own
    style = page.raw["style"]
    assert style.count("{") == style.count("}")
    for length, unit in re.findall(r"(?:min-)?width:\s*([\d.]+)(px|rem|em|vw)", re.sub(r"max-width:[^;}]*", "", style)):
        assert float(length) * (16 if unit in ("rem", "em") else 1) <= 260
    assert "overflow-x: auto" in style
    scrolling = sum(name == "class" and value.split()[:1] == ["scroll"] for _, name, value in page.attributes)
    assert scrolling == page.tags.count("table")
    assert not any(tag == "svg" and name in ("width", "height") for tag, name, _ in page.attributes)
    assert "prefers-color-scheme: dark" in style


def test_waived_cells_are_named_with_their_reason(page: Page) -> None:
    waived = page.text[page.text.index("Waived cells") :]
    assert "cells/painn/w8/n64/seed0" in waived
    assert "loss is nan at step 7 <b>&" in waived
    assert not any(row == "cells/painn/w8/n64/seed0" for _, row, *_ in page.spans)


def test_refused_fits_stand_with_what_mends_them(planted: Path, page: Page) -> None:
    for fit in read_parquet(planted / "tables" / "fits.parquet").to_pylist():
        for reason in fit["reasons"]:
            _, found, mend = reason_parts(reason)
            assert found in page.text
            assert mend
            assert mend in page.text


def test_the_same_study_gives_the_same_page(planted: Path) -> None:
    assert render(planted) == (planted / "report" / "index.html").read_text(encoding="utf-8")


def only_a_few_runs(config: dict[str, Any]) -> None:
    """One family, four cells, no replicate, no control: no law can be told, no spread is known."""
    for name in ("chemgpt", "painn"):
        del config["families"][name]
    config["families"]["schnet"]["grid"] = [{"sizes": ["w16", "w64"], "num_samples": [64, 256]}]
    config["controls"], config["contrasts"], config["waived"], config["evaluate"] = {}, {}, [], {}


def a_family_without_cells(config: dict[str, Any]) -> None:
    config["waived"] = [
        f"cells/painn/{size}/n{number}/seed{seed}"
        for size, number, seed in (
            *((size, number, 0) for size in ("w8", "w32") for number in (64, 256, 1024)),
            *(("w32", number, seed) for number in (64, 1024) for seed in (1, 2)),
        )
    ]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            only_a_few_runs,
            ("No law over data", "seeds is unknown", "No control ran", "None: every cell", "no cell under evaluate"),
        ),
        (a_family_without_cells, ("No cell of this family is finished", "Waived cells")),
    ],
)
def test_a_study_with_less(
    tmp_path: Path,
    study: Callable[..., Path],
    change: Callable[[dict[str, Any]], None],
    says: tuple[str, ...],
) -> None:
    root = study(tmp_path, change)
    page = parse(render(root))
    check_numbers(root, page)
    for words in says:
        assert words in page.text
    if change is only_a_few_runs:
        assert all(fit["verdict"] == "refused" for fit in read_parquet(root / "tables/fits.parquet").to_pylist())


def test_hostile_names_are_text(tmp_path: Path, study: Callable[..., Path]) -> None:
    hostile = "<b onclick=alert(1)>&\"'$x_{-->"

    def rename(resolved: dict[str, Any]) -> None:
        resolved["study"] = hostile
        for cell in resolved["cells"] + resolved["controls"]:
            cell["study"] = hostile
            if cell["size"] == "w40":
                cell["size"] = hostile
        for contrast in resolved["config"]["contrasts"].values():
            for side in contrast["between"]:
                side["size"] = hostile if side["size"] == "w40" else side["size"]
        resolved["evaluated"] = {
            path.replace("/w40/", f"/{hostile}/"): asked for path, asked in resolved["evaluated"].items()
        }

    root = study(tmp_path, None, rename)
    text = render(root)
    assert "<b onclick" not in text
    page = parse(text)
    check_numbers(root, page)
    assert hostile in page.text
    assert hostile in page.svg_text
    assert not any(name.startswith("on") for _, name, _ in page.attributes)


def contrast(first: str, second: str, role: str = "primary", **intervals: tuple[float, float] | None) -> Contrast:
    """A contrast of two families whose quantities have these intervals; those that are not named are refused."""
    rows = {}
    for quantity in ("exponent_data", "exponent_data_offset", "log_loss_mean", "log_loss_largest"):
        low, high = intervals.get(quantity) or (None, None)
        middle = None if low is None or high is None else (low + high) / 2
        values = {"role": role, "quantity": quantity, "low": low, "high": high, "value": middle}
        values |= {"family_first": first, "family_second": second, "size_first": "small", "size_second": "large"}
        values |= {"form": "offset" if "offset" in quantity else "power"}
        values |= {"verdict": "refused" if low is None else "accepted"}
        values |= {"excludes_zero": None if low is None or high is None else low > 0 or high < 0}
        rows[quantity] = Row("contrasts", values)
    return Contrast("x", rows)


def test_what_a_contrast_says() -> None:
    found = contrast(
        "painn_scalar", "painn", exponent_data=(0.1, 0.2), exponent_data_offset=(-0.1, 0.2), log_loss_mean=(-0.3, -0.1),
        log_loss_largest=(-0.1, 0.1),
    )  # fmt: skip
    assert found.symmetry
    text = contrast_reading(found)
    assert text.startswith("PaiNN large against PaiNN without vectors small: as a power law, its loss falls faster")
    assert "above a floor E, no difference of the exponents shows: the interval holds 0" in text
    assert "over the subsets its loss is lower; at the largest one the losses cannot be told apart." in text
    assert not re.search(r"[1-9]|\d\.", text)
    refused = contrast("schnet", "painn", log_loss_mean=(0.1, 0.2), log_loss_largest=(0.1, 0.3))
    assert not refused.symmetry
    text = contrast_reading(refused)
    assert "no difference of the exponents can be given" in text
    assert "over the subsets and at the largest one its loss is higher." in text
    slower = contrast("painn", "painn", exponent_data_offset=(-0.2, -0.1))
    assert not slower.symmetry
    assert "above a floor E, its loss falls more slowly with data: the interval leaves out 0." in contrast_reading(
        slower
    )
    exponents, losses = primary_findings([found, slower])
    assert exponents == "In every primary contrast the exponents over data differ by more than the noise explains."
    assert (
        losses == "In the contrast x the second series has the lower loss on equal data, in the mean over the subsets."
    )
    assert "the first series has the lower loss" in primary_findings([refused])[1]
    alike = contrast("schnet", "painn", log_loss_mean=(-0.1, 0.2))
    assert primary_findings([alike])[1] == "In the contrast x no loss is lower, in the mean over the subsets."
    texts = primary_findings([found, refused, refused])
    assert [text.split(" contrast")[0] for text in texts] == ["In the", "In the", "In the", "In the"]
    assert texts[1].startswith("In the contrasts x and x the exponents over data cannot be compared")
    assert "cannot be compared" in primary_findings([refused])[0]
    assert "does not show that there is none" in primary_findings([contrast("a", "b", exponent_data=(-1, 1))])[0]
    assert primary_findings([]) == []
    for row in found.rows.values():
        row.values["verdict"] = "caution"
    assert contrast_reading(found).count("(with a caution)") == 4
    caution = "This carries a caution, with its reasons below the table."
    assert all(text.endswith(caution) for text in primary_findings([found]))


def test_contrasts_stand_with_their_correction(planted: Path, page: Page) -> None:
    rows = {row["contrast_id"]: row for row in read_parquet(planted / "tables" / "contrasts.parquet").to_pylist()}
    assert {row["verdict"] for row in rows.values()} == {"accepted", "refused"}
    assert {row["role"]: row["comparisons"] for row in rows.values()} == {"primary": 2, "secondary": 3}
    shown = {(row, column): text for table, row, column, text in page.spans if table == "contrasts"}
    for name, row in rows.items():
        assert shown[name, "value"] == ("–" if row["verdict"] == "refused" else format_number(row["value"], "value"))
        assert shown[name, "level"] == format_number(row["level"], "level")
        assert ((name, "low") in shown) == (row["verdict"] != "refused")
        for reason in row["reasons"]:
            assert reason_parts(reason)[1] in page.text
    section = page.text[page.text.index("Comparisons that the config names") :]
    assert section.index("Primary contrasts") < section.index("Secondary contrasts")
    for words in ("Bonferroni", "few seeds", "does not show that two numbers are equal", "these subsets"):
        assert words in section
    for reason in ("too few subsets", "too few replicates"):
        assert reason in section
    assert ("a", "href", "#contrasts") in page.attributes


def test_a_study_without_contrasts_says_nothing_of_them(tmp_path: Path, study: Callable[..., Path]) -> None:
    root = study(tmp_path, only_a_few_runs)
    text = render(root)
    assert read_parquet(root / "tables" / "contrasts.parquet").num_rows == 0
    assert "contrasts" not in text.lower()
    assert "contrasts" not in {plot.name for plot in plots(load_results(root))}


def test_figures_come_from_the_tables_and_not_from_files(tmp_path: Path, study: Callable[..., Path]) -> None:
    root = study(tmp_path, only_a_few_runs)
    draw_all(root)
    text = render(root)
    for path in (root / "figures").glob("*.svg"):
        path.write_text("<svg></svg></figure><p>a false report</p>")
    assert render(root) == text
    shutil.rmtree(root / "figures")
    assert render(root) == text


def test_a_command_for_readers_is_quoted(tmp_path: Path, study: Callable[..., Path]) -> None:
    root = study(tmp_path, only_a_few_runs)
    write_json(root / "config.json", hostile_folder(read_json(root / "config.json")))
    page = parse(render(root))
    assert "chemscale audit 'results; rm -rf $HOME/planted'" in page.text
    assert "audit results; rm" not in page.text


def hostile_folder(config: dict[str, Any]) -> dict[str, Any]:
    config["config"]["results_dir"] = "results; rm -rf $HOME"
    return config


def test_the_audits_verdict_is_on_the_page(tmp_path: Path, study: Callable[..., Path]) -> None:
    root = study(tmp_path, only_a_few_runs)
    path = root / "audit" / "records.json"
    check = {"name": "subsets", "proves": "they are nested", "verdict": "failed", "compared": 1, "evidence": ["seed 0"]}
    write_json(path, read_json(path) | {"verdict": "failed", "checks": [check]})
    text = parse(render(root)).text
    assert "audit of the records: failed" in text
    assert "1 comparisons; seed 0" in text


def test_a_missing_table_is_named(tmp_path: Path, study: Callable[..., Path]) -> None:
    root = study(tmp_path, only_a_few_runs)
    write_page(root)
    (root / "tables" / "slopes.parquet").unlink()
    with pytest.raises(RecordError, match="slopes"):
        write_page(root)
