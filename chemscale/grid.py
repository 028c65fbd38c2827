"""The cell: one training run of a study's grid, as a plain record with its path and its JSON form.

Imports nothing but the standard library at the top: a compute node that trains a cell needs no more of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from chemscale.errors import RecordError
from chemscale.families import LANGUAGE
from chemscale.io import digest

# one process that takes a step's batch as a whole
ALONE: dict[str, Any] = {
    "ranks": 1,
    "micro_tokens": None,
    "zero": 0,
    "offload": False,
    "recompute": False,
    "compiled": False,
    "device": "cpu",
    "checkpoint_seconds": 60.0,
    "shared_with": [],
}


@dataclass(frozen=True)
class Cell:
    """One training run: (family, size, num_samples, seed), and everything that decides its bits.

    `protocol` is what is held while the data change, `training` the resolved optimiser settings (the learning rate is a
    number here), `data` the name and key of the training data and the keys of further evaluation sets. `engine` is how
    the work is spread: it decides last bits alone, and a run that was begun by one engine another one may end. Its
    `shared_with` names the num_samples of the cells that begin with the same steps, see `shares_steps`.
    """

    study: str
    family: str
    size: str
    num_samples: int
    seed: int
    control: str | None
    domain: str
    knobs: dict[str, Any]
    protocol: dict[str, Any]
    training: dict[str, Any]
    data: dict[str, Any]
    threads: int
    engine: dict[str, Any] = field(default_factory=lambda: dict(ALONE))

    @property
    def path(self) -> str:
        """The cell's folder below `results/STUDY`."""
        head = "cells" if self.control is None else f"controls/{self.control}"
        return f"{head}/{self.family}/{self.size}/n{self.num_samples}/seed{self.seed}"

    @property
    def digest(self) -> str:
        """The digest of all but the study's name and the engine: cells of equal digest and engine have equal bits."""
        return digest({key: value for key, value in asdict(self).items() if key not in ("study", "engine")})

    @property
    def shares_steps(self) -> bool:
        """Whether the run begins as those on more samples do: one pass at a rate that stays until its decay.

        The warm-up has to be a number of steps: a share of them would be longer on more samples.
        """
        training = self.training
        return (
            self.domain == LANGUAGE
            and self.protocol["kind"] == "one_pass"
            and training["schedule"] == "stable_decay"
            and training["warmup_steps"] is not None
        )

    @property
    def shared_digest(self) -> str:
        """The digest of what decides the bits of the steps that the cell shares: all but the number of samples."""
        engine = {key: value for key, value in self.engine.items() if key not in ("checkpoint_seconds", "shared_with")}
        cell = {key: value for key, value in asdict(self).items() if key not in ("study", "num_samples")}
        return digest(cell | {"engine": engine})

    @property
    def shared_path(self) -> str:
        """The folder below `results/STUDY` of states from which runs on more samples go on."""
        head = "" if self.control is None else f"{self.control}-"
        return f"shared/{head}{self.family}-{self.size}-seed{self.seed}"

    def folder(self, root: Path) -> Path:
        """The cell's folder, below the study's results folder `root`."""
        return Path(root) / self.path

    def to_dict(self) -> dict[str, Any]:
        """The cell as JSON-able values, equal to what `from_dict` takes."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Cell:
        """A cell from its JSON form; `RecordError` where fields are missing, unknown or not what a cell has."""
        known = {known.name for known in fields(cls)}
        if not isinstance(values, dict):
            raise RecordError("read a cell's spec", f"a {type(values).__name__}", "write it again with this version")
        if set(values) != known:
            raise RecordError(
                "read a cell's spec",
                f"missing {sorted(known - set(values))}, unknown {sorted(set(values) - known)}",
                "write it again with this version",
            )
        for name, value in values.items():
            if not _IS_VALUE[name](value):
                raise RecordError("read a cell's spec", f"{name} = {value!r}", "write it again with this version")
        return cls(**values)


def _is_name(value: Any) -> bool:
    """Whether a value is the name of one folder: a cell of another's config names no folder elsewhere."""
    return isinstance(value, str) and value not in ("", ".", "..") and not re.search(r"[/\x00-\x1f]", value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


_IS_VALUE: dict[str, Callable[[Any], bool]] = {
    "study": lambda value: isinstance(value, str),
    **dict.fromkeys(("family", "size", "domain"), _is_name),
    "control": lambda value: value is None or _is_name(value),
    **dict.fromkeys(("num_samples", "seed", "threads"), _is_count),
    **dict.fromkeys(("knobs", "protocol", "training", "data", "engine"), _is_mapping),
}


def protocol_label(protocol: dict[str, Any]) -> str:
    """The printed name of a protocol, such as `equal_steps(900)`."""
    values = [str(value) for key, value in sorted(protocol.items()) if key != "kind" and value is not None]
    return f"{protocol['kind']}({', '.join(values)})" if values else str(protocol["kind"])
