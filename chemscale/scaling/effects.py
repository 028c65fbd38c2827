"""What the controls show, and the slopes between neighbours of the grid: numbers that no fit stands between."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd

from chemscale.families import LANGUAGE
from chemscale.scaling.bootstrap import Noise, noise_of

# The columns of tables/control_effects.parquet. The two sides of a row differ in the subset ("data at equal steps") or
# in the protocol ("more steps, same data"); `small` is the side with fewer samples or fewer steps.
CONTROL_COLUMNS: dict[str, str] = {
    **dict.fromkeys(("effect_id", "kind", "control", "family", "domain", "size", "loss_unit"), "string"),
    **dict.fromkeys(("protocol_small", "protocol_large"), "string"),
    **dict.fromkeys(("steps", "steps_large", "n_small", "n_large"), "int64"),
    **dict.fromkeys(("loss_small", "loss_large", "difference", "seed_spread", "ratio"), "double"),
    "seed_dof": "int64",
    "holds": "bool",
}
SLOPE_COLUMNS: dict[str, str] = {
    **dict.fromkeys(("slope_id", "family", "domain", "axis", "at", "protocol"), "string"),
    **dict.fromkeys(("x_from", "x_to", "loss_from", "loss_to", "slope", "slope_sd"), "double"),
}
DATA_EFFECT = "data at equal steps"
STEPS_EFFECT = "more steps, same data"
SPREADS = 2.0  # a difference holds where it exceeds so many seed spreads


def _runs(cells: pd.DataFrame) -> pd.DataFrame:
    """A row per run with a loss: its design point, control ("" for the grid), protocol, seed, steps, N, D and loss."""
    usable = cells[np.isfinite(cells["test_loss"].to_numpy(float))]
    language = usable["domain"] == LANGUAGE
    return pd.DataFrame(
        {
            **{name: usable[name].astype(str) for name in ("family", "size", "protocol", "domain", "loss_unit")},
            **{name: usable[name].astype(int) for name in ("num_samples", "seed", "steps")},
            "control": usable["control"].fillna("").astype(str),
            "N": usable["num_params_non_embedding"].astype(float),
            "D": usable["tokens_unique"].where(language, usable["frames_unique"]).astype(float),
            "loss": usable["test_loss"].astype(float),
        }
    )


def _points(runs: pd.DataFrame) -> pd.DataFrame:
    """Design points with the means over their seeds, by rising N and number of samples."""
    grouped = runs.groupby(["family", "control", "size", "num_samples", "protocol"], as_index=False)
    points = grouped.agg(
        domain=("domain", "first"),
        loss_unit=("loss_unit", "first"),
        steps=("steps", "min"),
        steps_most=("steps", "max"),
        N=("N", "mean"),
        D=("D", "mean"),
        loss=("loss", "mean"),
        runs=("loss", "size"),
    )
    return points.sort_values(["family", "control", "N", "size", "num_samples"], ignore_index=True)


def _noise(runs: pd.DataFrame, family: str, sizes: Collection[str]) -> Noise:
    """The relative noise of a run between seeds at some sizes of a family, as laws along their data have it."""
    group = runs[runs["family"] == family]
    index = np.asarray(group.groupby(["size", "num_samples"]).ngroup(), np.int64)
    chosen = sorted(set(index[group["size"].isin(sizes).to_numpy()]))
    return noise_of(np.log(group["loss"].to_numpy()), index, chosen, [""] * (int(index.max(initial=-1)) + 1))[0]


def _spread(noise: Noise, *sides: Any) -> float:
    """What the noise between seeds makes of a difference of two mean losses: its sd; NaN without replicates."""
    variance = sum(float(side["loss"]) ** 2 / float(side["runs"]) for side in sides)
    return np.nan if noise.sd is None else noise.sd * float(np.sqrt(variance))


def control_table(cells: pd.DataFrame, controls: pd.DataFrame) -> pd.DataFrame:
    """Whether the axes mean what they are called, a row per comparison with the columns `CONTROL_COLUMNS`.

    - `data at equal steps`: the smallest against the largest subset at one size, where both were trained for the same
      number of steps; among the grid's cells, and among each control's;
    - `more steps, same data`: cells of the grid against the control's with the same size, subset and seeds.

    `difference` is loss_small - loss_large, `seed_spread` the sd that the noise between seeds gives such a difference
    of means over so many runs, `ratio` their quotient, `holds` whether the difference exceeds two spreads. Without
    replicates spread and ratio are null and nothing holds. `seed_dof` says how well the spread is known.
    """
    grid, others = _runs(cells), _runs(controls)
    rows = []
    for points in (_points(grid), _points(others)):
        for (family, control, size, protocol), group in points.groupby(
            ["family", "control", "size", "protocol"], sort=False
        ):
            small, large = group.iloc[0], group.iloc[-1]
            same = small["steps"] == large["steps_most"] == large["steps"] == small["steps_most"]
            if same and small["num_samples"] < large["num_samples"]:
                effect = f"{control or 'grid'}/{family}/{size}/{protocol}/data"
                rows.append(_effect(effect, DATA_EFFECT, str(control), small, large, grid))
    # only runs of equal seeds are compared: a seed is a draw of the subset, too
    design = ["family", "size", "num_samples", "seed"]
    for control in sorted(others["control"].unique()):
        runs = others[others["control"] == control]
        mine = _points(runs.merge(grid[design], on=design)).drop(columns=["N", "D"])
        base = _points(grid.merge(runs[design], on=design))
        for _, pair in base.merge(mine, on=design[:3], suffixes=("", "_other")).iterrows():
            other = pair.copy()
            for column in ("protocol", "steps", "loss", "runs"):
                other[column] = pair[f"{column}_other"]
            if pair["steps"] != other["steps"]:
                small, large = (pair, other) if pair["steps"] < other["steps"] else (other, pair)
                effect = f"{control}/{pair['family']}/{pair['size']}/n{pair['num_samples']}/steps"
                rows.append(_effect(effect, STEPS_EFFECT, str(control), small, large, grid))
    return _typed(rows, CONTROL_COLUMNS)


def _effect(effect: str, kind: str, control: str, small: Any, large: Any, grid: pd.DataFrame) -> dict[str, Any]:
    noise = _noise(grid, small["family"], [small["size"]])
    difference = float(small["loss"] - large["loss"])
    spread = _spread(noise, small, large)
    return {
        "effect_id": effect,
        "kind": kind,
        "control": control or None,
        **{name: small[name] for name in ("family", "domain", "size", "loss_unit")},
        "protocol_small": small["protocol"],
        "protocol_large": large["protocol"],
        "steps": int(small["steps"]),
        "steps_large": int(large["steps"]),
        "n_small": int(small["num_samples"]),
        "n_large": int(large["num_samples"]),
        "loss_small": float(small["loss"]),
        "loss_large": float(large["loss"]),
        "difference": difference,
        "seed_spread": spread,
        "ratio": difference / spread if spread > 0 else np.nan,
        "seed_dof": noise.dof,
        "holds": bool(difference > SPREADS * spread),
    }


def local_slopes(cells: pd.DataFrame) -> pd.DataFrame:
    """-d log L / d log x between neighbouring design points, with the columns `SLOPE_COLUMNS`.

    Along N at each subset and along D at each size. `slope_sd` follows from the noise between seeds alone; it is null
    without replicates. A power law has equal slopes, an irreducible loss makes them fall.
    """
    runs = _runs(cells)
    points = _points(runs)
    rows = []
    for axis, held, other in (("N", "num_samples", "size"), ("D", "size", "num_samples")):
        for (family, protocol, at), group in points.groupby(["family", "protocol", held], sort=False):
            group = group.sort_values(axis, kind="stable")
            noise = _noise(runs, str(family), group["size"].unique())
            for (_, low), (_, high) in zip(group[:-1].iterrows(), group[1:].iterrows(), strict=True):
                distance = np.log(high[axis] / low[axis])
                if distance <= 0:
                    continue
                sd = np.nan if noise.sd is None else noise.sd * np.sqrt(1 / low["runs"] + 1 / high["runs"])
                rows.append(
                    {
                        "slope_id": f"{family}/{axis}/{held}={at}/{low[other]}-{high[other]}",
                        "family": family,
                        "domain": low["domain"],
                        "axis": axis,
                        "at": f"{held}={at}",
                        "protocol": protocol,
                        "x_from": low[axis],
                        "x_to": high[axis],
                        "loss_from": low["loss"],
                        "loss_to": high["loss"],
                        "slope": np.log(low["loss"] / high["loss"]) / distance,
                        "slope_sd": sd / distance,
                    }
                )
    return _typed(rows, SLOPE_COLUMNS)


def _typed(rows: list[dict[str, Any]], columns: dict[str, str]) -> pd.DataFrame:
    kinds = {"string": "str", "int64": "int64", "double": "float64", "bool": "bool"}
    frame = pd.DataFrame(rows, columns=list(columns))
    return frame.astype({column: kinds[kind] for column, kind in columns.items()})
