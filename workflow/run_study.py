"""`make run`: the study from nothing to the audited report, its progress, its cost and its answer.

Two runs of Snakemake: packs, in which cells of seconds share a process, then everything. A run that began with no data
and no cell leaves its wall time and peak memory in results/benchmarks/workflow.json. SIGTERM, SIGHUP and SIGUSR1 are
handed on to the cells, which leave checkpoints; the run then ends with exit code 75 and the same command continues it.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil

from chemscale.audit.run import audit_command
from chemscale.errors import ChemscaleError, ConfigError, Stopped
from chemscale.io import read_json, write_json
from chemscale.planning.due import judge, untrained
from chemscale.planning.jobs import jobs_of
from chemscale.planning.retrain import VARIABLE, confirm, retraining
from chemscale.provenance import machine, versions
from chemscale.reporting.figures import draw
from chemscale.reporting.page import render
from chemscale.reporting.summary import summary
from chemscale.study import Study, load_study

BENCHMARK = Path("results/benchmarks/workflow.json")
# who works in this folder: Snakemake's own lock does not say, and stays when its process is killed
RECORD = Path(".snakemake/chemscale-run.json")
LOCKS = Path(".snakemake/locks")
DONE = re.compile(r"\bdone (cells|controls)/")
# Snakemake's account of its own doings; what goes wrong has other words and is shown
CHATTER = re.compile(
    r"\s*$|SNAKEMAKE$|=+$|  [A-Z][\w ()]*: |Assuming unrestricted|Building DAG|Using shell|Select jobs|"
    r"Execute \d+ jobs|Nothing to be done|Complete log|Provided cores|Rules claiming more|"
    r"Conda environments: ignored|host: |Elapsed time: "
)
# a cell writes its checkpoint and ends; the first stages of data go on after their last whole run
STOPPABLE = re.compile(r"\.(train_pack|read|simulate|assemble)\.py$|^chemscale\.training\.launch$")
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def main(arguments: list[str] | None = None) -> int:
    """Run the study; the exit code: 0 done and audited, 2 a wrong config, 75 stopped, else 1."""
    parser = argparse.ArgumentParser(description="Run a study from nothing to its audited report.")
    parser.add_argument("--cores", type=int, default=2, help="processor cores to use")
    parser.add_argument("--configfile", default="config.yaml", help="the study's YAML file")
    asked = parser.parse_args(arguments)
    try:
        return run(load_study(asked.configfile), asked.configfile, asked.cores)
    except ChemscaleError as error:
        print(f"chemscale: {error}", file=sys.stderr)
        return error.exit_code


def run(study: Study, configfile: str, cores: int) -> int:
    """Both runs of Snakemake, the cost of a run from nothing, and the summary; returns the exit code."""
    fresh = from_nothing(study)
    jobs = jobs_of(study)
    # Snakemake's own process has no terminal to ask at
    confirm(retraining(jobs, judge(jobs)), study.path)
    begun = time.monotonic()
    with peak_memory() as peak, at_work():
        code = snakemake(study, configfile, cores, "packs")
        # a pack that fails is no reason to stop: the cells' own jobs try again and name what is wrong
        if code != ConfigError.exit_code:
            code = snakemake(study, configfile, cores, "all")
    wall = time.monotonic() - begun
    if code == ConfigError.exit_code:
        return code
    if code != 0:
        hint = "" if configfile == "config.yaml" else f" --config {shlex.quote(configfile)}"
        print(f"the study is not complete; what failed, and why: .venv/bin/chemscale status{hint}", file=sys.stderr)
        return 1
    if fresh:
        record(study, cores, wall, peak[0])
    # made anew: the workflow's own audit does not see what was changed since, where nothing had to be run again
    _, verdict = audit_command(study.root, render, draw)
    print(f"\n{summary(study.root, verdict)}")
    return 0 if verdict["verdict"] == "ok" else 1


@contextmanager
def at_work() -> Iterator[None]:
    """Note down that this process works in this folder; and take away the locks of one that noted it and was killed.

    Locks of a Snakemake that was started by hand, or on another machine, are left to their owner.
    """
    former = read_json(RECORD) if RECORD.exists() else None
    if former is not None and former["host"] == platform.node() and not working(former["pid"]):
        for lock in LOCKS.glob("*"):
            lock.unlink()
    write_json(RECORD, {"host": platform.node(), "pid": os.getpid()})
    try:
        yield
    finally:
        RECORD.unlink()


def working(pid: int) -> bool:
    """Whether that process, or any Snakemake in this folder, is alive."""
    for process in psutil.process_iter():
        words = command_line(process)
        if process.pid == pid and any(word.endswith("run_study.py") for word in words):
            return True
        try:
            if "snakemake" in words and Path(process.cwd()) == Path.cwd():
                return True
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue  # it has ended, or is somebody else's
    return False


def from_nothing(study: Study) -> bool:
    """Whether no data set of the study is prepared and no cell of it is done."""
    data = [study.data_folder(name) / "manifest.json" for name in study.config.data]
    cells = [cell.folder(study.root) / "metrics.json" for cell in study.cells + study.controls]
    return not any(path.exists() for path in data + cells)


def snakemake(study: Study, configfile: str, cores: int, target: str) -> int:
    """One run of Snakemake; prints stages as they start, cells as they finish, and what goes wrong."""
    command = [sys.executable, "-m", "snakemake", target, "--cores", str(cores), "--keep-going"]
    command += ["--rerun-incomplete", "--quiet", "progress", "rules", "reason", f"--configfile={configfile}"]
    jobs = jobs_of(study)
    left = len(untrained(jobs, judge(jobs)))
    print(f"{time.strftime('%H:%M:%S')} {target}: {left} of {len(jobs.training)} cells to train", flush=True)
    # asked and answered before, where there was a terminal to ask at
    environment = os.environ | {VARIABLE: "yes"}
    stopped = Event()
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None

        def stop(number: int, frame: object) -> None:
            stopped.set()
            process.terminate()  # Snakemake starts nothing more and waits for its jobs
            for job in psutil.Process(process.pid).children(recursive=True):
                if any(STOPPABLE.search(argument) for argument in command_line(job)):
                    job.send_signal(signal.SIGTERM)

        former = {number: signal.signal(number, stop) for number in SIGNALS}
        try:
            for line in process.stdout:
                if DONE.search(line):
                    left -= 1
                    line = f"{line.rstrip()}  {max(left, 0)} left\n"
                if not CHATTER.match(line):
                    print(line, end="", flush=True)
        except KeyboardInterrupt:
            # the terminal has sent Snakemake the same signal; it ends its jobs and itself, and may have more to say
            print(process.stdout.read(), end="", flush=True)
            raise
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)
    if stopped.is_set():
        raise Stopped("stopped by a signal; cells in training left checkpoints: the same command continues")
    return process.returncode


def command_line(process: psutil.Process) -> list[str]:
    """The words of a process's command; none where it has ended."""
    try:
        words: list[str] = process.cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return []
    return words


@contextmanager
def peak_memory(interval: float = 0.5) -> Iterator[list[int]]:
    """The largest memory that this process and its descendants held at once, in bytes, sampled every `interval` s.

    Shared pages are counted once (proportional set size). The list's one element holds the peak so far.
    """
    peak, over = [0], Event()
    here = psutil.Process()

    def sample() -> None:
        while not over.wait(interval):
            held = 0
            for process in [here, *here.children(recursive=True)]:
                try:
                    held += process.memory_full_info().pss
                except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                    continue  # it ended between the listing and the question
            peak[0] = max(peak[0], held)

    thread = Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def record(study: Study, cores: int, wall: float, peak: int) -> None:
    """Write the run's wall time and peak memory to the benchmarks, in place of this study's former rows."""
    cells = len(study.cells + study.controls) - len(study.waived)
    common = {
        "case": study.name,
        "peer": None,
        "theirs": None,
        "ratio": None,
        "ratio_min": None,
        "ratio_max": None,
        "target": None,
        "repeats": 1,
        "settings": {"cores": cores, "cells": cells, "from": "no data, no cells"},
        "machine": machine(),
        "versions": versions(),
    }
    rows: list[dict[str, Any]] = [
        {"what": "make run", "ours": round(wall, 1), "unit": "s", **common},
        {"what": "make run peak memory", "ours": round(peak / 1e9, 3), "unit": "GB", **common},
    ]
    made = {(row["what"], row["case"]) for row in rows}
    kept = read_json(BENCHMARK) if BENCHMARK.exists() else []
    write_json(BENCHMARK, [row for row in kept if (row["what"], row["case"]) not in made] + rows)
    print(f"wall time {wall / 60:.1f} minutes, peak memory {peak / 1e9:.2f} GB")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
