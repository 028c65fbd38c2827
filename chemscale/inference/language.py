"""A finished language cell, or a Hugging Face folder of one, as a model to ask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from chemscale.data.tokenizer import Tokenizer
from chemscale.errors import InputError
from chemscale.families import LANGUAGE
from chemscale.grid import Cell
from chemscale.inference import hugging_face
from chemscale.io import read_json
from chemscale.models import registry, weights
from chemscale.models.decoder import Decoder
from chemscale.records import read_metrics


@dataclass(frozen=True)
class FinishedCell:
    """A finished cell on disk: its folder, spec, metrics, and the folder of its study."""

    folder: Path
    cell: Cell
    metrics: Mapping[str, Any]
    study: Path

    @property
    def data(self) -> Path:
        """The study's copy of what the cell was trained on."""
        return self.study / "data" / str(self.cell.data["name"])


@dataclass(frozen=True)
class LanguageModel:
    """A model with its tokenizer; `policy` are the data settings that made its training molecules, None if unknown."""

    model: Decoder
    tokenizer: Tokenizer
    policy: Mapping[str, Any] | None


def finished_cell(folder: Path) -> FinishedCell:
    """The finished language cell in a folder such as `results/STUDY/cells/chemgpt/w88/n2000/seed0`.

    Raises:
        InputError: the folder holds no finished cell, one of a potential, or one outside its study's folder.
    """
    if not (folder / "metrics.json").is_file() or not (folder / "config.json").is_file():
        raise InputError(
            f"read the cell {folder}", "no metrics.json and config.json", "name the folder of a finished cell"
        )
    cell = Cell.from_dict(read_json(folder / "config.json"))
    if cell.domain != LANGUAGE:
        raise InputError(f"read the language cell {folder}", f"one of {cell.family}", "name a language cell")
    place = folder.resolve()
    if not place.as_posix().endswith(f"/{cell.path}"):
        raise InputError(
            f"read the cell {folder}", "a folder outside of its study", f"name it where it was made, .../{cell.path}"
        )
    study = place.parents[len(Path(cell.path).parts) - 1]
    return FinishedCell(folder, cell, read_metrics(folder / "metrics.json"), study)


def load(folder: Path) -> LanguageModel:
    """The model of a finished cell's folder, or of a folder in the format of Hugging Face.

    Raises:
        InputError: the folder holds neither.
        RecordError: the weights are missing or changed.
    """
    if (folder / "config.json").is_file() and "model_type" in read_json(folder / "config.json"):
        model, tokenizer = hugging_face.load(folder)
        return LanguageModel(model, tokenizer, None)
    found = finished_cell(folder)
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
