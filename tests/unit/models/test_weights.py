"""Weights are read back bit for bit, and refused where they belong to something else."""

import pytest
import torch

from chemscale.errors import RecordError
from chemscale.models import registry, weights

KNOBS = {"width": 8, "interactions": 2, "num_radial": 4, "cutoff": 4.0, "envelope": "smooth", "vectors": True}
SPEC = {"family": "painn", "knobs": KNOBS}


def test_round_trip_and_refusals(tmp_path):
    model, other = (registry.build("painn", KNOBS, seed=seed) for seed in (0, 1))
    weights.save(tmp_path, model.state_dict(), SPEC)
    weights.load_into(tmp_path, other, SPEC)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())
    with pytest.raises(RecordError, match="expected"):
        weights.load_into(tmp_path, other, {"family": "schnet", "knobs": KNOBS})
    path = tmp_path / weights.WEIGHTS
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(RecordError, match="changed"):
        weights.load_into(tmp_path, other, SPEC)
