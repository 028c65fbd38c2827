"""Finished cells that a run would train again: how much work would be lost, whether to go on, and where they go."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from chemscale.errors import ConfigError, RecordError
from chemscale.io import read_json
from chemscale.planning.due import Verdict
from chemscale.planning.jobs import Jobs

# a run asks before it throws away more than this share of the work done
ASKS_ABOVE = 0.1
VARIABLE = "CHEMSCALE_RETRAIN"


@dataclass(frozen=True)
class Retraining:
    """What a run would train again.

    Attributes:
        cells: the paths of finished cells that are stale.
        perhaps: those of them that are stale only because their data are prepared again, perhaps as they were.
        finished: how many cells are finished in all.
        lost: the share of the device time of all finished cells that went into these.
        changed: what changed, with the number of cells for which it did, most cells first.
    """

    cells: tuple[str, ...]
    perhaps: frozenset[str]
    finished: int
    lost: float
    changed: tuple[tuple[str, int], ...]

    @property
    def asks(self) -> bool:
        """Whether a run has to ask before it goes on."""
        return self.lost > ASKS_ABOVE

    def __str__(self) -> str:
        fields = "; ".join(f"{field} ({count} cell{'s' if count > 1 else ''})" for field, count in self.changed)
        perhaps = f" ({len(self.perhaps)} of them only if their data change)" if self.perhaps else ""
        return (
            f"{len(self.cells)} of {self.finished} finished cells would be trained again{perhaps}, "
            f"{100 * self.lost:.0f} % of the work done. What changed: {fields}"
        )


def retraining(jobs: Jobs, verdicts: Mapping[str, Verdict]) -> Retraining:
    """The finished cells that are stale among the jobs that were judged."""
    seconds: dict[str, float] = {}
    stale: list[str] = []
    perhaps: set[str] = set()
    changed: Counter[str] = Counter()
    for job in jobs:
        if job.rule != "train":
            continue
        path = job.wildcards["cell"]
        folder = jobs.study.root / path
        if not (folder / "metrics.json").exists():
            continue
        seconds[path] = _device_seconds(folder)
        verdict = verdicts.get(job.name)
        if verdict is not None and verdict.state == "stale":
            stale.append(path)
            perhaps |= {path} if verdict.follows else set()
            changed.update(verdict.reasons)
    total = sum(seconds.values())
    lost = sum(seconds[path] for path in stale) / total if total else float(bool(stale))
    return Retraining(tuple(stale), frozenset(perhaps), len(seconds), lost, tuple(changed.most_common(5)))


def _device_seconds(folder: Path) -> float:
    try:
        return float(read_json(folder / "provenance.json")["device_s"])
    except (RecordError, KeyError, TypeError, ValueError):
        return 0.0


def confirm(plan: Retraining, config: Path) -> None:
    """Say what a run would train again, and ask where that is much; `jobs` never come here.

    Raises:
        ConfigError: the user says no; or there is no terminal to ask at, and the variable CHEMSCALE_RETRAIN is not yes.
    """
    if not plan.cells:
        return
    print(f"chemscale: {plan}", file=sys.stderr, flush=True)
    if not plan.asks or os.environ.get(VARIABLE) == "yes":
        return
    refusal = ConfigError(
        f"run {config}",
        f"a change that trains {len(plan.cells)} finished cells again",
        f"undo the change, give the study another name to keep both, or set {VARIABLE}=yes",
    )
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise refusal
    print("The old results move to former/. Train these cells again? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise refusal


def set_aside(root: Path, plan: Retraining) -> None:
    """Move the folders of finished cells that will be trained again to `former/TIME/`, checkpoints included.

    Those whose data may come out as they were stay: where they do not, the cell's own job moves its state to
    `checkpoint/superseded`.
    """
    aside = root / "former" / datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    for path in (path for path in plan.cells if path not in plan.perhaps):
        target = aside / path
        target.parent.mkdir(parents=True, exist_ok=True)
        (root / path).rename(target)
