"""The cells of one family as what a fit needs: design points, the noise between seeds, and numbers to resample with.

A design point is (size, num_samples); its loss is the mean over its seeds. N is the column `num_params_non_embedding`,
D `tokens_unique` or `frames_unique`, C `flops_full`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from chemscale.families import LANGUAGE
from chemscale.scaling.bootstrap import (
    Draws,
    Noise,
    cluster_sums,
    draw,
    judge_draws,
    noise_of,
)

METRIC = "test_loss"


@dataclass(frozen=True)
class Design:
    """The cells of one family, by design point."""

    name: str
    cells: pd.DataFrame  # usable cells; column `point` is the index of the row in `points`
    points: pd.DataFrame  # a row per design point: size, num_samples, N, D, C, loss, runs
    unusable: list[str]  # cells without a loss, with the reason
    protocols: list[str]
    draws: Draws  # behind printed intervals
    judged: Draws  # behind verdicts

    def noise_of(self, points: Sequence[int]) -> tuple[Noise, tuple[str, ...]]:
        """The noise of a run at some of the design points, and what a reader has to know of it."""
        names = [
            f"{size}/n{number}" for size, number in zip(self.points["size"], self.points["num_samples"], strict=True)
        ]
        return noise_of(np.log(self.cells[METRIC].to_numpy(float)), self.cells["point"].to_numpy(), points, names)


def design(name: str, cells: pd.DataFrame, clusters: pd.DataFrame, settings: Mapping[str, Any]) -> Design:
    """The design of a family's cells; a function of its arguments alone.

    Args:
        name: the family.
        cells: its rows of tables/cells.parquet; there may be none.
        clusters: as in tables/test_clusters.parquet; empty where the test set is taken as it is.
        settings: `resamples` and `seed` of the study's fits.
    """
    loss = cells[METRIC].to_numpy(float)
    usable = np.isfinite(loss) & (loss > 0)
    unusable = [
        f"{cell}: {METRIC} is {value:.6g}" for cell, value in zip(cells["cell"][~usable], loss[~usable], strict=True)
    ]
    cells = cells[usable].reset_index(drop=True)
    distinct = "tokens_unique" if (cells["domain"] == LANGUAGE).all() else "frames_unique"
    values = pd.DataFrame(
        {
            "size": cells["size"],
            "num_samples": cells["num_samples"].astype(int),
            "N": cells["num_params_non_embedding"].astype(float),
            "D": cells[distinct].astype(float),
            "C": cells["flops_full"].astype(float),
            "loss": cells[METRIC].astype(float),
        }
    )
    grouped = values.groupby(["size", "num_samples"], as_index=False)
    points = grouped.agg(N=("N", "mean"), D=("D", "mean"), C=("C", "mean"), loss=("loss", "mean"), runs=("N", "size"))
    points = points.sort_values(["N", "num_samples", "size"], ignore_index=True)
    index = {key: at for at, key in enumerate(zip(points["size"], points["num_samples"], strict=True))}
    of_cell = np.array([index[key] for key in zip(values["size"], values["num_samples"], strict=True)], np.int64)
    resamples, seed = int(settings["resamples"]), int(settings["seed"])
    shifts = judged = None
    if len(clusters) and len(cells):
        sums = cluster_sums(cells, clusters)
        shifts = sums.shifts(of_cell, resamples, seed)
        judged = sums.judge_shifts(of_cell)
    return Design(
        name=name,
        cells=cells.assign(point=of_cell),
        points=points,
        unusable=unusable,
        protocols=sorted(cells["protocol"].unique()),
        draws=draw(len(points), resamples, seed, name, shifts),
        judged=judge_draws(len(points), name, judged),
    )
