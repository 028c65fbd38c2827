"""Checks of what `checkpoint/` keeps of a run: its records as they were when it ended, its live curve, its weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from chemscale.audit.findings import Findings
from chemscale.audit.layout import litter
from chemscale.audit.replicates import may_be_equal
from chemscale.cost.parameters import count
from chemscale.errors import RecordError
from chemscale.families import LANGUAGE
from chemscale.grid import Cell
from chemscale.io import open_regular, parse_json, read_json, sha256_file
from chemscale.records import CELL_FILES, read_metrics

_MOST_HEADER = 2**24  # bytes of what a file of weights says of its tensors
_WIDTHS = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1}


def check_copies(root: Path, study: dict[str, Any], findings: Findings) -> None:
    """Records are those that the run left in `checkpoint/`, and its weights are those of its size, and of no other run.

    What was deleted from `checkpoint/` is not missed: it is counted in a note.
    """
    findings.compared += 1  # a study may keep none
    without_records = without_weights = 0
    shapes: dict[str, tuple[str, Any]] = {}  # by family and size: a run, and its tensors
    weights: dict[str, Cell] = {}  # digests, with the run
    for values in study["cells"] + study["controls"]:
        cell = Cell.from_dict(values)
        if cell.path in study["waived"]:
            continue
        folder = root / cell.path / "checkpoint"
        if (folder / "finished").is_dir():
            _check_finished(root, cell, findings)
        else:
            without_records += 1
        if (folder / "curve.jsonl").exists():
            where = f"{cell.path}/metrics.jsonl"
            same = sha256_file(folder / "curve.jsonl") == sha256_file(root / where)
            findings.holds(where, same, "another curve than checkpoint/curve.jsonl")
        if not (folder / "weights.safetensors").exists() and not (folder / "weights.json").exists():
            without_weights += 1
            continue
        found = _check_weights(root, cell, findings)
        if found is None:
            continue
        digest, tensors = found
        where = f"{cell.path}/checkpoint/weights.safetensors"
        first, expected = shapes.setdefault(f"{cell.family}/{cell.size}", (cell.path, tensors))
        findings.holds(where, tensors == expected, f"other tensors than those of {first}, of the same size")
        other = weights.setdefault(digest, cell)
        findings.holds(where, may_be_equal(cell, other), f"the very weights of {other.path}")
    for number, what in ((without_records, "records"), (without_weights, "weights")):
        if number:
            findings.notes.append(f"{number} runs keep no copy of their {what} in checkpoint/: those were not compared")


def _check_finished(root: Path, cell: Cell, findings: Findings) -> None:
    """The records that a run left when it ended are whole, and are those that were published."""
    kept = f"{cell.path}/checkpoint/finished"
    marker = read_json(root / kept / "complete.json")
    found = {path.name for path in (root / kept).iterdir() if litter(path.name) is None} - {"complete.json"}
    findings.same_names(f"{kept}/complete.json: file", marker["files"], CELL_FILES)
    for name in findings.same_names(kept, found, CELL_FILES):
        digest = sha256_file(root / kept / name)
        findings.holds(f"{kept}/{name}", digest == marker["files"].get(name), "not as complete.json says")
        published = root / cell.path / name
        if published.is_file():
            findings.holds(f"{cell.path}/{name}", digest == sha256_file(published), "not as in checkpoint/finished")
    metrics = read_metrics(root / cell.path / "metrics.json")
    for name in ("config", "data", "code"):
        where = f"{kept}/complete.json: {name}"
        findings.equal(where, marker["identity"].get(name), metrics[f"{name}_digest"])


def _check_weights(root: Path, cell: Cell, findings: Findings) -> tuple[str, Any] | None:
    """Check that weights are whole and as many as the size has; their digest and tensors, None if they are broken."""
    where = f"{cell.path}/checkpoint/weights"
    spec = read_json(root / f"{where}.json")
    for name in ("family", "knobs"):
        findings.equal(f"{where}.json: {name}", spec.get(name), getattr(cell, name))
    vocabulary = None
    if cell.domain == LANGUAGE:
        vocabulary = len(read_json(root / "data" / cell.data["name"] / "tokenizer.json")["vocabulary"])
        findings.equal(f"{where}.json: vocab", spec.get("vocab"), vocabulary)
    path = root / f"{where}.safetensors"
    try:
        tensors, size = _tensors(path)
    except RecordError as error:
        findings.differ(f"{where}.safetensors: {error}")
        return None
    digest = sha256_file(path)
    findings.equal(f"{where}.safetensors: sha256", digest, spec.get("sha256"))
    # a potential's reference energies, scale and tables are no parameters
    needed = count(cell.family, cell.knobs, vocabulary).total
    enough = size == needed if cell.domain == LANGUAGE else size >= needed
    findings.holds(f"{where}.safetensors", enough, f"{size:,} numbers, where {cell.size} has {needed:,} parameters")
    return digest, tensors


def _tensors(path: Path) -> tuple[dict[str, Any], int]:
    """The type and shape of each tensor of a safetensors file, and how many numbers all of them are.

    Raises:
        RecordError: it is no such file, or its tensors do not fill it.
    """
    do = "train the cell again"
    with open_regular(path, RecordError, do) as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length <= _MOST_HEADER:
            raise RecordError(f"read {path}", f"no weights (a header of {length:,} bytes)", do)
        header = parse_json(stream.read(length).decode("utf-8", "replace"), f"read {path}", do)
        stored = stream.seek(0, 2) - 8 - length
    header.pop("__metadata__", None)
    tensors, end, size = {}, 0, 0
    try:
        for name, told in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            begin, following = told["data_offsets"]
            numbers = math.prod(told["shape"])
            if begin != end or following - begin != numbers * _WIDTHS[told["dtype"]]:
                raise RecordError(f"read {path}", f"a tensor {name!r} of another size than its shape", do)
            tensors[name], end, size = (told["dtype"], told["shape"]), following, size + numbers
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(f"read {path}", f"no weights ({error!r})", do) from None
    if end != stored:
        raise RecordError(f"read {path}", f"{stored:,} bytes of tensors, where its header tells {end:,}", do)
    return tensors, size
