"""Does a lower loss help anybody? A ridge regression on a cell's frozen vectors, beside other features.

The probe predicts the HOMO-LUMO gap and the dipole moment (GFN2-xTB, see `chemscale.data.properties`) of molecules that
no cell was trained on, from

- trained: the mean over a molecule's tokens of the features of the cell's last layer;
- untrained: the same of the cell's model before its first step;
- morgan: counts of Morgan environments of radius 2, folded to 2,048 (Rogers and Hahn, J. Chem. Inf. Model. 50, 742
  (2010)), which know nothing of any training;
- constant: the mean of the probe's training molecules, the floor that any features should beat.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chemscale.data.prepare_properties import load
from chemscale.data.subsets import subset_keys
from chemscale.errors import DataError
from chemscale.evaluation.measures import FEATURES, Array, Index
from chemscale.evaluations import PROPERTIES
from chemscale.inference.embed import vectors
from chemscale.inference.language import LanguageModel
from chemscale.models.decoder import Decoder

PARTS = ("train", "validation", "test")
# of the probe's molecules, the rest is its test part
_TRAIN, _VALIDATION = 0.6, 0.15
_MORGAN_LENGTH = 2048
# ridge strengths, as multiples of the largest squared singular value of the standardised features
_STRENGTHS = np.logspace(-8, 1, 37)


def evaluate(asked: LanguageModel, untrained: Decoder, data: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Probe a cell's model; the raw values that `chemscale.evaluation.measures` makes numbers of.

    Args:
        asked: the cell's model.
        untrained: the same model before its first step.
        data: the folder of its data, with the properties of these settings.
        settings: num_molecules, max_heavy_atoms and seed.

    Returns:
        test: columns smiles, cluster and the truth of each property (gap in eV, dipole in debye); predictions: by
        features and property, for the test molecules; strengths: the ridge strength chosen, by features and property;
        molecules: how many each part has; rejected: molecules without properties, by reason; source: of the truth.

    Raises:
        DataError: the properties are not whole.
    """
    table, manifest = load(data, settings)
    columns = table.to_pydict()
    parts = scaffold_split(columns["cluster"], settings["seed"])
    strings = [asked.tokenizer.encode(selfies) for selfies in columns["selfies"]]
    features: dict[str, NDArray[Any]] = {
        "trained": vectors(asked.model, strings),
        "untrained": vectors(untrained, strings),
        "morgan": morgan_counts(columns["smiles"]),
        "constant": np.zeros((len(strings), 1)),
    }
    predictions: dict[str, dict[str, list[float]]] = {}
    strengths: dict[str, dict[str, float]] = {}
    for name in FEATURES:
        found = {wanted: fit_and_predict(features[name], np.array(columns[wanted]), parts) for wanted in PROPERTIES}
        predictions[name] = {wanted: predicted.tolist() for wanted, (predicted, _) in found.items()}
        strengths[name] = {wanted: strength for wanted, (_, strength) in found.items()}
    test = {name: [columns[name][row] for row in parts["test"]] for name in ("smiles", "cluster", *PROPERTIES)}
    return {
        "test": test,
        "predictions": predictions,
        "strengths": strengths,
        "molecules": {part: len(parts[part]) for part in PARTS},
        "rejected": manifest["rejected"],
        "source": manifest["source"],
    }


def scaffold_split(clusters: Sequence[str], seed: int) -> dict[str, Index]:
    """The rows of the probe's train, validation and test part: every cluster is in one of them as a whole.

    Clusters larger than half of the validation or the test part go to train, and the others in random order, fixed by
    the seed, to train, validation and test until each is full (the balanced scaffold split of Yang et al., J. Chem.
    Inf. Model. 59, 3370 (2019)).

    Args:
        clusters: of each molecule.
        seed: of the order.

    Returns:
        rows in rising order, by part.

    Raises:
        DataError: a part is left empty, since there are too few clusters.
    """
    members: dict[str, list[int]] = {}
    for row, cluster in enumerate(clusters):
        members.setdefault(cluster, []).append(row)
    names = sorted(members)
    order = [names[place] for place in np.argsort(subset_keys(names, "probe", seed), kind="stable")]
    room = {
        "train": round(_TRAIN * len(clusters)),
        "validation": round(_VALIDATION * len(clusters)),
        "test": len(clusters),
    }
    small = min(_VALIDATION, 1 - _TRAIN - _VALIDATION) * len(clusters) / 2
    rows: dict[str, list[int]] = {part: [] for part in PARTS}
    for cluster in sorted(order, key=lambda name: len(members[name]) <= small):
        part = next(part for part in PARTS if len(rows[part]) + len(members[cluster]) <= room[part])
        rows[part] += members[cluster]
    if empty := [part for part in PARTS if not rows[part]]:
        raise DataError(
            f"split {len(clusters)} molecules of {len(names)} scaffolds for a probe",
            f"none for {' and '.join(empty)}",
            "raise the probe's num_molecules or max_heavy_atoms",
        )
    return {part: np.array(sorted(found), np.int64) for part, found in rows.items()}


def morgan_counts(smiles: Sequence[str]) -> NDArray[np.uint32]:
    """Counts [molecules, 2048] of Morgan environments of radius 2."""
    from rdkit import Chem
    from rdkit.Chem import rdFingerprintGenerator

    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=_MORGAN_LENGTH)
    return np.array([generator.GetCountFingerprintAsNumPy(Chem.MolFromSmiles(text)) for text in smiles])


def fit_and_predict(features: NDArray[Any], truth: Array, parts: Mapping[str, Index]) -> tuple[Array, float]:
    """Predictions of the test part by ridge regression, and the strength of the lowest squared validation error.

    Features are standardised by the training part; one that does not vary there counts for nothing. Without any that
    varies, the prediction is the mean of the training part.

    Args:
        features: [molecules, features].
        truth: [molecules].
        parts: the rows of train, validation and test.

    Returns:
        predictions [test molecules], and the strength, a multiple of the largest squared singular value.
    """
    values = np.asarray(features, np.float64)
    train, wanted = values[parts["train"]], truth[parts["train"]]
    mean, spread = train.mean(0), train.std(0)
    # what is left of rounding in a constant column is no variation
    varies = spread > 1e-9 * np.maximum(1, np.abs(mean))
    scaled = (values[:, varies] - mean[varies]) / spread[varies]
    if not varies.any():
        return np.full(len(parts["test"]), wanted.mean()), float(_STRENGTHS[-1])
    left, singular, right = np.linalg.svd(scaled[parts["train"]], full_matrices=False)
    projected = left.T @ (wanted - wanted.mean())

    def predict(strength: float, part: str) -> Array:
        weights = right.T @ (singular * projected / (singular**2 + strength * singular[0] ** 2))
        predicted: Array = wanted.mean() + scaled[parts[part]] @ weights
        return predicted

    validation = truth[parts["validation"]]
    errors = [float(((predict(strength, "validation") - validation) ** 2).mean()) for strength in _STRENGTHS]
    best = float(_STRENGTHS[int(np.argmin(errors))])
    return predict(best, "test"), best
