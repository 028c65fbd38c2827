"""The figures of a study: what is drawn, with the title and caption that the page prints beside each.

Points are runs, filled markers means over seeds, lines fitted laws that are not refused, bands their intervals.
A refused law is not drawn; the legend says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from matplotlib.axes import Axes

from chemscale.families import POTENTIALS
from chemscale.io import atomic_path, read_json, write_json
from chemscale.reporting import evaluations
from chemscale.reporting.axes import (
    INK,
    PAPER,
    amount,
    colour,
    drawing_versions,
    drawn,
    log_axis,
    marker,
    plain,
    power_of_ten,
)
from chemscale.reporting.results import (
    DATA_EFFECT,
    Contrast,
    FamilyResults,
    Results,
    Row,
    cautioned,
    load_results,
    preferred,
    usable,
)

FORM_WORDS = {
    "power": "power law",
    "offset": "law with floor E",
    "joint_power": "joint power law",
    "joint": "joint law with floor E",
}
_CAUTION = " (caution)"


@dataclass(frozen=True)
class Plot:
    """A figure: its file name without ending, what the page prints beside it, and how it is drawn."""

    name: str
    section: (
        # of the page: a family's name, "controls", "potentials", "contrasts", "dynamics", "evaluation:FAMILY" or
        # "data:NAME"
        str
    )
    title: str
    caption: str
    draw: Callable[[Axes], None]


def draw_all(root: Path) -> None:
    """Write every figure of the study in `root` as `figures/NAME.svg` and `figures/NAME.png`, and what drew them."""
    root = Path(root)
    folder = root / "figures"
    forms: tuple[Literal["svg", "png"], ...] = ("svg", "png")
    for form in forms:
        for name, content in draw(root, form).items():
            with atomic_path(folder / f"{name}.{form}") as temporary:
                temporary.write_bytes(content)
    write_json(folder / "versions.json", drawing_versions())


def draw(root: Path, form: Literal["svg", "png"]) -> dict[str, bytes]:
    """Every figure of the study in `root`, drawn from its tables: the bytes of each file by name."""
    return {plot.name: drawn(plot.draw, form) for plot in plots(load_results(root))}


def plots(results: Results) -> list[Plot]:
    """The figures that a study's tables have data for, in the page's order."""
    found = []
    effects = [row for family in results.families for row in family.effects if row["kind"] == DATA_EFFECT]
    if effects:
        found.append(
            Plot(
                "equal_steps",
                "controls",
                "Does more data help at equal steps?",
                "Test loss of the largest subset relative to the smallest of the same size, both trained for the same "
                "number of steps. Whiskers are two spreads between seeds on either side: a point whose whisker stays "
                "left of the line shows an effect of data, not of longer training.",
                lambda axes: _draw_effects(axes, results, effects),
            )
        )
    found += [plot for family in results.families if family.cells for plot in _family_plots(family)]
    compared = [family for family in results.families if family.domain == POTENTIALS and family.cells]
    if len(compared) > 1:
        names = " and ".join(family.title for family in compared)
        sizes = _equal_sizes(compared)
        found.append(
            Plot(
                "potentials_parameters",
                "potentials",
                "Potentials at equal data",
                f"{names} at each one's largest subset: loss against parameters. Lines are laws that are not refused.",
                lambda axes: _draw_parameters(axes, compared),
            )
        )
        found.append(
            Plot(
                "potentials_data",
                "potentials",
                "Potentials at the sizes nearest in parameters",
                "Loss against data at the size of each that is nearest in N to the others': "
                + ", ".join(
                    f"{family.title} {size} with {round(family.parameters(size)):,}"
                    for family, size in zip(compared, sizes, strict=True)
                )
                + ". Lines are laws that are not refused.",
                lambda axes: _draw_compared_data(axes, compared, sizes),
            )
        )
    if any(contrast.exponents for contrast in results.contrasts):
        found.append(
            Plot(
                "contrasts",
                "contrasts",
                "Differences of exponents over data",
                "How much larger the second series' exponent over data is than the first one's, at the subsets of "
                "both. Whiskers are intervals at the level in the legend, corrected for the number of contrasts of a "
                "role: one that crosses the line shows no difference, which does not show that there is none.",
                lambda axes: _draw_exponents(axes, results.contrasts),
            )
        )
    if any(contrast.losses for contrast in results.contrasts):
        found.append(
            Plot(
                "contrast_losses",
                "contrasts",
                "Ratios of losses on equal data",
                "The second series' loss over the first one's, as a geometric mean over the subsets of both and at the "
                "largest of them. Whiskers are intervals at the level in the legend, corrected for the number of "
                "contrasts of a role: one that crosses 1 does not tell the losses apart.",
                lambda axes: _draw_losses(axes, results.contrasts),
            )
        )
    simulated = [family for family in results.families if family.evaluated("dynamics")]
    if simulated:
        caps = {family.name: family.dynamics["nvt_ps"] for family in simulated}
        found.append(
            Plot(
                "stability",
                "dynamics",
                "Does a lower force error make simulations hold?",
                "Median time until a bond of a replica is more than 0.5 angstrom off its reference length, over all "
                "molecules, against the force error on the test split. The dotted line is the cap: open markers there "
                "are medians beyond it, arrows intervals that reach beyond it. Whiskers are intervals over replicas.",
                lambda axes: evaluations.draw_stability(axes, simulated, caps),
            )
        )
    found += [plot for family in results.families for plot in _evaluation_plots(family)]
    return found + [_length_plot(results, name) for name in results.study["data"]]


def _evaluation_plots(family: FamilyResults) -> Iterator[Plot]:
    if family.evaluated("probe"):
        for name, words in evaluations.PROPERTY_WORDS.items():
            yield Plot(
                f"{family.name}_probe_{name}",
                f"evaluation:{family.name}",
                f"{family.title}: does a lower loss help to predict the {words}?",
                "Mean absolute error of a ridge regression on molecules of scaffolds that it has not seen, against the "
                "test loss of the cell whose vectors it reads; the untrained network has the same size and stands at "
                "the same loss, a little aside. Whiskers and bands are intervals over test scaffolds.",
                lambda axes, name=name: evaluations.draw_probe(axes, family, name),  # type: ignore[misc]
            )
    if family.evaluated("generation"):
        yield Plot(
            f"{family.name}_distances",
            f"evaluation:{family.name}",
            f"{family.title}: do drawn molecules look like the data?",
            "Wasserstein distance between drawn and validation molecules, divided by that between as many training "
            "molecules and validation molecules: at 1, the line, only the number of molecules is left to tell them "
            "apart. Whiskers are the intervals of the distance of drawn molecules. Series stand a little aside.",
            lambda axes: evaluations.draw_distances(axes, family),
        )


def _length_plot(results: Results, name: str) -> Plot:
    passport = read_json(results.root / "data" / name / "passport.json")
    unit = "tokens of a molecule" if passport["amount"] == "tokens" else "atoms of a frame"
    return Plot(
        f"lengths_{name}",
        f"data:{name}",
        f"{name}: how long its rows are",
        f"Share of each split's rows by {unit}. Splits that were drawn fairly look alike.",
        lambda axes: _draw_lengths(axes, passport["lengths"], unit),
    )


def _draw_lengths(axes: Axes, lengths: dict[str, list[list[int]]], unit: str) -> None:
    splits = [split for split in ("train", "validation", "test") if split in lengths]
    longest = max(length for split in splits for length, _ in lengths[split])
    # bars of the same width for all splits, of several lengths each where there are many
    width = max(1, math.ceil((longest + 1) / 30))
    for index, split in enumerate(splits):
        shares = [0.0] * (longest // width + 1)
        rows = sum(count for _, count in lengths[split])
        for length, count in lengths[split]:
            shares[length // width] += count / rows
        edges = [(bar - 0.5 / width) * width for bar in range(len(shares) + 1)]
        axes.stairs(shares, edges, color=colour(index), linewidth=1.6, label=split, fill=False)
    axes.set_xlabel(unit if width == 1 else f"{unit}, in bars of {width}")
    axes.set_ylabel("share of the split's rows")
    axes.set_ylim(bottom=0)


def _family_plots(family: FamilyResults) -> Iterator[Plot]:
    name, title = family.name, family.title
    yield Plot(
        f"{name}_data",
        name,
        f"{title}: loss against data, L(D)",
        f"Each size over its subsets, protocol {family.protocol}. Open markers are runs, filled ones means over seeds, "
        "lines laws that are not refused, with their interval as a band.",
        lambda axes: _draw_data(axes, family),
    )
    yield Plot(
        f"{name}_parameters",
        name,
        f"{title}: loss against parameters, L(N)",
        f"All sizes at the largest subset, protocol {family.protocol}. Open markers are runs, filled ones means over "
        "seeds, lines laws that are not refused, with their interval as a band.",
        lambda axes: _draw_parameters(axes, [family]),
    )
    joint = [fit for fit in family.fits_along("ND") if fit["residuals"]]
    if joint:
        fit = preferred(joint) or max(joint, key=lambda fit: fit["form"] == "joint")
        verdict = fit["verdict"] if usable(fit) else "refused: what is left shows where the form fails"
        yield Plot(
            f"{name}_joint_residuals",
            name,
            f"{title}: residuals of the joint fit, L(N, D)",
            f"How far each design point lies above (positive) or below the {FORM_WORDS[fit['form']]} ({verdict}). "
            "The grey band is two spreads between seeds: a good fit leaves a patternless cloud of about that width.",
            lambda axes: _draw_residuals(axes, family, fit),
        )
    yield Plot(
        f"{name}_compute",
        name,
        f"{title}: loss against compute, L(C)",
        f"All design points over their training FLOPs, protocol {family.protocol}. Ringed points are the frontier: no "
        "cheaper one has a lower loss.",
        lambda axes: _draw_compute(axes, family),
    )
    if family.controls:
        yield Plot(
            f"{name}_control",
            "controls",
            f"{title}: the grid against its controls",
            "The same sizes and subsets under the grid's protocol and under the controls'. Where the two agree, the "
            "grid's runs were trained long enough; where the gap grows with D, its law also holds a lack of steps.",
            lambda axes: _draw_control(axes, family),
        )


# --- what the plots share ---------------------------------------------------------------------------------------------


def _means(cells: Sequence[Row], column: str) -> tuple[list[float], list[float]]:
    """Means over seeds of `column` and loss, a pair of lists with an entry per design point; by rising value."""
    groups: dict[tuple[str, int], list[Row]] = {}
    for cell in cells:
        groups.setdefault((cell["size"], cell["num_samples"]), []).append(cell)
    points = sorted((_mean(group, column), _mean(group, "test_loss")) for group in groups.values())
    return [x for x, _ in points], [loss for _, loss in points]


def _point(cell: Row) -> str:
    """The name of a cell's design point, as `points` in the table of fits has it."""
    return f"{cell['size']}/n{cell['num_samples']}"


def _mean(cells: Sequence[Row], column: str) -> float:
    return math.fsum(cell[column] for cell in cells) / len(cells)


def _points(axes: Axes, cells: Sequence[Row], column: str, index: int, label: str, line: bool = False) -> None:
    """Runs as open markers, their means over seeds as filled ones."""
    runs: dict[str, Any] = {"marker": marker(index), "linestyle": "none", "color": colour(index)}
    axes.plot(
        [cell[column] for cell in cells],
        [cell["test_loss"] for cell in cells],
        **(runs | {"markersize": 4.5, "markerfacecolor": PAPER, "markeredgewidth": 0.9, "zorder": 3}),
    )
    style = runs | {"linestyle": ":", "linewidth": 1.0} if line else runs
    axes.plot(*_means(cells, column), **(style | {"markersize": 6, "label": label, "zorder": 4}))


def _law(axes: Axes, fit: Row, index: int, dashed: bool = False, label: str | None = None) -> None:
    """A law over its range, with the band of its interval where the table has one."""
    x = fit["curve_x"] or []
    if not x:
        return
    axes.plot(x, fit["curve"], color=colour(index), linestyle="--" if dashed else "-", label=label, zorder=2)
    low, high = fit["curve_low"], fit["curve_high"]
    if low and not any(value is None or math.isnan(value) for value in (*low, *high)):
        axes.fill_between(x, low, high, color=colour(index), alpha=0.16, linewidth=0, zorder=1)


def _label(series: str, fits: Sequence[Row]) -> str:
    """A series and what became of the fits to it, for the legend."""
    chosen = preferred(fits)
    if chosen is not None:
        return f"{series}: {FORM_WORDS[chosen['form']]}{_CAUTION * cautioned(chosen)}"
    return f"{series}: law refused" if fits else series


def _loss_axis(axes: Axes, family: FamilyResults) -> None:
    unit = family.unit.removesuffix(" per force component").replace("angstrom", "Å")
    log_axis(axes.yaxis, f"{family.loss_name} ({unit})")


def _data_label(family: FamilyResults) -> str:
    return f"D: distinct {family.amount} in the subset"


# --- the plots --------------------------------------------------------------------------------------------------------


def _draw_data(axes: Axes, family: FamilyResults) -> None:
    axes.set_title("Loss against data")
    column = family.columns["D"]
    for index, size in enumerate(family.sizes):
        cells = [cell for cell in family.cells if cell["size"] == size]
        fits = family.fits_along("D", f"size={size}")
        _points(axes, cells, column, index, _label(size, fits))
        if chosen := preferred(fits):
            _law(axes, chosen, index)
    log_axis(axes.xaxis, _data_label(family), amount)
    _loss_axis(axes, family)


def _draw_parameters(axes: Axes, families: Sequence[FamilyResults]) -> None:
    axes.set_title("Loss against parameters")
    column = families[0].columns["N"]
    for index, family in enumerate(families):
        largest = max(cell["num_samples"] for cell in family.cells)
        cells = [cell for cell in family.cells if cell["num_samples"] == largest]
        fits = family.main_fits("N")
        if len(families) > 1:
            _points(axes, cells, column, index, _label(family.title, fits))
            if chosen := preferred(fits):
                _law(axes, chosen, index)
            continue
        _points(axes, cells, column, index, "all sizes")
        for number, fit in enumerate(fits, 1):
            words = FORM_WORDS[fit["form"]]
            if usable(fit):
                _law(axes, fit, number, dashed=number > 1, label=words + _CAUTION * cautioned(fit))
            else:
                axes.plot([], [], linestyle="none", label=f"{words}: refused")
    log_axis(axes.xaxis, "N: non-embedding parameters", amount)
    _loss_axis(axes, families[0])


def _draw_residuals(axes: Axes, family: FamilyResults, fit: Row) -> None:
    axes.set_title("Residuals of the joint fit")
    by_point: dict[str, float] = {_point(cell): cell[family.columns["D"]] for cell in family.cells}
    if fit.has("seed_sd") and not math.isnan(fit["seed_sd"]):
        spread = 200 * fit["seed_sd"]
        axes.axhspan(-spread, spread, color=INK, alpha=0.08, linewidth=0)
    axes.axhline(0, color=INK, linewidth=0.9)
    residuals = list(zip(fit["points"], fit["residuals"], strict=True))
    for index, size in enumerate(family.sizes):
        mine = [(by_point[point], value) for point, value in residuals if point.rpartition("/n")[0] == size]
        axes.plot(
            [x for x, _ in mine],
            [100 * value for _, value in mine],
            marker=marker(index),
            color=colour(index),
            linewidth=0.8,
            linestyle=":",
            label=size,
        )
    log_axis(axes.xaxis, _data_label(family), amount)
    axes.set_ylabel("log residual of the test loss (%)")
    axes.grid(True, which="major")


def _draw_compute(axes: Axes, family: FamilyResults) -> None:
    axes.set_title("Loss against compute")
    column = family.columns["C"]
    for index, size in enumerate(family.sizes):
        _points(axes, [cell for cell in family.cells if cell["size"] == size], column, index, size)
    fits = family.fits_along("C")
    chosen = preferred(fits)
    # the frontier is the one that the fits used
    ringed = [cell for cell in family.cells if fits and _point(cell) in fits[0]["points"]]
    if ringed:
        ring: dict[str, Any] = {
            "marker": "o",
            "markersize": 12,
            "markerfacecolor": "none",
            "markeredgecolor": INK,
            "linestyle": "none",
        }
        axes.plot(*_means(ringed, column), label="frontier", **ring)
    if chosen:
        _law(axes, chosen, 1, label=FORM_WORDS[chosen["form"]] + _CAUTION * cautioned(chosen))
    elif fits:
        axes.plot([], [], linestyle="none", label="laws refused")
    log_axis(axes.xaxis, "C: training FLOPs", power_of_ten, 5)
    _loss_axis(axes, family)


def _draw_control(axes: Axes, family: FamilyResults) -> None:
    axes.set_title("The grid against its controls")
    column = family.columns["D"]
    series: dict[tuple[str, str], list[Row]] = {}
    for control in family.controls:
        series.setdefault((control["size"], control["protocol"]), []).append(control)
    index = 0
    for size in family.sizes:
        others = {protocol: rows for (at, protocol), rows in series.items() if at == size}
        if not others:
            continue
        grid = [cell for cell in family.cells if cell["size"] == size]
        for label, rows in ((f"grid, {size}, {family.protocol}", grid), *others.items()):
            text = label if rows is grid else f"control, {size}, {label}"
            _points(axes, rows, column, index, text, line=True)
            index += 1
    log_axis(axes.xaxis, _data_label(family), amount)
    _loss_axis(axes, family)


def _draw_effects(axes: Axes, results: Results, effects: Sequence[Row]) -> None:
    axes.set_title("Equal steps, more data")
    labels = []
    families = [family for family in results.families if any(row["family"] == family.name for row in effects)]
    titles = {family.name: family.title for family in families}
    indices = {family.name: index for index, family in enumerate(families)}
    seen: set[str] = set()
    for at, row in enumerate(effects):
        name, small = row["family"], row["loss_small"]
        spread = row["seed_spread"]
        known = spread is not None and not math.isnan(spread)
        axes.errorbar(
            100 * row["loss_large"] / small,
            at,
            xerr=200 * spread / small if known else None,
            fmt=marker(indices[name]),
            color=colour(indices[name]),
            capsize=3,
            label="_" if name in seen else titles[name] + ("" if known else " (spread unknown)"),
        )
        seen.add(name)
        series = f"{titles[name]} {row['size']}" if len(families) > 1 else row["size"]
        labels.append(f"{series}{', control' if row.has('control') else ''}")
    axes.axvline(100, color=INK, linewidth=0.9)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.xaxis.set_major_formatter(plain)
    axes.set_xlabel("test loss, largest subset over smallest (%)")
    axes.grid(True, axis="x")


_MOST_TOLD = 8  # contrasts whose series still have room beside the axis


def _draw_exponents(axes: Axes, contrasts: Sequence[Contrast]) -> None:
    axes.set_title("Exponents over data, second minus first")
    kinds = {"exponent_data": "power law", "exponent_data_offset": "floor E"}
    _draw_contrasts(
        axes, contrasts, [contrast.exponents for contrast in contrasts], kinds, "\u2212", lambda value: value
    )
    axes.axvline(0, color=INK, linewidth=0.9)
    axes.set_xlabel("difference of the exponents")


def _draw_losses(axes: Axes, contrasts: Sequence[Contrast]) -> None:
    axes.set_title("Loss on equal data, second over first")
    kinds = {"log_loss_mean": "mean", "log_loss_largest": "largest subset"}
    _draw_contrasts(axes, contrasts, [contrast.losses for contrast in contrasts], kinds, "/", math.exp)
    axes.axvline(1, color=INK, linewidth=0.9)
    axes.set_xlabel("ratio of the losses")


def _draw_contrasts(
    axes: Axes,
    contrasts: Sequence[Contrast],
    usable_rows: Sequence[Sequence[Row]],
    kinds: dict[str, str],
    sign: str,
    shown: Callable[[float], float],
) -> None:
    """Each contrast's rows with their intervals, after `shown`; `kinds` are their quantities, in words."""
    labels, seen = [], set()
    # both roles and both quantities are told apart without colours, too
    for at, (contrast, rows) in enumerate(zip(contrasts, usable_rows, strict=True)):
        index = int(not contrast.primary)
        series = f"\n{contrast.second} {sign}\n{contrast.first}" if len(contrasts) <= _MOST_TOLD else ""
        # on a line of its own: the names may be as wide as the figure has room for
        verdict = f"\n{_CAUTION.strip()}" * any(map(cautioned, rows)) if rows else " (refused)"
        labels.append(f"{contrast.name}{verdict}{series}")
        for number, row in enumerate(rows):
            label = f"{row['role']}, {kinds[row['quantity']]}, {100 * row['level']:.4g} %"
            low, value, high = (shown(row[column]) for column in ("low", "value", "high"))
            axes.errorbar(
                value,
                at + 0.3 * (number - (len(rows) - 1) / 2),
                xerr=[[value - low], [high - value]],
                fmt=marker(list(kinds).index(row["quantity"])),
                color=colour(index),
                markerfacecolor=colour(index) if contrast.primary else PAPER,
                capsize=3,
                label="_" if label in seen else label,
            )
            seen.add(label)
    last = sum(contrast.primary for contrast in contrasts)
    if 0 < last < len(contrasts):
        axes.axhline(last - 0.5, color=INK, linewidth=0.6, linestyle=":")
    axes.set_yticks(range(len(labels)), labels, fontsize=7)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.xaxis.set_major_formatter(plain)
    axes.grid(True, axis="x")


def _equal_sizes(families: Sequence[FamilyResults]) -> list[str]:
    """The size of each family that is nearest in N to the largest size of the smallest family."""
    target = min(family.parameters(family.sizes[-1]) for family in families)

    def distance(family: FamilyResults, size: str) -> float:
        return abs(math.log(family.parameters(size) / target))

    return [min(family.sizes, key=lambda size, at=family: distance(at, size)) for family in families]  # type: ignore[misc]


def _draw_compared_data(axes: Axes, families: Sequence[FamilyResults], sizes: Sequence[str]) -> None:
    axes.set_title("Loss against data at the nearest N")
    column = families[0].columns["D"]
    for index, (family, size) in enumerate(zip(families, sizes, strict=True)):
        cells = [cell for cell in family.cells if cell["size"] == size]
        fits = family.fits_along("D", f"size={size}")
        _points(axes, cells, column, index, _label(f"{family.title} {size}", fits))
        if chosen := preferred(fits):
            _law(axes, chosen, index)
    log_axis(axes.xaxis, _data_label(families[0]), amount)
    _loss_axis(axes, families[0])
