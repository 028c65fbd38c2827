"""What the benchmarks of language training share: real molecules, a cell trained some steps at a time, peaks."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

from chemscale.config import LanguageTraining, LearningRate, Molecules
from chemscale.data import assemble, molecules, prepare_arrays, prepare_subsets, sources
from chemscale.data.arrays import LanguageData, load_language
from chemscale.errors import Stopped
from chemscale.grid import ALONE, Cell
from chemscale.study import data_settings
from chemscale.training.job import Datasets
from chemscale.training.run import run_cell

KEY = "molecules"
SUBSET = 40_000
RATE = 1e-3
WARM = 3  # steps before the timed ones
PEAK_SIZES = (512, 1024, 2048, 4096)


def prepare(data_dir: Path) -> LanguageData:
    """The molecules of the package chemicals, through the stages of a study."""
    folder = data_dir / KEY
    section = data_settings(
        Molecules(kind="molecules", source="chemicals", validation=0.01, test=0.04).model_dump(mode="json")
    ) | {"max_reject_share": 0.05}
    located = sources.locate(section, data_dir / "sources", {"offline": True, "mirror": None})
    marker = folder / "chunk.json"
    molecules.prepare(section, folder, located, KEY, (0, 1), 2, marker)
    assemble.prepare(section, folder, [marker], KEY, 2)
    prepare_arrays.prepare(folder)
    prepare_subsets.prepare(folder, KEY, 0, SUBSET)
    return load_language(folder)


def language_cell(case: dict[str, Any], batch_tokens: int, precision: str = "fp32", **engine: Any) -> Cell:
    """A cell of a benchmark's size that is stopped long before its end."""
    training = LanguageTraining(
        learning_rate=LearningRate(at_reference=RATE, reference=1, power=0),
        schedule="constant",
        batch_tokens=batch_tokens,
        weight_decay=0.1,
        precision=precision,
        validations=1,
    )
    return Cell(
        study="benchmark",
        family="chemgpt",
        size=f"w{case['width']}",
        num_samples=SUBSET,
        seed=0,
        control=None,
        domain="language",
        knobs={name: case[name] for name in ("layers", "width", "heads")},
        protocol={"kind": "equal_steps", "steps": 10**6},
        training=training.model_dump(mode="json") | {"learning_rate": RATE},
        data={"name": KEY, "key": KEY, "evaluations": {}},
        threads=1,
        engine=ALONE | engine,
    )


class Ours:
    """A cell that is trained some steps at a time, each time on from its checkpoint."""

    def __init__(self, cell: Cell, root: Path, data_dir: Path) -> None:
        self.cell, self._root, self._datasets = cell, root, Datasets(data_dir)
        self._log = logging.getLogger("benchmark")

    def rate(self, steps: int) -> float:
        """Useful tokens per second over so many further steps."""
        ends: list[float] = []

        def should_stop() -> bool:
            ends.append(time.perf_counter())
            return len(ends) == WARM + steps

        try:
            run_cell(self.cell, self._root, self._datasets, "benchmark", self._log, should_stop)
        except Stopped:
            curve = self.cell.folder(self._root) / "checkpoint" / "curve.jsonl"
            seen = [json.loads(line)["tokens_seen"] for line in curve.read_text().splitlines()]
            return float((seen[-1] - seen[-1 - steps]) / (ends[-1] - ends[WARM - 1]))
        raise AssertionError("a cell of a benchmark has no end")
