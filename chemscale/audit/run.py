"""The audit of a finished study: its checks in order, the records that it writes, and the command's verdict."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from chemscale.audit import files
from chemscale.audit.cells import check_grid, check_records
from chemscale.audit.data import check_data, check_subsets
from chemscale.audit.evaluations import check_evaluations
from chemscale.audit.files import check_files, seal
from chemscale.audit.findings import Findings
from chemscale.audit.tables import (
    check_data_table,
    check_fits,
    check_gathered,
    check_page,
    check_passport_table,
    check_text,
)
from chemscale.errors import ChemscaleError, InputError
from chemscale.io import read_json, write_json

__all__ = ["audit", "audit_command", "seal", "write_final", "write_records"]

Check = Callable[[Path, dict[str, Any], Findings], None]
# The page of a study's folder as text: `chemscale.reporting.page.render`, which reporting and its neighbour audit do
# not import from each other.
Render = Callable[[Path], str]

# What each check proves; those of the records run before the page is written, and once more at the end.
RECORDS: dict[str, tuple[str, Check]] = {
    "grid": ("the cells are those of the config and of the plan, none more, none fewer", check_grid),
    "records": ("each cell's metrics follow from its spec, curve and test clusters", check_records),
    "data": ("every input row is accounted for, and no group is in two splits", check_data),
    "subsets": ("each cell saw the first rows of its seed's keyed order, so subsets nest", check_subsets),
    "evaluations": ("every number of an evaluation follows from the raw values beside it", check_evaluations),
    "gathered": ("the tables hold the raw records, value for value", check_gathered),
    "data table": ("the numbers of the data sets are those of their manifests", check_data_table),
    "passport table": ("the numbers of the passports are those of their files", check_passport_table),
    "fits": ("every fit, interval, refusal, control effect and contrast follows from the tables", check_fits),
}
PAGE = "page"


def audit(root: Path, render: Render | None) -> dict[str, Any]:
    """The verdict on a study's folder.

    Args:
        root: the study's folder; nothing else is read.
        render: gives the page again from the folder; None before the page exists, when records, tables and fits are
            checked alone.

    Returns:
        verdict ("ok" or "failed"), stage ("records" or "all") and checks: name, proves, verdict, compared, evidence.
    """
    checks = []
    if render is not None:
        checks.append(
            _run("files", "no file was changed, lost or added since the seal", lambda f: check_files(root, f))
        )
    study: dict[str, Any] = {}

    def read_study(findings: Findings) -> None:
        study.update(read_json(root / "config.json"))
        findings.compared += 1

    checks.append(_run("study", "the resolved study is readable", read_study))
    for name, (proves, check) in RECORDS.items():
        checks.append(_run(name, proves, lambda findings, check=check: check(root, study, findings)))  # type: ignore[misc]
    if render is not None:
        checks.append(
            _run(PAGE, "every number on the page is a table's", lambda findings: check_page(root, study, findings))
        )
        checks.append(
            _run("text", "every character of the page follows from the folder", lambda f: check_text(root, render, f))
        )
        checks.append(
            _run("verdict", "the verdict that the page prints is this one", lambda f: _check_verdict(root, checks, f))
        )
    failed = any(check["verdict"] != "ok" for check in checks)
    stage = "records" if render is None else "all"
    return {"verdict": "failed" if failed else "ok", "stage": stage, "checks": checks}


def _run(name: str, proves: str, check: Callable[[Findings], None]) -> dict[str, Any]:
    findings = Findings(name, proves)
    try:
        check(findings)
    except Exception as error:
        # files of a stranger's study can make any reader fail; whatever it was is a finding, never a traceback
        findings.differ(f"{type(error).__name__}: {error}")
    return findings.record()


def _check_verdict(root: Path, checks: list[dict[str, Any]], findings: Findings) -> None:
    """The audit of the records, which the page prints, says what the checks say now."""
    stored = {check["name"]: check for check in read_json(root / "audit" / "records.json")["checks"]}
    now = {check["name"]: check for check in checks if check["name"] in {"study", *RECORDS}}
    for name in findings.same_names("audit/records.json: check", stored, now):
        findings.equal(f"audit/records.json: {name}", stored[name], now[name])


def write_records(root: Path) -> None:
    """Audit records, tables and fits, and write `audit/records.json` for the page to print.

    Raises:
        ChemscaleError: a check failed; the record is written all the same.
    """
    result = audit(root, None)
    write_json(root / "audit" / "records.json", result)
    _raise_if_failed(root, result)


def write_final(root: Path, render: Render) -> None:
    """Audit everything and write `audit/audit.json`.

    Raises:
        ChemscaleError: a check failed; the record is written all the same.
    """
    result = audit(root, render)
    write_json(root / files.VERDICT, result)
    _raise_if_failed(root, result)


def _raise_if_failed(root: Path, result: dict[str, Any]) -> None:
    failed = [f"{check['name']}: {check['evidence'][0]}" for check in result["checks"] if check["verdict"] != "ok"]
    if failed:
        raise ChemscaleError(f"audit of {root} failed: " + "; ".join(failed))


def audit_command(root: Path, render: Render, deep: bool = False) -> tuple[int, dict[str, Any]]:
    """The exit code and the verdict of `chemscale audit`: 0 ok, 1 something differs.

    Raises:
        InputError: the folder is no finished study, or the deep audit is asked for.
    """
    if deep:
        raise InputError("audit --deep", "a level that is not there yet", "audit without --deep")
    if not (root / files.SUMS).is_file() and not (root / files.VERDICT).is_file():
        raise InputError(f"audit {root}", "no finished study", "name a study's folder, such as results/quickstart")
    result = audit(root, render)
    return (0 if result["verdict"] == "ok" else 1), result
