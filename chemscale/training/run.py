"""A cell's entry point: train it if need be, publish its records, leave a reason where it fails.

`run_cell` is re-entrant: many cells share a process with the same bits as alone, and one cell's failure leaves the
others be. A cell whose finished records already wait in its `checkpoint/` folder is published without training.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from chemscale.cost.passes import spares_memory
from chemscale.errors import ChemscaleError, DivergedError, LockedError, Stopped
from chemscale.grid import Cell
from chemscale.io import read_json, write_json
from chemscale.records import read_metrics
from chemscale.training.checkpoint import record_failure
from chemscale.training.job import Datasets, Job
from chemscale.training.ranks import Ranks, joined

_LOOPS = {"language": "chemscale.training.lm", "potentials": "chemscale.training.potential"}


class StopRequest:
    """SIGTERM and SIGUSR1 ask the running cell to checkpoint and stop; True once one has come."""

    def __init__(self) -> None:
        self._asked = threading.Event()

    def __call__(self) -> bool:
        """Whether a signal has asked to stop."""
        return self._asked.is_set()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked.set()

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Handle the signals within the block, and put the former handlers back."""
        former = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGUSR1)}
        try:
            yield self
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)


def run_cell(
    cell: Cell,
    root: Path,
    datasets: Datasets,
    code: str,
    log: logging.Logger,
    should_stop: Callable[[], bool],
    publish: bool = True,
    ranks: Ranks | None = None,
) -> bool:
    """Bring one cell to its records; returns whether it was trained now (False: records were waiting).

    Args:
        cell: the cell's resolved spec.
        root: the study's folder.
        datasets: prepared data, shared by the cells of a process.
        code: digest of the code that decides the cell's bits.
        log: where lines about this cell go.
        should_stop: asked after every step.
        publish: copy the records from `checkpoint/` to the cell's folder.
        ranks: the processes that train the cell together; one alone where none are named.

    Raises:
        Stopped: a signal stopped the cell, which continues from its checkpoint next time.
        ChemscaleError: the cell failed; the reason also stands in `checkpoint/failure.json`.
    """
    ranks = ranks or Ranks()
    try:
        job = Job(cell, root, datasets, code, log, should_stop, ranks)
        with _held(job):
            trained = bool(ranks.told_by_first(ranks.writes and not job.checkpoint.finished()))
            if trained:
                _train(job, job.checkpoint.start_attempt() if ranks.writes else 0)
            if ranks.writes:
                # a finished cell keeps its weights alone; the run that finished it may have died before this
                job.checkpoint.drop_states("step", "validated", "retry")
                if job.shared is not None:
                    job.shared.drop_if_done()
            if publish and ranks.writes:
                job.checkpoint.publish(job.folder)
    except (Stopped, LockedError):
        raise
    except Exception as error:
        # whatever it was, status and report need the reason; the error itself goes on
        record_failure(cell.folder(root) / "checkpoint", error)
        raise
    return trained


@contextmanager
def _held(job: Job) -> Iterator[None]:
    """Hold the cell within the block; where another process holds it, every rank is refused alike."""
    refused: LockedError | None = None
    with ExitStack() as stack:
        if job.ranks.writes:
            try:
                stack.enter_context(job.checkpoint.lock())
            except LockedError as error:
                refused = error
        if job.ranks.told_by_first(refused is not None):
            raise refused or LockedError("the first rank was refused the cell")
        yield


def _train(job: Job, attempts: int) -> None:
    import torch

    _allocate(sparing=spares_memory(job.cell))
    # the number of threads decides the bits of sums, so it comes from the cell and not from the machine
    torch.set_num_threads(job.cell.threads)
    loop = importlib.import_module(_LOOPS[job.cell.domain])
    try:
        loop.train(job, attempts)
    except DivergedError as error:
        if not job.take_back(error):
            raise
        loop.train(job, attempts)


def prepare_memory(cells: Iterable[Cell]) -> None:
    """Let torch ask for pages of 2 MB where cells give large blocks back; before its import, since it asks once.

    With them a step of width 512 takes 2 to 7 % longer than with blocks that are kept, without them 40 %.
    """
    if any(map(spares_memory, cells)):
        os.environ["THP_MEM_ALLOC_ENABLE"] = "1"


def _allocate(sparing: bool) -> None:
    """Let glibc keep what is freed, or, `sparing`, give large blocks back.

    A step frees and asks anew for the same blocks, and fresh pages cost it up to half of its time where blocks are
    small. But what is kept is poorly used: torch's blocks are aligned, for which glibc asks for more than they take, so
    that a hole between two others does not fit its former block.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):  # elsewhere than on glibc there is nothing to set
        return
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3
    large = 2**20 if sparing else 32 * 2**20
    spare = 2**17 if sparing else 64 * 2**20
    for option, size in ((mmap_threshold, large), (trim_threshold, 2**31 - 1), (top_pad, spare)):
        libc.mallopt(option, size)


def main(cell: dict[str, Any], root: str, data_dir: str, code: str, log_file: str) -> None:
    """Train one cell as a job of its own and publish its records; the process ends with the error's exit code.

    Where a launcher started several ranks, this is what each of them runs.
    """
    spec = Cell.from_dict(cell)
    prepare_memory([spec])
    log = _logger(Path(log_file))
    ranks = Ranks()
    try:
        with StopRequest().listening() as stop, joined() as ranks:
            datasets = Datasets(Path(data_dir))
            trained = run_cell(spec, Path(root), datasets, code, log, stop, ranks=ranks) and ranks.writes
    except Exception as error:
        log.exception("%s failed", spec.path)
        # what ends all ranks alike is said once
        if ranks.writes or not isinstance(error, Stopped | LockedError):
            sys.stderr.write(
                f"{spec.path}: {error if isinstance(error, ChemscaleError) else repr(error)} (log: {log_file})\n"
            )
        sys.exit(error.exit_code if isinstance(error, ChemscaleError) else 1)
    if trained:
        print(_line(spec, Path(root)), flush=True)


def main_pack(
    cells: list[dict[str, Any]], root: str, data_dir: str, codes: dict[str, str], marker: str, log_file: str
) -> None:
    """Train many cells in one process, each into its `checkpoint/` folder; a failed cell leaves the others be.

    The marker says which cells are done and which failed; the cells' own jobs publish the records, and try the failed
    ones once more, so that each failure is a failed job with its own reason.
    """
    log = _logger(Path(log_file))
    datasets = Datasets(Path(data_dir))
    failed: dict[str, str] = {}
    specs = [Cell.from_dict(values) for values in cells]
    prepare_memory(specs)
    with StopRequest().listening() as stop:
        for number, spec in enumerate(specs, 1):
            try:
                trained = run_cell(spec, Path(root), datasets, codes[spec.family], log, stop, publish=False)
            except Stopped as error:
                sys.stderr.write(f"{error}\n")
                sys.exit(error.exit_code)
            except Exception as error:
                failed[spec.path] = f"{type(error).__name__}: {error}"
                log.exception("%s failed", spec.path)
                print(f"FAILED {spec.path}: {error}", flush=True)
                continue
            if trained:
                print(f"{_line(spec, Path(root))}  [{number}/{len(specs)} of this pack]", flush=True)
    write_json(Path(marker), {"cells": [spec.path for spec in specs], "failed": failed})


def _line(cell: Cell, root: Path) -> str:
    """A finished cell in one line: loss and time."""
    finished = cell.folder(root) / "checkpoint" / "finished"
    metrics, provenance = read_metrics(finished / "metrics.json"), read_json(finished / "provenance.json")
    return (
        f"{time.strftime('%H:%M:%S')} done {cell.path}: test loss {metrics['test_loss']:.4g} {metrics['loss_unit']}"
        f" in {provenance['wall_s']:.0f} s"
    )


def _logger(path: Path) -> logging.Logger:
    path.parent.mkdir(parents=True, exist_ok=True)
    log = logging.getLogger(f"chemscale.{path.stem}")
    log.setLevel(logging.INFO)
    log.propagate = False
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    return log
