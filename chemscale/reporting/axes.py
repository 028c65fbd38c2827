"""How figures look: colours, markers, logarithmic axes with readable ticks, and files with the same bytes every time.

Colours are a fixed set, so that the page can exchange them for its dark theme (`INK` and `SERIES` are variables there).
"""

from __future__ import annotations

import hashlib
import io
import math
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib import ft2font
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter

PAPER, INK, FAINT, GRID = "#ffffff", "#1c2024", "#5b636b", "#d9dde1"
# told apart with the common kinds of colour blindness, and at least 3 : 1 against white; markers differ as well
SERIES = ("#0068a8", "#c4500a", "#00795a", "#a03c82", "#8a6100", "#6a4fb3", "#b3263e", "#5f6973")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
SIZE = (5.1, 4.1)  # inches

_SUBS = (
    (1.0,),
    (1.0, 3.0),
    (1.0, 2.0, 5.0),
    (1.0, 1.5, 2.0, 3.0, 5.0, 7.0),
    (1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0),
)
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: smaller, searchable, and in the page's colours
    "svg.hashsalt": "chemscale",
    "text.parse_math": False,  # names of sizes are text, whatever they hold
    "font.family": ["DejaVu Sans"],
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "lines.linewidth": 1.8,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "savefig.facecolor": PAPER,
}


@contextmanager
def style() -> Iterator[None]:
    """The look of all figures, for the length of the block; matplotlib's settings are put back afterwards."""
    with matplotlib.rc_context(_SETTINGS):
        yield


def colour(index: int) -> str:
    """The colour of the series with this number."""
    return SERIES[index % len(SERIES)]


def marker(index: int) -> str:
    """The marker of the series with this number."""
    return MARKERS[index % len(MARKERS)]


def drawing_versions() -> dict[str, str]:
    """The versions that decide a figure's bytes: drawing library, fonts and kind of processor."""
    fonts = hashlib.sha256()
    for weight in ("normal", "bold"):
        properties = FontProperties(family=_SETTINGS["font.family"], weight=weight)
        fonts.update(Path(findfont(properties)).read_bytes())
    return {
        "matplotlib": matplotlib.__version__,
        "freetype": ft2font.__freetype_version__,
        "pillow": version("pillow"),
        "numpy": np.__version__,
        "fonts": fonts.hexdigest()[:16],
        "processor": platform.machine(),
    }


def drawn(draw: Callable[[Axes], None], form: Literal["svg", "png"]) -> bytes:
    """A figure as the bytes of its file, with a legend below the axes; the same data give the same bytes.

    Args:
        draw: fills the axes, labels included.
        form: of the file.
    """
    with style():
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        handles, labels = axes.get_legend_handles_labels()
        # as many columns as there is room for
        for columns in range(min(len(handles), 4), 0, -1):
            legend = figure.legend(handles, labels, loc="outside lower left", ncols=columns, columnspacing=1.2)
            if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
                break
            legend.remove()
        if handles:
            # a long legend takes no room from the axes
            rows = math.ceil(len(handles) / columns)
            figure.set_figheight(SIZE[1] + 0.18 * max(0, rows - 3))
        buffer = io.BytesIO()
        if form == "png":
            figure.savefig(buffer, format="png", dpi=160, metadata={"Software": None})
            return buffer.getvalue()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        # text is left to the reader's fonts; without a generic family, one who lacks the first is given a serif
        return buffer.getvalue().replace(b"'DejaVu Sans'", b"'DejaVu Sans', Verdana, sans-serif")


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """Positions of the labelled ticks of a logarithmic axis from `low` to `high`: at least three, if any fit."""
    best: list[float] = []
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for subs in _SUBS:
        ticks = [sub * 10.0**decade for decade in decades for sub in subs]
        ticks = [tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
        if len(ticks) > most:
            break
        best = ticks
    if not best and high / low > 1e3:
        # more decades than ticks: every second, third, ... of them
        step = math.ceil(len(decades) / most)
        return [10.0**decade for decade in decades[::step] if low <= 10.0**decade <= high]
    if len(best) < 3:
        best = [float(tick) for tick in MaxNLocator(nbins=5).tick_values(low, high) if low <= tick <= high]
    return best


def amount(value: float, _position: float = 0) -> str:
    """A count in short: 250, 8k, 1.5M."""
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{value / factor:g}{unit}"
    return f"{value:g}"


def power_of_ten(value: float, _position: float = 0) -> str:
    """A large number with its power of ten: 3·10¹²."""
    exponent = math.floor(math.log10(value) + 1e-9)
    mantissa = f"{value / 10.0**exponent:.3g}"
    power = "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return power if mantissa == "1" else f"{mantissa}·{power}"


def plain(value: float, _position: float = 0) -> str:
    """A number as it is."""
    return f"{value:g}"


def log_axis(axis: Axis, label: str, form: Callable[[float, float], str] = plain, most: int = 7) -> None:
    """Make an axis logarithmic over all that is drawn, with a margin, labelled ticks and finer ones without labels."""
    axes = axis.axes
    limits = axes.dataLim.intervalx if axis is axes.xaxis else axes.dataLim.intervaly
    low, high = float(limits[0]), float(limits[1])
    if low <= 0:
        # a distance may be 0, which has no place here: it is left out below the least of the others
        low = float(axes.dataLim.minposx if axis is axes.xaxis else axes.dataLim.minposy)
    margin = max((high / low) ** 0.06, 1.03)
    low, high = low / margin, high * margin
    if axis is axes.xaxis:
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        axes.set_xlabel(label)
    else:
        axes.set_yscale("log")
        axes.set_ylim(low, high)
        axes.set_ylabel(label)
    axis.set_major_locator(FixedLocator(log_ticks(low, high, most)))
    axis.set_major_formatter(FuncFormatter(form))
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = [sub * 10.0**decade for decade in decades for sub in range(1, 10)]
    axis.set_minor_locator(FixedLocator([tick for tick in fine if low <= tick <= high]))
    axis.set_minor_formatter(NullFormatter())
    axes.grid(True, which="major")
