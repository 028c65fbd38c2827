"""What the page says and draws of cells beyond their loss: the probe of their vectors, and the molecules they draw."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from chemscale.evaluations import ALL, DESCRIPTORS, PROPERTIES
from chemscale.reporting.axes import INK, PAPER, colour, log_axis, marker, plain
from chemscale.reporting.results import Evaluated, FamilyResults, Row

PROPERTY_WORDS = {"gap": "HOMO-LUMO gap", "dipole": "dipole moment"}
DESCRIPTOR_WORDS = {
    "weight": "molecular weight",
    "log_p": "logP",
    "qed": "QED",
    "rings": "rings",
    "heavy_atoms": "heavy atoms",
}
# measures of drawn molecules that are no distance, in the order of the page's table
SHARE_WORDS = {
    "validity": "read by RDKit",
    "uniqueness": "unique",
    "novelty": "novel",
    "internal_diversity": "internal diversity",
    "scaffold_overlap": "scaffold overlap",
}
# what trained vectors are compared with
COMPARED_WORDS = {
    "untrained": "the untrained network's",
    "morgan": "Morgan fingerprints",
    "constant": "the constant",
}
# what is measured of dynamics, and its unit, in the order of the page's table
DYNAMICS_WORDS = {
    "stability_time": ("holds, median", "ps"),
    "stable_share": ("hold to the cap", "share"),
    "distance_mae": ("distances", "0 to 2"),
    "distance_mae_of_reference": ("of the reference's halves", "0 to 2"),
    "temperature": ("temperature", "K"),
    "energy_drift": ("drift of energy", "meV/atom/ps"),
    "free_temperature": ("temperature at constant energy", "K"),
}
# numbers of the replicas that held, which say what was left out
OF_SURVIVORS = ("distance_mae", "temperature", "energy_drift", "free_temperature")
FEATURE_WORDS = {"trained": "trained", "untrained": "untrained", "morgan": "Morgan", "constant": "constant"}


def readings(family: FamilyResults) -> list[str]:
    """What a family's probes say, in plain words and without numbers: by property, against each other features."""
    found = family.evaluated("probe")
    sentences = []
    for name in PROPERTIES if found else ():
        compared = []
        for features, words in COMPARED_WORDS.items():
            rows = [row for at in found if (row := at.row(f"{name}_mae_difference", features)) and row.has("value")]
            better, worse = (sum(row[end] * sign > 0 for row in rows) for end, sign in (("high", -1), ("low", 1)))
            compared.append(f"instead of {words}, better at {_count(better, found)}, worse at {_count(worse, found)}")
        sentences.append(f"The {PROPERTY_WORDS[name]}, predicted from trained vectors {'; '.join(compared)}.")
        if len(found) > 1:
            sentences.append(_trend(found[0], found[-1], name))
    return sentences


def _count(count: int, found: Sequence[Evaluated]) -> str:
    return "none" if count == 0 else "all of the cells" if count == len(found) else "some of the cells"


def _trend(highest: Evaluated, lowest: Evaluated, name: str) -> str:
    """Whether the cell of the lowest loss has a lower error than that of the highest, by their intervals."""
    first, last = highest.row(f"{name}_mae", "trained"), lowest.row(f"{name}_mae", "trained")
    assert first is not None
    assert last is not None
    if last["high"] < first["low"]:
        return "Its error at the lowest loss lies below that at the highest, their intervals apart."
    if last["low"] > first["high"]:
        return "Its error at the lowest loss lies above that at the highest, their intervals apart."
    return "The intervals of its error at the lowest and at the highest loss overlap."


def subjects(at: Evaluated) -> list[str]:
    """The molecules whose dynamics a cell has, by name, and all of them together."""
    return [*sorted({subject for _, subject in at.rows} - {ALL}), ALL]


# --- figures ----------------------------------------------------------------------------------------------------------


def draw_probe(axes: Axes, family: FamilyResults, name: str) -> None:
    """The probe's error against the test loss: trained and untrained vectors by cell, the others as lines."""
    words = PROPERTY_WORDS[name]
    axes.set_title(f"{words[0].upper()}{words[1:]} from frozen vectors")
    found = family.evaluated("probe")
    for index, features in enumerate(("trained", "untrained")):
        rows = [(at.cell, at.rows[f"{name}_mae", features]) for at in found]
        _whiskers(axes, rows, index, f"vectors, {FEATURE_WORDS[features]}", shift=0.002 * (1 - 2 * index))
    for index, features in enumerate(("morgan", "constant"), 2):
        row = found[0].rows[f"{name}_mae", features]
        label = "Morgan fingerprints" if features == "morgan" else "constant: mean of training"
        axes.axhline(row["value"], color=colour(index), linestyle="--" if features == "morgan" else ":", label=label)
        axes.axhspan(row["low"], row["high"], color=colour(index), alpha=0.1, linewidth=0)
    # the names of the sizes in a row above all whiskers, upright and moved aside where losses lie close to each other
    top = max(at.rows[f"{name}_mae", features]["high"] for at in found for features in ("trained", "untrained"))
    text: dict[str, Any] = {"rotation": 90, "ha": "center", "va": "bottom", "fontsize": 8, "color": INK}
    former, aside = -math.inf, 0
    for at in sorted(found, key=lambda at: float(at.cell["test_loss"])):
        loss = at.cell["test_loss"]
        aside = aside + 1 if loss - former < 0.012 * loss else 0
        former = loss
        axes.annotate(at.cell["size"], (loss, top), xytext=(9 * aside, 4), textcoords="offset points", **text)
    _loss_below(axes, family)
    # room above for the names of the sizes
    axes.margins(y=0.14)
    axes.set_ylabel(f"test MAE of the {words} ({PROPERTIES[name]})")
    axes.grid(True, which="major")


def draw_distances(axes: Axes, family: FamilyResults) -> None:
    """Wasserstein distances of drawn molecules from validation, in units of a training sample's, against test loss."""
    axes.set_title("Drawn molecules against validation molecules")
    found = family.evaluated("generation")
    for index, name in enumerate(DESCRIPTORS):
        metric = f"wasserstein_{name}"
        rows = [(at.cell, at.rows[metric, "model"], at.rows[metric, "training_sample"]["value"]) for at in found]
        values = [row["value"] / unit for _, row, unit in rows]
        axes.errorbar(
            [cell["test_loss"] * (1 + 0.0025 * (index - 2)) for cell, _, _ in rows],
            values,
            yerr=_lengths([row for _, row, _ in rows], [unit for _, _, unit in rows]),
            fmt=marker(index),
            color=colour(index),
            capsize=2,
            linewidth=1.0,
            label=DESCRIPTOR_WORDS[name],
        )
    axes.axhline(1, color=INK, linewidth=0.9)
    _loss_below(axes, family)
    log_axis(axes.yaxis, "distance / that of a training sample", plain)


def draw_stability(axes: Axes, families: Sequence[FamilyResults], caps: Mapping[str, float]) -> None:
    """How long replicas hold against the force error; what lies beyond a family's cap is an open marker there.

    An arrow stands where the upper end of the interval is beyond it.
    """
    for index, family in enumerate(families):
        cap = caps[family.name]
        style: dict[str, Any] = {"color": colour(index), "marker": marker(index), "linestyle": "none"}
        label: str | None = family.title
        for at in family.evaluated("dynamics"):
            loss, row = at.cell["test_loss"], at.rows["stability_time", ALL]
            low = row["low"] if row.has("low") else cap
            high = row["high"] if row.has("high") else cap
            value = row["value"] if row.has("value") else cap
            axes.vlines(loss, low, high, color=colour(index), linewidth=1.2)
            if row.has("value"):
                axes.plot(loss, value, label=label, **style)
            else:
                axes.plot(loss, value, label=label, markerfacecolor=PAPER, **style)
            if not row.has("high"):
                axes.annotate(
                    "", (loss, cap), xytext=(0, 14), textcoords="offset points",
                    arrowprops={"arrowstyle": "<-", "color": colour(index), "shrinkA": 0, "shrinkB": 0},
                )  # fmt: skip
            label = None
    for cap in set(caps.values()):
        axes.axhline(cap, color=INK, linewidth=0.9, linestyle=":")
    axes.set_title("How long simulations hold")
    axes.set_xlabel(f"{families[0].loss_name} ({families[0].unit})")
    axes.xaxis.set_major_formatter(plain)
    axes.set_ylabel("median time until a bond breaks (ps)")
    axes.set_ylim(bottom=0)
    axes.margins(y=0.14)
    axes.grid(True, which="major")


def _whiskers(axes: Axes, rows: Sequence[tuple[Row, Row]], index: int, label: str, shift: float) -> None:
    """Values with their intervals over the test loss; series are moved aside a little, so that whiskers are seen."""
    axes.errorbar(
        [cell["test_loss"] * (1 + shift) for cell, _ in rows],
        [row["value"] for _, row in rows],
        yerr=_lengths([row for _, row in rows], [1.0] * len(rows)),
        fmt=marker(index),
        color=colour(index),
        capsize=3,
        linewidth=1.2,
        label=label,
    )


def _lengths(rows: Sequence[Row], units: Sequence[float]) -> Any:
    """The whiskers below and above each value, in units of its own."""
    return [
        [max(0.0, row["value"] - row["low"]) / unit for row, unit in zip(rows, units, strict=True)],
        [max(0.0, row["high"] - row["value"]) / unit for row, unit in zip(rows, units, strict=True)],
    ]


def _loss_below(axes: Axes, family: FamilyResults) -> None:
    axes.set_xlabel(f"{family.loss_name} ({family.unit})")
    axes.xaxis.set_major_formatter(plain)
