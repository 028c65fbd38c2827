"""Time the preparation of molecules against the bare loop of RDKit and selfies, in one run, interleaved.

    python tests/benchmarks/prepare_molecules.py [--rows 200000] [--repeats 5]

Ours is everything from a file of SMILES to shards and manifest: canonical SMILES, fragments, constitutions, SELFIES,
no duplicates in the whole set, splits, vocabulary, tokens, Parquet; in two processes, the start of Python's processes
included. The bare loop holds its rows in memory and keeps nothing; it runs in one process, and in two for the sake of
comparison. Writes `results/benchmarks/data.json`.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from chemscale.config import Molecules
from chemscale.data import assemble, molecule_files, molecules, sources
from chemscale.data.pool import ordered_map
from chemscale.study import data_settings

sys.path.insert(0, str(Path(__file__).parent))
from bare_loop import bare_loop
from rows import timed_row, write_rows


def sample(case: str, count: int, cache: Path) -> list[str]:
    """Rows of a published source, drawn with a fixed seed, in the source's order."""
    section = {"kind": "molecules", "source": case, "path": None, "column": None}
    located = sources.locate(section, cache, {"offline": False, "mirror": None})
    rows = [row for row in molecule_files.read(located) if isinstance(row, str) and row]
    chosen = sorted(random.Random(2026).sample(range(len(rows)), min(count, len(rows))))
    return [rows[index] for index in chosen]


def prepare(rows: list[str], folder: Path, workers: int) -> float:
    """Seconds from a file of SMILES to shards and manifest."""
    file = folder / "rows.smi"
    file.write_text("\n".join(rows) + "\n")
    keys = {"kind": "molecules", "source": "file", "path": str(file), "validation": 0.01, "test": 0.04}
    section = data_settings(Molecules(**keys).model_dump(mode="json")) | {"max_reject_share": 0.2}
    begun = time.perf_counter()
    located = sources.locate(section, folder / "cache", {"offline": True, "mirror": None})
    marker = folder / "out" / "chunk.json"
    molecules.prepare(section, folder / "out", located, "benchmark", (0, 1), workers, marker)
    assemble.prepare(section, folder / "out", [marker], "benchmark", workers)
    return time.perf_counter() - begun


def bare(rows: list[str], workers: int) -> float:
    """Seconds of the bare loop in so many processes, each with an equal part of the rows."""
    parts = [rows[first::workers] for first in range(workers)]
    begun = time.perf_counter()
    sum(ordered_map(bare_loop, parts, workers))
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cases", nargs="+", default=["moses", "chemicals"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        for case in options.cases:
            rows = sample(case, options.rows, Path(scratch) / "sources")
            rates: dict[str, list[float]] = {"ours": [], "one": [], "two": []}
            for repeat in range(options.repeats):
                folder = Path(scratch) / f"{case}-{repeat}"
                folder.mkdir()
                rates["ours"].append(len(rows) / prepare(rows, folder, 2))
                rates["one"].append(len(rows) / bare(rows, 1))
                rates["two"].append(len(rows) / bare(rows, 2))
                print(case, repeat, {name: round(found[-1]) for name, found in rates.items()}, flush=True)
            settings = {"rows": len(rows), "processes": 2}
            what = "prepare molecules"
            write_rows(
                "data.json",
                [
                    timed_row(
                        what,
                        case,
                        peer,
                        rates["ours"],
                        rates[name],
                        unit="molecules/s",
                        target=1.7 if name == "one" else None,
                        settings=settings,
                    )
                    for name, peer in (("one", "bare loop, one core"), ("two", "bare loop, two cores"))
                ],
            )


if __name__ == "__main__":
    main()
