"""Checks of the audits that a study keeps: of its records, which the page prints, and the last one, of everything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from chemscale.audit.findings import Findings
from chemscale.io import read_json

# checks that may tell something else on another machine: of what others left there, of what draws, and of RDKit
_OF_THE_MACHINE = ("files", "molecules", "pictures")


def check_stored(root: Path, where: str, now: dict[str, Any], findings: Findings) -> None:
    """The audit that the study keeps at `where` is `now`, the one that is made now, and says nothing else.

    A check that depends on the machine may be "not checked" on one and "ok" on another, and have other notes.
    """
    stored, now = read_json(root / where), json.loads(json.dumps(now))
    findings.same_names(f"{where}: key", stored, now)
    for key in ("verdict", "stage"):
        findings.equal(f"{where}: {key}", stored.get(key), now[key])
    names = [check["name"] for check in now["checks"]]
    findings.equal(f"{where}: checks", [check.get("name") for check in stored["checks"]], names)
    for found, expected in zip(stored["checks"], now["checks"], strict=False):
        name = expected["name"]
        if name in _OF_THE_MACHINE:
            findings.same_names(f"{where}: {name}: key", found, expected)
            findings.equal(f"{where}: {name}: proves", found.get("proves"), expected["proves"])
            allowed = ("ok", "not checked", expected["verdict"])
            told = f"{found.get('verdict')!r}, where {expected['verdict']!r} is found"
            findings.holds(f"{where}: {name}: verdict", found.get("verdict") in allowed, told)
        else:
            findings.equal(f"{where}: {name}", found, expected)
