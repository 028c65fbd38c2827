"""The search: the minima of scipy's, whatever the units; many data sets at once give what each gives alone."""

import numpy as np
import pytest
from scipy.optimize import least_squares

from chemscale.scaling.fit import fit, solve
from chemscale.scaling.law import LAWS

AXES = {
    "x": np.geomspace(64, 4096, 8),
    "N": np.repeat(np.geomspace(1e3, 2e5, 4), 6),
    "D": np.tile(np.geomspace(3e3, 1e5, 6), 4),
}
TRUTH = {
    "power": {"A": 9.0, "beta": 0.2},
    "offset": {"E": 0.9, "A": 12.0, "beta": 0.4},
    "joint_power": {"A": 20.0, "alpha": 0.26, "B": 35.0, "beta": 0.31},
    "joint": {"E": 0.9, "A": 30.0, "alpha": 0.5, "B": 60.0, "beta": 0.45},
}


def noisy(name, sd=0.01, seed=0):
    law = LAWS[name]
    axes = {axis: AXES[axis] for axis in law.axes}
    exact = law.predict(TRUTH[name], axes)
    return law, axes, exact * np.exp(sd * np.random.default_rng(seed).standard_normal(len(exact)))


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("seed", range(3))
def test_no_start_of_scipys_finds_a_lower_minimum(name, seed):
    law, axes, losses = noisy(name, seed=seed)
    sigma = np.linspace(1.0, 2.0, len(losses))
    found = fit(law, axes, losses, sigma)
    assert found.converged
    weights = sigma**-2.0 / np.mean(sigma**-2.0)

    def residuals(theta):
        values = dict(zip(law.parameters, theta, strict=True))
        values |= {term.amplitude: np.exp(values[term.amplitude]) for term in law.terms}
        return np.sqrt(weights) * (np.log(losses) - np.log(law.predict(values, axes)))

    random = np.random.default_rng(seed)
    low = [1e-3 if name in law.exponents else 0.0 if name == "E" else -25.0 for name in law.parameters]
    high = [5.0 if name in law.exponents else np.inf if name == "E" else 60.0 for name in law.parameters]
    best = np.inf
    for _ in range(20):
        start = [
            random.uniform(0.05, 1.5) if name in law.exponents else random.uniform(0, 1) if name == "E" else 2.0
            for name in law.parameters
        ]
        other = least_squares(residuals, start, bounds=(low, high), x_scale="jac", xtol=1e-12, ftol=1e-12, gtol=1e-12)
        best = min(best, 2 * other.cost)
    assert found.rss <= best * (1 + 1e-7)
    assert found.rss == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("name", LAWS)
def test_units_of_axes_and_loss_change_amplitudes_alone(name):
    law, axes, losses = noisy(name)
    one = fit(law, axes, losses)
    other = fit(law, {axis: 1000 * values for axis, values in axes.items()}, 27.2 * losses)
    for exponent in law.exponents:
        assert other.parameters[exponent] == pytest.approx(one.parameters[exponent], rel=1e-6)
    np.testing.assert_allclose(other.residuals, one.residuals, atol=1e-9)


@pytest.mark.parametrize("name", LAWS)
def test_a_batch_gives_what_each_data_set_gives_alone(name):
    law, axes, losses = noisy(name)
    whole = fit(law, axes, losses)
    random = np.random.default_rng(5)
    scaled = np.log(losses) - whole.problem.scale.log_loss
    sets = scaled + 0.01 * random.standard_normal((6, len(losses)))
    batch = solve(whole.problem, sets, whole.theta)
    for index, data in enumerate(sets):
        alone = fit(law, axes, np.exp(data + whole.problem.scale.log_loss))
        assert batch.rss[index] == pytest.approx(alone.rss, rel=1e-6)


def test_a_rising_loss_has_a_negative_exponent_and_not_one_on_a_bound():
    found = fit(LAWS["power"], {"x": AXES["x"]}, AXES["x"] ** 0.1)
    assert found.parameters["beta"] == pytest.approx(-0.1)
    assert found.on_bound == ()


def test_a_floor_below_zero_ends_on_its_bound():
    # a loss that falls faster and faster in log-log would want E < 0
    losses = 10 * AXES["x"] ** -0.2 - 1.0
    found = fit(LAWS["offset"], {"x": AXES["x"]}, losses)
    assert "E" in found.on_bound
