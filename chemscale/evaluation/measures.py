"""The numbers of an evaluation, from the raw values that `evaluation.json` keeps; numpy and scipy alone.

The audit calls the same functions on the kept values, so that every number, interval included, follows from the file.

Generation, after MOSES (Polykovskiy et al., Molecular Sets: a benchmarking platform for molecular generation models,
Front. Pharmacol. 11, 565644 (2020)): uniqueness, novelty, internal diversity and scaffold overlap; and the Wasserstein
distance of order 1 between the distributions of a descriptor. Their intervals are the spread of random halves of both
sets of molecules about the value: halves drawn without replacement vary as the whole does over draws (the delete-half
jackknife: Shao and Wu, Ann. Statist. 17, 1176 (1989)), while a bootstrap would repeat molecules, which is the very
thing that uniqueness, diversity and distances see.

Probe: mean absolute error and R^2 on test molecules. Their intervals are percentiles of a bootstrap over whole
clusters (scaffolds), the same draw for all features, so that differences between features are paired.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wasserstein_distance

from chemscale.evaluation.resampling import Resampling
from chemscale.evaluation.stability import dynamics_results
from chemscale.evaluations import DESCRIPTORS, PROPERTIES, result

Array = NDArray[np.float64]
Index = NDArray[np.int64]

# whose numbers a probe has, in the order of its table; the constant is the mean of the training molecules
FEATURES = ("trained", "untrained", "morgan", "constant")


def results_of(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All numbers of an evaluation, from its raw values and its settings of intervals."""
    resampling = Resampling(record["level"], record["resamples"], record["seed"])
    found = []
    if record["generation"] is not None:
        found += generation_results(record["generation"], resampling)
    if record["probe"] is not None:
        found += probe_results(record["probe"], resampling)
    if record["dynamics"] is not None:
        found += dynamics_results(record["dynamics"], resampling)
    return found


# --- generation -------------------------------------------------------------------------------------------------------


def uniqueness(names: Sequence[str]) -> float:
    """The share of distinct molecules, by canonical SMILES, among all."""
    return len(set(names)) / len(names)


def novelty(names: Sequence[str], known: Sequence[bool]) -> float:
    """The share of distinct molecules that were not in the training subset; `known` says which were."""
    distinct = dict(zip(names, known, strict=True))
    return sum(not was for was in distinct.values()) / len(distinct)


def similarities(fingerprints: Sequence[str]) -> Array:
    """Tanimoto similarities [M, M] of fingerprints, each the hex of its bits; 1 for a molecule with itself."""
    packed = np.frombuffer(bytes.fromhex("".join(fingerprints)), np.uint8).reshape(len(fingerprints), -1)
    bits = np.unpackbits(packed, axis=1).astype(np.float64)
    common = bits @ bits.T
    sizes = bits.sum(1)
    together = sizes[:, None] + sizes[None, :] - common
    # two empty fingerprints are equal
    alike: Array = np.divide(common, together, out=np.ones_like(common), where=together > 0)
    return alike


def scaffold_overlap(ours: Sequence[str | None], theirs: Sequence[str | None]) -> float | None:
    """The cosine between the counts of scaffolds of two sets; None where a set has no scaffold."""
    one, other = (Counter(scaffold for scaffold in side if scaffold is not None) for side in (ours, theirs))
    if not one or not other:
        return None
    norm = np.sqrt(float(sum(n * n for n in one.values())) * float(sum(n * n for n in other.values())))
    return float(sum(count * other[scaffold] for scaffold, count in one.items()) / norm)


def generation_results(raw: Mapping[str, Any], resampling: Resampling) -> list[dict[str, Any]]:
    """The numbers of generated molecules, and the same of training molecules of the same number.

    Args:
        raw: `generated`, `reference` (validation molecules) and `training_sample`, each columns of equal length (see
            `chemscale.evaluation.descriptors`); `known`, for each generated molecule whether it was in the training
            subset; `drawn`, `left_out` and `unreadable`: strings drawn, those that are no molecule by reason, and
            those that RDKit does not read.
        resampling: of the intervals.
    """
    generated, reference = raw["generated"], raw["reference"]
    count = len(generated["smiles"])
    found = [
        result("generation", "molecules", "model", float(count), None, "molecules", "a count has no interval"),
        result(
            "generation",
            "molecules",
            "validation",
            float(len(reference["smiles"])),
            None,
            "molecules",
            "a count has no interval",
        ),
    ]
    if count < 2:
        reason = "fewer than two of the drawn strings are molecules that RDKit reads"
        return [*found, result("generation", "validity", "model", count / raw["drawn"], None, "1", reason)]
    halves = _Halves(resampling, count, len(reference["smiles"]))
    names, known = generated["smiles"], raw["known"]

    def share(metric: str, of: Callable[[Index], float], size: int) -> dict[str, Any]:
        value = of(np.arange(size))
        interval = halves.about(value, [of(half) for half in halves.of(size)], most=1.0)
        return result("generation", metric, "model", value, interval, "1")

    # a molecule or not is a draw of its own: halves of the strings, the molecules first
    found.append(share("validity", lambda rows: float((rows < count).mean()), raw["drawn"]))
    found.append(share("uniqueness", lambda rows: uniqueness([names[row] for row in rows]), count))
    found.append(
        share("novelty", lambda rows: novelty([names[row] for row in rows], [known[row] for row in rows]), count)
    )
    for subject, ours in (("model", generated), ("training_sample", raw["training_sample"])):
        found += _compared(subject, ours, reference, halves)
    return found


def _compared(
    subject: str, ours: Mapping[str, Any], reference: Mapping[str, Any], halves: _Halves
) -> list[dict[str, Any]]:
    """Diversity of a set of molecules, and how far it is from the reference molecules."""
    count, others = len(ours["smiles"]), len(reference["smiles"])
    alike = similarities(ours["fingerprint"])
    diversity = 1 - float(alike.mean())
    resampled = [1 - float(alike[np.ix_(half, half)].mean()) for half in halves.of(count)]
    found = [
        result("generation", "internal_diversity", subject, diversity, halves.about(diversity, resampled, 1.0), "1")
    ]
    overlap = scaffold_overlap(ours["scaffold"], reference["scaffold"])
    pairs = list(zip(halves.of(count), halves.of(others), strict=True))
    if overlap is None:
        reason = "no molecule of one of the sets has a scaffold of two rings"
        found.append(result("generation", "scaffold_overlap", subject, None, None, "1", reason))
    else:
        drawn = [
            scaffold_overlap([ours["scaffold"][row] for row in one], [reference["scaffold"][row] for row in other])
            for one, other in pairs
        ]
        # a half without any scaffold has none in common
        interval = halves.about(overlap, [value or 0.0 for value in drawn], most=1.0)
        found.append(result("generation", "scaffold_overlap", subject, overlap, interval, "1"))
    for name, unit in DESCRIPTORS.items():
        here, there = np.array(ours[name], np.float64), np.array(reference[name], np.float64)
        distance = float(wasserstein_distance(here, there))
        moved = [float(wasserstein_distance(here[one], there[other])) for one, other in pairs]
        interval = halves.about(distance, moved, most=np.inf)
        found.append(result("generation", f"wasserstein_{name}", subject, distance, interval, unit))
    return found


class _Halves:
    """Random halves of sets of molecules: the same halves for every set of one size."""

    def __init__(self, resampling: Resampling, *sizes: int) -> None:
        self._resampling = resampling
        self._drawn: dict[int, list[Index]] = {}
        for size in sizes:
            self.of(size)

    def of(self, size: int) -> list[Index]:
        """The halves of `size` molecules, each the places of `size` // 2 of them in order."""
        if size not in self._drawn:
            random = np.random.default_rng([self._resampling.seed, size])
            self._drawn[size] = [
                np.sort(random.permutation(size)[: max(1, size // 2)]) for _ in range(self._resampling.resamples)
            ]
        return self._drawn[size]

    def about(self, value: float, resampled: Sequence[float], most: float) -> tuple[float, float]:
        """The interval about a value that lies between 0 and `most`: the halves' spread, without their offset."""
        low, high = self._resampling.ends(np.array(resampled) - np.mean(resampled))
        # of equal halves, rounding may leave a spread on one side of 0 alone
        return max(0.0, value + min(low, 0.0)), min(most, value + max(high, 0.0))


# --- probe ------------------------------------------------------------------------------------------------------------


def probe_results(raw: Mapping[str, Any], resampling: Resampling) -> list[dict[str, Any]]:
    """The errors of a probe on its test molecules, by property and features, with differences from the trained model's.

    Args:
        raw: `test`, columns of test molecules: `cluster`, and the truth of each property; `predictions`, by features
            and property; `molecules`, how many there are by part; `rejected`, those without properties by reason.
        resampling: of the intervals.
    """
    found = [
        result("probe", "molecules", part, float(count), None, "molecules", "a count has no interval")
        for part, count in {**raw["molecules"], "rejected": sum(raw["rejected"].values())}.items()
    ]
    _, clusters = np.unique(np.array(raw["test"]["cluster"]), return_inverse=True)
    number = int(clusters.max()) + 1
    found.append(result("probe", "scaffolds", "test", float(number), None, "scaffolds", "a count has no interval"))
    random = np.random.default_rng([resampling.seed, number])
    weights = np.ones((1 + resampling.resamples, number))
    weights[1:] = random.multinomial(number, np.full(number, 1 / number), size=resampling.resamples)
    for name, unit in PROPERTIES.items():
        truth = np.array(raw["test"][name])
        errors = {features: np.array(raw["predictions"][features][name]) - truth for features in FEATURES}
        mae = {features: weighted_mae(error, clusters, weights) for features, error in errors.items()}
        for features in FEATURES:
            found.append(_with_interval(f"{name}_mae", features, mae[features], unit, resampling))
        for features in FEATURES[1:]:
            difference = mae["trained"] - mae[features]
            found.append(_with_interval(f"{name}_mae_difference", features, difference, unit, resampling))
        for features in FEATURES:
            explained = weighted_r2(truth, errors[features], clusters, weights)
            found.append(_with_interval(f"{name}_r2", features, explained, "1", resampling))
    return found


def _with_interval(metric: str, features: str, values: Array, unit: str, resampling: Resampling) -> dict[str, Any]:
    """A number of the probe: the first value is that of all molecules, the others are resampled."""
    if not np.isfinite(values).all():
        reason = "the test molecules of a resample do not differ in the property"
        return result("probe", metric, features, None, None, unit, reason)
    return result("probe", metric, features, float(values[0]), resampling.ends(values[1:]), unit)


def weighted_mae(errors: Array, clusters: Index, weights: Array) -> Array:
    """The mean absolute error [R] of molecules [M] whose clusters have the weights [R, clusters]."""
    sums = np.bincount(clusters, np.abs(errors), weights.shape[1])
    counts = np.bincount(clusters, minlength=weights.shape[1])
    mae: Array = (weights @ sums) / (weights @ counts)
    return mae


def weighted_r2(truth: Array, errors: Array, clusters: Index, weights: Array) -> Array:
    """R^2 [R] of molecules [M] whose clusters have the weights [R, clusters]; not finite where all truths are equal."""
    length = weights.shape[1]
    counts = weights @ np.bincount(clusters, minlength=length)
    # about the mean of all: the same number with fewer digits lost
    centred = truth - truth.mean()
    sums = weights @ np.bincount(clusters, centred, length)
    squares = weights @ np.bincount(clusters, centred**2, length)
    residual = weights @ np.bincount(clusters, errors**2, length)
    with np.errstate(divide="ignore", invalid="ignore"):
        explained: Array = 1 - residual / (squares - sums**2 / counts)
    return explained
