"""The evaluation of one finished cell: its record, from its weights and the prepared data."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from chemscale.evaluation.measures import results_of
from chemscale.evaluations import EVALUATION, EVALUATIONS, SCHEMA_VERSION, SPEED, write_evaluation
from chemscale.families import LANGUAGE
from chemscale.grid import Cell
from chemscale.inference.finished import finished_cell
from chemscale.io import read_json, write_json
from chemscale.models import weights

# Steps of dynamics, of all replicas side by side, from which machine code that takes half a minute to build pays
_STEPS_THAT_PAY = 10_000


def evaluate(
    folder: Path, domain: str, data_dir: Path, settings: Mapping[str, Any], fits: Mapping[str, Any], code: str
) -> None:
    """Write `evaluation.json` of a finished cell, the same bits in every run on one machine, and how fast it was.

    Args:
        folder: the cell's.
        domain: the cell's.
        data_dir: the folder of all prepared data.
        settings: what the study asks of the cell, by the names in `EVALUATIONS`; None where it does not.
        fits: level, resamples and seed of the intervals.
        code: the digest of the code that decides the numbers.

    Raises:
        InputError: the folder holds no finished cell, or nearly everything that it draws is left out.
        DataError: the data are not whole.
        RecordError: the cell's weights are missing or changed.
    """
    found = finished_cell(folder, domain)
    torch.set_num_threads(found.cell.threads)
    evaluations, speed = (_of_language if domain == LANGUAGE else _of_potential)(folder, found.cell, data_dir, settings)
    record: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "cell": found.cell.path,
        "settings": dict(settings),
        "level": fits["level"],
        "resamples": fits["resamples"],
        "seed": fits["seed"],
        **{name: found.metrics[name] for name in ("config_digest", "data_digest", "subset_digest")},
        "weights_sha256": read_json(folder / "checkpoint" / weights.SPEC)["sha256"],
        "code_digest": code,
        "versions": {name: version(name) for name in ("rdkit", "selfies", "torch", "numpy")},
        **dict.fromkeys(EVALUATIONS),
        **evaluations,
    }
    write_json(folder / SPEED, {"dynamics_steps_per_s": None, **speed})
    write_evaluation(folder / EVALUATION, {**record, "results": results_of(record)})


def _of_language(
    folder: Path, cell: Cell, data_dir: Path, settings: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    from copy import deepcopy

    from chemscale.data.manifest import read_manifest
    from chemscale.data.tokenizer import Tokenizer
    from chemscale.evaluation import generation, probe
    from chemscale.inference.language import LanguageModel
    from chemscale.models import registry
    from chemscale.models.decoder import Decoder

    data = data_dir / cell.data["key"]
    # not the study's own copy of the vocabulary: it is made anew with every subset that is added
    tokenizer = Tokenizer.load(data / "tokenizer.json")
    std = cell.training["embedding_std"]
    untrained = registry.build(cell.family, cell.knobs, seed=cell.seed, vocab_size=len(tokenizer), embedding_std=std)
    assert isinstance(untrained, Decoder)
    trained = deepcopy(untrained)
    spec = {"family": cell.family, "knobs": cell.knobs, "vocab": len(tokenizer)}
    weights.load_into(folder / "checkpoint", trained, spec)
    asked = LanguageModel(trained.eval(), tokenizer, read_manifest(data)["settings"])
    found: dict[str, Any] = {}
    if settings["generation"] is not None:
        found["generation"] = generation.evaluate(asked, cell, data, settings["generation"])
    if settings["probe"] is not None:
        found["probe"] = probe.evaluate(asked, untrained.eval(), data, settings["probe"])
    return found, {}


def _of_potential(
    folder: Path, cell: Cell, data_dir: Path, settings: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    from chemscale.evaluation import dynamics
    from chemscale.inference.potential import load
    from chemscale.inference.predictor import Predictor

    asked = settings["dynamics"]
    compiled = data_dir / "compiled" if dynamics.steps(asked) >= _STEPS_THAT_PAY else None
    predictor = Predictor(load(folder), compiled=compiled, threads=cell.threads)
    record, speed = dynamics.evaluate(predictor.predict, predictor.reach, data_dir / asked["key"], asked)
    return {"dynamics": record}, {"dynamics_steps_per_s": speed}
