from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from chemscale.io import read_json, read_parquet
from chemscale.reporting.axes import amount, drawing_versions, drawn, log_axis, log_ticks, power_of_ten
from chemscale.reporting.figures import plots
from chemscale.reporting.results import load_results


def texts(path: Path) -> list[str]:
    return ["".join(node.itertext()) for node in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")]


def test_every_family_has_its_figures(planted: Path) -> None:
    names = {plot.name for plot in plots(load_results(planted))}
    for family in ("chemgpt", "schnet", "painn"):
        assert {f"{family}_{what}" for what in ("data", "parameters", "compute")} <= names
    assert {"chemgpt_joint_residuals", "chemgpt_control", "equal_steps", "potentials_parameters"} <= names
    assert {"chemgpt_probe_gap", "chemgpt_probe_dipole", "chemgpt_distances"} <= names
    assert "contrasts" in names
    assert "schnet_control" not in names
    assert {path.name for path in (planted / "figures").iterdir()} == {
        f"{name}.{kind}" for name in names for kind in ("svg", "png")
    } | {"versions.json"}
    assert read_json(planted / "figures" / "versions.json") == drawing_versions()


def test_axes_name_their_units(planted: Path) -> None:
    for plot in plots(load_results(planted)):
        found = " | ".join(texts(planted / "figures" / f"{plot.name}.svg"))
        assert any(
            unit in found for unit in ("nats per token", "meV/Å", "%", "tokens of a molecule", "atoms of a frame")
        ), plot.name


def test_a_refused_law_is_not_drawn_and_the_legend_says_so(planted: Path) -> None:
    fits = read_parquet(planted / "tables" / "fits.parquet").to_pylist()
    verdicts: set[str] = set()
    for family in ("chemgpt", "schnet", "painn"):
        path = planted / "figures" / f"{family}_data.svg"
        along_data = [fit for fit in fits if fit["family"] == family and fit["axis"] == "D"]
        verdicts |= {fit["verdict"] for fit in along_data}
        drawn = {fit["at"] for fit in along_data if fit["verdict"] != "refused"}
        firm = {fit["at"] for fit in along_data if fit["verdict"] == "accepted"}
        for at in {fit["at"] for fit in along_data}:
            size = at.removeprefix("size=")
            label = next(text for text in texts(path) if text.startswith(f"{size}: "))
            assert (label == f"{size}: law refused") == (at not in drawn)
            assert label.endswith(" (caution)") == (at in drawn - firm)
        assert path.read_text().count("fill-opacity: 0.16") == len(drawn)
    assert verdicts == {"accepted", "caution", "refused"}


def test_contrasts_tell_role_level_and_refusals(planted: Path) -> None:
    rows = read_parquet(planted / "tables" / "contrasts.parquet").to_pylist()
    drawn = [row for row in rows if row["form"] is not None and row["verdict"] != "refused"]
    found = texts(planted / "figures" / "contrasts.svg")
    for row in drawn:
        form = "power law" if row["form"] == "power" else "floor E"
        assert f"{row['role']}, {form}, {100 * row['level']:.4g} %" in found
    assert {row["role"] for row in drawn} == {"primary", "secondary"}
    refused = {row["contrast"] for row in rows} - {row["contrast"] for row in drawn}
    assert refused
    assert {f"{name} (refused)" for name in refused} <= set(found)


def test_a_contrast_with_a_caution_says_so_beside_its_name(planted: Path) -> None:
    results = load_results(planted)
    chosen = next(contrast for contrast in results.contrasts if contrast.exponents)
    chosen.exponents[0].values["verdict"] = "caution"
    (plot,) = (plot for plot in plots(results) if plot.name == "contrasts")
    axes = Figure().add_subplot()
    plot.draw(axes)
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert [label.split("\n")[0] for label in labels if "\n(caution)" in label] == [chosen.name]


def test_ratios_of_losses_are_drawn_where_they_are(planted: Path) -> None:
    rows = read_parquet(planted / "tables" / "contrasts.parquet").to_pylist()
    drawn = [row for row in rows if row["form"] is None and row["verdict"] != "refused"]
    assert drawn
    (plot,) = (plot for plot in plots(load_results(planted)) if plot.name == "contrast_losses")
    axes = Figure().add_subplot()
    plot.draw(axes)
    shown = sorted(float(bar[0].get_xdata()[0]) for bar in axes.containers)
    np.testing.assert_allclose(shown, sorted(math.exp(row["value"]) for row in drawn))
    found = texts(planted / "figures" / "contrast_losses.svg")
    for row in drawn:
        kind = "mean" if row["quantity"] == "log_loss_mean" else "largest subset"
        assert f"{row['role']}, {kind}, {100 * row['level']:.4g} %" in found


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_a_figure_has_the_same_bytes_every_time(planted: Path, kind: Literal["svg", "png"]) -> None:
    plot = plots(load_results(planted))[1]
    assert drawn(plot.draw, kind) == (planted / "figures" / f"{plot.name}.{kind}").read_bytes()


@pytest.mark.parametrize(("label", "columns"), [("short", 4), ("a name of some length", 2), ("x" * 60, 1)])
def test_a_legend_has_the_columns_that_it_has_room_for(label: str, columns: int) -> None:
    def draw(axes: Axes) -> None:
        for index in range(8):
            axes.plot([1, 2], [index, index], label=f"{label}{index}")

    found = re.findall(rf' x="([\d.]+)"[^>]*>{label}', drawn(draw, "svg").decode())
    assert len(found) == 8
    assert len(set(found)) == columns


@pytest.mark.parametrize(
    ("low", "high"), [(1.02, 1.11), (1.1, 2.7), (0.9, 11), (55, 620), (1700, 190_000), (3e6, 8e11), (1e-3, 1e9)]
)
def test_log_axes_have_readable_ticks(low: float, high: float) -> None:
    ticks = log_ticks(low, high, 7)
    assert 3 <= len(ticks) <= 7
    assert all(low <= tick <= high for tick in ticks)
    assert ticks == sorted(set(ticks))


@pytest.mark.parametrize("values", [[0.0, 0.5, 2.0], [0.0, 3.0]])
def test_a_log_axis_leaves_out_what_is_0(values: list[float]) -> None:
    axes = Figure().add_subplot()
    axes.plot([1.0] * len(values), values, marker="o", linestyle="none")
    log_axis(axes.yaxis, "distance")
    low, high = axes.get_ylim()
    assert 0 < low < values[1] <= values[-1] < high


def test_short_numbers() -> None:
    assert [amount(value) for value in (250, 8000, 1.5e6)] == ["250", "8k", "1.5M"]
    assert [power_of_ten(value) for value in (1e12, 3e10)] == ["10¹²", "3·10¹⁰"]
