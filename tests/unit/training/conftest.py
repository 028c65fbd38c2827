"""Miniature data sets in the shards' real format, and cells that train on them in a second."""

import numpy as np
import pytest

from chemscale.data.shards import FRAMES_SCHEMA, LANGUAGE_SCHEMA, write_manifest, write_shards
from chemscale.data.tokenizer import Tokenizer
from chemscale.grid import Cell

LANGUAGE_KEY, FRAMES_KEY = "toy-language", "toy-frames"


def _split(index):
    return ("test", "validation", "train", "train", "train", "train")[index % 6]


def _manifest(folder, domain, shards, digest):
    write_manifest(
        folder,
        name=folder.name,
        domain=domain,
        source={"name": "toy"},
        settings={},
        shards=shards,
        rejected={},
        tokenizer_digest=digest,
    )


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A data folder with 120 strings of carbon and oxygen and 60 three-atom frames."""
    root = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    strings = ["".join(random.choice(["[C]", "[O]", "[=C]"], length)) for length in random.integers(2, 20, 120)]
    tokenizer = Tokenizer.build(strings)
    folder = root / LANGUAGE_KEY
    folder.mkdir()
    tokenizer.save(folder / "tokenizer.json")
    rows = [
        {"row": f"{i:032x}", "group": f"{i // 2:032x}", "split": _split(i // 2), "smiles": "", "selfies": s,
         "tokens": tokenizer.encode(s)}
        for i, s in enumerate(strings)
    ]  # fmt: skip
    _manifest(folder, "language", write_shards(folder, rows, LANGUAGE_SCHEMA, 50), tokenizer.digest)

    frames = []
    for i in range(60):
        positions = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]]) + 0.1 * random.normal(size=(3, 3))
        frames.append(
            {"row": f"{i:032x}", "group": f"{i // 3:032x}", "split": _split(i // 3), "smiles": "O",
             "molecule": "water", "frame": i, "species": [8, 1, 1],
             "positions": positions.ravel().tolist(), "energy": float(positions.sum()),
             "forces": random.normal(size=9).tolist()}
        )  # fmt: skip
    folder = root / FRAMES_KEY
    folder.mkdir()
    _manifest(folder, "potentials", write_shards(folder, frames, FRAMES_SCHEMA, 25), None)
    return root


_TRAINING = {
    "learning_rate": 0.01, "warmup": 0.1, "final_rate": 0.1, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.99,
    "gradient_clip": 1.0, "average": 0.9, "validations": 3,
}  # fmt: skip


@pytest.fixture
def make_cell():
    """A function that makes a cell of either domain, 20 steps long."""

    def make(domain="language", seed=0, protocol=None, **training):
        language = domain == "language"
        batch = {"batch_tokens": 64, "embedding_std": 0.1} if language else {
            "batch_frames": 4, "energy_weight": 1.0, "force_weight": 1.0}  # fmt: skip
        knobs = (
            {"layers": 2, "width": 8, "heads": 2}
            if language
            else {"width": 4, "interactions": 2, "num_radial": 4, "cutoff": 4.0}
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

    return make
