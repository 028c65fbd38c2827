"""Checks that the numbers of a run are ones that a run can have: losses, errors, times, rates and energies."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from chemscale.audit.findings import Findings
from chemscale.families import LANGUAGE
from chemscale.grid import Cell
from chemscale.io import read_json, read_parquet
from chemscale.records import read_metrics

# below it a loss is no result: in nats per token, and in meV/angstrom
_LEAST_LOSS = 1e-9
# of a potential on one set of frames, with the range of each
_ERRORS = {
    "force_mae": (0.0, math.inf),
    "force_rmse": (0.0, math.inf),
    "force_cosine": (-1 - 1e-9, 1 + 1e-9),
    "energy_mae": (0.0, math.inf),
    "squared_loss": (0.0, math.inf),
}
_FORCE_SHARE = 0.95  # of the squared loss, see `training/potential.py`
# a clock is read apart from the run's own time, and may be set meanwhile
_CLOCK_SLACK_S = 0.25 + 2.0
_EQUAL = 1e-9
# Python and torch alone take more memory, and a processor more power, than these
_LEAST_MEMORY = 50e6
_LEAST_WATTS, _MOST_WATTS = 0.01, 20_000.0
_MOST_UTILISATION = 10.0  # a peak is measured once, and low where other work held the machine at that moment


def check_values(root: Path, study: dict[str, Any], findings: Findings) -> None:
    """Losses are positive numbers, further errors lie in their ranges and agree with each other."""
    for values in study["cells"] + study["controls"]:
        cell = Cell.from_dict(values)
        if cell.path in study["waived"]:
            continue
        where = f"{cell.path}/metrics.json"
        metrics = read_metrics(root / where)
        for name in ("test_loss", "val_loss", "learning_rate", "epochs"):
            least = _LEAST_LOSS if name.endswith("loss") else 0.0
            value = metrics[name]
            fine = isinstance(value, float) and math.isfinite(value) and value > least
            findings.holds(f"{where}: {name}", fine, f"{value!r}, which no finished run has")
        _check_clusters(root, cell, findings)
        names = set(metrics["test_metrics"])
        if cell.domain == LANGUAGE:
            findings.same_names(f"{where}: test_metrics", names, ())
            continue
        sets = ["", *(f"{name}_" for name in cell.data["evaluations"])]
        expected = {f"{prefix}{name}" for prefix in sets for name in _ERRORS} | {"equivariance_error"}
        findings.same_names(f"{where}: test_metrics", names, expected)
        for name, value in metrics["test_metrics"].items():
            low, high = next((ends for ending, ends in _ERRORS.items() if name.endswith(ending)), (0.0, math.inf))
            findings.within(f"{where}: test_metrics.{name}", value, low, high)
        for prefix in sets:
            _check_errors(where, prefix, metrics["test_metrics"], findings)


def _check_clusters(root: Path, cell: Cell, findings: Findings) -> None:
    where = f"{cell.path}/test_clusters.parquet"
    table = read_parquet(root / where)
    losses, counts = (np.array(table[name].to_pylist(), float) for name in ("loss_sum", "count"))
    # a denormal number or a minus before 0 is no sum of losses
    strange = ~np.isfinite(losses) | np.signbit(losses) | ((losses > 0) & (losses < np.finfo(float).tiny * 1e20))
    for place in np.flatnonzero(strange)[:3].tolist():
        findings.differ(f"{where}: row {place}, loss_sum {losses[place]!r}, which no test cluster has")
    findings.holds(f"{where}: count", bool((counts > 0).all()), "a cluster of nothing")


def _check_errors(where: str, prefix: str, found: dict[str, float], findings: Findings) -> None:
    """A mean of absolute values is at most the root of that of squares, and forces are a part of the squared loss."""
    try:
        mae, rmse, squared = (found[f"{prefix}{name}"] for name in ("force_mae", "force_rmse", "squared_loss"))
    except KeyError:
        return  # named already
    findings.within(f"{where}: test_metrics.{prefix}force_mae", mae, _LEAST_LOSS, rmse * (1 + _EQUAL))
    least = _FORCE_SHARE * (rmse / 1000) ** 2  # (eV/angstrom)^2
    findings.within(f"{where}: test_metrics.{prefix}squared_loss", squared, least * (1 - _EQUAL), math.inf)


def check_provenance(root: Path, study: dict[str, Any], findings: Findings) -> None:
    """Times, rates, energy and memory of each run agree with each other and with what the run did."""
    clocks = 0
    for values in study["cells"] + study["controls"]:
        cell = Cell.from_dict(values)
        if cell.path in study["waived"]:
            continue
        where = f"{cell.path}/provenance.json"
        told, metrics = read_json(root / where), read_metrics(root / cell.path / "metrics.json")
        ranks = cell.engine["ranks"]
        wall, steps_s = (_positive(where, told, name, findings) for name in ("wall_s", "steps_s"))
        if wall is None or steps_s is None:
            continue
        findings.within(f"{where}: steps_s", steps_s, 0, wall)
        seen = metrics["tokens_seen" if cell.domain == LANGUAGE else "frames_seen"]
        for name, expected in (
            ("device_s", wall * ranks),
            ("seen_per_s", seen / steps_s),
            ("flops_per_s", metrics["flops_full"] / steps_s),
        ):
            value = _positive(where, told, name, findings)
            if value is not None:
                findings.holds(
                    f"{where}: {name}",
                    math.isclose(value, expected, rel_tol=1e-6),
                    f"{value!r}, where {expected!r} follows from its times and amounts",
                )
        peak = _positive(where, told, "matmul_peak_flops_per_s", findings)
        if peak is not None:
            utilisation = metrics["flops_full"] / steps_s / (peak * ranks)
            findings.holds(
                f"{where}: flops_utilisation",
                _is_number(told["flops_utilisation"])
                and math.isclose(told["flops_utilisation"], utilisation, rel_tol=1e-6)
                and utilisation <= _MOST_UTILISATION,
                f"{told['flops_utilisation']!r}, where {utilisation!r} follows from FLOPs and peak",
            )
        _check_shared(root, cell, told, metrics, findings)
        findings.within(f"{where}: peak_memory_bytes", told["peak_memory_bytes"], _LEAST_MEMORY, _memory(told))
        if told["energy_kwh"] is not None:
            watts = told["energy_kwh"] * 3.6e6 / wall if _is_number(told["energy_kwh"]) else math.nan
            # counters of some virtual machines stand still at 0
            plausible = watts == 0 or _LEAST_WATTS * ranks <= watts <= _MOST_WATTS * ranks
            findings.holds(f"{where}: energy_kwh", plausible, f"{told['energy_kwh']!r} in {wall:g} s")
        clocks += _check_clock(where, told, metrics, wall, findings)
    if clocks:
        findings.notes.append(f"{clocks} runs took longer by the clock than by their own time: a machine that slept?")


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _positive(where: str, told: dict[str, Any], name: str, findings: Findings) -> float | None:
    value = told.get(name)
    number = float(value) if _is_number(value) and value > 0 else None
    findings.holds(f"{where}: {name}", number is not None, f"{value!r}, where a number above 0 is expected")
    return number


def _memory(told: dict[str, Any]) -> float:
    """The machine's memory in bytes."""
    found = told["machine"]["memory_bytes"]
    return float(found) if _is_number(found) else 0.0


def _check_shared(root: Path, cell: Cell, told: dict[str, Any], metrics: dict[str, Any], findings: Findings) -> None:
    """What a run on fewer samples did is a part of the whole."""
    where = f"{cell.path}/provenance.json"
    whole = {"shared_steps": metrics["steps"], "shared_s": told["wall_s"], "shared_flops": metrics["flops_full"]}
    for name, most in whole.items():
        findings.within(f"{where}: {name}", told[name], 0, most if cell.shares_steps else 0)


def _check_clock(where: str, told: dict[str, Any], metrics: dict[str, Any], wall: float, findings: Findings) -> bool:
    """The run's own time fits between its start and its end; whether the clock tells more."""
    attempts = told["attempts"]
    findings.holds(f"{where}: attempts", isinstance(attempts, int) and attempts >= 1, f"{attempts!r}")
    try:
        started, finished = (datetime.fromisoformat(told[name]) for name in ("started", "finished"))
        between = (finished - started) / timedelta(seconds=1)
    except (TypeError, ValueError):
        findings.differ(f"{where}: started {told['started']!r}, finished {told['finished']!r}: no times")
        return False
    if attempts != 1 or metrics["retried_from_step"] is not None:
        return False  # the last attempt alone is between the two
    own = wall - told["shared_s"]
    slack = _CLOCK_SLACK_S + 0.001 * own
    findings.holds(
        f"{where}: wall_s", own <= between + slack, f"{wall!r}, where {between:.3f} s are between started and finished"
    )
    return bool(between > own + slack)
