"""The forms: their derivatives and their predictions."""

import numpy as np
import pytest

from chemscale.scaling.law import LAWS


@pytest.mark.parametrize("name", LAWS)
def test_derivatives_are_those_of_finite_differences(name):
    law = LAWS[name]
    random = np.random.default_rng(0)
    log_x = random.normal(0, 2, (len(law.terms), 7))
    theta = random.uniform(0.1, 1.0, (3, len(law.parameters)))
    _, jacobian = law.evaluate(theta, log_x)
    step = 1e-6
    for index in range(theta.shape[1]):
        moved = np.zeros_like(theta)
        moved[:, index] = step
        difference = law.evaluate(theta + moved, log_x)[0] - law.evaluate(theta - moved, log_x)[0]
        np.testing.assert_allclose(jacobian[..., index], difference / (2 * step), rtol=1e-6, atol=1e-9)


def test_predictions_are_the_equations():
    n, d = np.array([10.0, 100.0]), np.array([1000.0, 10.0])
    parameters = {"E": 0.5, "A": 3.0, "alpha": 0.5, "B": 7.0, "beta": 1.0}
    found = LAWS["joint"].predict(parameters, {"N": n, "D": d})
    np.testing.assert_allclose(found, 0.5 + 3 / np.sqrt(n) + 7 / d)
    np.testing.assert_allclose(LAWS["power"].predict({"A": 2.0, "beta": 2.0}, {"x": n}), 2 / n**2)


def test_parameters_are_named_as_the_contract_names_them():
    assert LAWS["power"].parameters == ("A", "beta")
    assert LAWS["offset"].parameters == ("E", "A", "beta")
    assert LAWS["joint"].parameters == ("E", "A", "alpha", "B", "beta")
