"""Checks of the figures, as files and on the page: they are those that the tables give, drawn again."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.parsers import expat

from chemscale.audit.findings import Findings
from chemscale.audit.layout import MARK, litter
from chemscale.errors import RecordError
from chemscale.io import read_bytes, read_json, read_text

VERSIONS = "figures/versions.json"
FORMS = ("svg", "png")
_MOST_BYTES = 2**28  # of a page
# of a page: its drawings, and what it says of what made them
_DRAWING = re.compile(r"<svg\b.*?</svg>", re.DOTALL)
_DRAWN_BY = re.compile(r'<meta name="figures-drawn-by" content="([^"<>]*)">')
# a drawing that this version of matplotlib does not make is at least a drawing, and nothing beside it
_ELEMENTS = {"svg", "g", "defs", "clipPath", "path", "rect", "use", "text", "tspan"}
_ATTRIBUTES = re.compile(
    r"id|d|x|y|width|height|transform|style|role|aria-label|viewBox|href|clip-path|clip-rule|fill|stroke|[a-z]+-[a-z-]+"
)
_OPENING = re.compile(r'<svg role="img" aria-label="[^"<>]*" viewBox="[\d. ]+">')


def read_page(root: Path) -> str:
    """The page of a study; `RecordError` where it is missing, no text, or larger than any page."""
    return read_text(root / "report" / "index.html", _MOST_BYTES, RecordError, "run the stage that writes it")


def without_drawings(page: str) -> str:
    """The page without its drawings and without the versions that drew them: the same for all versions."""
    return _DRAWN_BY.sub("<meta>", _DRAWING.sub("<svg></svg>", page), count=1)


def check_pictures(root: Path, page: str, drawings: Mapping[str, Mapping[str, bytes]], findings: Findings) -> None:
    """The files of figures, and the drawings on the page, are those that the tables give.

    Where other versions of the drawing library or of its fonts made them, they are not compared; a drawing on the page
    must then be one, and nothing that a browser would run, load, or show elsewhere on the page.

    Args:
        root: the study's folder.
        page: the page as it follows from the folder, drawn here.
        drawings: by form (svg and png) and name, the bytes of the files of figures, drawn here.
        findings: what differs.
    """
    here = _drawn_by(page)
    expected = {f"{name}.{form}" for form in FORMS for name in drawings[form]} | {Path(VERSIONS).name}
    found = {path.name for path in (root / "figures").iterdir() if litter(path.name) is None} - {MARK}
    both = findings.same_names("figures", found, expected)
    made = read_json(root / VERSIONS)
    if made == here:
        for form in FORMS:
            for name, content in drawings[form].items():
                file = f"{name}.{form}"
                if file in both:
                    same = read_bytes(root / "figures" / file) == content
                    findings.holds(f"figures/{file}", same, "another picture than the tables give")
    else:
        findings.unchecked.append(f"figures/: not drawn again, since they were made by {_differences(made, here)}")
    printed = read_page(root)
    ours, theirs = (_DRAWING.findall(text) for text in (page, printed))
    findings.equal("report/index.html: drawings", len(theirs), len(ours))
    drawn_by = _drawn_by(printed)
    if drawn_by == here:
        for number, (mine, other) in enumerate(zip(ours, theirs, strict=False), 1):
            same = mine == other
            findings.holds(f"report/index.html: drawing {number}", same, "another one than the tables give")
        return
    told = _differences(drawn_by, here)
    findings.unchecked.append(f"report/index.html: drawings not drawn again, since they were made by {told}")
    for number, (mine, other) in enumerate(zip(ours, theirs, strict=False), 1):
        spoken = mine.partition(" viewBox")[0]
        strange = _strange(other) if other.startswith(f"{spoken} viewBox") else "another label"
        findings.holds(f"report/index.html: drawing {number}", strange is None, f"{strange}, which no drawing has")


def _drawn_by(page: str) -> Any:
    """The versions that drew a page's figures; None where it does not state them."""
    found = _DRAWN_BY.search(page)
    try:
        return json.loads(html.unescape(found.group(1))) if found else None
    except ValueError:
        return None


def _differences(made: Any, here: Any) -> str:
    """Those versions of `made` that are not the ones here, in words."""
    if not isinstance(made, dict) or not isinstance(here, dict):
        return "versions that are not stated"
    return ", ".join(f"{name} {made.get(name)} (here {here[name]})" for name in here if made.get(name) != here[name])


def _strange(drawing: str) -> str | None:
    """What a drawing holds beside lines, shapes and text; None where that is all."""
    if _OPENING.match(drawing) is None:
        return "another beginning"
    # comments and sections end elsewhere for a browser than for a reader of XML
    if "<!" in drawing or "<?" in drawing:
        return "a comment, section or instruction"
    strange: list[str] = []
    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        if tag not in _ELEMENTS or (tag == "svg" and depth):
            strange.append(f"an element {tag!r}")
        for name, value in attributes.items():
            link = name.endswith("href") and not value.startswith("#")
            outside = re.search(r"url\((?!#)|@import|expression|javascript", value, re.IGNORECASE) is not None
            if _ATTRIBUTES.fullmatch(name) is None or name.startswith("on") or link or outside:
                strange.append(f"an attribute {name}={value[:40]!r}")
        depth += 1

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    try:
        parser.Parse(drawing, True)
    except expat.ExpatError as error:
        return f"broken SVG ({error})"
    return strange[0] if strange else None
