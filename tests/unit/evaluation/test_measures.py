"""The numbers of an evaluation against sets made by hand, and against independent code."""

import numpy as np
import pytest
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator

from chemscale.evaluation.descriptors import describe, parsed
from chemscale.evaluation.measures import (
    FEATURES,
    Resampling,
    generation_results,
    novelty,
    probe_results,
    scaffold_overlap,
    similarities,
    uniqueness,
    weighted_mae,
    weighted_r2,
)
from chemscale.evaluations import DESCRIPTORS

RESAMPLING = Resampling(0.9, 200, 0)
SMILES = ["CCO", "c1ccccc1", "CC(=O)Oc1ccccc1C(=O)O", "c1ccc2ccccc2c1", "OCC", "C1CC1N", "O=C(O)c1ccc2ccccc2c1"]


def by_name(results):
    return {(row["metric"], row["subject"]): row for row in results}


def test_shares_of_sets_made_by_hand():
    assert uniqueness(["C", "C", "N", "O"]) == 0.75
    # three distinct molecules, one of them known
    assert novelty(["C", "C", "N", "O"], [True, True, False, False]) == pytest.approx(2 / 3)
    assert scaffold_overlap(["a", "a", "b", None], ["a", "c", None]) == pytest.approx(2 / np.sqrt(5 * 2))
    assert scaffold_overlap(["a", "b"], ["b", "a"]) == pytest.approx(1)
    assert scaffold_overlap([None], ["a"]) is None


def test_similarities_are_rdkits():
    found = similarities(describe(parsed(SMILES))["fingerprint"])
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=1024)
    prints = [generator.GetFingerprint(Chem.MolFromSmiles(text)) for text in SMILES]
    expected = [DataStructs.BulkTanimotoSimilarity(one, prints) for one in prints]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_descriptors_are_those_of_the_literature():
    columns = describe(
        parsed(["c1ccccc1", "not a molecule", "C1=CC=CC=C1", "CC(=O)Oc1ccccc1C(=O)O", "c1ccc2ccccc2c1C"])
    )
    assert columns["smiles"] == ["c1ccccc1", "c1ccccc1", "CC(=O)Oc1ccccc1C(=O)O", "Cc1cccc2ccccc12"]
    assert columns["weight"][2] == pytest.approx(180.16, abs=0.01)  # aspirin
    assert columns["log_p"][2] == pytest.approx(1.31, abs=0.01)  # Wildman and Crippen's
    assert columns["qed"][2] == pytest.approx(0.55, abs=0.01)
    assert (columns["rings"][3], columns["heavy_atoms"][3]) == (2, 11)
    # one ring is no scaffold here
    assert columns["scaffold"] == [None, None, None, "c1ccc2ccccc2c1"]


def columns_of(weights, first=0):
    count = len(weights)
    return {
        "smiles": [f"C{first + row}" for row in range(count)],
        "scaffold": ["s"] * count,
        "fingerprint": [f"{1 << (first + row) % 1024:0256x}" for row in range(count)],
        **{name: list(weights) for name in DESCRIPTORS},
    }


def test_numbers_of_generated_molecules():
    random = np.random.default_rng(0)
    weights = random.normal(100, 10, 60)
    raw = {
        "generated": columns_of(weights[:20] + 5),
        "known": [row < 4 for row in range(20)],
        "drawn": 25,
        "left_out": {"cut by the limit": 5},
        "unreadable": 0,
        "reference": columns_of(weights[:20]),
        "training_sample": columns_of(weights[20:40]),
    }
    found = by_name(generation_results(raw, RESAMPLING))
    assert found["validity", "model"]["value"] == 0.8
    assert found["uniqueness", "model"]["value"] == 1.0
    assert found["novelty", "model"]["value"] == 0.8
    # equal numbers of molecules, every one moved by 5
    assert found["wasserstein_weight", "model"]["value"] == pytest.approx(5)
    assert found["wasserstein_weight", "model"]["unit"] == "g/mol"
    assert found["scaffold_overlap", "model"]["value"] == pytest.approx(1)
    # no two molecules share a bit: each is like itself alone
    assert found["internal_diversity", "model"]["value"] == pytest.approx(1 - 1 / 20)
    for row in found.values():
        if row["low"] is not None:
            assert 0 <= row["low"] <= row["value"] <= row["high"], row
    assert generation_results(raw, RESAMPLING) == list(found.values())


def test_wasserstein_distance_is_that_of_sorted_values():
    random = np.random.default_rng(1)
    one, other = random.normal(size=50), random.gamma(2, size=50)
    raw = {"generated": columns_of(one), "known": [False] * 50, "drawn": 50, "left_out": {}, "unreadable": 0,
           "reference": columns_of(other), "training_sample": columns_of(other)}  # fmt: skip
    found = by_name(generation_results(raw, RESAMPLING))
    expected = np.abs(np.sort(one) - np.sort(other)).mean()
    assert found["wasserstein_qed", "model"]["value"] == pytest.approx(expected)
    assert found["wasserstein_qed", "training_sample"]["value"] == 0


def test_the_interval_of_a_distance_is_as_wide_as_draws_differ():
    random = np.random.default_rng(2)
    reference = random.normal(size=400)

    def distances(count):
        found = []
        for _ in range(count):
            raw = {"generated": columns_of(random.normal(2, 1, 100)), "known": [False] * 100, "drawn": 100,
                   "left_out": {}, "unreadable": 0, "reference": columns_of(reference),
                   "training_sample": columns_of(reference[:5])}  # fmt: skip
            found.append(by_name(generation_results(raw, Resampling(0.9, 100, 0)))["wasserstein_qed", "model"])
        return found

    rows = distances(25)
    half_widths = [(row["high"] - row["low"]) / 2 for row in rows]
    # two normal distributions a distance of 2 apart: the distance varies as the mean of either set does
    expected = 1.645 * np.sqrt(1 / 100 + 1 / 400)
    assert np.mean(half_widths) == pytest.approx(expected, rel=0.15)


def test_no_scaffold_is_null_with_a_reason_and_too_few_molecules_are_told():
    raw = {"generated": columns_of([1.0, 2.0]) | {"scaffold": [None, None]}, "known": [False] * 2, "drawn": 2,
           "left_out": {}, "unreadable": 0, "reference": columns_of([1.0, 3.0]),
           "training_sample": columns_of([1.0, 3.0])}  # fmt: skip
    overlap = by_name(generation_results(raw, RESAMPLING))["scaffold_overlap", "model"]
    assert overlap["value"] is None
    assert "scaffold" in overlap["reason"]
    raw["generated"] = columns_of([1.0])
    raw["drawn"], raw["unreadable"] = 5, 4
    found = by_name(generation_results(raw, RESAMPLING))
    assert found["validity", "model"]["value"] == 0.2
    assert found["validity", "model"]["reason"]
    assert ("wasserstein_qed", "model") not in found


def test_errors_of_resampled_clusters_are_those_of_repeated_molecules():
    random = np.random.default_rng(3)
    clusters = np.array([0, 0, 1, 2, 2, 2, 3])
    truth, errors = random.normal(size=7), random.normal(size=7)
    weights = np.array([[1, 1, 1, 1], [2, 0, 1, 1], [0, 3, 1, 0]], float)
    for row, mae, r2 in zip(
        weights,
        weighted_mae(errors, clusters, weights),
        weighted_r2(truth, errors, clusters, weights),
        strict=True,
    ):
        rows = np.repeat(np.arange(7), row.astype(int)[clusters])
        assert mae == pytest.approx(np.abs(errors[rows]).mean())
        residual = (errors[rows] ** 2).sum() / ((truth[rows] - truth[rows].mean()) ** 2).sum()
        assert r2 == pytest.approx(1 - residual)


def test_differences_of_features_are_paired():
    random = np.random.default_rng(4)
    truth = random.normal(size=80)
    noise = random.normal(size=80)
    predictions = dict(zip(FEATURES, (truth + k * noise for k in (1.0, 1.1, 1.0, 3.0)), strict=True))
    raw = {
        "test": {"smiles": ["C"] * 80, "cluster": [str(row // 2) for row in range(80)], "gap": truth, "dipole": truth},
        "predictions": {name: {"gap": values, "dipole": values} for name, values in predictions.items()},
        "molecules": {"train": 5, "validation": 5, "test": 80},
        "rejected": {"scf_failed": 2},
    }
    found = by_name(probe_results(raw, RESAMPLING))
    assert found["gap_mae", "trained"]["value"] == pytest.approx(np.abs(noise).mean())
    assert found["gap_mae", "trained"]["unit"] == "eV"
    # intervals of the errors overlap by far, that of their difference does not hold 0
    assert found["gap_mae", "untrained"]["low"] < found["gap_mae", "trained"]["high"]
    assert found["gap_mae_difference", "untrained"]["high"] < 0
    same = found["dipole_mae_difference", "morgan"]
    assert (same["value"], same["low"], same["high"]) == (0, 0, 0)
    assert found["molecules", "rejected"]["value"] == 2
    assert found["scaffolds", "test"]["value"] == 40
