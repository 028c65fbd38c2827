"""Make molecules in any number: random point mutations of MOSES molecules in SELFIES, valid by construction.

    python tests/benchmarks/mutants.py FOLDER OUT.smi 10000000 [--workers 2]

FOLDER holds a prepared MOSES data set, anywhere below it. Line k depends on k and the molecules alone: the same file
for every number of workers, and the first lines of a longer file are those of a shorter one. Ten million take about a
quarter of an hour on two cores.
"""

from __future__ import annotations

import argparse
import sys
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq

from chemscale.data.pool import ordered_map
from chemscale.data.tokenizer import symbols
from chemscale.io import atomic_path

# a worker process finds the function by its module's name, which a script has not
sys.path.insert(0, str(Path(__file__).parent))
from mutation import LINES, mutate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("lines", type=int)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    files = sorted(options.folder.rglob("shards/*.parquet"))
    alphabet = sorted({symbol for text in _texts(files[:1]) for symbol in symbols(text)})

    def tasks():
        endless = (text for _ in iter(int, 1) for text in _texts(files))
        left = options.lines
        number = 0
        while left > 0:
            strings = list(islice(endless, min(LINES, left)))
            yield number, strings, tuple(alphabet)
            left, number = left - len(strings), number + 1

    with atomic_path(options.out) as temporary, open(temporary, "w", encoding="ascii") as out:
        for text in ordered_map(mutate, tasks(), options.workers):
            out.write(text)


def _texts(files: list[Path]):
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(columns=["selfies"]):
            yield from batch["selfies"].to_pylist()


if __name__ == "__main__":
    main()
