"""Dynamics on potentials whose answers are known, and the numbers that follow from censored times."""

import numpy as np
import pytest
import torch

from chemscale.errors import DataError
from chemscale.evaluation import dynamics
from chemscale.evaluation.resampling import Resampling
from chemscale.evaluation.stability import distance_error, dynamics_results, median_time

# water, in angstrom
WATER = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
SETTINGS = {
    "molecules": ["water"], "replicas": 4, "temperature": 300.0, "nvt_ps": 1.0, "nvt_timestep_fs": 0.5,
    "friction_per_ps": 50.0, "nve_ps": 0.2, "nve_timestep_fs": 0.25, "seed": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_data):
    """A trajectory of water, the odd frames of the test split, and three frames of something else."""
    random = np.random.default_rng(0)
    rows = [
        {"group": str(i), "split": "test" if i % 2 else "train", "molecule": name, "frame": i, "species": species,
         "positions": WATER[: len(species)] + 0.02 * random.normal(size=(len(species), 3)), "energy": 0.0,
         "forces": [0.0] * 3 * len(species)}
        for name, species, count in (("water", [8, 1, 1], 40), ("oxide", [8, 1], 3))
        for i in range(count)
    ]  # fmt: skip
    path = tmp_path_factory.mktemp("dynamics") / "toy"
    write_data(path, rows)
    return path


def _springs(strength, length=None):
    """Harmonic springs between all pairs of a molecule, at rest in water or at another length."""
    rest = torch.from_numpy(np.linalg.norm(WATER[:, None] - WATER, axis=-1))

    def predict(graph):
        positions = graph.positions.view(graph.num_frames, 3, 3)
        vectors = positions[:, :, None] - positions[:, None]
        distances = vectors.norm(dim=-1) + torch.eye(3)
        stretch = (distances - (rest if length is None else length)) * (1 - torch.eye(3))
        # each pair stands in the sum twice
        energies = 0.25 * strength * stretch.square().sum((1, 2))
        forces = -strength * (stretch / distances)[..., None] * vectors
        return energies, forces.sum(2).view(-1, 3)

    return predict


def test_springs_hold_keep_their_energy_and_are_as_warm_as_they_should_be(folder):
    raw, speed = dynamics.evaluate(_springs(30.0), 5.0, folder, SETTINGS | {"nvt_ps": 5.0})
    water = raw["molecules"]["water"]
    assert (water["steps"], water["ended_ps"], water["free"]["held"]) == (10_000, [None] * 4, [True] * 4)
    assert speed > 0
    numbers = {(row["metric"], row["subject"]): row for row in dynamics_results(raw, Resampling(0.9, 200, 0))}
    # 9 degrees of freedom over 4 replicas and 5 ps: the mean of the temperature is known to some per cent
    assert numbers["temperature", "water"]["value"] == pytest.approx(300, rel=0.1)
    assert numbers["energy_drift", "water"]["value"] < 0.5
    assert numbers["stable_share", "water"]["value"] == 1.0
    assert numbers["stability_time", "water"]["value"] is None
    assert "beyond the cap of 5 ps" in numbers["stability_time", "water"]["reason"]
    assert 0 < numbers["distance_mae", "water"]["value"] < 1.5
    again, _ = dynamics.evaluate(_springs(30.0), 5.0, folder, SETTINGS | {"nvt_ps": 5.0})
    assert again == raw


def test_the_spread_of_a_bond_is_that_of_its_temperature(folder):
    """Equipartition: a bond's energy is half of kT, in the mean over time."""
    settings = SETTINGS | {"nvt_ps": 20.0, "nve_ps": None, "replicas": 16}
    raw, _ = dynamics.evaluate(_springs(30.0), 5.0, folder, settings)
    counts = np.array(raw["molecules"]["water"]["distances"]).sum(0)
    middles = (np.arange(len(counts)) + 0.5) * raw["bin"]
    # the third pair alone is longer than 1.3 angstrom
    long = middles > 1.3
    mean = np.average(middles[long], weights=counts[long])
    variance = np.average((middles[long] - mean) ** 2, weights=counts[long]) - raw["bin"] ** 2 / 12
    assert variance == pytest.approx(8.617333e-5 * 300 / 30.0, rel=0.1)


def test_a_molecule_that_falls_apart_ends_and_harms_no_other(folder):
    raw, _ = dynamics.evaluate(_springs(30.0, length=3.0), 5.0, folder, SETTINGS)
    water = raw["molecules"]["water"]
    assert all(0 < end < 0.1 for end in water["ended_ps"])
    assert water["steps"] < 200
    assert not any(water["free"]["held"])
    numbers = {(row["metric"], row["subject"]): row for row in dynamics_results(raw, Resampling(0.9, 200, 0))}
    assert numbers["stability_time", "all"]["value"] == pytest.approx(np.sort(water["ended_ps"])[1])
    assert numbers["energy_drift", "all"]["value"] is None

    def one_is_none(graph):
        energies, forces = _springs(30.0)(graph)
        return energies, torch.where(graph.frame[:, None] == 2, torch.nan, forces)

    raw, _ = dynamics.evaluate(one_is_none, 5.0, folder, SETTINGS | {"nvt_ps": 0.1})
    assert [end is None for end in raw["molecules"]["water"]["ended_ps"]] == [True, True, False, True]
    assert all(np.isfinite(raw["molecules"]["water"]["distances"]).ravel())


@pytest.mark.parametrize("timestep", [0.3, 0.4])
def test_what_breaks_between_a_look_and_a_sample_has_no_distances(folder, timestep):
    sample, calls = round(20 / timestep), 0

    def breaks(graph):
        nonlocal calls
        calls += 1
        energies, forces = _springs(30.0)(graph)
        # the first call is that of the start: two replicas have no place at the step of the first sample
        return energies, torch.where((graph.frame[:, None] < 2) & (calls == sample), torch.nan, forces)

    settings = SETTINGS | {"nvt_ps": 0.24, "nvt_timestep_fs": timestep, "nve_ps": None}
    raw, _ = dynamics.evaluate(breaks, 5.0, folder, settings)
    water = raw["molecules"]["water"]
    assert water["ended_ps"] == [sample * timestep / 1000] * 2 + [None] * 2
    assert water["temperatures"][:2] == [None] * 2
    assert all(water["temperatures"][2:])
    assert [sum(counts) for counts in water["distances"]] == [0, 0] + [3 * (water["steps"] // sample)] * 2


def test_a_reference_is_measured_in_parts_as_it_is_at_once(folder, monkeypatch):
    (water,) = dynamics.references(folder, ["water"])
    whole = (water.bonds()[1], dynamics._counts_of_reference(water))
    monkeypatch.setattr(dynamics, "_FRAMES", 7)
    np.testing.assert_allclose(water.bonds()[1], whole[0], rtol=1e-14)
    assert dynamics._counts_of_reference(water) == whole[1]
    distances = np.linalg.norm(water.positions[:, [0, 0, 1]] - water.positions[:, [1, 2, 2]], axis=2)
    np.testing.assert_allclose(whole[0], distances[:, :2].mean(0), rtol=1e-14)


def test_what_cannot_be_simulated_is_told(folder, tmp_path, write_data):
    with pytest.raises(DataError, match="no frame of it"):
        list(dynamics.references(folder, ["water", "methane"]))
    assert [reference.molecule for reference in dynamics.references(folder, None)] == ["oxide", "water"]
    with pytest.raises(DataError, match="1 test frames"):
        dynamics.evaluate(_springs(1.0), 5.0, folder, SETTINGS | {"molecules": ["oxide"]})
    rows = [
        {"group": str(i), "split": "test" if i % 2 else "train", "molecule": "argon", "frame": i, "species": [18, 18],
         "positions": [[0.0, 0.0, 0.0], [3.8 + i / 100, 0.0, 0.0]], "energy": 0.0, "forces": [0.0] * 6}
        for i in range(8)
    ]  # fmt: skip
    write_data(tmp_path / "pair", rows)
    with pytest.raises(DataError, match="no two atoms of it bonded"):
        dynamics.evaluate(_springs(1.0), 5.0, tmp_path / "pair", SETTINGS | {"molecules": ["argon"]})


def test_bonds_are_those_of_the_molecule(folder):
    (water,) = dynamics.references(folder, ["water"])
    bonds, lengths = water.bonds()
    assert bonds.T.tolist() == [[0, 1], [0, 2]]
    np.testing.assert_allclose(lengths, 0.96, atol=0.02)


@pytest.mark.parametrize(
    ("ended", "median"),
    [
        ([1.0, 2.0, 3.0, 4.0], 2.0),
        ([1.0, 2.0, 3.0], 2.0),
        ([None, 2.0, 1.0, None], 2.0),
        ([None, 2.0, None, None], None),
        ([None, None], None),
    ],
)
def test_median_of_censored_times_is_kaplan_and_meiers(ended, median):
    from scipy.stats import CensoredData, ecdf

    assert median_time(ended, 10.0) == median
    times = [10.0 if end is None else end for end in ended]
    curve = ecdf(CensoredData(uncensored=[t for t in ended if t is not None], right=[10.0] * ended.count(None))).sf
    below = curve.quantiles[curve.probabilities <= 0.5 + 1e-12]
    assert (float(below.min()) if len(below) else None) == (median if median is not None else None)
    assert max(times) <= 10.0


def test_interval_of_the_median_covers_as_often_as_it_says():
    random, level, hits, draws = np.random.default_rng(0), 0.9, 0, 2000
    for _ in range(draws):
        times = random.exponential(1.0, 8)
        told = [float(time) if time < 1.5 else None for time in times]
        raw = {"molecules": {"x": {"ended_ps": told, "cap_ps": 1.5, "free": None, "temperatures": [1.0],
               "distances": [[1, 0]], "reference_distances": [[1, 0], [1, 0]]}}}  # fmt: skip
        row = next(row for row in dynamics_results(raw, Resampling(level, 2, 0)) if row["metric"] == "stability_time")
        high = np.inf if row["high"] is None else row["high"]
        hits += row["low"] is not None and row["low"] <= np.log(2) <= high
    assert level - 0.02 < hits / draws


def test_distance_error_lies_between_nothing_and_two():
    assert distance_error(np.array([2.0, 2.0]), np.array([1.0, 1.0])) == 0
    assert distance_error(np.array([1.0, 0.0]), np.array([0.0, 5.0])) == 2


def test_a_number_of_the_survivors_says_so():
    def water(held):
        over = 8 - held
        free = {
            "held": [True] * held + [False] * over,
            "every_ps": 0.1,
            "energy_changes": [[0.1, 0.2, 0.3, 0.4]] * held + [[5.0]] * over,
            "temperatures": [300.0] * 8,
        }
        told = {
            "ended_ps": [None] * held + [0.05] * over,
            "cap_ps": 1.0,
            "temperatures": [300.0] * held + [None] * over,
            "distances": [[5, 5]] * 8,
            "reference_distances": [[5, 5], [5, 5]],
            "free": free,
        }
        found = dynamics_results({"molecules": {"water": told}}, Resampling(0.9, 200, 0))
        return {row["metric"]: row for row in found if row["subject"] == "water"}

    whole, half, one = water(8), water(4), water(1)
    assert whole["energy_drift"]["value"] == pytest.approx(1.0)
    assert (whole["energy_drift"]["reason"], whole["distance_mae"]["reason"]) == (None, None)
    assert half["energy_drift"]["low"] is not None
    assert half["energy_drift"]["reason"] == "of the 4 replicas of 8 that held long enough"
    assert half["distance_mae"]["reason"] == "with what 4 replicas of 8 showed before they were over"
    assert (one["energy_drift"]["low"], one["energy_drift"]["high"]) == (None, None)
    assert "no interval from fewer than 4" in one["energy_drift"]["reason"]
