"""Pictures for cards and reports: charts as SVG text, drawn by matplotlib.

The same data give the same bytes (no date, fixed ids), so a picture can be part of an artifact. Text and axes
take the colour of the page around them, or follow the reader's light or dark setting where the picture stands
alone; series differ in dashes and markers and not only in colour.
"""

import html
import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

_INK, _FAINT = "#010203", "#040506"  # stand-ins, replaced by currentColor once drawn
_COLORS = ("#3f7fd4", "#e0703a", "#2b9c6a", "#b061c4", "#c59a1d", "#7d8794")
_DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 2)),
    (0, (1.5, 1.5)),
    (0, (6, 2, 1.5, 2)),
    (0, (9, 3)),
    (0, (3, 1, 1, 1, 1, 1)),
)
_MARKERS = "os^Dv*"
_LONG_NAME = 24  # characters in a legend that take half of a picture's width
# of marks: an upright stroke, an open diamond, an open triangle
_OPEN: tuple[dict[str, Any], ...] = tuple(
    {"linestyle": "", "marker": marker, "markersize": size, "color": _INK, "fillstyle": "none", "markeredgewidth": edge}
    for marker, size, edge in (("|", 15, 1.6), ("D", 7, 1.2), ("v", 8, 1.2))
)
_WIDTH_INCHES = 5.2  # as wide as a telephone, with letters that can be read there
_RC: Any = {
    "svg.hashsalt": "lumi",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "path.simplify": True,
    "path.simplify_threshold": 0.3,
    "font.family": "DejaVu Sans",  # ships with matplotlib: the layout is the same everywhere
    "font.size": 11.0,
    "axes.titlesize": 12.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 12.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _FAINT,
    "grid.alpha": 0.35,
    "grid.linewidth": 0.6,
    "text.color": _INK,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


def line_chart(
    title: str,
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    x_label: str,
    y_label: str,
    log_y: bool = False,
) -> str:
    """Draw each series' (x, y) points as a line; returns SVG text. Series without points are left out."""
    shown = {name: points for name, points in series.items() if len(points[0])}
    # too many names to stand among the lines, or too long ones
    is_crowded = len(shown) > 3 or (len(shown) > 1 and max(map(len, shown)) > _LONG_NAME)
    with _drawing(3.1 + is_crowded * 0.24 * len(shown)) as (figure, axes):
        for index, (name, (x, y)) in enumerate(shown.items()):
            few = len(x) <= 24
            axes.plot(
                x,
                y,
                label=_legend_name(name),
                color=_COLORS[index % len(_COLORS)],
                linestyle=_DASHES[index % len(_DASHES)],
                linewidth=1.7,
                # beyond six lines dashes come again, with other markers
                marker=_marker(index + index // len(_DASHES)) if few or len(shown) > 1 else "",
                markersize=4 if few else 5,
                markevery=1 if few else (len(x) // 16 + 1 + index, max(len(x) // 8, 1)),
            )
        _finish(axes, title, x_label, y_label)
        axes.xaxis.set_major_formatter(_count)
        if log_y and any(value > 0 for _, y in shown.values() for value in y):
            axes.set_yscale("log")
            _label_log(axes.yaxis)
        else:
            axes.yaxis.set_major_formatter(_short)
        if is_crowded:
            figure.legend(loc="outside lower left", handlelength=3.2, fontsize=10)
        elif len(shown) > 1:
            axes.legend(loc="best", handlelength=3.2, fontsize=10)
        return _svg(figure, title, empty=not shown)


@dataclass(frozen=True)
class Interval:
    """A value, and how far from it the truth may well be, to either side."""

    value: float
    reach: float


@dataclass(frozen=True)
class IntervalRow:
    """One row of an interval chart: a value of each series, and marks to hold them against, all by name."""

    name: str
    intervals: Mapping[str, Interval]
    marks: Mapping[str, float] = field(default_factory=dict)


def interval_chart(title: str, rows: Sequence[IntervalRow], *, x_label: str) -> str:
    """Draw values as points with their uncertainty as whiskers, first row on top; returns SVG text.

    Series differ in their markers, filled; marks are open shapes of their own. A single series has its values printed.
    """
    names = list(dict.fromkeys(name for row in rows for name in row.intervals))
    marks = list(dict.fromkeys(name for row in rows for name in row.marks))
    row_inches = 0.34 + 0.16 * max(len(names), 1)
    explained = [*marks, *(names if len(names) > 1 else [])]
    columns = 1 if any(len(name) > _LONG_NAME for name in explained) else 2
    legend_lines = -(-len(explained) // columns)
    with _drawing(0.9 + row_inches * max(len(rows), 1) + 0.24 * legend_lines) as (figure, axes):
        for place, mark in enumerate(marks):
            marked = [(row.marks[mark], y) for y, row in enumerate(rows) if mark in row.marks]
            axes.plot(*zip(*marked, strict=True), label=_legend_name(mark), **_OPEN[place % len(_OPEN)])
        for index, name in enumerate(names):
            shift = 0.62 * ((index + 0.5) / len(names) - 0.5)
            at = [(row.intervals[name], y + shift) for y, row in enumerate(rows) if name in row.intervals]
            axes.errorbar(
                [interval.value for interval, _ in at],
                [y for _, y in at],
                xerr=[interval.reach for interval, _ in at],
                label=_legend_name(name) if len(names) > 1 else None,
                fmt=_marker(index),
                color=_COLORS[index % len(_COLORS)],
                ecolor=_INK,
                elinewidth=1.1,
                capsize=3.5,
                markersize=7,
            )
        axes.set_yticks(range(len(rows)), [_cut(_plain(row.name)) for row in rows])
        axes.set_ylim(max(len(rows), 1) - 0.4, -0.6)
        if len(names) == 1:  # beside the rows, where no whisker runs through them
            printed = axes.secondary_yaxis("right")
            printed.set_yticks(range(len(rows)), [f"{row.intervals[names[0]].value:.3f}" for row in rows])
            printed.tick_params(length=0)
            printed.spines["right"].set_visible(False)
        axes.margins(x=0.06)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_formatter(_short)
        axes.locator_params(axis="x", nbins=6)
        _finish(axes, title, x_label, "")
        if legend_lines:
            figure.legend(loc="outside lower center", ncols=columns, fontsize=10, handlelength=1.4, columnspacing=1.4)
        return _svg(figure, title, empty=not rows)


def bar_chart(title: str, values: Mapping[str, float], *, x_label: str) -> str:
    """Draw one horizontal bar per name, first on top, each with its value printed; returns SVG text."""
    with _drawing(1.0 + 0.3 * max(len(values), 1)) as (figure, axes):
        names = [_cut(_plain(name)) for name in values]
        bars = axes.barh(range(len(values)), list(values.values()), height=0.66, color=_COLORS[0], alpha=0.85)
        axes.bar_label(bars, labels=[_number(value) for value in values.values()], padding=4, fontsize=10)
        axes.set_yticks(range(len(values)), names)
        axes.set_ylim(max(len(values), 1) - 0.5, -0.5)
        axes.margins(x=0.16)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_formatter(_count)
        axes.locator_params(axis="x", nbins=5)
        _finish(axes, title, x_label, "")
        return _svg(figure, title, empty=not values)


def histogram(title: str, values: Sequence[float], *, x_label: str, log_x: bool = False) -> str:
    """Draw how often values fall where, in at most 40 bins; ``log_x`` drops values of zero and below."""
    import numpy as np

    data = np.asarray(values, dtype=np.float64)
    # what is nearer to zero than floats have digits for counts as zero
    data = data[np.isfinite(data) & ((data >= np.finfo(np.float64).tiny) if log_x else True)]
    if not data.size:
        return binned_histogram(title, [], [], x_label=x_label, log_x=log_x)
    low, high = float(data.min()), float(data.max())
    if low == high:
        low, high = (low / 2, high * 2) if log_x else (low - 0.5, high + 0.5)
    edges = np.geomspace(low, high, 41) if log_x else np.linspace(low, high, 41)
    counts, _ = np.histogram(data, bins=edges)
    middle = float(np.median(data))
    mark = (f"median {_number(middle)}", middle)
    return binned_histogram(title, counts.tolist(), edges.tolist(), x_label=x_label, log_x=log_x, mark=mark)


def binned_histogram(
    title: str,
    counts: Sequence[int],
    edges: Sequence[float],
    *,
    x_label: str,
    log_x: bool = False,
    mark: tuple[str, float] | None = None,
) -> str:
    """Draw counts by bin, whose edges are one more, and a named line at a value."""
    import numpy as np

    with _drawing(2.8) as (figure, axes):
        if len(counts):
            axes.bar(edges[:-1], counts, width=np.diff(edges) * 0.94, align="edge", color=_COLORS[0], alpha=0.85)
            if log_x:
                axes.set_xscale("log")
                _label_log(axes.xaxis)
            axes.set_ylim(0, 1.18 * max(*counts, 1))  # room for the mark's name
        if mark is not None:
            name, value = mark
            axes.axvline(value, color=_INK, linewidth=1.2, linestyle=(0, (4, 3)))
            # beyond the middle of the picture there is more room to its left
            left = len(edges) > 0 and (value > edges[len(edges) // 2])
            axes.annotate(
                name,
                (value, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(-5 if left else 5, -4),
                textcoords="offset points",
                va="top",
                ha="right" if left else "left",
                fontsize=10,
            )
        axes.grid(visible=False, axis="x")
        if not log_x:
            axes.xaxis.set_major_formatter(_count if not len(edges) or edges[-1] > 2 else _short)
        axes.yaxis.set_major_formatter(_count)
        axes.locator_params(axis="y", nbins=4)
        _finish(axes, title, x_label, "")
        return _svg(figure, title, empty=not len(counts))


@contextmanager
def _drawing(height_inches: float) -> Iterator[tuple["Figure", "Axes"]]:
    """Yield a figure of our style without touching matplotlib's global state or a display."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_RC), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the reader's fonts draw it
        figure = Figure(figsize=(_WIDTH_INCHES, height_inches), layout="constrained")
        yield figure, figure.add_subplot()


def _finish(axes: "Axes", title: str, x_label: str, y_label: str) -> None:
    axes.set_title(_plain(title))
    axes.set_xlabel(_plain(x_label))
    axes.set_ylabel(_plain(y_label))


def _label_log(axis: "Axis") -> None:
    """Label 1, 2 and 5 of each power of ten, in plain numbers; of many powers, 1 alone."""
    from matplotlib.ticker import LogLocator, NullLocator

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0,) if high > 20_000 * max(low, 1e-300) else (1.0, 2.0, 5.0)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(_count)


def _svg(figure: "Figure", title: str, *, empty: bool) -> str:
    if empty:
        figure.axes[0].text(0.5, 0.5, "no data", transform=figure.axes[0].transAxes, ha="center", va="center")
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # several pictures share one page
    text = text.replace("'DejaVu Sans'", "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans'")
    for stand_in, color in ((_INK, "currentColor"), (_FAINT, "currentColor; stroke-opacity: 0.45")):
        text = text.replace(f"stroke: {stand_in}", f"stroke: {color}")
    text = text.replace(f"fill: {_INK}", "fill: currentColor").replace(f"fill: {_FAINT}", "fill: currentColor")
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    head = f'<svg class="picture" role="img" aria-label="{html.escape(_plain(title))}" style="max-width: 35rem"'
    # a picture that stands alone (an .svg file) chooses its own ink
    alone = (
        "<style>svg.picture:root { color: #24292f } @media (prefers-color-scheme: dark)"
        " { svg.picture:root { color: #d8dee6 } }</style>"
    )
    text = text.replace("<svg", head, 1)
    return re.sub(r"(<svg[^>]*>)", rf"\1\n {alone}", text, count=1)


def _marker(index: int) -> str:
    return _MARKERS[index % len(_MARKERS)]


def _count(value: float, _position: object = None) -> str:
    """Write an axis value short: 1200 -> 1.2k."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.4g}"


def _short(value: float, _position: object = None) -> str:
    return _count(value) if abs(value) >= 1000 or value == 0 else f"{value:.3g}"


def _number(value: float) -> str:
    """Write a value to be read exactly where it is a count, else with four digits."""
    return f"{value:,.0f}" if value == int(value) else f"{value:,.4g}"


def _plain(text: str) -> str:
    """Leave out what XML cannot hold."""
    return "".join(char for char in text if char >= " " and not "\ud800" <= char <= "\udfff" and char < "\ufffe")


def _legend_name(name: str) -> str:
    """Return a name that matplotlib shows: it keeps to itself those that are empty or begin with an underscore."""
    plain = _cut(_plain(name), 44)
    return plain if plain and not plain.startswith("_") else f"\u200b{plain}"


def _cut(text: str, longest: int = 28) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
