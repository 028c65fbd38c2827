"""The audit of a finished study: its checks in order, the records that it writes, and the command's verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

from chemscale.audit import layout
from chemscale.audit.cells import check_budget, check_grid, check_records
from chemscale.audit.copies import check_copies
from chemscale.audit.curves import check_curves
from chemscale.audit.data import check_data, check_subsets
from chemscale.audit.evaluations import check_evaluations
from chemscale.audit.files import check_files, check_folder, seal
from chemscale.audit.findings import Findings
from chemscale.audit.molecules import check_molecules
from chemscale.audit.pictures import check_pictures
from chemscale.audit.replicates import check_replicates
from chemscale.audit.sources import check_sources
from chemscale.audit.tables import (
    check_data_table,
    check_fits,
    check_gathered,
    check_page,
    check_passport_table,
    check_text,
)
from chemscale.audit.values import check_provenance, check_values
from chemscale.audit.verdicts import check_stored
from chemscale.errors import ChemscaleError, InputError
from chemscale.io import read_json, write_json

__all__ = ["audit", "audit_command", "seal", "write_final", "write_records"]

Check = Callable[[Path, dict[str, Any], Findings], None]


class Draw(Protocol):
    """The figures of a study, drawn from its tables: `chemscale.reporting.figures.draw`."""

    def __call__(self, root: Path, form: Literal["svg", "png"]) -> dict[str, bytes]:
        """The bytes of each figure's file, by name."""


# The page of a study's folder as text, by the SVG of its figures: `chemscale.reporting.page.render`. Reporting and
# audit do not import each other: the command that runs both hands these over.
Render = Callable[[Path, Mapping[str, bytes]], str]

# What each check proves; those of the records run before the page is written, and once more at the end. Their outcome
# depends on the folder alone, not on the machine.
RECORDS: dict[str, tuple[str, Check]] = {
    "grid": ("the cells are those of the config and of the plan, none more, none fewer", check_grid),
    "records": ("each cell's metrics follow from its spec and test clusters", check_records),
    "values": ("every loss and error is a number that a finished run can have", check_values),
    "curves": ("each run has the steps, rates, amounts, FLOPs and validations of its config and data", check_curves),
    "copies": ("records and weights are those that each run left in its checkpoint folder", check_copies),
    "replicates": (
        "no run is a copy of another one, nor its test losses alike in all clusters",
        check_replicates,
    ),
    "provenance": ("times, rates, energy and memory of each run agree with what it did", check_provenance),
    "data": ("every input row is accounted for, and no group is in two splits", check_data),
    "sources": ("data sets are what the built-in catalogue and the config say of them", check_sources),
    "subsets": ("each cell saw the first rows of its seed's keyed order, so subsets nest", check_subsets),
    "evaluations": ("every number of an evaluation follows from the raw values beside it", check_evaluations),
    "gathered": ("the tables hold the raw records, value for value", check_gathered),
    "data table": ("the numbers of the data sets are those of their manifests", check_data_table),
    "passport table": ("the numbers of the passports are those of their files", check_passport_table),
    "fits": ("every fit, interval, refusal, control effect and contrast follows from the tables", check_fits),
}
FOLDER, STUDY, FINAL = "folder", "study", "last verdict"


@dataclass(frozen=True)
class _Report:
    """What follows from a study's folder for its readers, made once: figures by form and name, and the page."""

    root: Path
    render: Render
    draw: Draw

    @cached_property
    def drawings(self) -> dict[str, dict[str, bytes]]:
        return {"svg": self.draw(self.root, "svg"), "png": self.draw(self.root, "png")}

    @cached_property
    def page(self) -> str:
        return self.render(self.root, self.drawings["svg"])


def audit(root: Path, render: Render | None = None, draw: Draw | None = None) -> dict[str, Any]:
    """The verdict on a study's folder.

    Args:
        root: the study's folder; nothing else is read.
        render: gives the page again from the folder; None before the page exists, when records, tables and fits are
            checked alone.
        draw: gives the figures again, with `render`.

    Returns:
        verdict ("ok" or "failed"), stage ("records" or "all") and checks: name, proves, verdict ("ok", "failed" or
        "not checked", which fails nothing), compared, evidence.
    """
    study: dict[str, Any] = {}
    report = None if render is None or draw is None else _Report(root, render, draw)
    checks: list[dict[str, Any]] = []

    def run(name: str, proves: str, check: Callable[[Findings], None]) -> None:
        # the first two guard the rest: what they refuse could take all time and memory
        if any(known["verdict"] == "failed" for known in checks if known["name"] in (FOLDER, STUDY)):
            checks.append(_run(name, proves, lambda f: f.unchecked.append("the folder cannot be read safely")))
        else:
            checks.append(_run(name, proves, check))

    def read_study(findings: Findings) -> None:
        study.update(read_json(root / "config.json"))
        check_budget(study, findings)

    run(FOLDER, "every file can be read safely: no link, device, hole or giant", lambda f: check_folder(root, f))
    run(STUDY, "the resolved study is readable, and of a size that can be checked", read_study)
    if report is not None:
        run("files", "no file was changed, lost or added since the seal", lambda f: check_files(root, study, f))
    for name, (proves, check) in RECORDS.items():
        run(name, proves, lambda findings, check=check: check(root, study, findings))  # type: ignore[misc]
    if report is not None:
        run(
            "molecules",
            "drawn molecules are molecules, with the descriptors of each",
            lambda f: check_molecules(root, study, f),
        )
        run(
            "pictures",
            "every figure is the one that the tables give, drawn again",
            lambda f: check_pictures(root, report.page, report.drawings, f),
        )
        run("page", "every number on the page is a table's", lambda f: check_page(root, study, f))
        run(
            "text",
            "every character of the page, figures aside, follows from the folder",
            lambda f: check_text(root, report.page, f),
        )
        run(
            "verdict",
            "the verdict that the page prints is this one",
            lambda f: check_stored(root, layout.RECORDS, records_of(checks), f),
        )
    return _verdict(checks, "records" if report is None else "all")


def _verdict(checks: list[dict[str, Any]], stage: str) -> dict[str, Any]:
    failed = any(check["verdict"] == "failed" for check in checks)
    return {"verdict": "failed" if failed else "ok", "stage": stage, "checks": checks}


def _run(name: str, proves: str, check: Callable[[Findings], None]) -> dict[str, Any]:
    findings = Findings(name, proves)
    try:
        check(findings)
    except Exception as error:
        # files of a stranger's study can make any reader fail; whatever it was is a finding, never a traceback
        findings.differ(f"{type(error).__name__}: {error}")
    return findings.record()


def records_of(checks: list[dict[str, Any]]) -> dict[str, Any]:
    """The audit of the records, which the page prints, by the checks of all."""
    return _verdict([check for check in checks if check["name"] in {FOLDER, STUDY, *RECORDS}], "records")


def write_records(root: Path) -> None:
    """Audit records, tables and fits, and write `audit/records.json` for the page to print.

    Raises:
        ChemscaleError: a check failed; the record is written all the same.
    """
    result = audit(root, None)
    write_json(root / layout.RECORDS, result)
    _raise_if_failed(root, result)


def write_final(root: Path, render: Render, draw: Draw) -> None:
    """Audit everything and write `audit/audit.json`.

    Raises:
        ChemscaleError: a check failed; the record is written all the same.
    """
    result = audit(root, render, draw)
    write_json(root / layout.VERDICT, result)
    _raise_if_failed(root, result)


def _raise_if_failed(root: Path, result: dict[str, Any]) -> None:
    failed = [f"{check['name']}: {check['evidence'][0]}" for check in result["checks"] if check["verdict"] == "failed"]
    if failed:
        raise ChemscaleError(f"audit of {root} failed: " + "; ".join(failed))


def audit_command(root: Path, render: Render, draw: Draw, deep: bool = False) -> tuple[int, dict[str, Any]]:
    """The exit code and the verdict of `chemscale audit`: 0 ok, 1 something differs.

    Beside all other checks, the last audit that the folder keeps must say what this one does.

    Raises:
        InputError: the folder is no finished study, or the deep audit is asked for.
    """
    if deep:
        raise InputError("audit --deep", "a level that is not there yet", "audit without --deep")
    if not (root / layout.SUMS).is_file() and not (root / layout.VERDICT).is_file():
        raise InputError(f"audit {root}", "no finished study", "name a study's folder, such as results/quickstart")
    result = audit(root, render, draw)
    if result["checks"][0]["verdict"] == "ok":
        now = {**result, "checks": list(result["checks"])}

        def check_last(findings: Findings) -> None:
            if now["verdict"] == "ok":
                check_stored(root, layout.VERDICT, now, findings)
            else:
                findings.unchecked.append("this audit fails by itself")

        proves = "the last audit that the folder keeps says what this one does"
        result["checks"].append(_run(FINAL, proves, check_last))
        result = _verdict(result["checks"], "all")
    return (0 if result["verdict"] == "ok" else 1), result
