"""Compare the model of a training run's memory with the measured peaks of every rank.

    python tests/benchmarks/memory.py [--cases w256_plain ...]

Each case is a cell that is trained for three steps on made-up molecules of a given length, as a study trains it:
validations, a checkpoint after every step, test and records included. Every rank tells its resident memory after
imports and before the model, and its peak from there to the end. The model (`chemscale.cost.memory`) has to be within
15 % of the peak above that base, and never below it by more than 5 %. Writes `results/benchmarks/memory.json`, and
exits with 1 where a case is outside.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from chemscale.config import LanguageEngine, LanguageTraining, LearningRate
from chemscale.cost.engine import plain
from chemscale.cost.memory import language_memory
from chemscale.families import FAMILIES
from chemscale.grid import Cell
from chemscale.training.job import Datasets
from chemscale.training.ranks import joined
from chemscale.training.run import prepare_memory, run_cell

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "benchmarks")]
KEY = "made"
SYMBOLS = 600  # of the vocabulary, which has four special tokens besides
STEPS = 3
ABOVE, BELOW = 0.15, 0.05  # what the model may be above and below a peak

_W256 = {"layers": 8, "width": 256, "heads": 16}
_W512 = {"layers": 8, "width": 512, "heads": 16}
_W768 = {"layers": 12, "width": 768, "heads": 12}
_W768_DEEP = {"layers": 24, "width": 768, "heads": 16}
_W1024 = {"layers": 24, "width": 1024, "heads": 16}
_TWO = {"ranks": 2}
# of each case: the family, its knobs, tokens of a molecule and of a step's batch, precision, average and engine
CASES: dict[str, tuple[str, dict[str, int], int, int, str, float, dict[str, Any]]] = {
    "w256": ("chemgpt", _W256, 30, 2048, "fp32", 0.0, {}),
    "w256 recompute": ("chemgpt", _W256, 30, 8192, "fp32", 0.9, {"recompute": True}),
    "w512 small": ("chemgpt", _W512, 30, 2048, "fp32", 0.9, {}),
    "w512": ("chemgpt", _W512, 30, 4096, "fp32", 0.0, {}),
    "w512 bf16": ("chemgpt", _W512, 120, 10240, "bf16", 0.0, {}),
    "w512 very long": ("chemgpt", _W512, 300, 4096, "fp32", 0.9, {}),
    "modern": ("chemgpt_modern", _W512, 120, 4096, "fp32", 0.0, {}),
    "modern bf16 recompute": ("chemgpt_modern", _W512, 30, 8192, "bf16", 0.9, {"recompute": True}),
    "w768 recompute": ("chemgpt", _W768_DEEP, 120, 1024, "fp32", 0.9, {"recompute": True}),
    "two ranks": ("chemgpt", _W512, 30, 8192, "fp32", 0.0, _TWO | {"micro_tokens": 3000}),
    "zero 1": ("chemgpt", _W512, 30, 4096, "fp32", 0.0, _TWO | {"zero": 1}),
    "zero 2": ("chemgpt", _W768, 120, 2560, "fp32", 0.0, _TWO | {"zero": 2}),
    "zero 2 bf16": ("chemgpt_modern", _W768, 120, 2048, "bf16", 0.9, _TWO | {"zero": 2, "recompute": True}),
    "zero 3": ("chemgpt", _W768_DEEP, 30, 1024, "fp32", 0.9, _TWO | {"zero": 3, "recompute": True}),
    "zero 3 bf16": ("chemgpt", _W768, 30, 5120, "bf16", 0.0, _TWO | {"zero": 3}),
    "w1024 zero 3": ("chemgpt", _W1024, 30, 512, "fp32", 0.0, _TWO | {"zero": 3, "recompute": True}),
    "zero 3 offload": ("chemgpt", _W512, 30, 2048, "bf16", 0.0, _TWO | {"zero": 3, "offload": True}),
}


def prepare(write_data: Callable[..., dict[str, Any]], folder: Path, length: int, batch_tokens: int) -> int:
    """Write a data set of molecules of `length` tokens, [CLS] and [SEP] included; the number of training molecules."""
    random = np.random.default_rng(0)
    train = STEPS * (batch_tokens // (length - 1))
    other = 1 + 4500 // length  # more than an evaluation batch holds, of each of the other splits
    rows = []
    for number in range(train + 2 * other):
        symbols = random.integers(0, SYMBOLS, length - 2)
        symbols[0] = number % SYMBOLS
        split = "train" if number < train else "validation" if number < train + other else "test"
        selfies = "".join(f"[S{symbol}]" for symbol in symbols)
        rows.append({"smiles": f"{number}", "selfies": selfies, "group": f"{number}", "split": split})
    write_data(folder, rows, draws=[(0, train)], rows_per_shard=100_000)
    return train


def made_cell(case: str, samples: int) -> Cell:
    """The cell of a case."""
    family, knobs, _, batch_tokens, precision, average, engine = CASES[case]
    training = LanguageTraining(
        learning_rate=LearningRate(at_reference=1e-3, reference=1, power=0),
        batch_tokens=batch_tokens,
        precision=precision,
        average=average,
        validations=2,
    )
    settings = LanguageEngine(device="cpu", checkpoint_seconds=1e-3, **engine).model_dump(exclude={"memory_gb"})
    return Cell(
        study="memory",
        family=family,
        size=f"w{knobs['width']}",
        num_samples=samples,
        seed=0,
        control=None,
        domain=FAMILIES[family].domain,
        knobs=knobs,
        protocol={"kind": "equal_steps", "steps": STEPS},
        training=training.model_dump(mode="json") | {"learning_rate": 1e-3},
        data={"name": KEY, "key": KEY, "evaluations": {}},
        threads=1,
        engine=plain(settings),
    )


# --- the ranks --------------------------------------------------------------------------------------------------------


def resident(kind: str) -> int:
    """Bytes of this process by a line of its status: VmRSS, what is resident, or VmHWM, the most that was."""
    found = re.search(rf"^{kind}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None, kind
    return 1024 * int(found[1])


def be_a_rank(cell: Cell, data_dir: Path, root: Path) -> None:
    """Train the cell as one rank, and print the bytes before the model and the peak from there."""
    prepare_memory([cell])
    log = logging.getLogger("memory")
    log.addHandler(logging.NullHandler())
    with joined() as ranks:
        for module in ("chemscale.training.lm", "pyarrow.parquet", "safetensors.torch", "chemscale.provenance"):
            importlib.import_module(module)
        if cell.engine["zero"]:
            from chemscale.training.zero import imported

            imported()
        base = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        ends: list[float] = []

        def should_stop() -> bool:
            ends.append(time.perf_counter())
            return False

        run_cell(cell, root, Datasets(data_dir), "memory", log, should_stop, ranks=ranks)
        # from the end of the first step to that of the second: no validation lies between
        print(json.dumps({"base": base, "peak": resident("VmHWM"), "step_s": ends[1] - ends[0]}), flush=True)


def measure(cell: Cell, data_dir: Path, root: Path) -> list[dict[str, float]]:
    """Train a cell by processes of their own: each rank's bytes before the model and at its peak, seconds a step."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    size = cell.engine["ranks"]
    spec = json.dumps({"cell": cell.to_dict(), "data_dir": str(data_dir), "root": str(root)})
    team = []
    for rank in range(size):
        told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = os.environ | {name: str(value) for name, value in told.items()} | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, "--rank", spec]
        team.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    outputs = [process.communicate()[0] for process in team]
    assert not any(process.returncode for process in team), "a rank failed"
    return [json.loads(output.splitlines()[-1]) for output in outputs]


# --- the comparison ---------------------------------------------------------------------------------------------------


def trained(case: str, write_data: Callable[..., dict[str, Any]]) -> list[dict[str, float]]:
    """What the ranks of a case tell, see `measure`."""
    with tempfile.TemporaryDirectory() as scratch:
        samples = prepare(write_data, Path(scratch) / KEY, *CASES[case][2:4])
        return measure(made_cell(case, samples), Path(scratch), Path(scratch) / "results")


def compared(case: str, told: list[dict[str, float]]) -> dict[str, Any]:
    """A row of a case: the model's bytes and those measured, above the base, of all ranks."""
    from rows import timed_row

    family, knobs, length, batch_tokens, precision, average, engine = CASES[case]
    cell = made_cell(case, 1)
    models = [language_memory(cell, SYMBOLS + 4, length, rank) for rank in range(len(told))]
    measured = [rank["peak"] - rank["base"] for rank in told]
    row = timed_row(
        "memory model",
        case,
        "measured peak above the base",
        [model.total / 1e9 for model in models],
        [value / 1e9 for value in measured],
        unit="GB per rank",
        target=None,
        settings={
            "family": family,
            **knobs,
            "tokens_per_molecule": length,
            "batch_tokens": batch_tokens,
            "precision": precision,
            "average": average,
            **engine,
            "step_s": round(max(rank["step_s"] for rank in told), 1),
            "base_gb": round(max(rank["base"] for rank in told) / 1e9, 3),
            "within": [1 - BELOW, 1 + ABOVE],
        },
    )
    for name, value in models[0].parts().items():
        print(f"  {name:24} {value / 1e6:9.1f} MB")
    print(f"  measured {[round(value / 1e6, 1) for value in measured]} MB", flush=True)
    return row


def main() -> None:
    """Compare the cases asked for, write their rows, and exit with 1 where the model is outside of its promise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rank", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        spec = json.loads(options.rank)
        be_a_rank(Cell.from_dict(spec["cell"]), Path(spec["data_dir"]), Path(spec["root"]))
        return
    from conftest import _write_data
    from rows import write_rows

    outside = []
    for case in options.cases:
        row = compared(case, trained(case, _write_data))
        write_rows("memory.json", [row])
        if row["ratio_min"] < 1 - BELOW or row["ratio_max"] > 1 + ABOVE:
            outside.append(case)
    if outside:
        sys.exit(f"outside of {1 - BELOW:g} to {1 + ABOVE:g} times the measured peak: {', '.join(outside)}")


if __name__ == "__main__":
    main()
