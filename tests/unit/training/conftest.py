"""Miniature data sets in the shards' real format, and cells that train on them in a second."""

import numpy as np
import pytest

from chemscale.grid import Cell

LANGUAGE_KEY, FRAMES_KEY = "toy-language", "toy-frames"


def _split(index):
    return ("test", "validation", "train", "train", "train", "train")[index % 6]


def _strings(random, count, in_group):
    """Rows of strings of carbon and oxygen."""
    strings = ["".join(random.choice(["[C]", "[O]", "[=C]"], length)) for length in random.integers(2, 20, count)]
    return [
        {"smiles": f"toy {i}", "selfies": s, "group": str(i // in_group), "split": _split(i // in_group)}
        for i, s in enumerate(strings)
    ]


@pytest.fixture(scope="session")
def make_strings():
    """A function that makes so many rows of strings, each a group of its own."""
    return lambda count: _strings(np.random.default_rng(0), count, 1)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory, write_data):
    """A data folder with 120 strings of carbon and oxygen and 60 three-atom frames."""
    root = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    write_data(root / LANGUAGE_KEY, _strings(random, 120, 2), draws=[(seed, 30) for seed in (0, 1, 3)])

    frames = []
    for i in range(60):
        positions = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]]) + 0.1 * random.normal(size=(3, 3))
        frames.append(
            {"group": str(i // 3), "split": _split(i // 3), "molecule": "water", "frame": i, "species": [8, 1, 1],
             "positions": positions, "energy": float(positions.sum()), "forces": random.normal(size=9)}
        )  # fmt: skip
    write_data(root / FRAMES_KEY, frames, cutoffs=[4.0], draws=[(seed, 30) for seed in (0, 1, 3)], rows_per_shard=25)
    return root


_TRAINING = {
    "learning_rate": 0.01, "schedule": "cosine", "warmup": 0.1, "warmup_steps": None, "final_rate": 0.1, "decay": 0.2,
    "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.99, "gradient_clip": 1.0, "average": 0.9, "validations": 3,
    "retry_rate": None,
}  # fmt: skip


def toy_cell(domain="language", seed=0, protocol=None, **training):
    """A cell of either domain, 20 steps long."""
    language = domain == "language"
    batch = {"batch_tokens": 64, "embedding_std": 0.1, "precision": "fp32"} if language else {
        "batch_frames": 4, "energy_weight": 1.0, "force_weight": 1.0}  # fmt: skip
    knobs = (
        {"layers": 2, "width": 8, "heads": 2}
        if language
        else {"width": 4, "interactions": 2, "num_radial": 4, "cutoff": 4.0, "envelope": "smooth", "vectors": True}
    )
    return Cell(
        study="toy",
        family="chemgpt" if language else "painn",
        size="tiny",
        num_samples=30,
        seed=seed,
        control=None,
        domain=domain,
        knobs=knobs,
        protocol=protocol or {"kind": "equal_steps", "steps": 20},
        training=_TRAINING | batch | training,
        data={
            "name": "toy",
            "key": LANGUAGE_KEY if language else FRAMES_KEY,
            "evaluations": {} if language else {"again": FRAMES_KEY},
        },
        threads=1,
    )


@pytest.fixture(scope="session")
def make_cell():
    """A function that makes a cell of either domain, 20 steps long."""
    return toy_cell
