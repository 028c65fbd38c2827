"""Where a study stands: which jobs are done, running, failed, stale or waiting, and what the next run would do."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path
from typing import Any

from chemscale.planning.due import FAILED, STATES, failure_of, judge
from chemscale.planning.jobs import jobs_of
from chemscale.planning.retrain import retraining
from chemscale.study import Study

# where Snakemake notes that it works in this folder
_LOCKS = Path(".snakemake/locks")
_TRAINING, _EVALUATION = "train", "evaluate"


def study_status(study: Study) -> dict[str, Any]:
    """The state of every cell, evaluation and stage of a study.

    Returns:
        study;
        counts: {state: number of cells and controls};
        cells: {cell, state, reason, waived} each; a stale cell's reason names what changed;
        evaluations: {state: number}, of cells that are not waived;
        stages: {job, state, reason, follows} of each job of another rule that is not done; `follows`: whether it is due
            only because a job before it is;
        next: what a run would do: jobs ({rule: number}), cells (the paths of those that it would train or publish);
        retraining: what the next run would train again, in one sentence; null where it is nothing;
        locked: whether Snakemake works in this folder, or was killed there;
        rerun: the command that runs the failed jobs again, null where none failed.
    """
    jobs = jobs_of(study)
    verdicts = judge(jobs)
    cells, stages, failed = [], [], []
    counts: Counter[str] = Counter()
    evaluations: Counter[str] = Counter()
    judged = [job for job in jobs if job.name in verdicts]
    for job in judged:
        verdict = verdicts[job.name]
        reason = "; ".join(verdict.reasons) or None
        if job.rule == _TRAINING:
            cells.append({"cell": job.wildcards["cell"], "state": verdict.state, "reason": reason, "waived": False})
            counts[verdict.state] += 1
        elif job.rule == _EVALUATION:
            evaluations[verdict.state] += 1
        if job.rule != _TRAINING and verdict.due:
            stages.append({"job": job.name, "state": verdict.state, "reason": reason, "follows": verdict.follows})
        if verdict.state == FAILED and verdict.due:
            failed.append(job.outputs[1] if job.rule == _TRAINING else job.outputs[0])
    for path in study.waived:
        folder = study.root / path
        reason = failure_of(folder)
        state = "done" if (folder / "metrics.json").exists() else "failed" if reason else "waiting"
        cells.append({"cell": path, "state": state, "reason": reason, "waived": True})
        counts[state] += 1
    due = [job for job in judged if verdicts[job.name].due]
    again = retraining(jobs, verdicts)
    # --configfile takes all words up to the next option, so that it can't stand before the targets
    config = "" if study.path == Path("config.yaml") else f"--configfile {shlex.quote(str(study.path))} "
    return {
        "study": study.name,
        "counts": {state: counts[state] for state in STATES},
        "cells": cells,
        "evaluations": {state: evaluations[state] for state in STATES},
        "stages": stages,
        "next": {
            "jobs": dict(sorted(Counter(job.rule for job in due).items())),
            "cells": sorted(job.wildcards["cell"] for job in due if job.rule == _TRAINING),
        },
        "retraining": str(again) if again.cells else None,
        "locked": any(_LOCKS.glob("*")),
        "rerun": f"snakemake {config}--keep-going --cores all {shlex.join(failed)}" if failed else None,
    }
