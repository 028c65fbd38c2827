"""Time potentials against schnetpack and nequip-allegro, interleaved: training steps and predictions per second.

    python tests/benchmarks/potentials/run.py PEERS_PYTHON [--repeats 5] [--models schnet painn allegro]
        [--cases ethanol aspirin water_box] [--what train predict]

On one core, in fp32, on the same batches and hyperparameters: 64 features, 3 interactions, 20 radial functions and a
cutoff of 5 angstrom for SchNet and PaiNN; 64 scalars, 32 tensors of degree up to 2 and 2 layers for Allegro. The cases
are batches of ten molecules of 9 and of 21 atoms, and for predictions a periodic box of 120 atoms, too. Both sides have
their batches ready; a training step is loss, forces, all gradients, clipping (ours) and the optimiser. A side is timed
at each of its settings first, and compared at the fastest: eager or compiled. PEERS_PYTHON is that of an environment
with tests/peers/requirements.txt.

Seconds that compiling took and the peak memory of both processes stand in `settings`. Writes
`results/benchmarks/potentials.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
from rows import timed_row, write_rows
from systems import write

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
# of each model: the script of the peer's side, its settings, and what it is called
PEERS = {
    "schnet": ("schnetpack_side.py", ("eager", "compiled"), "schnetpack"),
    "painn": ("schnetpack_side.py", ("eager", "compiled"), "schnetpack"),
    "allegro": ("nequip_side.py", ("eager", "compiled"), "nequip-allegro"),
}
TARGETS = {("train", "schnet"): 3.0, ("train", "painn"): 3.0, ("predict", "*"): 1.5}
SECONDS = 1.5  # of one measurement, about


class Side:
    """A process that does what it is told."""

    def __init__(self, python: str, script: str, folder: Path) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        environment["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "cache")
        command = ["taskset", "-c", "0", python, str(HERE / script)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def ask(self, **asked: Any) -> dict[str, float] | None:
        """Its answer; None where it has died."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return None
        line = self._process.stdout.readline()
        return json.loads(line) if line else None

    def end(self) -> None:
        """Let it go."""
        self._process.kill()
        self._process.wait()


def ready(python: str, script: str, work: Path, job: dict[str, Any]) -> tuple[Side, float, int] | None:
    """A side that is set up, the seconds that it took, and how many times it does its work in a measurement."""
    side = Side(python, script, work)
    answer = side.ask(**job, folder=str(work))
    if answer is None:
        side.end()
        return None
    side.ask(times=3)
    probe = side.ask(times=3)
    assert probe is not None
    return side, answer["seconds"], max(3, round(SECONDS / (probe["seconds"] / 3)))


def compare(model: str, what: str, case: str, peers_python: str, repeats: int, work: Path) -> list[dict[str, Any]]:
    """The rows of a model, a case, and training or predictions."""
    script, settings, peer = PEERS[model]
    job = {"what": what, "model": model, "case": case}
    packages = work / "packages"
    mine = {
        name: ready(sys.executable, "ours.py", work, job | {"setting": setting})
        for name, setting in (("eager", "plain"), ("compiled", str(packages)))
    }
    theirs = {name: ready(peers_python, script, work, job | {"setting": name}) for name in settings}
    sides = {("ours", name): side for name, side in mine.items()} | {
        (peer, name): side for name, side in theirs.items()
    }
    rates: dict[tuple[str, str], list[float]] = {key: [] for key, side in sides.items() if side is not None}
    peaks: dict[tuple[str, str], float] = {}
    for _ in range(repeats):
        for key, side in sides.items():
            if side is not None:
                answer = side[0].ask(times=side[2])
                assert answer is not None
                rates[key].append(side[2] / answer["seconds"])
                peaks[key] = answer["peak_bytes"]
    for side in sides.values():
        if side is not None:
            side[0].end()
    median = {key: sorted(values)[len(values) // 2] for key, values in rates.items()}
    best = max((key for key in median if key[0] == "ours"), key=lambda key: median[key])
    best_of_theirs = max((key for key in median if key[0] == peer), key=lambda key: median[key])
    told: dict[str, Any] = {
        "ours": best[1],
        "rates": {f"{side} {name}": round(rate, 2) for (side, name), rate in median.items()},
        "set_up_s": {
            f"{side} {name}": round(found[1], 1) for (side, name), found in sides.items() if found is not None
        },
        "failed": [f"{side} {name}" for (side, name), found in sides.items() if found is None],
        "atoms": {"ethanol": 90, "aspirin": 210, "water_box": 120}[case],
    }
    rows = []
    if what == "train" and model == "allegro":
        wanted = [("eager", f"{peer} eager", 8.0), ("compiled", f"{peer} compiled", 1.5)]
    else:
        wanted = [(best_of_theirs[1], peer, TARGETS.get((what, model), TARGETS["predict", "*"]))]
    for name, row_peer, target in wanted:
        if (peer, name) not in rates:
            continue
        key = (peer, name)
        memory = {"ours": peaks[best], "theirs": peaks[key], "ratio": round(peaks[key] / peaks[best], 2)}
        rows.append(
            timed_row(
                f"{what} {model}",
                case,
                row_peer,
                rates[best],
                rates[key],
                unit="steps/s" if what == "train" else "predictions/s",
                target=target,
                settings=told
                | {"theirs": name, "atoms_per_s": round(told["atoms"] * median[best]), "peak_bytes": memory},
            )
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("peers_python")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--models", nargs="+", default=list(PEERS))
    parser.add_argument("--cases", nargs="+")
    parser.add_argument("--what", nargs="+", default=["train", "predict"])
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        cases = write(work)
        for model in asked.models:
            for what in asked.what:
                for case in cases:
                    if (case in (asked.cases or cases)) and (what == "predict" or case != "water_box"):
                        rows = compare(model, what, case, asked.peers_python, asked.repeats, work)
                        write_rows("potentials.json", rows)


if __name__ == "__main__":
    main()
