"""Where a study stands: which cells are done, running, failed (and why) or waiting; how to rerun the failed ones."""

from __future__ import annotations

import fcntl
from collections import Counter
from pathlib import Path
from typing import Any

from chemscale.errors import RecordError
from chemscale.evaluations import EVALUATION
from chemscale.io import read_json
from chemscale.study import Study

STATES = ("done", "running", "failed", "waiting")


def cell_state(folder: Path) -> tuple[str, str | None]:
    """The state of the cell in `folder` and, where it failed, the reason."""
    checkpoint = folder / "checkpoint"
    if _locked(checkpoint / "lock"):
        return "running", None
    # trained in a pack, a cell is done before its own job publishes the records
    if (folder / "metrics.json").exists() or (checkpoint / "finished" / "complete.json").exists():
        return "done", None
    failure = checkpoint / "failure.json"
    if failure.exists():
        try:
            return "failed", str(read_json(failure)["reason"])
        except (RecordError, KeyError, TypeError):
            return "failed", f"{failure} is damaged"
    # an attempt that left neither a reason nor a state to go on from was killed, for want of memory perhaps
    if (checkpoint / "attempts.json").exists() and not any(checkpoint.glob("*-*/complete.json")):
        return "failed", "it ended without a word: killed, perhaps for want of memory"
    return "waiting", None


def _locked(path: Path) -> bool:
    """Whether a process holds the lock file; the kernel drops the lock when its holder dies."""
    if not path.exists():
        return False
    with open(path) as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def study_status(study: Study) -> dict[str, Any]:
    """The state of every cell and control of a study.

    Returns:
        study, counts ({state: number}), cells ({path, state, reason, waived}), evaluations ({done, waiting}: of cells
        that are not waived, beyond their loss), rerun (the command that runs the failed cells again, null where none
        failed; a waived cell is not asked for again).
    """
    cells = []
    for cell in study.cells + study.controls:
        state, reason = cell_state(cell.folder(study.root))
        cells.append({"cell": cell.path, "state": state, "reason": reason, "waived": cell.path in study.waived})
    counts = Counter(entry["state"] for entry in cells)
    evaluated = [path for path in study.evaluated if path not in study.waived]
    done = sum((study.root / path / EVALUATION).exists() for path in evaluated)
    failed = [
        f"{study.root}/{entry['cell']}/metrics.json"
        for entry in cells
        if entry["state"] == "failed" and not entry["waived"]
    ]
    # --configfile takes all words up to the next option, so that it can't stand before the targets
    config = "" if study.path == Path("config.yaml") else f"--configfile {study.path} "
    return {
        "study": study.name,
        "counts": {state: counts[state] for state in STATES},
        "cells": cells,
        "evaluations": {"done": done, "waiting": len(evaluated) - done},
        "rerun": f"snakemake {config}--keep-going --cores all {' '.join(failed)}" if failed else None,
    }
