"""What the next run of a study would do: which jobs are stale, failed, running or missing an output, and why.

This is the one place that decides. Snakemake is told to run just these jobs (`workflow/rules/due.smk`), `chemscale
status` prints them, and `make run` counts them. The decision follows from the files that exist and from the digests in
records: never from the times of files, nor from what Snakemake remembers in `.snakemake`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from chemscale.data.identity import cell_identity
from chemscale.data.manifest import read_manifest
from chemscale.errors import DataError, RecordError
from chemscale.evaluations import read_evaluation
from chemscale.grid import Cell
from chemscale.io import read_json
from chemscale.job_records import fingerprint, is_running, read_record
from chemscale.locks import is_held
from chemscale.planning.jobs import Job, Jobs
from chemscale.records import read_metrics

DONE, RUNNING, FAILED, STALE, WAITING = STATES = ("done", "running", "failed", "stale", "waiting")
KILLED = "it ended without a message: it was killed, perhaps for lack of memory"
NO_RECORD = "no record of how it was made, or a damaged one"
FORCED = "the command line forces it"


@dataclass(frozen=True)
class Verdict:
    """Where a job stands.

    Attributes:
        state: one of `STATES`.
        due: whether the next run runs it.
        reasons: the fields or files that changed, what is missing, or why it failed.
        changes: whether its outputs may differ from those that its readers have read; a deleted file of prepared data
            that comes back as it was does not.
        follows: whether it is due only because a job before it is: its outputs may come out as they are.
    """

    state: str
    due: bool
    reasons: tuple[str, ...] = ()
    changes: bool = False
    follows: bool = False


_DONE = Verdict(DONE, due=False)


def judge(jobs: Jobs, targets: Iterable[Job] | None = None, forced: Iterable[Job] = ()) -> dict[str, Verdict]:
    """The verdict on each job that the targets need, by its name.

    Args:
        jobs: the study's jobs.
        targets: the jobs to be done; all of the study where none are named.
        forced: jobs that are due whatever their records say; those that the targets don't need are left out.
    """
    targets = [jobs.last] if targets is None else list(targets)
    order = jobs.needed(targets)
    alone = _Judge(jobs)
    verdicts = {job.name: alone.verdict(job) for job in order}
    verdicts |= {job.name: alone.forced(job, verdicts[job.name]) for job in forced if job.name in verdicts}
    exists = {path: os.path.exists(path) for job in order for path in job.outputs}
    read = {
        job.name: [(path, writer) for path in job.inputs if (writer := jobs.writer(path)) is not None] for job in order
    }
    for job in targets:
        if not verdicts[job.name].due and not all(exists[path] for path in job.outputs):
            verdicts[job.name] = alone.wanted(job, verdicts[job.name])
    settled = False
    while not settled:
        settled = True
        for job in order:
            if not verdicts[job.name].changes and any(verdicts[writer.name].changes for _, writer in read[job.name]):
                changed = [writer.name for _, writer in read[job.name] if verdicts[writer.name].changes]
                made = any(exists[path] for path in job.outputs)
                verdicts[job.name] = _after(verdicts[job.name], list(dict.fromkeys(changed)), made)
                settled = False
            if verdicts[job.name].due:
                for path, writer in read[job.name]:
                    wanted = not exists[path] or (writer.temporary and alone.outdated(writer))
                    if wanted and not verdicts[writer.name].due:
                        verdicts[writer.name] = alone.wanted(writer, verdicts[writer.name])
                        settled = False
    return verdicts


def untrained(jobs: Jobs, verdicts: Mapping[str, Verdict]) -> list[Cell]:
    """The cells that are due and have to be trained: no finished training of theirs waits to be published.

    Those whose data are prepared again are among them, though their data may come out as they were.
    """
    alone = _Judge(jobs)
    due = [job for job in jobs.training if job.name in verdicts and verdicts[job.name].due]
    wanted = [job for job in due if verdicts[job.name].follows or not alone.trained(job)]
    return [alone.cells[job.wildcards["cell"]] for job in wanted]


def _after(verdict: Verdict, writers: list[str], made: bool) -> Verdict:
    """The verdict on a job some of whose inputs are written again; `made`: whether it has outputs."""
    if verdict.due:
        return replace(verdict, changes=True)
    if not made:
        return Verdict(WAITING, due=True, changes=True)
    reasons = tuple(f"{name} is due" for name in writers)
    return Verdict(STALE, due=True, reasons=reasons, changes=True, follows=True)


class _Judge:
    """Judges jobs by themselves, and reads each record once."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs, self.study = jobs, jobs.study
        self.cells = {cell.path: cell for cell in [*jobs.study.cells, *jobs.study.controls]}
        self._records: dict[str, dict[str, Any] | None] = {}
        self._manifests: dict[str, str] = {}
        self._own_files: dict[str, str] = {}
        # the study's own copies of manifests, by the folder of prepared data that each is a copy of
        self._passports = {
            Path(job.inputs[0]).parent.as_posix(): job for job in jobs if job.rule.startswith("passport")
        }

    def verdict(self, job: Job) -> Verdict:
        """The verdict on a job as if its inputs stayed as they are."""
        missing = [path for path in job.outputs if not os.path.exists(path)]
        if job.rule == "train":
            return self._cell(job, missing)
        if job.record is not None:
            if is_running(Path(job.record)):
                return Verdict(RUNNING, due=True, changes=True)
            record = self._record(job)
            if record is not None and record["state"] != "done":
                reason = KILLED if record["state"] == "started" else str(record.get("reason"))
                # the jobs that read a temporary file see for themselves what it was made from
                return Verdict(FAILED, due=not job.temporary, reasons=(reason,), changes=not job.temporary)
            if job.data is not None:
                return self._data(job, missing)
        changed = [] if missing == list(job.outputs) else self._changed(job)
        if missing or changed:
            reasons = [f"{path} is missing" for path in missing] if missing != list(job.outputs) else []
            state = STALE if changed else WAITING
            return Verdict(state, due=True, reasons=(*changed, *reasons), changes=True)
        return _DONE

    def _data(self, job: Job, missing: list[str]) -> Verdict:
        """The verdict on prepared data, which no finished result needs: what was never made here is made on demand."""
        record = self._record(job)
        if job.temporary or (record is None and missing):
            return _DONE
        changed = self._changed(job)
        if changed:
            return Verdict(STALE, due=True, reasons=tuple(changed), changes=True)
        if missing:
            return Verdict(WAITING, due=True, reasons=tuple(f"{path} is missing" for path in missing))
        return _DONE

    def wanted(self, job: Job, verdict: Verdict) -> Verdict:
        """The verdict on a job one of whose outputs is missing where a job that is due reads it."""
        state = WAITING if verdict.state == DONE else verdict.state
        return replace(verdict, state=state, due=True, changes=not (job.temporary or self._comes_back(job)))

    def forced(self, job: Job, verdict: Verdict) -> Verdict:
        """The verdict on a job that the command line forces; a cell that is trained is only published again."""
        if verdict.due:
            return replace(verdict, changes=True)
        state = STALE if job.rule == "train" and not self.trained(job) else WAITING
        return Verdict(state, due=True, reasons=(FORCED,), changes=True)

    def outdated(self, job: Job) -> bool:
        """Whether a temporary file that was left behind was made from something else than it would be now."""
        record = self._record(job)
        return record is None or record["state"] != "done" or bool(self._changed(job))

    def _comes_back(self, job: Job) -> bool:
        """Whether prepared data will be what they were when the study's own copy of their manifest was made."""
        passport = self._passports.get(Path(job.data or "").as_posix())
        if passport is None:
            return False
        record = self._record(passport)
        return record is not None and record["state"] == "done" and not self._changed(passport)

    def _record(self, job: Job) -> dict[str, Any] | None:
        assert job.record is not None
        if job.record not in self._records:
            self._records[job.record] = read_record(Path(job.record))
        return self._records[job.record]

    # --- what changed -------------------------------------------------------------------------------------------------

    def _changed(self, job: Job) -> list[str]:
        """The names of the settings and inputs of a job that differ from those that its outputs were made from."""
        if job.rule == "study":
            try:
                return _differences(_json_object(Path(job.outputs[0])), job.settings["study"])
            except RecordError as error:
                return [str(error)]
        if job.rule == "evaluate":
            return self._changed_evaluation(job)
        record = self._record(job)
        if record is None:
            return [NO_RECORD]
        changed = _differences(record["settings"], job.settings)
        inputs = self.jobs.lasting_inputs(job)
        if len(record["inputs"]) != len(inputs) or len(record["own_files"]) != len(job.own_files):
            return changed or ["the list of its inputs"]
        changed += self._changed_inputs(job, record)
        for path, made_from in zip(job.own_files, record["own_files"], strict=True):
            if path not in self._own_files:
                self._own_files[path] = fingerprint(path)
            if self._own_files[path] != made_from:
                changed.append(path)
        return changed

    def _changed_inputs(self, job: Job, record: Mapping[str, Any]) -> list[str]:
        read = zip(self.jobs.lasting_inputs(job), record["inputs"], strict=False)
        return [path for path, made_from in read if self._fingerprint(path) not in (None, made_from)]

    def _fingerprint(self, path: str) -> str | None:
        """The fingerprint of an input: as its job has recorded it, else of the file; None where neither is there."""
        writer = self.jobs.writer(path)
        if writer is not None and writer.record is not None:
            record = self._record(writer)
            # a record that came from elsewhere names other paths
            if record is not None and record["state"] == "done" and path in record["outputs"]:
                return str(record["outputs"][path])
        return fingerprint(path) if Path(path).exists() else None

    def _changed_evaluation(self, job: Job) -> list[str]:
        path = Path(job.outputs[0])
        try:
            record = read_evaluation(path)
            metrics = read_metrics(path.parent / "metrics.json")
        except RecordError as error:
            return [str(error)]
        fits = {name: record[name] for name in ("level", "resamples", "seed")}
        made_from = {"settings": record["settings"], "fits": fits, "code": record["code_digest"]}
        changed = _differences(made_from, job.settings)
        digests = ("config_digest", "data_digest", "subset_digest")
        changed += [f"{name} of the cell" for name in digests if record[name] != metrics[name]]
        made = self._record(job)
        if made is None or made["state"] != "done":
            return changed
        # what the cell reads is in its own digests
        of_cell = self.jobs.of("train", job.wildcards).inputs
        return changed + [path for path in self._changed_inputs(job, made) if path not in of_cell]

    # --- cells --------------------------------------------------------------------------------------------------------

    def _cell(self, job: Job, missing: list[str]) -> Verdict:
        cell = self.cells[job.wildcards["cell"]]
        folder = cell.folder(self.study.root)
        if missing == list(job.outputs) and not os.path.exists(folder):
            return Verdict(WAITING, due=True, changes=True)
        if is_held(folder / "checkpoint" / "lock"):
            return Verdict(RUNNING, due=True, changes=True)
        failure = failure_of(folder)
        if missing == list(job.outputs):
            if failure is not None:
                return Verdict(FAILED, due=True, reasons=(failure,), changes=True)
            trained = (folder / "checkpoint" / "finished" / "complete.json").exists()
            left = ["it is trained, its records are not published yet"] if trained else []
            return Verdict(WAITING, due=True, reasons=tuple(left), changes=True)
        changed = self.changed_cell(job, cell)
        if missing or changed:
            # a pack may have trained it by what holds now: then its old records only wait to be replaced
            stale = changed and not self.trained(job)
            state = FAILED if failure else STALE if stale else WAITING
            reasons = (*([failure] if failure else []), *changed, *(f"{path} is missing" for path in missing))
            return Verdict(state, due=True, reasons=reasons, changes=True)
        return _DONE

    def changed_cell(self, job: Job, cell: Cell) -> list[str]:
        """What differs between a finished cell's records and what the cell would be trained by now."""
        folder = cell.folder(self.study.root)
        try:
            metrics = read_metrics(folder / "metrics.json") if (folder / "metrics.json").exists() else None
            provenance, former = (_json_object(folder / name) for name in ("provenance.json", "config.json"))
        except RecordError as error:
            return [str(error)]
        if metrics is None:
            return []
        digests = {"config": "config_digest", "code": "code_digest", "data": "data_digest"}
        made_by = provenance.get("identity")
        if not isinstance(made_by, dict):
            made_by = {name: metrics[field] for name, field in digests.items()}
        now = {"config": cell.digest, "code": job.settings["code"]}
        # data that are not here, or not whole, can't tell
        with suppress(RecordError, DataError):
            now = cell_identity(cell, self.study.data_dir, job.settings["code"], self._data_digest)
        changed = [name for name, value in now.items() if name in made_by and made_by[name] != value]
        if "config" not in changed:
            return [_CHANGED.get(name, name).format(cell=cell) for name in changed]
        wanted = cell.to_dict()
        for values in (former, wanted):
            for name in ("study", "engine"):
                values.pop(name, None)
        return _differences(former, wanted) or ["config"]

    def trained(self, job: Job) -> bool:
        """Whether a training by the cell's config, code and data is finished, published or not."""
        cell = self.cells[job.wildcards["cell"]]
        try:
            finished = read_json(cell.folder(self.study.root) / "checkpoint" / "finished" / "complete.json")
            now = cell_identity(cell, self.study.data_dir, job.settings["code"], self._data_digest)
        except (RecordError, DataError):
            return False
        return isinstance(finished, dict) and finished.get("identity") == now

    def _data_digest(self, key: str) -> str:
        if key not in self._manifests:
            self._manifests[key] = read_manifest(self.study.data_dir / key)["digest"]
        return self._manifests[key]


# what the digests of a cell's identity are called in messages
_CHANGED = {
    "code": "the code of {cell.family}",
    "data": "the data set {cell.data[name]}",
    "arrays": "the prepared arrays",
}


def failure_of(folder: Path) -> str | None:
    """Why the last attempt at the cell in `folder` failed; None where it did not, or where it can go on."""
    checkpoint = folder / "checkpoint"
    failure = checkpoint / "failure.json"
    if failure.exists():
        try:
            return str(read_json(failure)["reason"])
        except (RecordError, KeyError, TypeError):
            return f"{failure} is damaged"
    # an attempt that left neither a reason nor a state to go on from was killed
    attempted = (checkpoint / "attempts.json").exists()
    if attempted and not any(checkpoint.glob("*-*/complete.json")) and not (checkpoint / "finished").exists():
        return KILLED
    return None


def _json_object(path: Path) -> dict[str, Any]:
    """The JSON object of a file; an empty one where there is no file.

    Raises:
        RecordError: the file is damaged, or holds something else.
    """
    value = read_json(path) if path.exists() else {}
    if not isinstance(value, dict):
        raise RecordError(f"read {path}", type(value).__name__, "delete it: its job will write it again")
    return value


def _differences(former: Any, now: Any, limit: int = 5) -> list[str]:
    """The names of the values that differ, such as `training.learning_rate: 0.008, now 0.009`; at most so many."""
    # as JSON has them: tuples are lists, and keys are texts
    before, after = _flat(json.loads(json.dumps(former))), _flat(json.loads(json.dumps(now)))
    names = [name for name in {**before, **after} if before.get(name, _ABSENT) != after.get(name, _ABSENT)]
    shown = []
    for name in names[:limit]:
        values = [str(values.get(name, "none")) for values in (before, after)]
        known = all(len(value) <= 24 for value in values) and "code" not in name
        shown.append(f"{name}: {values[0]}, now {values[1]}" if known else name)
    return shown + ([f"{len(names) - limit} more"] if len(names) > limit else [])


_ABSENT = object()


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """The leaves of nested mappings by dotted names; lists are leaves."""
    if not isinstance(value, Mapping):
        return {name: value}
    leaves: dict[str, Any] = {}
    for key, inner in value.items():
        leaves.update(_flat(inner, f"{name}.{key}" if name else str(key)))
    return leaves if value else {name: {}}
