"""Prepare MOSES and ten million made molecules as a study does, and hold the pipeline to its promises.

    python tests/benchmarks/scale.py moses             # half an hour on two cores
    python tests/benchmarks/scale.py mutants FILE.smi  # some 40 minutes; the file comes from mutants.py

`moses`: all molecules from the wheel to shards and passport, by two workers, by one, and by two that are killed
(`kill -9`, the whole process tree) while they read, merge and write shards: the same bytes each time, and at most
1.5 GB of memory, Snakemake included.
`mutants`: the first million lines and all ten: at least nine million stay distinct, and the peak of memory grows by at
most a tenth. Writes `results/benchmarks/memory.json`, and exits with 1 where a promise is broken.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import yaml

from chemscale.io import sha256_file
from chemscale.study import load_study

sys.path.insert(0, str(Path(__file__).parent))
from rows import timed_row, write_rows

ROOT = Path(__file__).resolve().parents[2]
SCRATCH = ROOT / "data" / "scale"
LIMIT_GB = 1.5
GROWTH = 1.1


# files whose number says how far a run has come: within reading, merging, and writing shards
MOMENTS = (("run-*.arrow", 60), ("merged-*.arrow", 5), ("shard-*.json", 10))


def prepare(name: str, section: dict[str, Any], kills: bool = False) -> tuple[Path, float, float]:
    """Prepare a data set in a folder of its own by Snakemake: that folder, seconds, and the peak of memory in GB.

    With `kills`, the whole process tree is killed at each of `MOMENTS` and started again; the seconds are those of all
    attempts.
    """
    folder = SCRATCH / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    base = yaml.safe_load((ROOT / "studies" / "moses.yaml").read_text())
    base |= {"study": name, "data_dir": str(folder / "data"), "results_dir": str(folder / "results")}
    base["data"] = {"molecules": section}
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(base))
    made = folder / "data" / load_study(config).data_key("molecules")
    targets = [made / "arrays" / "arrays.json", folder / "results" / name / "data" / "molecules" / "passport.json"]
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--nolock", "--rerun-incomplete"]
    command += ["--configfile", str(config), "--", *map(str, targets)]
    wall = peak = 0.0
    for attempt, moment in enumerate([*(MOMENTS if kills else ()), None]):
        killed, seconds, held = watch(command, made, moment, folder / f"attempt{attempt}.log")
        if killed != (moment is not None):
            sys.exit(f"{name}: attempt {attempt} was {'killed' if killed else 'never killed'}; see {folder}")
        wall, peak = wall + seconds, max(peak, held)
    if not all(target.exists() for target in targets):
        sys.exit(f"{name}: Snakemake did not finish; see {folder}")
    return made, wall, peak / 1e9


def watch(command: list[str], made: Path, moment: tuple[str, int] | None, log: Path) -> tuple[bool, float, int]:
    """Run a command, killed at its moment if it has one: whether it was, seconds and peak memory of its process tree.

    Memory is the proportional set size, sampled twice a second: shared pages count once.
    """
    begun, peak, killed = time.monotonic(), 0, False
    with open(log, "w") as stream:
        process = subprocess.Popen(command, cwd=ROOT, stdout=stream, stderr=stream, start_new_session=True)
        tree = psutil.Process(process.pid)
        while process.poll() is None:
            held = 0
            for one in [tree, *children(tree)]:
                try:
                    held += one.memory_full_info().pss
                except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                    continue  # it ended between the listing and the question
            peak = max(peak, held)
            if moment is not None and not killed and len(list((made / "work").rglob(moment[0]))) >= moment[1]:
                os.killpg(process.pid, signal.SIGKILL)
                killed = True
            time.sleep(0.5 if moment is None else 0.05)
    return killed, time.monotonic() - begun, peak


def children(process: psutil.Process) -> list[psutil.Process]:
    """The descendants of a process; none where it has ended."""
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def content(folder: Path) -> dict[str, str]:
    """The sha256 of every file that a data folder keeps."""
    kept = ["manifest.json", "tokenizer.json", "shards", "arrays"]
    files = [path for name in kept for path in ([folder / name] if (folder / name).is_file() else folder.rglob("*"))]
    return {
        str(path.relative_to(folder)): sha256_file(path)
        for path in files
        if path.is_file() and path.relative_to(folder).parts[0] in kept
    }


def row(what: str, case: str, value: float, unit: str, target: float | None, **settings: Any) -> dict[str, Any]:
    return timed_row(what, case, None, [value], None, unit=unit, target=target, settings=settings)


def moses() -> list[str]:
    section = {"kind": "molecules", "source": "moses", "max_symbols": 64, "validation": 0.002, "test": 0.005}
    broken, rows, contents = [], [], {}
    for name, workers, kills in (("two_workers", 2, False), ("killed", 2, True), ("one_worker", 1, False)):
        folder, wall, peak = prepare(f"moses_{name}", {**section, "workers": workers}, kills)
        contents[name] = content(folder)
        manifest = json.loads((folder / "manifest.json").read_text())
        settings = {"rows": manifest["rows_in"], "kept": manifest["rows_kept"], "workers": workers, "kills": 3 * kills}
        print(f"{name}: {wall:.0f} s, {peak:.2f} GB, {settings}", flush=True)
        rows.append(row("prepare all of moses, peak memory", name, round(peak, 3), "GB", LIMIT_GB, **settings))
        if manifest["rows_in"] != 1_936_962:
            broken.append(f"{name}: {manifest['rows_in']:,} rows instead of 1,936,962")
        if peak > LIMIT_GB:
            broken.append(f"{name}: {peak:.2f} GB")
        if contents[name] != contents["two_workers"]:
            broken.append(f"{name}: other bytes than the undisturbed run of two workers")
    write_rows("memory.json", rows)
    return broken


def mutants(file: Path) -> list[str]:
    broken, rows, peaks = [], [], {}
    for case, lines in (("1,000,000", 1_000_000), ("10,000,000", 10_000_000)):
        part = SCRATCH / f"mutants{lines}.smi"
        part.parent.mkdir(parents=True, exist_ok=True)
        with open(file) as source, open(part, "w") as target:
            for _, line in zip(range(lines), source, strict=False):
                target.write(line)
        section = {"kind": "molecules", "source": "file", "path": str(part), "validation": 0.002, "test": 0.005}
        folder, wall, peaks[lines] = prepare(f"mutants_{lines}", section)
        manifest = json.loads((folder / "manifest.json").read_text())
        settings = {"rows": manifest["rows_in"], "kept": manifest["rows_kept"], "rejected": manifest["rejected"]}
        print(f"{case}: {wall:.0f} s, {peaks[lines]:.3f} GB, {settings}", flush=True)
        rows.append(row("prepare mutants, peak memory", case, round(peaks[lines], 3), "GB", None, **settings))
        if lines == 10_000_000 and manifest["rows_kept"] < 9_000_000:
            broken.append(f"only {manifest['rows_kept']:,} molecules stayed")
    growth = peaks[10_000_000] / peaks[1_000_000]
    rows.append(row("prepare mutants, growth of the peak", "10,000,000 to 1,000,000", round(growth, 3), "", GROWTH))
    if growth > GROWTH:
        broken.append(f"the peak grows {growth:.2f} times")
    write_rows("memory.json", rows)
    return broken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["moses", "mutants"])
    parser.add_argument("file", type=Path, nargs="?")
    options = parser.parse_args()
    broken = moses() if options.what == "moses" else mutants(options.file)
    for promise in broken:
        print(f"broken: {promise}", file=sys.stderr)
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
