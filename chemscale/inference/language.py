"""A finished language cell, or a Hugging Face folder of one, as a model to ask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        RecordError: the weights are missing, changed or not finite.
    """
    if (folder / "config.json").is_file():
        config = read_json(folder / "config.json", do="get the whole folder again")
        if isinstance(config, dict) and "model_type" in config:
            model, tokenizer = hugging_face.load(folder)
            return LanguageModel(model, tokenizer, None)
    found = finished_cell(folder, LANGUAGE)
    tokenizer = Tokenizer.load(found.data / "tokenizer.json")
    return LanguageModel(load_weights(found, len(tokenizer)), tokenizer, found.data_settings())


def load_weights(found: FinishedCell, vocab_size: int) -> Decoder:
    """The model of a finished cell with its best weights."""
    cell = found.cell
    model, _ = registry.outline(cell.family, cell.knobs, seed=0, vocab_size=vocab_size, embedding_std=1.0)
    assert isinstance(model, Decoder)
    spec = {"family": cell.family, "knobs": cell.knobs, "vocab": vocab_size}
    weights.load_into(folder=found.folder / "checkpoint", model=model, spec=spec)
    return model.eval()
