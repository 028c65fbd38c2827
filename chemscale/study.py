"""From a config to the list of cells: what a study trains, where it lives, and which data it reads."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chemscale.catalogue import CATALOGUE
from chemscale.config import (
    Block,
    Conformers,
    Contrast,
    FamilySection,
    LanguageEvaluation,
    Molecules,
    PotentialEvaluation,
    Protocol,
    Structures,
    StudyConfig,
    Trajectories,
)
from chemscale.config_file import load_config
from chemscale.cost.engine import chosen, plain, ranks_that_would_do, with_compiled
from chemscale.cost.matching import MATCHED, MOST_APART, apart, matched_amount
from chemscale.errors import ConfigError, InputError
from chemscale.evaluations import EVALUATION, EVALUATIONS, SPEED
from chemscale.families import FAMILIES, LANGUAGE
from chemscale.grid import ALONE, Cell, protocol_label
from chemscale.io import digest, regular_file, write_json

STUDY_SCHEMA_VERSION = 1
MIN_SUBSETS = 3  # that both series of a contrast must have


@dataclass(frozen=True)
class Study:
    """A checked study: its config, its cells and controls in the grid's order, and the cells that it may go without.

    `evaluated` is what is asked of cells beyond their loss, by path: generation, probe and dynamics, None where not.
    """

    path: Path
    config: StudyConfig
    cells: list[Cell]
    controls: list[Cell]
    evaluated: dict[str, dict[str, Any]]

    @property
    def name(self) -> str:
        """The study's name."""
        return self.config.study

    @property
    def root(self) -> Path:
        """The study's results folder."""
        return Path(self.config.results_dir) / self.config.study

    @property
    def data_dir(self) -> Path:
        """The folder of all prepared data."""
        return Path(self.config.data_dir)

    @property
    def waived(self) -> list[str]:
        """Paths of the cells that gather may go without."""
        return list(self.config.waived)

    def data_section(self, name: str) -> dict[str, Any]:
        """A data section, resolved to plain values."""
        return self.config.data[name].model_dump(mode="json")

    def longest_molecule(self, cell: Cell) -> int | None:
        """Tokens of the longest molecule that a cell's data may hold, see `longest_molecule`."""
        return longest_molecule(self.data_section(cell.data["name"]))

    def data_key(self, name: str) -> str:
        """The name of a data section's folder: source and digest of all settings that decide its bytes."""
        settings = data_settings(self.data_section(name))
        return f"{settings['source']}-{digest(settings)[:12]}"

    def data_folder(self, name: str) -> Path:
        """The folder of a data section's shards, manifest and subset indices."""
        return self.data_dir / self.data_key(name)

    def resolved(self) -> dict[str, Any]:
        """The study as plain values: what `results/STUDY/config.json` holds."""
        return {
            "schema_version": STUDY_SCHEMA_VERSION,
            "study": self.name,
            "config": self.config.model_dump(mode="json"),
            "cells": [cell.to_dict() for cell in self.cells],
            "controls": [cell.to_dict() for cell in self.controls],
            "evaluated": self.evaluated,
            "waived": self.waived,
            "data": {
                name: {
                    "key": self.data_key(name),
                    "kind": section.kind,
                    "domain": _domain(section.kind),
                    "source": section.source,
                }
                for name, section in self.config.data.items()
            },
        }


def data_settings(section: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a resolved data section that decide its bytes.

    Not how the work is spread, where files lie, how many rejects are too many, or what is computed of the rows later.

    A file of one's own is told by its path: nothing else names it.
    """
    elsewhere = {"workers", "chunks", "max_reject_share", "scaffolds"}
    elsewhere |= {"path"} if section.get("source") != "file" else set()
    return {key: value for key, value in section.items() if key not in elsewhere}


def wants_scaffolds(section: Mapping[str, Any]) -> bool:
    """Whether a resolved data section asks for scaffolds: by itself, or by its rule of splits."""
    return bool(section.get("scaffolds") or section.get("split_by") == "scaffold")


def write_resolved(root: Path, resolved: dict[str, Any]) -> None:
    """Write `config.json`, and move what the study no longer has to `former/`: folders of cells, and evaluations."""
    known = {Cell.from_dict(values).path for values in resolved["cells"] + resolved["controls"]}
    for head in ("cells", "controls"):
        for record in sorted((root / head).rglob("seed*/")):
            path = record.relative_to(root).as_posix()
            if set(record.parts) & {"checkpoint"}:
                continue
            if path not in known:
                _set_aside(root, record)
            elif path not in resolved["evaluated"]:
                for name in (EVALUATION, SPEED):
                    if (record / name).exists():
                        _set_aside(root, record / name)
    write_json(root / "config.json", resolved)


def _set_aside(root: Path, path: Path) -> None:
    aside = root / "former" / datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f") / path.relative_to(root)
    aside.parent.mkdir(parents=True)
    path.rename(aside)


def _domain(kind: str) -> str:
    return LANGUAGE if kind == "molecules" else "potentials"


def load_study(path: str | Path) -> Study:
    """The study that a config file describes; `ConfigError` where its grid is impossible or a file is missing."""
    study = study_of(load_config(Path(path)), Path(path))
    for name, section in study.config.data.items():
        for key, found in section.model_dump(include={"path", "vocabulary"}).items():
            # a published file may be named by its folder
            if found is not None and not (section.source != "file" and os.path.isdir(found)):
                _check_file(f"{path}: data.{name}.{key}", found)
        if isinstance(section, Conformers | Trajectories):
            for molecule, told in (section.molecules or {}).items():
                if told.structure is not None:
                    _check_file(f"{path}: data.{name}.molecules.{molecule}.structure", told.structure)
    return study


def _check_file(where: str, path: str) -> None:
    try:
        regular_file(Path(path))
    except InputError as error:
        raise ConfigError(where, f"{path!r}: {error.found}", "name an existing file") from None


def study_of(config: StudyConfig, path: Path) -> Study:
    """The study of a checked config; `path` is what errors name. `ConfigError` where its grid is impossible."""
    sections: dict[str, Any] = {
        name: section for name in FAMILIES if (section := getattr(config.families, name)) is not None
    }
    if not sections:
        raise ConfigError(f"{path}: families", "no family", f"name at least one of {', '.join(FAMILIES)}")
    study = Study(path, config, [], [], {})
    for name, section in sections.items():
        _check_family(path, config, name, section)
        study.cells.extend(_cells(study, name, section, section.grid, section.protocol, None, f"families.{name}.grid"))
    for control, asked in config.controls.items():
        if asked.family not in sections:
            raise ConfigError(
                f"{path}: controls.{control}.family", repr(asked.family), f"name one of {', '.join(sections)}"
            )
        study.controls.extend(
            _cells(
                study,
                asked.family,
                sections[asked.family],
                asked.grid,
                asked.protocol,
                control,
                f"controls.{control}.grid",
            )
        )
    rules = {name: getattr(section.engine, "compile", "never") for name, section in sections.items()}
    trained = with_compiled(study.cells + study.controls, rules)
    study.cells[:], study.controls[:] = trained[: len(study.cells)], trained[len(study.cells) :]
    for name in type(config.evaluate).model_fields:
        if (evaluation := getattr(config.evaluate, name)) is not None:
            _add_evaluated(study, name, evaluation)
    for name in config.contrasts:
        _check_contrast(study, name, sections)
    known = {cell.path for cell in study.cells + study.controls}
    for index, waived in enumerate(config.waived):
        if waived not in known:
            raise ConfigError(
                f"{path}: waived.{index}", repr(waived), "name a cell of this study, such as " + sorted(known)[0]
            )
    return study


def _add_evaluated(study: Study, name: str, evaluation: LanguageEvaluation | PotentialEvaluation) -> None:
    """Add the cells that an evaluation names; a cell that is not in the grid, or named twice, is an error."""
    where = f"{study.path}: evaluate.{name}"
    cells = [cell for cell in study.cells if cell.family == name]
    if not cells:
        raise ConfigError(where, "a family that the study does not train", "name one of its families")
    known = {(cell.size, cell.num_samples, cell.seed): cell.path for cell in cells}
    asked = dict.fromkeys(EVALUATIONS) | evaluation.model_dump(mode="json", exclude={"grid"})
    if asked["dynamics"] is not None:
        data = asked["dynamics"]["data"]
        if data not in study.config.data or study.config.data[data].kind not in ("trajectories", "structures"):
            raise ConfigError(f"{where}.dynamics.data", repr(data), "name a data set of trajectories of this study")
        # the folder that holds it, so that an evaluation belongs to its content
        asked["dynamics"]["key"] = study.data_key(data)
        asked["dynamics"]["temperature"] = _temperature(where, study.config.data[data], asked["dynamics"])
    for index, block in enumerate(evaluation.grid):
        for point in itertools.product(block.sizes, block.num_samples, block.seeds):
            if point not in known:
                found = "{}/n{}/seed{}, no cell of the grid".format(*point)
                raise ConfigError(f"{where}.grid.{index}", found, f"name cells such as {cells[0].path}")
            if known[point] in study.evaluated:
                found = f"{known[point]} for the second time"
                raise ConfigError(f"{where}.grid.{index}", found, "name each cell once")
            study.evaluated[known[point]] = asked


def _temperature(where: str, data: Any, dynamics: Mapping[str, Any]) -> float:
    """The temperature of dynamics in kelvin: that of the trajectories, where their section states one."""
    stated: float | None = getattr(data, "temperature", None)
    asked: float | None = dynamics["temperature"]
    if asked is None:
        if stated is None:
            raise ConfigError(f"{where}.dynamics.temperature", "none", f"state that of {dynamics['data']}, in kelvin")
        return stated
    if stated is not None and stated != asked:
        raise ConfigError(
            f"{where}.dynamics.temperature",
            f"{asked:g} K, where {dynamics['data']} is at {stated:g} K",
            "leave it out: stability and distances are compared with the trajectory's",
        )
    return asked


def _check_family(path: Path, config: StudyConfig, name: str, section: Any) -> None:
    family = FAMILIES[name]
    for key, data in [("data", section.data), *((f"evaluations.{i}", d) for i, d in enumerate(section.evaluations))]:
        where = f"{path}: families.{name}.{key}"
        if data not in config.data:
            raise ConfigError(where, repr(data), f"name a section of data: {', '.join(config.data)}")
        for split in ("validation", "test") if key == "data" else ("test",):
            if getattr(config.data[data], split) == 0:
                raise ConfigError(f"{path}: data.{data}.{split}", "0.0", f"{name} needs that split: a share above 0")
        if _domain(config.data[data].kind) != family.domain:
            raise ConfigError(
                where, f"{data!r} of kind {config.data[data].kind}", f"{name} is a family of the domain {family.domain}"
            )
    for size, knobs in section.sizes.items():
        heads, width = getattr(knobs, "heads", 1), knobs.width
        if width % (heads * family.head_step):
            even = "" if family.head_step == 1 else f" whose quotient is a multiple of {family.head_step}"
            raise ConfigError(
                f"{path}: families.{name}.sizes.{size}.heads", repr(heads), f"a divisor of the width {width}{even}"
            )


def _check_contrast(study: Study, name: str, sections: Mapping[str, Any]) -> None:
    """Check that a contrast compares what can be compared; `ConfigError` otherwise."""
    where, asked = f"{study.path}: contrasts.{name}", study.config.contrasts[name]
    series: list[list[Cell]] = []
    for index, side in enumerate(asked.between):
        if side.family not in sections:
            allowed = f"name one of {', '.join(sections)}"
            raise ConfigError(f"{where}.between.{index}.family", repr(side.family), allowed)
        mine = [cell for cell in study.cells if cell.family == side.family]
        series.append([cell for cell in mine if cell.size == side.size])
        if not series[-1]:
            allowed = f"name a size of its grid: {', '.join(dict.fromkeys(cell.size for cell in mine))}"
            raise ConfigError(f"{where}.between.{index}.size", repr(side.size), allowed)
    first, second = series[0][0], series[1][0]
    words = " and ".join(f"{side.family} {side.size}" for side in asked.between)
    for what, pair, told in (
        ("domain", [cell.domain for cell in (first, second)], None),
        ("data set", [cell.data["key"] for cell in (first, second)], [cell.data["name"] for cell in (first, second)]),
        ("protocol", [protocol_label(cell.protocol) for cell in (first, second)], None),
    ):
        if pair[0] != pair[1]:
            both = " and ".join(map(str, told or pair))
            raise ConfigError(f"{where}.between", f"the {what}s {both} of {words}", f"compare series of one {what}")
    if asked.between[0] == asked.between[1]:
        raise ConfigError(f"{where}.between", f"{words}, the same series twice", "name two series")
    for other, earlier in itertools.takewhile(lambda item: item[0] != name, study.config.contrasts.items()):
        if all(side in earlier.between for side in asked.between):
            raise ConfigError(f"{where}.between", f"{words}, which are those of {other}", "name each contrast once")
    common = {cell.num_samples for cell in series[0]} & {cell.num_samples for cell in series[1]}
    if len(common) < MIN_SUBSETS:
        few = f"{len(common)} subsets ({', '.join(map(str, sorted(common))) or 'none'}) with cells of {words}"
        raise ConfigError(f"{where}.between", few, f"give the grid at least {MIN_SUBSETS} of both")
    if asked.matched != "none":
        _check_matched(where, asked, first, second)
        _check_trained_alike(where, asked, first, second)
    _check_resolved(study, asked)


def _check_matched(where: str, asked: Contrast, first: Cell, second: Cell) -> None:
    """Check that two sizes that are called matched are."""
    amounts = [matched_amount(cell, asked.matched) for cell in (first, second)]
    if apart(*amounts) <= MOST_APART:
        return
    told = " and ".join(
        f"{amount:,} of {side.family} {side.size}" for amount, side in zip(amounts, asked.between, strict=True)
    )
    raise ConfigError(
        f"{where}.matched",
        f"{asked.matched!r}, where {MATCHED[asked.matched]} are {told}, {100 * apart(*amounts):.1f} % apart",
        f"choose sizes within {100 * MOST_APART:.0f} % of each other, or matched: none",
    )


def _check_trained_alike(where: str, asked: Contrast, first: Cell, second: Cell) -> None:
    """Check that two sizes that are called matched are trained alike, but for the rate that suits each."""
    for key, value in first.training.items():
        other = second.training.get(key)
        if key != "learning_rate" and value != other:
            words = " and ".join(f"{side.family} {side.size}" for side in asked.between)
            raise ConfigError(
                f"{where}.matched",
                f"{asked.matched!r}, where {key} is {value!r} and {other!r} for {words}",
                "train both alike, or matched: none",
            )


def _check_resolved(study: Study, asked: Contrast) -> None:
    """Check that the resamples resolve the level of a contrast's interval, which is corrected for their number."""
    count = sum(other.role == asked.role for other in study.config.contrasts.values())
    needed = math.ceil(2 * count / (1 - study.config.fits.level) - 1 - 1e-9)
    if study.config.fits.resamples < needed:
        raise ConfigError(
            f"{study.path}: fits.resamples",
            f"{study.config.fits.resamples}, too few for the intervals of {count} {asked.role} contrasts",
            f"at least {needed}",
        )


def _stated_rows(config: StudyConfig, data: str) -> int | None:
    section = config.data[data]
    if isinstance(section, Molecules | Structures):
        published = CATALOGUE.get(section.source)
        some = isinstance(section, Structures) and section.molecules is not None
        return None if published is None or some else published.rows
    if isinstance(section, Conformers) and section.num_molecules is not None:
        return section.num_molecules * section.frames_per_molecule
    return len(section.molecules or {}) * section.frames_per_molecule


def _chosen_engine(study: Study, cell: Cell, memory_gb: float) -> dict[str, Any]:
    """The engine that trains a language cell within a rank's memory; `ConfigError` where none does."""
    longest = study.longest_molecule(cell)
    assert longest is not None, "a language family reads molecules"
    engine = chosen(cell, longest, memory_gb * 1e9)
    if engine is None:
        ranks = ranks_that_would_do(cell, longest, memory_gb * 1e9)
        raise ConfigError(
            f"{study.path}: families.{cell.family}.engine.memory_gb",
            f"{memory_gb:g} GB for each of {cell.engine['ranks']} ranks, in which {cell.size} does not fit",
            "give a rank more memory" if ranks is None else f"more memory, or ranks: {ranks}",
        )
    return engine


def longest_molecule(section: Mapping[str, Any]) -> int | None:
    """Tokens of the longest molecule that a resolved data section lets in, [CLS] and [SEP] included; None of frames."""
    return int(section["max_symbols"]) + 2 if section["kind"] == "molecules" else None


def _cells(
    study: Study,
    name: str,
    section: Any,
    blocks: list[Block],
    protocol: Protocol,
    control: str | None,
    where: str,
) -> list[Cell]:
    """The cells of a list of blocks, in order; a cell that two blocks name is an error, not a silent union."""
    assert isinstance(section, FamilySection)
    family = FAMILIES[name]
    rows = _stated_rows(study.config, section.data)
    sizes = section.sizes  # type: ignore[attr-defined]
    training = section.training  # type: ignore[attr-defined]
    asked = {"memory_gb": None} | ALONE | section.engine.model_dump(mode="json")  # type: ignore[attr-defined]
    memory = asked.pop("memory_gb")
    asked.pop("compile", None)  # decided when all cells of a size are known
    cells: dict[str, Cell] = {}
    for index, block in enumerate(blocks):
        for position, size in enumerate(block.sizes):
            if size not in sizes:
                raise ConfigError(
                    f"{study.path}: {where}.{index}.sizes.{position}", repr(size), f"name one of {', '.join(sizes)}"
                )
        for position, num_samples in enumerate(block.num_samples):
            if rows is not None and num_samples > rows:
                raise ConfigError(
                    f"{study.path}: {where}.{index}.num_samples.{position}",
                    repr(num_samples),
                    f"at most {rows}, the rows that {section.data!r} states",
                )
        for size in block.sizes:
            knobs = sizes[size].model_dump(mode="json")
            settings = training.model_dump(mode="json")
            settings["learning_rate"] = rate = training.learning_rate.at(knobs[family.capacity])
            if not 0 < rate < math.inf:
                raise ConfigError(
                    f"{study.path}: families.{name}.training.learning_rate",
                    f"a rate of {rate} for {size}",
                    "a rule that gives every size a positive rate",
                )
            for num_samples in block.num_samples:
                for seed in block.seeds:
                    cell = Cell(
                        study=study.name,
                        family=name,
                        size=size,
                        num_samples=num_samples,
                        seed=seed,
                        control=control,
                        domain=family.domain,
                        knobs=knobs,
                        protocol=protocol.model_dump(mode="json", exclude_none=True),
                        training=settings,
                        data={
                            "name": section.data,
                            "key": study.data_key(section.data),
                            "evaluations": {data: study.data_key(data) for data in section.evaluations},
                        },
                        threads=study.config.threads,
                        engine=asked,
                    )
                    engine = plain(asked) if memory is None else _chosen_engine(study, cell, memory)
                    cell = replace(cell, engine=engine)
                    if cell.path in cells:
                        raise ConfigError(
                            f"{study.path}: {where}.{index}", f"{cell.path} for the second time", "name each cell once"
                        )
                    cells[cell.path] = cell
    return _with_shared_steps(list(cells.values()))


def _with_shared_steps(cells: list[Cell]) -> list[Cell]:
    """The cells, each of which knows on how many samples others begin with the same steps."""
    alike: dict[tuple[str, int], list[int]] = {}
    for cell in cells:
        if cell.shares_steps:
            alike.setdefault((cell.size, cell.seed), []).append(cell.num_samples)
    return [
        replace(
            cell,
            engine={
                **cell.engine,
                "shared_with": sorted(set(alike.get((cell.size, cell.seed), ())) - {cell.num_samples}),
            },
        )
        for cell in cells
    ]
