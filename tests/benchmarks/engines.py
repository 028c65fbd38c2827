"""Hold runs whose work is spread in other ways to the curve of one process, on real molecules.

    python tests/benchmarks/engines.py [--what spread continued ended]

`spread`: ZeRO 1, 2 and 3 on two ranks, whole shares and micro-batches, 50 steps in fp32. `continued`: a run of two
ranks with ZeRO-2 that a signal stops about half-way and others end: one process, ZeRO-1, ZeRO-3, one rank with ZeRO-2.
The same order of data, and losses that differ from those of one process by no more than this, relatively:

- at a peak rate of 1e-3, 1e-5 (spread) and 1e-4 (continued);
- at the study's own rate, three times what one process differs from itself when it takes each step in two
  micro-batches. Rounding grows exponentially there, so that one run's difference says little: it is the geometric mean
  of the ratios of several seeds that is held to three. The largest differences are printed beside it.

`ended`: thirty runs of two ranks with ZeRO-2 in a row, each of which ends with code 0. Exits with 1 where one of all
this does not hold.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import gmean

from chemscale.data.arrays import load_language
from chemscale.grid import Cell
from chemscale.training.sampler import TokenBatches, micro_batches

sys.path.insert(0, str(Path(__file__).parent))
from cells import DATA, SCRATCH, changed, curve, prepared, start

STEPS = {"spread": 50, "continued": 100}
LOW_RATE = {"learning_rate": 1e-3}
LIMITS = {"spread": 1e-5, "continued": 1e-4}  # at the low rate, of one seed
ROUNDING = 3.0  # times what one process differs from itself at the study's rate, of so many seeds
SEEDS = {"spread": 9, "continued": 3}
# computed tokens of a micro-batch: two make up a step of 512, or a rank's half of it
OF_STEP, OF_SHARE = 300, 150
ENDS = 30


def run(cell: Cell, root: Path) -> list[dict[str, Any]]:
    """The curve of a cell that is trained to its end."""
    code = start(cell, root).wait()
    if code:
        sys.exit(f"a run ended with {code}; see {root / 'said'}")
    return curve(cell.folder(root))


def column(lines: list[dict[str, Any]], name: str) -> np.ndarray:
    return np.array([line[name] for line in lines if name in line])


def apart(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> float:
    """The largest relative difference of two curves' losses, of training and of validation."""
    return max(float(np.abs(column(one, name) / column(other, name) - 1).max()) for name in ("loss", "val_loss"))


def unequal(cell: Cell, steps: int) -> int:
    """The number of a run's first steps that give two ranks unequal numbers of tokens."""
    data = load_language(DATA / cell.data["key"])
    index, _ = data.subset(cell.seed, cell.num_samples)
    predicted = data.offsets[index + 1] - data.offsets[index] - 1
    batches = TokenBatches(predicted, cell.training["batch_tokens"], cell.seed).from_step(0)
    shares = [micro_batches(predicted, batch, 2, None) for batch, _ in zip(batches, range(steps), strict=False)]
    return sum(len({sum(int(predicted[part].sum()) for part in parts) for parts in ranks}) > 1 for ranks in shares)


def stopped_half_way(cell: Cell, root: Path) -> int:
    """Stop a cell's run with SIGTERM when a checkpoint is about half-way; the step from which others go on."""
    checkpoint = cell.folder(root) / "checkpoint"
    half = cell.protocol["steps"] // 2
    process = start(cell, root)
    while process.poll() is None and not any(int(state.name[5:]) >= half - 5 for state in checkpoint.glob("step-*")):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    if process.wait() != 75:
        sys.exit(f"a run was not stopped half-way; see {root / 'said'}")
    return max(int(marker.parent.name[5:]) for marker in checkpoint.glob("step-*/complete.json"))


def differences(what: str, cells: Sequence[Cell], folder: Path) -> pd.DataFrame:
    """How far each way of `what` comes out from one process that takes whole steps, by seed (rows) and way (columns).

    The first column is one process that takes each step in two micro-batches. A way that saw other data has infinity.
    """
    rows = {}
    for cell in cells:
        place = folder / f"seed{cell.seed}"
        shutil.rmtree(place, ignore_errors=True)
        expected = run(cell, place / "alone")
        parts = run(changed(cell, steps=STEPS[what], micro_tokens=OF_STEP), place / "parts")
        rows[cell.seed] = {"one process in two parts": apart(parts, expected)}
        for name, lines in WAYS[what](cell, place):
            same = column(lines, "tokens_seen").tolist() == column(expected, "tokens_seen").tolist()
            rows[cell.seed][name] = apart(lines, expected) if same else np.inf
    return pd.DataFrame.from_dict(rows, orient="index")


def at_low_rate(what: str, cells: Sequence[Cell]) -> list[str]:
    """Run `what` at the low rate; what did not hold."""
    slow = changed(cells[0], steps=STEPS[what], training=LOW_RATE)
    found = differences(what, [slow], SCRATCH / what / "1e-3").iloc[0]
    print(f"{what}, 1e-3, limit {LIMITS[what]:.0e}:", flush=True)
    broken = []
    for name, value in found.items():
        holds = value <= LIMITS[what]
        print(f"  {name}: {value:.2e}{'' if holds else '  BROKEN'}", flush=True)
        broken += [] if holds else [f"{what}, 1e-3, {name}: {value:.2e} of {LIMITS[what]:.0e}, or other data"]
    return broken


def at_studys_rate(what: str, cells: Sequence[Cell]) -> list[str]:
    """Run `what` at the study's own rate with several seeds; what did not hold."""
    of_seeds = [changed(cell, steps=STEPS[what]) for cell in cells[: SEEDS[what]]]
    found = differences(what, of_seeds, SCRATCH / what / "the_studys_rate")
    rounding = found.pop("one process in two parts")
    print(
        f"{what}, the study's rate, seeds {len(found)}: one process in two parts {rounding.min():.2e} to "
        f"{rounding.max():.2e}; ratios to it, geometric mean, limit {ROUNDING:g} (least to most; largest difference):",
        flush=True,
    )
    broken = []
    for name, values in found.items():
        ratios = values / rounding
        typical = float(gmean(ratios))
        holds = typical <= ROUNDING
        print(
            f"  {name}: {typical:.2f} ({ratios.min():.2f} to {ratios.max():.2f}; {values.max():.2e})"
            f"{'' if holds else '  BROKEN'}",
            flush=True,
        )
        broken += [] if holds else [f"{what}, the study's rate, {name}: {typical:.2f} of {ROUNDING:g}, or other data"]
    return broken


def spread(alone: Cell, folder: Path) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The curves of each stage of ZeRO on two ranks, and of none."""
    for zero in (0, 1, 2, 3):
        for micro_tokens in (None, OF_SHARE):
            name = f"2 ranks, zero {zero}, {'shares in parts' if micro_tokens else 'whole shares'}"
            cell = changed(alone, steps=STEPS["spread"], ranks=2, zero=zero, micro_tokens=micro_tokens)
            yield name, run(cell, folder / name.replace(" ", "_"))


def continued(alone: Cell, folder: Path) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The curves of a run of two ranks with ZeRO-2, ended by others."""
    begun = changed(alone, steps=STEPS["continued"], ranks=2, zero=2, checkpoint_seconds=0.1)
    step = stopped_half_way(begun, folder / "begun")
    for ranks, zero in ((2, 2), (1, 0), (2, 3), (2, 1), (1, 2)):
        name = f"2 ranks, zero 2, stopped, then {ranks} rank{'s' * (ranks > 1)}, zero {zero}"
        root = folder / f"{ranks}_{zero}"
        shutil.copytree(folder / "begun", root)
        lines = run(changed(begun, steps=STEPS["continued"], ranks=ranks, zero=zero), root)
        if f"continues after step {step}" not in (root / "cell.log").read_text():
            sys.exit(f"{name}: started anew; see {root}")
        yield name, lines


WAYS = {"spread": spread, "continued": continued}


def ended(cell: Cell) -> list[str]:
    """Run short cells of two ranks one after the other; those that did not end with 0."""
    shutil.rmtree(SCRATCH / "ended", ignore_errors=True)
    short = changed(cell, steps=5, ranks=2, zero=2)
    codes = Counter(start(short, SCRATCH / "ended" / str(number)).wait() for number in range(ENDS))
    print(f"ended: {ENDS} runs of 2 ranks, zero 2, by their exit codes: {dict(codes)}", flush=True)
    return [f"ended: {count} runs with code {code}" for code, count in codes.items() if code]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = ["spread", "continued", "ended"]
    parser.add_argument("--what", nargs="+", choices=known, default=known)
    options = parser.parse_args()
    cells = prepared("w40", 2000, range(max(SEEDS.values())))
    print(f"of {STEPS['spread']} steps {unequal(cells[0], STEPS['spread'])} give two ranks unequal numbers of tokens")
    broken = []
    for what in options.what:
        broken += ended(cells[0]) if what == "ended" else at_low_rate(what, cells) + at_studys_rate(what, cells)
    for promise in broken:
        print(f"broken: {promise}", file=sys.stderr)
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
