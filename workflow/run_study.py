"""`make run`: the study from nothing to the audited report, its progress, its cost and its answer.

Two runs of Snakemake: packs, in which cells of seconds share a process, then everything. A run that began with no data
and no cell leaves its wall time and peak memory in results/benchmarks/workflow.json.
"""

from __future__ import annotations

import argparse
import re
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

from chemscale.errors import ChemscaleError, ConfigError
from chemscale.io import read_json, write_json
from chemscale.provenance import machine, versions
from chemscale.reporting.summary import summary
from chemscale.study import Study, load_study

BENCHMARK = Path("results/benchmarks/workflow.json")
DONE = re.compile(r"\bdone (cells|controls)/")


def main(arguments: list[str] | None = None) -> int:
    """Run the study; returns 0 where every stage is done and the audit holds, 2 for a wrong config, else 1."""
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
    begun = time.monotonic()
    with peak_memory() as peak:
        code = snakemake(study, configfile, cores, "packs")
        # a pack that fails is no reason to stop: the cells' own jobs try again and name what is wrong
        if code != ConfigError.exit_code:
            code = snakemake(study, configfile, cores, "all")
    wall = time.monotonic() - begun
    if code == ConfigError.exit_code:
        return code
    if code != 0:
        hint = "" if configfile == "config.yaml" else f" --config {configfile}"
        print(f"the study is not complete; what failed, and why: .venv/bin/chemscale status{hint}", file=sys.stderr)
        return 1
    if fresh:
        record(study, cores, wall, peak[0])
    print(f"\n{summary(study.root)}")
    return 0 if read_json(study.root / "audit" / "audit.json")["verdict"] == "ok" else 1


def from_nothing(study: Study) -> bool:
    """Whether no data set of the study is prepared and no cell of it is done."""
    data = [study.data_folder(name) / "manifest.json" for name in study.config.data]
    cells = [cell.folder(study.root) / "metrics.json" for cell in study.cells + study.controls]
    return not any(path.exists() for path in data + cells)


def snakemake(study: Study, configfile: str, cores: int, target: str) -> int:
    """One run of Snakemake; prints stages as they start, cells as they finish, and what goes wrong."""
    command = [sys.executable, "-m", "snakemake", target, "--cores", str(cores), "--keep-going"]
    command += ["--rerun-incomplete", "--quiet", "all", f"--configfile={configfile}"]
    cells = [cell.folder(study.root) for cell in study.cells + study.controls if cell.path not in study.waived]
    left = sum(not (folder / "checkpoint/finished/complete.json").exists() for folder in cells)
    print(f"{time.strftime('%H:%M:%S')} {target}: {left} of {len(cells)} cells to train", flush=True)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None

        def stop(number: int, frame: object) -> None:
            process.terminate()

        former = signal.signal(signal.SIGTERM, stop)
        try:
            for line in process.stdout:
                if DONE.search(line):
                    left -= 1
                    line = f"{line.rstrip()}  {max(left, 0)} left\n"
                print(line, end="", flush=True)
        except KeyboardInterrupt:
            # the terminal has sent Snakemake the same signal; it ends its jobs and itself
            process.wait()
            raise
        finally:
            signal.signal(signal.SIGTERM, former)
    return process.returncode


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
