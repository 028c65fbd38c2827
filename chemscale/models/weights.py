"""Weights on disk: safetensors beside a JSON spec of the model that they belong to. Nothing is unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from chemscale.errors import RecordError
from chemscale.io import atomic_path, read_json, sha256_file, write_json

WEIGHTS, SPEC = "weights.safetensors", "weights.json"


def save(folder: Path, state: Mapping[str, Tensor], spec: dict[str, Any]) -> None:
    """Write a model's weights and buffers by name, and `spec` with their sha256, the spec last."""
    from safetensors.torch import save_file

    tensors = {name: value.detach().contiguous() for name, value in state.items()}
    with atomic_path(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary)
    write_json(folder / SPEC, {**spec, "sha256": sha256_file(folder / WEIGHTS)})


def load(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights in `folder` by name, and the spec of their model; `RecordError` where they are missing or changed."""
    from safetensors.torch import load_file

    spec = read_json(folder / SPEC)
    if not (folder / WEIGHTS).exists() or sha256_file(folder / WEIGHTS) != spec.pop("sha256", None):
        raise RecordError(f"load {folder / WEIGHTS}", "a missing or changed file", "train the cell again")
    return load_file(folder / WEIGHTS), spec


def load_into(folder: Path, model: nn.Module, spec: dict[str, Any]) -> None:
    """Load the weights in `folder` into a model of the same spec.

    Raises:
        RecordError: the files are missing or changed, or belong to another model.
    """
    state, found = load(folder)
    if found != spec:
        raise RecordError(f"load {folder / WEIGHTS}", f"weights of {found}", f"weights of {spec} are expected")
    model.load_state_dict(state)
