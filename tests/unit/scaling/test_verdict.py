"""Verdicts: fixed criteria with a caution near each threshold, whatever seed and level the author chooses."""

from __future__ import annotations

import numpy as np
import pytest

from chemscale.scaling import bootstrap
from chemscale.scaling.bootstrap import JUDGE_RESAMPLES, Noise, draw, judge_draws
from chemscale.scaling.estimate import Estimate, Points, estimate
from chemscale.scaling.fit import fit
from chemscale.scaling.law import LAWS
from chemscale.scaling.verdict import (
    LEVELS,
    Reason,
    check_failures,
    check_intervals,
    check_points,
    check_scatter,
    check_structure,
    distinct_values,
    levels_of,
    verdict_of,
    widened,
)

X = np.geomspace(100, 1e5, 10)


def judged(width: float, level: float = 0.9, seed: int = 0, resamples: int = 400) -> Estimate:
    """A power law whose exponent has an interval at 90 % about `width` times as wide as its value; no scatter."""
    beta, dof = 0.2, 100
    logs = np.log(X) - np.log(X).mean()
    noise = width * beta * np.sqrt((logs**2).sum()) / (2 * 1.66)
    points = Points({"x": X}, {"x": "D"}, 9 * X**-beta, np.ones(len(X)))
    return estimate(LAWS["power"], points, Noise(noise, dof), draw(len(X), resamples, seed, "test"), level)


@pytest.mark.parametrize(
    ("width", "verdict"),
    [(0.5, "accepted"), (0.75, "accepted"), (0.95, "caution"), (1.05, "caution"), (1.3, "refused")],
)
def test_a_verdict_depends_on_neither_seed_nor_level(width, verdict):
    found = {
        judged(width, level, seed, resamples).verdict
        for level, seed, resamples in [(0.9, 0, 400), (0.5, 1, 200), (0.8, 2, 400), (0.95, 3, 400), (0.99, 4, 1000)]
    }
    assert found == {verdict}


def test_a_caution_says_how_near_the_threshold_is():
    (reason,) = judged(0.95).reasons
    assert (reason.code, reason.refuses) == ("wide_interval", False)
    times = [float(part.split(" times")[0].split()[-1]) for part in reason.found.split(" %")[2:]]
    nominal = float(reason.found.split("the interval is ")[1].split()[0])
    assert nominal == pytest.approx(0.95, abs=0.03)
    # Student's t of 100 degrees of freedom at 85 and 95 %
    assert times == pytest.approx([0.95 * 1.451 / 1.66, 0.95 * 1.984 / 1.66], abs=0.05)


def test_other_random_numbers_inside_the_judge_never_turn_a_yes_into_a_no(monkeypatch):
    for width in (0.7, 0.85, 1.0, 1.15, 1.3):
        found = set()
        for seed in range(10):
            monkeypatch.setattr(bootstrap, "JUDGE_SEED", seed)
            found.add(judged(width).verdict)
        assert not {"accepted", "refused"} <= found


def test_the_judges_draws_are_standard_normal_and_differ_between_families():
    one, other = judge_draws(6, "painn"), judge_draws(6, "schnet")
    assert one.normal.shape == (JUDGE_RESAMPLES, 6)
    assert np.abs(one.normal.mean(0)).max() < 0.01
    assert np.abs(np.corrcoef(one.normal.T, other.normal.T) - np.eye(12)).max() < 0.12
    again = judge_draws(6, "painn")
    np.testing.assert_array_equal(one.normal, again.normal)
    np.testing.assert_array_equal(one.uniform, again.uniform)


def nested(*ends: tuple[float, float]) -> dict[float, dict[str, tuple[float, float]]]:
    return {level: {"beta": end} for level, end in zip(LEVELS, ends, strict=True)}


@pytest.mark.parametrize(
    ("ends", "code", "refuses"),
    [
        (((0.15, 0.25), (0.14, 0.26), (0.12, 0.28)), None, None),
        (((0.12, 0.28), (0.11, 0.30), (0.10, 0.32)), "wide_interval", False),
        (((0.1, 0.31), (0.1, 0.32), (0.1, 0.33)), "wide_interval", True),
        (((0.1, 0.28), (0.05, 0.29), (-0.01, 0.3)), "not_falling", False),
        (((-0.01, 0.3), (-0.02, 0.3), (-0.03, 0.3)), "not_falling", True),
    ],
)
def test_an_exponent_is_judged_at_three_fixed_levels(ends, code, refuses):
    fitted = fit(LAWS["power"], {"x": X}, 9 * X**-0.2)
    reasons = check_intervals(fitted, nested(*ends))
    assert [(reason.code, reason.refuses) for reason in reasons] == ([] if code is None else [(code, refuses)])


@pytest.mark.parametrize(
    ("reasons", "verdict"),
    [
        (check_failures(0.02), "accepted"),
        (check_failures(0.04), "caution"),
        (check_failures(0.2), "refused"),
        (check_scatter(0.05, 0.01, 0.001), "refused"),
        (check_scatter(0.029, 0.01, 0.001), "caution"),
        (check_scatter(0.05, 0.01, 0.012), "caution"),
        (check_scatter(0.05, 0.01, 0.03), "accepted"),
        (check_scatter(0.02, 0.01, 0.001), "accepted"),
        (check_scatter(0.0095, 0.0, 0.001), "caution"),
        (check_structure(0.02, 0.001), "refused"),
        (check_structure(0.009, 0.001), "caution"),
        (check_structure(0.005, 0.001), "accepted"),
        ([Reason("a", "b", "c", refuses=False), Reason("a", "b", "c")], "refused"),
    ],
)
def test_every_threshold_has_a_caution_around_it(reasons, verdict):
    assert verdict_of(reasons) == verdict


def test_the_noise_is_widened_by_degrees():
    shares = [widened(p_value) for p_value in (0.2, 0.1, 0.07, 0.05, 0.04, 0.025, 0.01)]
    assert shares == sorted(shares)
    assert shares[:2] == [0, 0]
    assert shares[3] == pytest.approx(0.5)
    assert shares[-2:] == [pytest.approx(1), 1]


def test_levels_do_not_chain():
    assert distinct_values(np.geomspace(1, 1.049**59, 60)) == 30
    assert distinct_values(np.array([100, 300, 1000, 3000, 3050, 10000.0])) == 5
    assert distinct_values(np.array([7.0])) == 1
    values = np.random.default_rng(0).uniform(1, 10, 300)
    levels = levels_of(values)
    for level in set(levels):
        assert np.ptp(np.log(values[levels == level])) <= np.log(1.05)
    # the lowest values of the levels are all apart: there are as many distinct values as the number says
    lowest = np.array([values[levels == level].min() for level in range(levels.max() + 1)])
    assert (np.diff(np.log(np.sort(lowest))) > np.log(1.05)).all()


@pytest.mark.parametrize("low", [0.03, 0.07, 0.7, 3.0])
def test_a_decade_stays_one_whatever_its_last_digit(low):
    axis = {"x": np.array([low, 2 * low, 5 * low, 10 * low])}
    assert not check_points(LAWS["power"], axis, {"x": "D"})
