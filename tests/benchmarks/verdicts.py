"""Whether verdicts depend on what nobody should choose: the seed of the bootstrap, and the level of the intervals.

    python tests/benchmarks/verdicts.py [STUDY ...]

Every fit and contrast of a finished study is judged under 30 seeds and 5 levels; so are those of 20 simulated studies
whose laws with a floor lie near the limit between accepted and refused. Then the internal random numbers of the judge
are exchanged, too, 30 times: a verdict may then move by one step at the edge of a caution, and never from accepted to
refused. Exits with 1 where a verdict differs. Twenty minutes on one core, with the default study.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from chemscale.io import read_json, read_parquet
from chemscale.scaling import bootstrap
from chemscale.scaling.contrasts import contrast_table
from chemscale.scaling.study_fits import fit_study

SEEDS = range(30)
LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)
SIMULATED = 20
# the verdict of each law and contrast, by its name
Verdicts = dict[str, str]


def main(studies: list[str]) -> int:
    """Print how often each verdict was reached, and say whether all held."""
    held = True
    for name, judge in (*map(_finished, studies), *_simulated()):
        default = judge({})
        seeds = [judge({"seed": seed}) for seed in SEEDS]
        levels = [judge({"level": level, "resamples": 1000}) for level in LEVELS]
        inner = [_exchanged(judge, seed) for seed in SEEDS[1:]]
        print(f"\n{name}: {Counter(default.values())}")
        for law in default:
            counts = [Counter(verdicts[law] for verdicts in found) for found in (seeds, levels, inner)]
            moved = {"accepted", "refused"} <= set(counts[2])
            wrong = counts[0][default[law]] < len(SEEDS) - 1 or len(counts[1]) > 1 or moved
            held &= not wrong
            if default[law] == "caution" or any(len(count) > 1 for count in counts):
                words = "; ".join(
                    f"{what} {', '.join(f'{number} {verdict}' for verdict, number in sorted(count.items()))}"
                    for what, count in zip(("seeds:", "levels:", "inner:"), counts, strict=True)
                )
                print(f"  {law}: {words}{'   DIFFERS' if wrong else ''}", flush=True)
    print("\nverdicts hold" if held else "\nverdicts differ")
    return 0 if held else 1


def _finished(root: str) -> tuple[str, Callable[[dict[str, Any]], Verdicts]]:
    """A finished study's name, and a function that judges its laws and contrasts under changed settings."""
    tables = {
        name: read_parquet(Path(root) / "tables" / f"{name}.parquet").to_pandas()
        for name in ("cells", "test_clusters", "controls")
    }
    config = read_json(Path(root) / "config.json")["config"]

    def judge(changes: dict[str, Any]) -> Verdicts:
        settings = config["fits"] | changes
        fits = fit_study(tables["cells"], tables["test_clusters"], tables["controls"], settings)
        contrasts = contrast_table(tables["cells"], tables["test_clusters"], config["contrasts"], settings)
        claims = zip(contrasts["verdict"], contrasts["excludes_zero"], strict=True)
        return dict(zip(fits["fit_id"], fits["verdict"], strict=True)) | {
            name: verdict if pd.isna(zero) else f"{verdict}, {'differs' if zero else 'not told apart'}"
            for name, (verdict, zero) in zip(contrasts["contrast_id"], claims, strict=True)
        }

    return root, judge


def _simulated() -> Iterator[tuple[str, Callable[[dict[str, Any]], Verdicts]]]:
    for number in range(SIMULATED):
        cells, ratio = study_near_the_limit(number)
        none = pd.DataFrame({"cell": [], "cluster": [], "loss_sum": [], "count": []})

        def judge(changes: dict[str, Any], cells: pd.DataFrame = cells, none: pd.DataFrame = none) -> Verdicts:
            settings = {"level": 0.9, "resamples": 400, "seed": 0} | changes
            fits = fit_study(cells, none, cells.iloc[:0], settings)
            return dict(zip(fits["fit_id"], fits["verdict"], strict=True))

        yield f"simulated study {number}, width of L(D)/offset about {ratio:.2f} times the value", judge


def study_near_the_limit(number: int) -> tuple[pd.DataFrame, float]:
    """The cells of a simulated study, and how wide the interval of its exponent over data is expected to be.

    The noise is chosen so that the interval of the law with a floor at the largest size is 0.75 to 1.35 times as wide
    as the exponent, by the linearised error of a least-squares fit.
    """
    random = np.random.default_rng([26, number])
    subsets = np.geomspace(64, 4096, 7).round().astype(int)
    widths = (16, 32, 64) if number % 5 == 0 else (64,)  # joint laws take most of the time
    alpha, beta = random.uniform(0.3, 0.6), random.uniform(0.3, 0.6)
    ratio, seeds = random.uniform(0.75, 1.35), int(random.integers(2, 4))
    floor, by_size, by_data = 1.0, random.uniform(10, 40), random.uniform(5, 15)
    sizes = {width: 10 * width**2 for width in widths}
    largest = floor + by_size * sizes[64] ** -alpha
    term = by_data * subsets**-beta
    loss = largest + term
    jacobian = np.stack([1 / loss, term / loss, -term * np.log(subsets) / loss], 1)
    error = np.sqrt(np.linalg.inv(jacobian.T @ jacobian)[2, 2])
    noise = ratio * beta / (2 * 1.645 * error) * np.sqrt(seeds)
    rows = [
        {
            "cell": f"cells/painn/w{width}/n{n}/seed{seed}",
            "family": "painn",
            "domain": "potentials",
            "size": f"w{width}",
            "num_samples": n,
            "seed": seed,
            "control": None,
            "protocol": "equal_steps(100)",
            "loss_unit": "meV/angstrom",
            "num_params_non_embedding": params,
            "tokens_unique": pd.NA,
            "frames_unique": n,
            "flops_full": params * 1000,
            "test_loss": (floor + by_size * params**-alpha + by_data * n**-beta)
            * np.exp(noise * random.standard_normal()),
        }
        for width, params in sizes.items()
        for n in subsets
        for seed in range(seeds)
    ]
    return pd.DataFrame(rows), ratio


def _exchanged(judge: Callable[[dict[str, Any]], Verdicts], seed: int) -> Verdicts:
    """The verdicts with other random numbers inside the judge."""
    before = bootstrap.JUDGE_SEED
    bootstrap.JUDGE_SEED = seed
    try:
        return judge({})
    finally:
        bootstrap.JUDGE_SEED = before


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
