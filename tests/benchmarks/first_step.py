"""Train a cell for one step and print the time at which it has ended, in seconds since 1970.

python tests/benchmarks/first_step.py JOB, a JSON object of cell, root and data_dir.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path

from chemscale.errors import Stopped
from chemscale.grid import Cell
from chemscale.training.job import Datasets
from chemscale.training.run import run_cell


def _should_stop() -> bool:
    print(time.time(), flush=True)
    return True


if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    cell, datasets = Cell.from_dict(job["cell"]), Datasets(Path(job["data_dir"]))
    try:
        run_cell(cell, Path(job["root"]), datasets, "benchmark", logging.getLogger("benchmark"), _should_stop)
    except Stopped:
        sys.exit(0)
