"""The evaluation of one finished language cell: its record, from its weights and the prepared data."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from chemscale.data.manifest import read_manifest
from chemscale.data.tokenizer import Tokenizer
from chemscale.evaluation import generation, probe
from chemscale.evaluation.measures import results_of
from chemscale.evaluations import EVALUATION, SCHEMA_VERSION, write_evaluation
from chemscale.inference.language import LanguageModel, finished_cell
from chemscale.io import read_json
from chemscale.models import registry, weights
from chemscale.models.decoder import Decoder


def evaluate(folder: Path, data: Path, settings: Mapping[str, Any], fits: Mapping[str, Any], code: str) -> None:
    """Write `evaluation.json` of a finished cell; the same bits in every run on one machine.

    Args:
        folder: the cell's.
        data: the data folder that the cell was trained on.
        settings: `generation` and `probe` of the study's evaluation, each None where it is not asked for.
        fits: level, resamples and seed of the intervals.
        code: the digest of the code that decides the numbers.

    Raises:
        InputError: the folder holds no finished language cell, or nearly everything that it draws is left out.
        DataError: the data are not whole.
        RecordError: the cell's weights are missing or changed.
    """
    found = finished_cell(folder)
    torch.set_num_threads(found.cell.threads)
    # not the study's own copy of the vocabulary: it is made anew with every subset that is added
    tokenizer = Tokenizer.load(data / "tokenizer.json")
    cell = found.cell
    untrained = registry.build(
        cell.family,
        cell.knobs,
        seed=cell.seed,
        vocab_size=len(tokenizer),
        embedding_std=cell.training["embedding_std"],
    )
    assert isinstance(untrained, Decoder)
    spec = {"family": cell.family, "knobs": cell.knobs, "vocab": len(tokenizer)}
    trained = deepcopy(untrained)
    weights.load_into(folder / "checkpoint", trained, spec)
    asked = LanguageModel(trained.eval(), tokenizer, read_manifest(data)["settings"])
    record: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "cell": cell.path,
        "settings": dict(settings),
        "level": fits["level"],
        "resamples": fits["resamples"],
        "seed": fits["seed"],
        **{name: found.metrics[name] for name in ("config_digest", "data_digest", "subset_digest")},
        "weights_sha256": read_json(folder / "checkpoint" / weights.SPEC)["sha256"],
        "code_digest": code,
        "versions": {name: version(name) for name in ("rdkit", "selfies", "torch", "numpy")},
        "generation": None,
        "probe": None,
    }
    if settings["generation"] is not None:
        record["generation"] = generation.evaluate(asked, cell, data, settings["generation"])
    if settings["probe"] is not None:
        record["probe"] = probe.evaluate(asked, untrained.eval(), data, settings["probe"])
    write_evaluation(folder / EVALUATION, {**record, "results": results_of(record)})
