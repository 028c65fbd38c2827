"""A finished language cell, or a Hugging Face folder of one, as a model to ask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from chemscale.data.tokenizer import Tokenizer
from chemscale.families import LANGUAGE
from chemscale.inference import hugging_face
from chemscale.inference.finished import FinishedCell, finished_cell
from chemscale.io import read_json
from chemscale.models import registry, weights
from chemscale.models.decoder import Decoder


@dataclass(frozen=True)
class LanguageModel:
    """A model with its tokenizer; `policy` are the data settings that made its training molecules, None if unknown."""

    model: Decoder
    tokenizer: Tokenizer
    policy: Mapping[str, Any] | None


def load(folder: Path) -> LanguageModel:
    """The model of a finished cell's folder, or of a folder in the format of Hugging Face.

    Raises:
        InputError: the folder holds neither.
        RecordError: the weights are missing or changed.
    """
    if (folder / "config.json").is_file() and "model_type" in read_json(folder / "config.json"):
        model, tokenizer = hugging_face.load(folder)
        return LanguageModel(model, tokenizer, None)
    found = finished_cell(folder, LANGUAGE)
    tokenizer = Tokenizer.load(found.data / "tokenizer.json")
    model = load_weights(found, len(tokenizer))
    return LanguageModel(model, tokenizer, read_json(found.data / "manifest.json")["settings"])


def load_weights(found: FinishedCell, vocab_size: int) -> Decoder:
    """The model of a finished cell with its best weights."""
    cell = found.cell
    with torch.device("meta"):
        model = registry.build(cell.family, cell.knobs, seed=0, vocab_size=vocab_size, embedding_std=1.0)
    assert isinstance(model, Decoder)
    model = model.to_empty(device="cpu")
    spec = {"family": cell.family, "knobs": cell.knobs, "vocab": vocab_size}
    weights.load_into(folder=found.folder / "checkpoint", model=model, spec=spec)
    return model.eval()
