"""The closing lines of a run: where the report is, what was found, and whether it can be believed."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from chemscale.families import FAMILIES, LANGUAGE
from chemscale.reporting.results import cautioned, read_rows, usable
from chemscale.units import format_number


def summary(root: Path, audit: dict[str, Any]) -> str:
    """The report's path, every exponent with its interval, and the verdict of `audit`, as lines of text.

    Exponents are those of fits that are accepted or carry a caution, which is named.
    """
    root = Path(root)
    fits = read_rows(root, "fits")
    lines = [f"report: {shlex.quote(str(root / 'report' / 'index.html'))}"]
    for fit in filter(usable, fits):
        for name in ("alpha", "beta"):
            if not fit.has(name):
                continue
            value, low, high = (format_number(fit[column], column) for column in (name, f"{name}_low", f"{name}_high"))
            loss = "test loss" if FAMILIES[fit["family"]].domain == LANGUAGE else "test force MAE"
            span = ", ".join(
                f"{axis} {format_number(fit[f'{end}_min'], end)} to {format_number(fit[f'{end}_max'], end)}"
                for axis, end in zip(fit["axis"], "xy", strict=False)
            )
            lines.append(
                f"  {fit['family']} L({','.join(fit['axis'])}) {fit['form']}: {name} = {value} [{low}, {high}] at "
                f"{format_number(fit['level'], 'level')}, {fit['at']}, {span}, {loss}, {fit['protocol']}"
                f"{' (caution: near a threshold, see the report)' if cautioned(fit) else ''}"
            )
    refused = sum(not usable(fit) for fit in fits)
    if refused:
        lines.append(f"  {refused} of {len(fits)} fits refused; the report says why")
    failed = [check["name"] for check in audit["checks"] if check["verdict"] == "failed"]
    verdict = "ok" if audit["verdict"] == "ok" else f"failed ({', '.join(failed) or 'no check is named'})"
    if audit["verdict"] != "ok":
        lines.append(f"  what differs: .venv/bin/chemscale audit {shlex.quote(str(root))}")
    lines.append(f"audit: {verdict}")
    return "\n".join(lines)
