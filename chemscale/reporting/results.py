"""A gathered study as figures and page read it: its tables row by row, and what belongs to one family."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chemscale.errors import RecordError
from chemscale.families import FAMILIES, LANGUAGE, architecture
from chemscale.grid import protocol_label
from chemscale.io import read_json, read_parquet
from chemscale.records import METRIC_FIELDS

# The column that names a row of each table, in the table and in the page's `data-row`.
KEYS = {
    "cells": "cell",
    "controls": "cell",
    "fits": "fit_id",
    "control_effects": "effect_id",
    "slopes": "slope_id",
    "contrasts": "contrast_id",
    "data": "name",
    "passport": "entry",
    "evaluation": "entry",
}
TITLES = {
    "chemgpt": "ChemGPT",
    "schnet": "SchNet",
    "painn": "PaiNN",
    "painn_scalar": "PaiNN without vectors",
    "allegro": "Allegro",
    **{f"allegro_l{degree}": f"Allegro, l = {degree}" for degree in range(3)},
    "baseline": "Unsymmetric baseline",
    "spookynet": "SpookyNet",
}
# quantities of a contrast in tables/contrasts.parquet: of exponents, the first accepted one is spoken of first
EXPONENTS = ("exponent_data", "exponent_data_offset")
LOG_LOSSES = ("log_loss_mean", "log_loss_largest")
# kinds of rows in tables/control_effects.parquet
DATA_EFFECT, STEPS_EFFECT = "data at equal steps", "more steps, same data"


@dataclass(frozen=True)
class Row:
    """One row of a table. `row[column]` is the value; a column that the table lacks is a `RecordError`."""

    table: str
    values: dict[str, Any]

    @property
    def key(self) -> str:
        """The row's name within its table."""
        return str(self[KEYS[self.table]])

    def __getitem__(self, column: str) -> Any:
        if column not in self.values:
            raise RecordError(
                f"read tables/{self.table}.parquet", f"no column {column!r}", "run the stage that writes it again"
            )
        return self.values[column]

    def has(self, column: str) -> bool:
        """Whether the row has a value in this column."""
        return self.values.get(column) is not None


@dataclass(frozen=True)
class Evaluated:
    """An evaluated cell: its row of the table of cells, and its rows of the table of evaluations."""

    cell: Row
    rows: dict[tuple[str, str], Row]

    def row(self, metric: str, subject: str) -> Row | None:
        """The number of a metric and a subject; None where the cell has none."""
        return self.rows.get((metric, subject))


@dataclass(frozen=True)
class FamilyResults:
    """Everything that a study found out about one family; `sizes` are those with cells, by rising N."""

    name: str
    title: str
    domain: str
    settings: dict[str, Any]  # the family's section of the config
    cells: list[Row]
    controls: list[Row]
    fits: list[Row]
    effects: list[Row]
    slopes: list[Row]
    evaluation: list[Row]
    evaluate: dict[str, Any]  # what the study asks of its cells beyond the loss

    @property
    def dynamics(self) -> dict[str, Any]:
        """The settings of its molecular dynamics."""
        return dict(self.evaluate["dynamics"])

    @property
    def protocol(self) -> str:
        """The protocol of the family's grid, as printed."""
        return protocol_label(self.settings["protocol"])

    @property
    def unit(self) -> str:
        """The unit of its test loss; empty where no cell is there to state it."""
        return str(self.cells[0]["loss_unit"]) if self.cells else ""

    @property
    def loss_name(self) -> str:
        """What its test loss is."""
        return "test loss" if self.domain == LANGUAGE else "test force MAE"

    @property
    def samples(self) -> str:
        """What a training sample is, in the plural."""
        return "molecules" if self.domain == LANGUAGE else "frames"

    @property
    def amount(self) -> str:
        """What D counts, in the plural."""
        return "tokens" if self.domain == LANGUAGE else "frames"

    def evaluated(self, evaluation: str) -> list[Evaluated]:
        """The cells that were evaluated so (generation, probe or dynamics), by falling test loss."""
        rows: dict[str, dict[tuple[str, str], Row]] = {}
        for row in self.evaluation:
            if row["evaluation"] == evaluation:
                rows.setdefault(row["cell"], {})[row["metric"], row["subject"]] = row
        found = [Evaluated(cell, rows[cell.key]) for cell in self.cells if cell.key in rows]
        return sorted(found, key=lambda at: -at.cell["test_loss"])

    @property
    def columns(self) -> dict[str, str]:
        """The columns of N, D and C in the table of cells."""
        return {"N": "num_params_non_embedding", "D": f"{self.amount}_unique", "C": "flops_full"}

    @property
    def further_metrics(self) -> list[str]:
        """Columns of the further test metrics that its cells have, such as `test_force_rmse`."""
        names = self.cells[0].values if self.cells else {}
        return [
            name
            for name in names
            if name.startswith("test_") and name not in METRIC_FIELDS and any(cell.has(name) for cell in self.cells)
        ]

    @property
    def sizes(self) -> list[str]:
        """The sizes that have cells, by rising N."""
        by_size = {cell["size"]: cell[self.columns["N"]] for cell in self.cells}
        return sorted(by_size, key=lambda size: (by_size[size], size))

    def parameters(self, size: str) -> int:
        """N of a size."""
        return int(next(cell[self.columns["N"]] for cell in self.cells if cell["size"] == size))

    def fits_along(self, axis: str, held: str | None = None) -> list[Row]:
        """The fits along an axis (N, D, C or ND), richest form last; `held` restricts them by their `at`."""
        return [fit for fit in self.fits if fit["axis"] == axis and held in (None, fit["at"])]

    def main_fits(self, axis: str) -> list[Row]:
        """The fits along an axis that the page speaks of first: at the largest subset, size, or on the whole grid."""
        fits, sizes = self.fits_along(axis), self.sizes

        def rank(fit: Row) -> int:
            if axis == "N":
                return int(_held(fit["at"], "num_samples") or 0)
            size = _held(fit["at"], "size") if axis == "D" else None
            return sizes.index(size) if size in sizes else -1

        best = max(map(rank, fits), default=-1)
        return [fit for fit in fits if rank(fit) == best]

    def main_effect(self) -> Row | None:
        """The comparison of the smallest and the largest subset at equal steps, of the grid's largest size."""
        found = [row for row in self.effects if row["kind"] == DATA_EFFECT and row["size"] in self.sizes]
        grid = [row for row in found if not row.has("control")]
        return max(grid or found, key=lambda row: self.sizes.index(row["size"]), default=None)


@dataclass(frozen=True)
class Contrast:
    """Two series of cells that the config compares: the rows of the table by quantity."""

    name: str
    rows: dict[str, Row]

    @property
    def _any(self) -> Row:
        return self.rows[EXPONENTS[0]]

    @property
    def primary(self) -> bool:
        """Whether the study is made for it."""
        return bool(self._any["role"] == "primary")

    @property
    def first(self) -> str:
        """The series that the other one is compared with, in words."""
        return self._series("first")

    @property
    def second(self) -> str:
        """The series that is compared, in words."""
        return self._series("second")

    def _series(self, which: str) -> str:
        family = self._any[f"family_{which}"]
        return f"{TITLES.get(family, family)} {self._any[f'size_{which}']}"

    @property
    def symmetry(self) -> bool:
        """Whether its series are one model with another degree of symmetry."""
        families = {self._any["family_first"], self._any["family_second"]}
        return len(families) == 2 and len({architecture(family) for family in families}) == 1

    @property
    def exponents(self) -> list[Row]:
        """The accepted differences of exponents: of the power law, then of the law with a floor."""
        return [row for quantity in EXPONENTS if accepted(row := self.rows[quantity])]

    @property
    def losses(self) -> list[Row]:
        """The accepted differences of log losses: of their mean over the subsets, then at the largest one."""
        return [row for quantity in LOG_LOSSES if accepted(row := self.rows[quantity])]


@dataclass(frozen=True)
class Results:
    """A gathered study: config.json, its tables, families in the config's order, primary contrasts before others."""

    root: Path
    study: dict[str, Any]
    families: list[FamilyResults]
    contrasts: list[Contrast]

    @property
    def name(self) -> str:
        """The study's name."""
        return str(self.study["study"])

    @property
    def waived(self) -> list[str]:
        """The cells that the config gives up, by path."""
        return list(self.study["waived"])


def accepted(fit: Row) -> bool:
    """Whether a fit, or a quantity of a contrast, was accepted."""
    return bool(fit["verdict"] == "accepted")


def preferred(fits: Sequence[Row]) -> Row | None:
    """The accepted fit of the richest form; None where none is accepted."""
    found = [fit for fit in fits if accepted(fit)]
    return max(found, key=lambda fit: _RICHNESS.get(fit["form"], 0), default=None)


# of a table whose rows become Python values, which take ten times as much
_MAX_ROWS_BYTES = 2**26
_RICHNESS = {"power": 1, "offset": 2, "joint_power": 1, "joint": 2}


def _held(at: str, name: str) -> str | None:
    """The value of `name=value` in a fit's `at`."""
    found = re.search(rf"(?:^|[\s;,]){name}=([^\s;,]+)", at)
    return found.group(1) if found else None


def read_rows(root: Path, table: str) -> list[Row]:
    """The rows of `tables/TABLE.parquet`."""
    rows = read_parquet(root / "tables" / f"{table}.parquet", max_bytes=_MAX_ROWS_BYTES).to_pylist()
    return [Row(table, values) for values in rows]


def load_results(root: Path) -> Results:
    """The gathered and fitted study in `root`; `RecordError` where a file is missing or damaged."""
    root = Path(root)
    study = read_json(root / "config.json")
    tables = ("cells", "controls", "fits", "control_effects", "slopes", "contrasts", "evaluation")
    rows = {table: read_rows(root, table) for table in tables}

    def of(name: str, table: str) -> list[Row]:
        return [row for row in rows[table] if row["family"] == name]

    family_of = {row["cell"]: row["family"] for row in rows["cells"]}
    families = [
        FamilyResults(
            name,
            TITLES.get(name, name),
            FAMILIES[name].domain,
            study["config"]["families"][name],
            cells=of(name, "cells"),
            controls=of(name, "controls"),
            fits=of(name, "fits"),
            effects=of(name, "control_effects"),
            slopes=of(name, "slopes"),
            evaluation=[row for row in rows["evaluation"] if family_of.get(row["cell"]) == name],
            evaluate=next((asked for path, asked in study["evaluated"].items() if path.split("/")[1] == name), {}),
        )
        for name in FAMILIES
        if study["config"]["families"].get(name) is not None
    ]
    by_contrast: dict[str, dict[str, Row]] = {}
    for row in rows["contrasts"]:
        by_contrast.setdefault(row["contrast"], {})[row["quantity"]] = row
    contrasts = [Contrast(name, quantities) for name, quantities in by_contrast.items()]
    return Results(root, study, families, sorted(contrasts, key=lambda contrast: not contrast.primary))
