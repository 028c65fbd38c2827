"""HTML pieces of the page: numbers that name their place in a table, equations, and figures that follow its theme."""

from __future__ import annotations

import re

from markupsafe import Markup

from chemscale.reporting.axes import FAINT, GRID, INK, PAPER, SERIES
from chemscale.reporting.results import Row
from chemscale.units import format_number

_NUMBER = Markup('<span data-table="{}" data-row="{}" data-column="{}">{}</span>')
_THEME = {PAPER: "paper", INK: "ink", FAINT: "faint", GRID: "line"} | {
    colour: f"s{number}" for number, colour in enumerate(SERIES)
}
_GREEK = {"alpha": Markup("&alpha;"), "beta": Markup("&beta;")}


def number(row: Row, column: str) -> Markup:
    """A table's number, alone in an element that names table, row and column; the audit reads these back."""
    return _NUMBER.format(row.table, row.key, column, format_number(row[column], column))


def interval(row: Row, parameter: str) -> Markup:
    """The interval of a fit's parameter, [low, high], each a number of its own; empty where the fit has none."""
    if not row.has(f"{parameter}_low"):
        return Markup()
    return Markup("[{}, {}]").format(number(row, f"{parameter}_low"), number(row, f"{parameter}_high"))


def law_name(fit: Row) -> str:
    """L(N), L(D), L(C) or L(N, D)."""
    return f"L({', '.join(fit['axis'])})"


def equation(fit: Row) -> Markup:
    """The form of a fit, along its axis."""
    floor = "E + " if fit["form"] in ("offset", "joint") else ""
    if fit["axis"] == "ND":
        terms = Markup("A·N<sup>&minus;&alpha;</sup> + B·D<sup>&minus;&beta;</sup>")
    else:
        terms = Markup("A·{}<sup>&minus;&beta;</sup>").format(fit["axis"])
    return Markup("L = {}{}").format(floor, terms)


def symbol(parameter: str) -> Markup:
    """A parameter as it stands in the equation."""
    return _GREEK.get(parameter, Markup.escape(parameter))


def inline_svg(text: str, name: str, label: str) -> Markup:
    """A drawn figure as part of the page: scaled by the page, in its colours, with ids of its own and a spoken label.

    Args:
        text: SVG that `figures.draw` has just made; what a file holds is not safe here.
        name: of the figure.
        label: read out in place of the figure.
    """
    found = re.search(r"<svg\b.*</svg>", text, re.DOTALL)
    assert found is not None, "matplotlib writes an svg element"
    body = found.group(0)
    # the file's style sheet would act on the whole page; page.css has the same rules for figures alone
    body = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style\b.*?</style>", "", body, flags=re.DOTALL)
    used = set(re.findall(r"href=\"#([^\"]+)\"|url\(#([^)]+)\)", body))
    ids = {first or second for first, second in used}
    body = re.sub(r" id=\"([^\"]*)\"", lambda at: f' id="{name}-{at.group(1)}"' if at.group(1) in ids else "", body)
    body = re.sub(r"(?:xlink:)?href=\"#", f'href="#{name}-', body)
    body = body.replace("url(#", f"url(#{name}-")
    for colour, variable in _THEME.items():
        body = body.replace(colour, f"var(--{variable})")
    box = re.search(r'viewBox="[\d. ]+"', body)
    assert box is not None, "matplotlib writes a viewBox"
    opening = Markup('<svg role="img" aria-label="{}" {}>').format(label, Markup(box.group(0)))
    # lines of coordinates: spaces are enough
    inner = re.sub(r"\s*\n\s*", " ", body.split(">", 1)[1])
    return opening + Markup(inner)


def words(items: list[str]) -> str:
    """Names as a list in a sentence: "a", "a and b", "a, b and c"."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"
