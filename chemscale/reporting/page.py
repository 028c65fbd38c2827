"""The report: one self-contained page that answers the study's question and shows what the answer rests on.

Every number of a table stands alone in an element that names table, row and column (`markup.number`); nothing is
computed here that is no table's value.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from chemscale.evaluations import EVALUATIONS
from chemscale.families import FAMILIES
from chemscale.io import canonical_json, read_json, write_text
from chemscale.reporting import evaluations, markup
from chemscale.reporting.axes import drawing_versions
from chemscale.reporting.figures import Plot, draw, plots
from chemscale.reporting.results import (
    DATA_EFFECT,
    LOG_LOSSES,
    STEPS_EFFECT,
    Contrast,
    FamilyResults,
    Results,
    Row,
    cautioned,
    load_results,
    preferred,
    read_rows,
    usable,
)

SPREADS = 2.0  # what `holds` in the table of control effects asks of a difference, in seed spreads
SHOWN_PARAMETERS = ("E", "A", "alpha", "B", "beta")
# columns of the table of cells, with heading and unit
CELL_COLUMNS = {
    "num_params_non_embedding": ("N", "non-embedding parameters"),
    "{amount}_unique": ("D", "distinct {amount}"),
    "flops_full": ("C", "training FLOPs"),
    "steps": ("steps", "optimiser"),
    "best_step": ("tested", "weights of step"),
    "loss_spikes": ("spikes", "of the loss"),
    "epochs": ("passes", "over the subset"),
    "learning_rate": ("rate", "peak"),
    "val_loss": ("validation loss", "{unit}"),
    "test_loss": ("test loss", "{unit}"),
}
RUN_COLUMNS = {"wall_s": ("time", "s"), "peak_memory_bytes": ("peak memory", "bytes")}
PROTOCOLS = {
    "equal_steps": "every subset is trained for the same number of optimiser steps, small subsets by many passes, so "
    "that D counts distinct data and no subset gets more steps; the weights tested are those of the best validation, "
    "which on small subsets come early",
    "one_pass": "every sample is seen once: D counts data and training steps alike",
    "fixed_epochs": "every subset is passed the same number of times: more data also means more steps",
    "to_convergence": "each run ends when the validation loss no longer falls",
}


# the quantities of a contrast, and what two sizes have in common, as the page calls them
QUANTITIES = {
    "exponent_data": "exponent over data, power law",
    "exponent_data_offset": "exponent over data, above a floor E",
    "log_loss_mean": "log loss, mean over the subsets",
    "log_loss_largest": "log loss at the largest subset",
}
MATCHED = {"parameters": "parameters, to 10 %", "flops": "FLOPs of a step, to 10 %", "none": "nothing"}


@dataclass(frozen=True)
class Answer:
    """One exponent of the first screen: the fit that gave it, or the refused fits; `short` says what it is about."""

    short: str
    main: bool  # shown at once, not on demand
    parameter: str
    fit: Row | None
    refused: list[Row]


def write_page(root: Path) -> None:
    """Write `report/index.html` of the study in `root`, which has tables and `audit/records.json`."""
    root = Path(root)
    write_text(root / "report" / "index.html", render(root))


def render(root: Path, drawings: Mapping[str, bytes] | None = None) -> str:
    """The page of the study in `root`; the same folder gives the same text.

    Args:
        root: the study's folder. Its figures are drawn from the tables: no file of a picture is read.
        drawings: the SVG of every figure, where they are drawn already (`figures.draw`).
    """
    drawings = draw(root, "svg") if drawings is None else drawings
    results = load_results(root)
    folder = Path(__file__).parent
    # templates are escaped throughout: names come from configs that others wrote
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        number=markup.number,
        interval=markup.interval,
        equation=markup.equation,
        law_name=markup.law_name,
        symbol=markup.symbol,
        words=markup.words,
        usable=usable,
        cautioned=cautioned,
        preferred=preferred,
        reason_parts=reason_parts,
    )
    script = (folder / "page.js").read_text(encoding="utf-8")
    shown = plots(results)
    return environment.get_template("page.html.j2").render(
        results=results,
        families=results.families,
        style=Markup((folder / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        answers={family.name: answers(family) for family in results.families},
        findings=findings(results),
        readings={family.name: reading(family) for family in results.families},
        figures={plot.name: figure(plot, drawings[plot.name]) for plot in shown},
        drawn_by=canonical_json(drawing_versions()),
        plots=shown,
        effects={
            kind: [row for family in results.families for row in family.effects if row["kind"] == kind]
            for kind in (DATA_EFFECT, STEPS_EFFECT)
        },
        doubtful=[fit for family in results.families for fit in family.fits if fit["verdict"] != "accepted"],
        contrasts=results.contrasts,
        contrast_readings={contrast.name: contrast_reading(contrast) for contrast in results.contrasts},
        quantities=QUANTITIES,
        matched=MATCHED,
        parameters=SHOWN_PARAMETERS,
        cell_columns={family.name: cell_columns(family) for family in results.families},
        waived=waived(results),
        protocols=PROTOCOLS,
        rates={family.name: rate_rule(family) for family in results.families},
        data=data_sets(root),
        passports=passports(root, results),
        origin=origin(results),
        audit=audit_records(root),
        evaluated={
            family.name: {kind: family.evaluated(kind) for kind in EVALUATIONS}
            for family in results.families
            if family.evaluation
        },
        probe_readings={family.name: evaluations.readings(family) for family in results.families},
        evaluation_words=evaluations,
        fit_settings=results.study["config"]["fits"],
        # readers paste it into a shell
        folder=shlex.quote(f"{results.study['config']['results_dir']}/{results.name}"),
    )


def answers(family: FamilyResults) -> list[Answer]:
    """The exponents that the first screen gives for a family: over N, over D, of the joint law."""
    found = []
    for short, axis, parameter in (
        ("with parameters", "N", "beta"),
        ("with data", "D", "beta"),
        ("with parameters, joint law", "ND", "alpha"),
        ("with data, joint law", "ND", "beta"),
        ("with compute", "C", "beta"),
    ):
        fits = family.main_fits(axis)
        if fits:
            refused = [fit for fit in fits if not usable(fit)]
            found.append(Answer(short, axis in ("N", "D"), parameter, preferred(fits), refused))
    return found


def findings(results: Results) -> list[str]:
    """The answer in plain words, a sentence each; without any number."""
    sentences = []
    with_cells = [family for family in results.families if family.cells]

    def named(titles: list[str]) -> str:
        return "every family" if len(titles) == len(with_cells) > 2 else markup.words(titles)

    effects = {family.title: family.main_effect() for family in with_cells}
    holds = [title for title, row in effects.items() if row is not None and row["holds"]]
    fails = [title for title, row in effects.items() if row is not None and not row["holds"] and row["seed_dof"]]
    unknown = [title for title, row in effects.items() if row is not None and not row["seed_dof"]]
    untested = [title for title, row in effects.items() if row is None]
    if holds:
        sentences.append(
            f"More distinct data lower the test loss of {named(holds)} even at an equal number of training "
            "steps, by more than twice the spread between seeds: the data axis is about data."
        )
    if fails:
        sentences.append(f"For {named(fails)} this study shows no such effect of data beyond the spread.")
    if unknown:
        sentences.append(f"For {named(unknown)} no replicate tells the spread, so no effect can be claimed.")
    if untested:
        sentences.append(f"For {named(untested)} no comparison at equal steps was run.")
    for axis, what in (
        ("D", "over data, at the largest size that has enough subsets"),
        ("N", "over parameters, at the largest subset"),
    ):
        fits = {family.title: preferred(family.main_fits(axis)) for family in with_cells}
        law = [title for title, fit in fits.items() if fit is not None and not cautioned(fit)]
        near = [title for title, fit in fits.items() if fit is not None and cautioned(fit)]
        none = [title for title, fit in fits.items() if fit is None]
        if law:
            sentences.append(f"The losses follow a law {what}, for {named(law)}.")
        if near:
            sentences.append(
                f"A law {what}, carries a caution for {named(near)}: the reasons say how near it is to a refusal."
            )
        if none:
            sentences.append(
                f"No law {what}, can be claimed for {named(none)}: every fit of it is refused, with its reasons."
            )
    sentences += primary_findings([contrast for contrast in results.contrasts if contrast.primary])
    if not with_cells:
        sentences.append("No cell of this study is finished, so there is nothing to answer with.")
    return sentences


def primary_findings(contrasts: Sequence[Contrast]) -> list[str]:
    """What the primary contrasts say of exponents and of losses, in plain words and without numbers."""

    def named(chosen: list[Contrast]) -> str:
        if len(chosen) == len(contrasts) > 1:
            return "every primary contrast"
        return f"the contrast{'s' * (len(chosen) > 1)} {markup.words([contrast.name for contrast in chosen])}"

    exponents: dict[str, list[Contrast]] = {}
    losses: dict[str, list[Contrast]] = {}
    for contrast in contrasts:
        found = contrast.exponents[0]["excludes_zero"] if contrast.exponents else None
        caution = " This carries a caution, with its reasons below the table."
        text = {
            True: "In {} the exponents over data differ by more than the noise explains.",
            False: "In {} no difference of the exponents over data shows, which does not show that there is none.",
            None: "In {} the exponents over data cannot be compared: a fit is refused, or the noise is not known.",
        }[found] + caution * (found is not None and cautioned(contrast.exponents[0]))
        exponents.setdefault(text, []).append(contrast)
        row = contrast.rows[LOG_LOSSES[0]]
        if usable(row):
            lower = "second" if row["value"] < 0 else "first"
            text = (
                f"the {lower} series has the lower loss on equal data" if row["excludes_zero"] else "no loss is lower"
            )
            sentence = f"In {{}} {text}, in the mean over the subsets.{caution * cautioned(row)}"
            losses.setdefault(sentence, []).append(contrast)
    return [text.format(named(chosen)) for text, chosen in [*exponents.items(), *losses.items()]]


_CAUTION = " (with a caution)"


def contrast_reading(contrast: Contrast) -> str:
    """What a contrast says, as a sentence without numbers."""
    parts = []
    for row in contrast.exponents:
        form = "as a power law" if row["form"] == "power" else "above a floor E"
        if not row["excludes_zero"]:
            part = f"{form}, no difference of the exponents shows: the interval holds 0"
        else:
            faster = "faster" if row["value"] > 0 else "more slowly"
            part = f"{form}, its loss falls {faster} with data: the interval leaves out 0"
        parts.append(part + _CAUTION * cautioned(row))
    if not parts:
        parts.append("no difference of the exponents can be given, as the reasons below the table say")
    losses: dict[str, list[str]] = {}
    for quantity, where in zip(LOG_LOSSES, ("over the subsets", "at the largest one"), strict=True):
        row = contrast.rows[quantity]
        if usable(row):
            lower = "its loss is lower" if row["value"] < 0 else "its loss is higher"
            words = lower if row["excludes_zero"] else "the losses cannot be told apart"
            losses.setdefault(words + _CAUTION * cautioned(row), []).append(where)
    parts += [f"{' and '.join(where)} {words}" for words, where in losses.items()]
    return f"{contrast.second} against {contrast.first}: {'; '.join(parts)}."


def reading(family: FamilyResults) -> list[str]:
    """What a family's controls say, in plain words and without numbers."""
    sentences = []
    main = family.main_effect()
    if main is None:
        sentences.append("No two subsets of one size were trained for the same number of steps.")
    elif main["holds"]:
        sentences.append(
            f"At {main['size']} and equal steps the largest subset gives a lower loss than the smallest by more than "
            "twice the spread between seeds: D stands for data."
        )
    elif main["seed_dof"] == 0:
        sentences.append("Without replicates the spread between seeds is unknown, so no difference can be called real.")
    else:
        sentences.append("The difference between smallest and largest subset does not exceed twice the spread.")
    steps = sorted((row for row in family.effects if row["kind"] == STEPS_EFFECT), key=lambda row: row["n_small"])
    if not steps:
        sentences.append("No control ran the same data for more steps.")
    elif any(row["ratio"] is None for row in steps):
        sentences.append("Whether more steps change the loss cannot be said without replicates.")
    else:
        lower = [row["n_small"] for row in steps if row["ratio"] > SPREADS]
        higher = [row["n_small"] for row in steps if row["ratio"] < -SPREADS]
        if not lower and not higher:
            sentences.append("More steps on the same data change nothing beyond the spread.")
        if lower:
            where = "at every subset tried" if len(lower) == len(steps) else "at some of the subsets"
            uneven = len(lower) < len(steps) or bool(higher)
            sentences.append(
                f"More steps on the same data still lower the loss {where}: the grid's runs there are not trained to "
                "the end, and its laws are those of this number of steps"
                + (", with an exponent over D that the number of steps may change." if uneven else ".")
            )
        if higher:
            sentences.append("At some subsets more steps raise the test loss: the runs there overfit.")
    return sentences


def figure(plot: Plot, drawing: bytes) -> Markup:
    """A figure, by the bytes of its SVG, with its caption."""
    svg = markup.inline_svg(drawing.decode(), plot.name, f"{plot.title}. {plot.caption}")
    return Markup("<figure>{}<figcaption><strong>{}</strong>{}</figcaption></figure>").format(
        svg, plot.title, plot.caption
    )


def reason_parts(reason: str) -> tuple[str, str, str]:
    """A reason as its code, what was found, and what fixes it; the last may be empty."""
    code, _, rest = reason.partition(": ")
    found, _, mend = rest.rpartition("; ")
    return (code.replace("_", " "), found, mend) if found else (code.replace("_", " "), rest or code, "")


def cell_columns(family: FamilyResults) -> dict[str, tuple[str, str]]:
    """The columns of a family's table of cells: heading and unit by column."""

    def fill(text: str) -> str:
        return text.format(amount=family.amount, unit=family.unit)

    columns = {fill(column): (heading, fill(unit)) for column, (heading, unit) in CELL_COLUMNS.items()}
    columns |= {name: further_heading(name) for name in family.further_metrics}
    if any(row.values.get("shared_steps") for row in family.cells):
        columns["shared_steps"] = ("shared steps", "of a smaller subset's run")
    return columns | RUN_COLUMNS


def further_heading(column: str) -> tuple[str, str]:
    """Heading and unit of a further test metric, by the ending of its column."""
    units = {
        "force_mae": "meV/angstrom",
        "force_rmse": "meV/angstrom",
        "energy_mae": "meV/atom",
        "energy_rmse": "meV/atom",
    }
    unit = next((unit for ending, unit in units.items() if column.endswith(ending)), "")
    return column.removeprefix("test_").replace("_", " "), unit


def rate_rule(family: FamilyResults) -> Markup:
    """The rule that gives each size its learning rate, as the config states it."""
    rule = family.settings["training"]["learning_rate"]
    if rule["power"] == 0:
        return Markup("{:g} for every size").format(rule["at_reference"])
    return Markup("{:g} &times; ({} / {:g})<sup>{:g}</sup>").format(
        rule["at_reference"], FAMILIES[family.name].capacity, rule["reference"], rule["power"]
    )


def waived(results: Results) -> list[tuple[str, str]]:
    """The cells that the config gives up, with the reason that each one left behind."""
    found = []
    for path in results.waived:
        failure = results.root / path / "checkpoint" / "failure.json"
        if failure.exists():
            found.append((path, str(read_json(failure)["reason"])))
        elif (results.root / path / "metrics.json").exists():
            found.append((path, "it is finished, but the config leaves it out"))
        else:
            found.append((path, "it left no reason: it has not run"))
    return found


def data_sets(root: Path) -> list[tuple[Row, list[str], list[str]]]:
    """Each data set with its columns of rejects and of splits that have a value."""
    rows = read_rows(root, "data")
    return [
        (
            row,
            [column for column in row.values if column.startswith("rejected_") and row.has(column)],
            [column.removesuffix("_rows") for column in row.values if _is_split(column) and row.has(column)],
        )
        for row in rows
    ]


def passports(root: Path, results: Results) -> list[dict[str, Any]]:
    """Each data set's passport: what names its snapshot, and the rows of its table by kind."""
    rows = read_rows(root, "passport")
    found = []
    for name in results.study["data"]:
        passport = read_json(root / "data" / name / "passport.json")
        mine = [row for row in rows if row["data"] == name]
        kinds = {kind: [row for row in mine if row["kind"] == kind] for kind in PASSPORT_KINDS}
        found.append({"name": name, "kinds": kinds, **{key: passport[key] for key in _TOLD}})
    return found


# of a passport: what the page prints as text
PASSPORT_KINDS = ("overlap", "relatives", "length", "subset", "element")
_TOLD = ("source", "amount", "warnings", "over_time_limit")


def _is_split(column: str) -> bool:
    return re.fullmatch(r"(train|validation|test|gap)_rows", column) is not None


def origin(results: Results) -> dict[str, Any]:
    """Machines, versions and commits that the cells' provenance names, and when the first began and the last ended."""
    machines: dict[str, None] = {}
    versions: dict[str, dict[str, None]] = {}
    commits: dict[str, None] = {}
    started, finished = [], []
    for family in results.families:
        for row in family.cells + family.controls:
            record = read_json(results.root / row.key / "provenance.json")
            at = record["machine"]
            machines[f"{at['processor']}, {at['cores']} cores, {at['memory_bytes'] / 1e9:.0f} GB, {at['system']}"] = (
                None
            )
            for package, version in record["versions"].items():
                versions.setdefault(package, {})[version] = None
            commit = record["repository"]
            state = " with changes" if commit["changed"] else ""
            commits[f"{commit['commit']}{state}" if commit["commit"] else "outside of a repository"] = None
            started.append(record["started"])
            finished.append(record["finished"])
    return {
        "machines": list(machines),
        "versions": {package: ", ".join(found) for package, found in sorted(versions.items())},
        "commits": list(commits),
        "started": min(started, default=None),
        "finished": max(finished, default=None),
    }


def audit_records(root: Path) -> dict[str, Any]:
    """The verdict of the audit of the records, evidence as text."""
    found = read_json(root / "audit" / "records.json")
    checks = [check | {"evidence": "; ".join(check["evidence"])} for check in found["checks"]]
    return {"verdict": found["verdict"], "checks": checks}
