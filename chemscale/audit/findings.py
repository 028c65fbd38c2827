"""What a check compares and where it found a difference; a check that compared nothing has failed.

A difference fails the audit. A note is shown beside the verdict. What could not be checked here, because it takes
another version of a package, makes the verdict "not checked", which fails nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from chemscale.errors import shown

# Refitting on another machine may differ in the last digits of a sum; raw records and tables must be equal.
RELATIVE_TOLERANCE = 1e-9
_SHOWN = 10
_LONGEST = 500  # characters of a piece of evidence


@dataclass
class Findings:
    """The outcome of one check."""

    name: str
    proves: str
    compared: int = 0
    differences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)

    def equal(self, where: str, found: Any, expected: Any) -> None:
        """Compare two values; a difference is named by `where`."""
        self.compared += 1
        if not _same(found, expected, 0.0):
            self.differ(f"{where}: {_short(found)}, {_short(expected)} follows from the records")

    def close(self, where: str, found: Any, expected: Any) -> None:
        """Compare two values, numbers to a relative 1e-9."""
        self.compared += 1
        if not _same(found, expected, RELATIVE_TOLERANCE):
            self.differ(f"{where}: {_short(found)}, {_short(expected)} follows from the records")

    def within(self, where: str, found: Any, low: float, high: float) -> None:
        """Compare a number with the range that it must lie in."""
        self.compared += 1
        number = isinstance(found, int | float) and not isinstance(found, bool)
        if not (number and low <= found <= high):
            self.differ(f"{where}: {_short(found)}, from {low} to {high} follows from the records")

    def holds(self, where: str, condition: bool, found: str) -> None:
        """Check a condition; `found` says what is there where it does not hold."""
        self.compared += 1
        if not condition:
            self.differ(f"{where}: {found}")

    def differ(self, difference: str) -> None:
        """Note a difference."""
        self.compared += 1
        self.differences.append(difference)

    def same_names(self, where: str, found: Iterable[str], expected: Iterable[str]) -> list[str]:
        """Compare two sets of names; each missing and each unknown one is a difference.

        Returns those in both, in order: the evidence, of which the first is shown, must be the same each time.
        """
        found, expected = set(found), set(expected)
        self.compared += 1
        self.differences += [f"{where}: {name} is missing" for name in sorted(expected - found)]
        self.differences += [f"{where}: {name} is unknown" for name in sorted(found - expected)]
        return sorted(found & expected)

    def same_tables(
        self, where: str, found: pd.DataFrame, expected: pd.DataFrame, key: str | None, close: bool
    ) -> None:
        """Compare two tables, columns, rows and values; `key` is the column that names a row."""
        self.same_names(f"{where}: column", map(str, found.columns), map(str, expected.columns))
        self.equal(f"{where}: rows", len(found), len(expected))
        if key and key in found and key in expected:
            self.same_names(f"{where}: row", map(str, found[key]), map(str, expected[key]))
        if len(found) != len(expected):
            return
        compare = self.close if close else self.equal
        for column in expected.columns:
            if column not in found:
                continue
            values = zip(found[column].tolist(), expected[column].tolist(), strict=True)
            for row, (ours, theirs) in enumerate(values):
                label = expected[key].iloc[row] if key else row
                compare(f"{where}: row {label}, column {column}", ours, theirs)

    def record(self) -> dict[str, Any]:
        """The check as JSON: name, proves, verdict (ok, failed or not checked), compared, evidence.

        Names and values come from a stranger's files: each piece of evidence is one printable line.
        """
        if not self.differences and not self.unchecked and not self.compared:
            self.differences.append("nothing was there to compare")
        hidden = len(self.differences) - _SHOWN
        evidence = self.differences[:_SHOWN] + ([f"and {hidden} more"] if hidden > 0 else [])
        verdict = "failed" if self.differences else "not checked" if self.unchecked else "ok"
        return {
            "name": self.name,
            "proves": self.proves,
            "verdict": verdict,
            "compared": self.compared,
            "evidence": [shown(line, _LONGEST) for line in evidence + self.unchecked + self.notes],
        }


def _missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _same(found: Any, expected: Any, tolerance: float) -> bool:
    if isinstance(found, np.ndarray):
        found = found.tolist()
    if isinstance(expected, np.ndarray):
        expected = expected.tolist()
    if isinstance(found, list | tuple) and isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(
            _same(one, other, tolerance) for one, other in zip(found, expected, strict=True)
        )
    if _missing(found) or _missing(expected):
        return _missing(found) and _missing(expected)
    numbers = isinstance(found, int | float) and isinstance(expected, int | float)
    if numbers and tolerance and not isinstance(found, bool) and not isinstance(expected, bool):
        return bool(found == expected) or math.isclose(found, expected, rel_tol=tolerance, abs_tol=1e-15)
    return type(found) is type(expected) and bool(found == expected) if not numbers else bool(found == expected)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "..."
