"""A probe finds what its features hold and nothing else; scaffolds stay whole."""

import numpy as np
import pytest

from chemscale.errors import DataError
from chemscale.evaluation.probe import PARTS, fit_and_predict, morgan_counts, scaffold_split


@pytest.fixture(scope="module")
def parts():
    return scaffold_split([str(row // 3) for row in range(600)], 0)


def test_scaffolds_stay_whole_and_parts_have_their_shares():
    random = np.random.default_rng(0)
    clusters = ["benzene"] * 150 + [str(number) for number in random.integers(0, 150, 350)]
    found = scaffold_split(clusters, 0)
    assert sorted(row for part in PARTS for row in found[part]) == list(range(500))
    of = [{clusters[row] for row in found[part]} for part in PARTS]
    assert not of[0] & of[1]
    assert not of[0] & of[2]
    assert not of[1] & of[2]
    # a scaffold that would fill a part by itself teaches and never tests
    assert "benzene" in of[0]
    assert [len(found[part]) for part in PARTS] == pytest.approx([300, 75, 125], abs=6)
    again = scaffold_split(clusters, 0)
    assert all((found[part] == again[part]).all() for part in PARTS)
    other = scaffold_split(clusters, 1)
    assert any(len(found[part]) != len(other[part]) or (found[part] != other[part]).any() for part in PARTS)


def test_too_few_scaffolds_are_told():
    with pytest.raises(DataError, match="none for"):
        scaffold_split(["one"] * 40, 0)


def test_a_planted_truth_is_found_and_a_permuted_one_is_not(parts):
    random = np.random.default_rng(1)
    features = random.normal(size=(600, 40)) * random.uniform(0.01, 100, 40) + 7
    features[:, 5] = 3.25  # a feature that never varies
    signal = (features - features.mean(0)) @ (random.normal(size=40) / features.std(0).clip(1e-3)) / 6
    truth = 4 + signal + random.normal(0, 0.1, 600)
    predicted, _ = fit_and_predict(features, truth, parts)
    spread = truth[parts["test"]].std()
    assert np.abs(predicted - truth[parts["test"]]).mean() < 0.12 < spread / 4
    permuted, strength = fit_and_predict(features[random.permutation(600)], truth, parts)
    error = np.sqrt(((permuted - truth[parts["test"]]) ** 2).mean())
    assert error > 0.95 * spread
    assert strength > 1e-3  # nothing to learn: all is shrunk


def test_ridge_is_the_solution_of_its_equations(parts):
    random = np.random.default_rng(2)
    features, truth = random.normal(size=(600, 8)), random.normal(size=600)
    truth += features[:, 0]
    predicted, strength = fit_and_predict(features, truth, parts)
    train = features[parts["train"]]
    scaled = (features - train.mean(0)) / train.std(0)
    fitted, wanted = scaled[parts["train"]], truth[parts["train"]]
    largest = np.linalg.norm(fitted, 2) ** 2
    weights = np.linalg.solve(fitted.T @ fitted + strength * largest * np.eye(8), fitted.T @ (wanted - wanted.mean()))
    np.testing.assert_allclose(predicted, wanted.mean() + scaled[parts["test"]] @ weights, rtol=1e-9)


def test_features_without_variation_give_the_mean(parts):
    truth = np.arange(600.0)
    predicted, _ = fit_and_predict(np.full((600, 3), 0.1), truth, parts)
    assert (predicted == truth[parts["train"]].mean()).all()


def test_morgan_counts_see_environments_and_their_numbers():
    counts = morgan_counts(["CCO", "OCC", "CCCCCCCC", "c1ccccc1"])
    assert counts.shape == (4, 2048)
    assert (counts[0] == counts[1]).all()
    assert (counts[0] != counts[2]).any()
    assert counts[2].max() >= 4  # four or more equal methylenes
