"""Weights on disk: safetensors beside a JSON spec of the model that they belong to. Nothing is unpickled.

A file may come from a stranger: its header is held against what is expected before a value is read.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from chemscale.errors import RecordError
from chemscale.io import atomic_path, open_regular, read_json, sha256_file, write_json

WEIGHTS, SPEC = "weights.safetensors", "weights.json"
# what the messages of damaged and of strangers' files tell the user to do
_DO = "train the cell again, or get the whole folder again"
_MAX_HEADER_BYTES = 2**24  # a model of 512 blocks has one of 2 MB
_FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: its shape, and the kind of its numbers as safetensors names it."""

    shape: tuple[int, ...]
    kind: str


def save(folder: Path, state: Mapping[str, Tensor], spec: dict[str, Any]) -> None:
    """Write a model's weights and buffers by name, and `spec` with their sha256, the spec last."""
    from safetensors.torch import save_file

    tensors = {name: value.detach().contiguous() for name, value in state.items()}
    with atomic_path(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary)
    write_json(folder / SPEC, {**spec, "sha256": sha256_file(folder / WEIGHTS)})


def contents(path: Path) -> dict[str, Stored]:
    """What tensors a file of safetensors holds, by name; no value is read.

    Raises:
        RecordError: the file is missing, no regular one, damaged or sparse, or its header is larger than 16 MiB.
    """
    from safetensors import SafetensorError, safe_open

    with open_regular(path, RecordError, _DO) as stream:
        size = os.fstat(stream.fileno()).st_size
        header = int.from_bytes(stream.read(8), "little")
        if size < 8 or header > min(size - 8, _MAX_HEADER_BYTES):
            raise RecordError(f"read {path}", f"no safetensors: a header of {header:,} bytes", _DO)
        # weights are not zeros: a hole was made, to look like terabytes of them
        if os.lseek(stream.fileno(), 0, os.SEEK_HOLE) < size // 2:
            raise RecordError(f"read {path}", "a sparse file, most of which was never written", _DO)
    try:
        with safe_open(path, "pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            return {name: Stored(tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    except SafetensorError as error:
        raise RecordError(f"read {path}", f"no safetensors ({error})", _DO) from None


def read(path: Path, names: Iterable[str]) -> dict[str, Tensor]:
    """Tensors of a file that `contents` has passed, by name.

    Raises:
        RecordError: the file has no such tensor, or one of other numbers than floats.
    """
    from safetensors import safe_open

    stored = contents(path)
    with safe_open(path, "pt") as file:
        tensors = {}
        for name in names:
            if name not in stored:
                raise RecordError(f"read {path}", f"no {name}", _DO)
            if stored[name].kind not in _FLOATS:
                raise RecordError(f"read {name} in {path}", f"numbers of the kind {stored[name].kind}", _DO)
            tensors[name] = file.get_tensor(name)
    return tensors


def read_spec(folder: Path) -> dict[str, Any]:
    """The spec of the weights in `folder` as `save` took it; `RecordError` where it is missing or no object."""
    spec = _spec(folder)
    del spec["sha256"]
    return spec


def _spec(folder: Path) -> dict[str, Any]:
    spec = read_json(folder / SPEC, do=_DO)
    if not isinstance(spec, dict) or not isinstance(spec.get("sha256"), str):
        raise RecordError(f"read {folder / SPEC}", "no object with a sha256", _DO)
    return spec


def load(folder: Path, num_params: int) -> dict[str, Tensor]:
    """The weights in `folder` by name.

    Args:
        folder: that `save` wrote.
        num_params: of the model that the spec describes. It bounds what is read, which are these and some buffers.

    Raises:
        RecordError: files are missing, damaged or changed, or are weights of a model of another size.
    """
    path = folder / WEIGHTS
    stored = contents(path)
    found = sum(prod(tensor.shape) for tensor in stored.values())
    if not num_params <= found <= 2 * num_params + 10_000:
        raise RecordError(f"load {path}", f"{found:,} numbers for a model of {num_params:,} parameters", _DO)
    if sha256_file(path) != _spec(folder)["sha256"]:
        raise RecordError(f"load {path}", f"a file that is not the one of {SPEC}: it was changed", _DO)
    return read(path, stored)


def load_into(folder: Path, model: nn.Module, spec: dict[str, Any]) -> None:
    """Load the weights in `folder` into a model of the same spec, which may be on the meta device.

    Raises:
        RecordError: the files are missing or changed, belong to another model, or hold numbers that are not finite.
    """
    found = read_spec(folder)
    if found != spec:
        raise RecordError(f"load {folder / WEIGHTS}", f"weights of {found}", f"weights of {spec} are expected")
    fill(model, load(folder, sum(parameter.numel() for parameter in model.parameters())), folder)


def fill(model: nn.Module, state: Mapping[str, Tensor], folder: Path) -> None:
    """Give a model, which may be on the meta device, the weights that `folder` holds.

    Raises:
        RecordError: names or shapes are not the model's, or a number is not finite.
    """
    wanted = model.state_dict()
    for name in sorted({*wanted, *state}):
        found, expected = (tuple(part[name].shape) if name in part else None for part in (state, wanted))
        if found != expected:
            words = f"{name} of shape {found}, of which its model has {expected}"
            raise RecordError(f"load the weights in {folder}", words.replace("None", "none"), _DO)
    cast = {name: value.to(wanted[name].dtype) for name, value in state.items()}
    for name, value in cast.items():
        if not torch.isfinite(value).all():
            raise RecordError(f"load the weights in {folder}", f"numbers in {name} that are not finite", _DO)
    model.load_state_dict(cast, assign=any(value.is_meta for value in wanted.values()))
