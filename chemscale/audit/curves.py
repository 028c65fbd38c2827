"""Checks of each run's curve: steps, rates, amounts, FLOPs and validations, as config and data say.

The order of batches is a pure function of subset and seed, and the lengths of all rows are in the study: what a run has
seen after each step is known to the last token and frame.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chemscale.audit.findings import Findings
from chemscale.cost.flops import language_flops, potential_flops
from chemscale.data.passport import row_batches
from chemscale.data.subsets import SubsetDraw
from chemscale.errors import RecordError
from chemscale.families import LANGUAGE, reach
from chemscale.grid import Cell
from chemscale.io import open_regular, parse_json, read_json
from chemscale.records import loss_spikes, read_metrics
from chemscale.training.sampler import FrameBatches, TokenBatches, total_steps
from chemscale.training.schedule import learning_rate, validation_steps

_SHORTEST_LINE, _LONGEST_LINE = 60, 10_000  # bytes of a line of a curve
_RATE_TOLERANCE = 1e-9  # another machine's cosine may differ in the last digit


@dataclass(frozen=True)
class Curve:
    """The lines of `metrics.jsonl`: one a step, and one a validation, right after its step's."""

    lines: list[str]
    steps: list[dict[str, Any]]
    validations: list[dict[str, Any]]

    def column(self, name: str) -> list[Any]:
        """The values of a name, one a step."""
        return [line[name] for line in self.steps]


def read_curve(path: Path, language: bool, most_steps: int) -> Curve:
    """The curve of a run of at most so many steps.

    Raises:
        RecordError: a line is no strict JSON, is no step and no validation, or stands where it has no place.
    """
    amount = "tokens_seen" if language else "frames_seen"
    of_step = {"step", "loss", "learning_rate", "gradient_norm", amount, "flops_full"}
    curve = Curve([], [], [])
    with open_regular(path, RecordError, "train the cell again") as stream:
        number = 0
        while raw := stream.readline(_LONGEST_LINE):
            number += 1
            where = f"read {path}, line {number}"
            values = parse_json(raw.decode("utf-8", "replace"), where, "train the cell again")
            keys = set(values) if isinstance(values, dict) else set()
            last = len(curve.steps)
            if keys == of_step and values["step"] == last + 1 <= most_steps:
                curve.steps.append(values)
            elif keys == {"step", "val_loss"} and values["step"] == last and not _validated(curve, last):
                curve.validations.append(values)
            else:
                expected = f"step {last + 1} of {most_steps} nor a validation after step {last}"
                found = f"{str(raw[:100])[2:-1]}, neither {expected}"
                raise RecordError(where, found, "train the cell again")
            curve.lines.append(raw.decode())
    if not curve.steps or not curve.validations:
        raise RecordError(f"read {path}", "no step or no validation", "train the cell again")
    return curve


def _validated(curve: Curve, step: int) -> bool:
    return bool(curve.validations) and curve.validations[-1]["step"] == step


@dataclass(frozen=True)
class _Amounts:
    """What each step of a run sees: samples; tokens and their squares, or atoms, their squares by rank, most pairs."""

    samples: list[int]
    lengths: list[int]
    squares: list[int]
    pairs: list[int]


class _Batches:
    """The batches of all runs, by the lengths of a study's rows; what runs of several sizes share is computed once."""

    def __init__(self, root: Path, study: dict[str, Any]) -> None:
        self._root, self._study = root, study
        self._subsets: dict[tuple[str, int], dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]]] = {}
        self._amounts: dict[str, _Amounts] = {}
        self._wanted: dict[tuple[str, int], set[int]] = {}
        for values in study["cells"] + study["controls"]:
            cell = Cell.from_dict(values)
            self._wanted.setdefault((cell.data["name"], cell.seed), set()).add(cell.num_samples)

    def sampler(self, cell: Cell) -> TokenBatches | FrameBatches:
        """The order of a run's batches."""
        if cell.domain == LANGUAGE:
            once = cell.protocol["kind"] == "one_pass"
            lengths = self._lengths(cell, drawn=once) - 1
            return TokenBatches(lengths, cell.training["batch_tokens"], cell.seed, given_order=once)
        return FrameBatches(cell.num_samples, cell.training["batch_frames"], cell.seed)

    def amounts(self, cell: Cell, steps: int) -> _Amounts:
        """What each of the first `steps` steps of a run sees."""
        language = cell.domain == LANGUAGE
        ranks = cell.engine["ranks"]
        batch = cell.training["batch_tokens" if language else "batch_frames"]
        once = cell.protocol["kind"] == "one_pass"
        key = json.dumps([cell.data["name"], cell.seed, cell.num_samples, batch, once, ranks])
        known = self._amounts.get(key)
        if known is None or len(known.samples) < steps:
            lengths = self._lengths(cell, drawn=language and once) - int(language)
            found = _Amounts([], [], [], [])
            for chosen in islice(self.sampler(cell).from_step(0), steps):
                part = lengths[chosen]
                found.samples.append(len(chosen))
                found.lengths.append(int(part.sum()))
                if language:
                    found.squares.append(int((part * part).sum()))
                else:
                    found.squares.append(sum(int(part[rank::ranks].sum()) ** 2 for rank in range(ranks)))
                    found.pairs.append(int((part * (part - 1) // 2).sum()))
            known = self._amounts[key] = found
        return known

    def _lengths(self, cell: Cell, drawn: bool) -> NDArray[np.int64]:
        """The lengths of a subset's rows, in the order of the shards or, `drawn`, in that of the draw."""
        key = (cell.data["name"], cell.seed)
        if key not in self._subsets:
            self._subsets[key] = self._draw(*key)
        lengths, keys = self._subsets[key][cell.num_samples]
        return lengths[np.argsort(keys, kind="stable")] if drawn else lengths

    def _draw(self, name: str, seed: int) -> dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]]:
        path = self._root / "data" / name / "rows.parquet"

        def training(column: str) -> Iterator[list[Any]]:
            for batch in row_batches(path, [column, "split"]):
                mine = np.array(batch["split"].to_pylist()) == "train"
                yield np.array(batch[column].to_pylist(), object)[mine].tolist()

        found = {}
        with TemporaryFile() as file:
            draw = SubsetDraw(training("row"), self._study["data"][name]["key"], seed, file)
            lengths = [np.array(part, np.int64) for part in training("length")]
            for num_samples in self._wanted[name, seed]:
                parts = [
                    (part[mine], keys) for part, (mine, keys) in zip(lengths, draw.chosen(num_samples), strict=True)
                ]
                found[num_samples] = (
                    np.concatenate([part for part, _ in parts]),
                    np.concatenate([keys for _, keys in parts]).astype(np.uint64),
                )
        return found  # type: ignore[return-value]


@dataclass(frozen=True)
class _Edges:
    """The pairs of atoms that the FLOPs of each step imply, of runs that saw the same batches within one cutoff."""

    first: str
    pairs: list[int]


def check_curves(root: Path, study: dict[str, Any], findings: Findings) -> None:
    """Each curve has the steps, rates, amounts, FLOPs and validations that config and data give."""
    batches = _Batches(root, study)
    edges: dict[str, _Edges] = {}
    vocabularies: dict[str, int] = {}
    for values in study["cells"] + study["controls"]:
        cell = Cell.from_dict(values)
        if cell.path in study["waived"]:
            continue
        language = cell.domain == LANGUAGE
        path = root / cell.path / "metrics.jsonl"
        # a pass is a step at least, and a step a line: what a config announces is not counted out beyond that
        passes, lines = cell.protocol.get("epochs") or 0, path.stat().st_size // _SHORTEST_LINE
        if passes > lines:
            findings.differ(f"{cell.path}/metrics.jsonl: at most {lines} steps, where the config has {passes} passes")
            continue
        steps = total_steps(cell.protocol, batches.sampler(cell))
        try:
            curve = read_curve(path, language, steps)
        except RecordError as error:
            findings.differ(f"{cell.path}/metrics.jsonl: {error}")
            continue
        metrics = read_metrics(root / cell.path / "metrics.json")
        _check_numbers(cell, curve, findings)
        _check_length(cell, curve, steps, metrics, findings)
        _check_rates(cell, curve, steps, metrics, findings)
        _check_summary(cell, curve, metrics, findings)
        amounts = batches.amounts(cell, len(curve.steps))
        if language:
            name = cell.data["name"]
            if name not in vocabularies:
                vocabularies[name] = len(read_json(root / "data" / name / "tokenizer.json")["vocabulary"])
            _check_language(cell, curve, amounts, vocabularies[name], metrics, findings)
        else:
            _check_potential(cell, curve, amounts, edges, metrics, findings)


def _check_numbers(cell: Cell, curve: Curve, findings: Findings) -> None:
    """Losses and norms are numbers that a run that went well can have."""
    where = f"{cell.path}/metrics.jsonl"
    for name in ("loss", "gradient_norm"):
        for line in curve.steps:
            value = line[name]
            fine = isinstance(value, float) and math.isfinite(value) and math.copysign(1, value) > 0
            findings.holds(f"{where}: step {line['step']}, {name}", fine, f"{value!r} is no such number")
    for line in curve.validations:
        value = line["val_loss"]
        fine = isinstance(value, float) and math.isfinite(value) and value > 0
        findings.holds(f"{where}: step {line['step']}, val_loss", fine, f"{value!r} is no such loss")


def _check_length(cell: Cell, curve: Curve, steps: int, metrics: Mapping[str, Any], findings: Findings) -> None:
    """The run ends where its protocol says, and is validated at its known steps alone."""
    where, last = f"{cell.path}/metrics.jsonl", len(curve.steps)
    found = [line["step"] for line in curve.validations]
    expected = [step for step in validation_steps(steps, cell.training) if step <= last]
    findings.equal(f"{where}: steps of validations", found, expected)
    patience = cell.protocol.get("patience")
    if patience is None:
        findings.equal(f"{where}: steps", last, steps)
        return
    best, stale, ended = math.inf, 0, False
    for line in curve.validations:
        findings.holds(f"{where}: step {line['step']}", not ended, "a validation after the protocol's patience")
        stale = 0 if line["val_loss"] < best else stale + 1
        best = min(best, line["val_loss"])
        ended = stale == patience
    findings.holds(f"{where}: steps", last == steps or (ended and found[-1:] == [last]), f"{last} of {steps}")


def _check_rates(cell: Cell, curve: Curve, steps: int, metrics: Mapping[str, Any], findings: Findings) -> None:
    """Each step's learning rate is the schedule's, lowered after a step from which a run that diverged went on."""
    where, retried = f"{cell.path}/metrics.jsonl", metrics["retried_from_step"]
    share = cell.training["retry_rate"]
    if retried is not None:
        allowed = share is not None and retried in (0, *(line["step"] for line in curve.validations))
        findings.holds(
            f"{cell.path}/metrics.json: retried_from_step", allowed, f"{retried}, which the config rules out"
        )
    for line in curve.steps:
        done = line["step"] - 1
        expected = learning_rate(done, steps, cell.training)
        if retried is not None and share is not None and done >= retried:
            expected *= share
        findings.compared += 1
        if not _near(line["learning_rate"], expected):
            found = f"{line['learning_rate']!r}, {expected!r} is the schedule's"
            findings.differ(f"{where}: step {line['step']}, learning_rate: {found}")
            return  # the steps after it differ alike


def _near(found: Any, expected: float) -> bool:
    return isinstance(found, float) and math.isclose(found, expected, rel_tol=_RATE_TOLERANCE)


def _check_summary(cell: Cell, curve: Curve, metrics: Mapping[str, Any], findings: Findings) -> None:
    """Metrics that sum up a curve are those of the curve."""
    losses = {line["step"]: line["val_loss"] for line in curve.validations}
    last = curve.steps[-1]
    amount = "tokens_seen" if cell.domain == LANGUAGE else "frames_seen"
    expected = {
        "steps": last["step"],
        amount: last[amount],
        "flops_full": last["flops_full"],
        "loss_spikes": loss_spikes(curve.lines),
        "val_loss": min(losses.values()),
        "best_step": min(losses, key=losses.__getitem__),
    }
    for field, value in expected.items():
        findings.equal(f"{cell.path}/metrics.json: {field}", metrics[field], value)


def _first_difference(where: str, name: str, found: Sequence[Any], expected: Sequence[Any], findings: Findings) -> None:
    """Compare a column of a curve, step by step; the first difference is named."""
    findings.compared += len(found)
    for step, (one, other) in enumerate(zip(found, expected, strict=True), 1):
        if one != other or isinstance(one, bool | float):
            findings.differ(f"{where}: step {step}, {name}: {one!r}, {other!r} follows from the data")
            return


def _check_language(
    cell: Cell,
    curve: Curve,
    amounts: _Amounts,
    vocabulary: int,
    metrics: Mapping[str, Any],
    findings: Findings,
) -> None:
    where, steps = f"{cell.path}/metrics.jsonl", len(curve.steps)
    one, two = (language_flops(cell.family, cell.knobs, vocabulary, [length]) for length in (1, 2))
    tokens, squares = amounts.lengths[:steps], amounts.squares[:steps]

    def flops(name: str) -> list[int]:
        # a length's FLOPs are a t + b t^2
        square = (two[name] - 2 * one[name]) // 2
        linear = one[name] - square
        return list(accumulate(linear * t + square * s for t, s in zip(tokens, squares, strict=True)))

    _first_difference(where, "tokens_seen", curve.column("tokens_seen"), list(accumulate(tokens)), findings)
    _first_difference(where, "flops_full", curve.column("flops_full"), flops("flops_full"), findings)
    expected = {name: flops(name)[-1] for name in ("flops_6n", "flops_attention")}
    expected["samples_seen"] = sum(amounts.samples[:steps])
    for name, value in expected.items():
        findings.equal(f"{cell.path}/metrics.json: {name}", metrics[name], value)


def _check_potential(
    cell: Cell,
    curve: Curve,
    amounts: _Amounts,
    edges: dict[str, _Edges],
    metrics: Mapping[str, Any],
    findings: Findings,
) -> None:
    """Frames seen are those of the batches; FLOPs are those of their atoms and of pairs that their atoms can have."""
    where, steps = f"{cell.path}/metrics.jsonl", len(curve.steps)
    samples = list(accumulate(amounts.samples[:steps]))
    _first_difference(where, "frames_seen", curve.column("frames_seen"), samples, findings)
    findings.equal(f"{cell.path}/metrics.json: samples_seen", metrics["samples_seen"], samples[-1])
    total, implied = 0, []
    for index, found in enumerate(curve.column("flops_full")):
        none, one = (
            potential_flops(
                cell.family, cell.knobs, atoms=amounts.lengths[index], edges=count, pairs=amounts.squares[index]
            )["flops_full"]
            for count in (0, 2)
        )
        findings.compared += 1
        least, most = total + none, total + none + (one - none) * amounts.pairs[index]
        whole = isinstance(found, int) and (found - least) % (one - none) == 0
        if not whole or not least <= found <= most:
            atoms = f"from {least} to {most}, in steps of {one - none}, follows from its {amounts.lengths[index]} atoms"
            findings.differ(f"{where}: step {index + 1}, flops_full: {found!r}, {atoms}")
            return
        implied.append((found - least) // (one - none))
        total = found
    # runs of other models see the same pairs in the same batches
    key = json.dumps(
        [cell.data["name"], cell.seed, cell.num_samples, cell.training["batch_frames"], reach(cell.family, cell.knobs)]
    )
    known = edges.setdefault(key, _Edges(cell.path, implied))
    both = min(len(implied), len(known.pairs))
    if implied[:both] != known.pairs[:both]:
        step = next(index for index in range(both) if implied[index] != known.pairs[index])
        findings.differ(
            f"{where}: step {step + 1}, flops_full: those of {implied[step]} pairs of atoms, where {known.first} has "
            f"{known.pairs[step]} in the same frames"
        )
    # each frame is seen once a pass, and its pairs do not change
    in_pass = math.ceil(cell.num_samples / cell.training["batch_frames"])
    passes = {sum(implied[first : first + in_pass]) for first in range(0, steps - in_pass + 1, in_pass)}
    found_passes = f"{sorted(passes)[:3]} pairs of atoms in passes over the same frames"
    findings.holds(f"{where}: flops_full", len(passes) < 2, found_passes)
