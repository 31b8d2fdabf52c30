"""Quality over speed of every system as an SVG that takes its colours from the page."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
from markupsafe import escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from espnet_ext.scoring.measures.pareto import pareto_front
from espnet_ext.scoring.page.labels import DISTANCES, Box, place
from espnet_ext.scoring.tables.measure import Systems, interval_of, measure, speed_points

INK = "#010203"  # stands for the page's text colour
# Okabe and Ito's colours, which the colour-blind can tell apart, without black, which is not seen on black
PALETTE = ("#e69f00", "#56b4e9", "#009e73", "#d55e00", "#cc79a7", "#0072b2", "#f0e442")
MARKERS = ("o", "s", "^", "D", "v", "P")


@dataclass(frozen=True)
class Plot:
    """A plot and what it says.

    Attributes:
        key: measure of quality.
        label: its heading.
        svg: the picture, an element of HTML.
        front: names on the Pareto front, fastest first.
        unnamed: points beside which there is no room for their names.
    """

    key: str
    label: str
    svg: str
    front: list[str]
    unnamed: list[str]


class Plain(LogFormatter):
    """Ticks as plain decimals, as few of them as a logarithmic axis usually has."""

    def __call__(self, x: float, pos: int | None = None) -> str:  # noqa: D102 (inherited)
        return f"{x:g}" if super().__call__(x, pos) else ""


def _style(names: list[str], systems: Systems) -> dict[str, tuple[str, str]]:
    """Colour by strategy, shape by stacking factor."""
    found: dict[str, tuple[str, str]] = {}
    strategies: dict[str, str] = {}
    factors: dict[str, str] = {}
    for name in names:
        factor = name.partition("_")[0]
        strategy = systems[name].strategy or name.partition("_")[2]
        colour = strategies.setdefault(strategy, PALETTE[len(strategies) % len(PALETTE)])
        found[name] = (colour, factors.setdefault(factor, MARKERS[len(factors) % len(MARKERS)]))
    return found


def plot(systems: Systems, key: str) -> Plot | None:
    """Quality over real-time factor, both better to the lower left (higher is better: upper left).

    Args:
        systems: those that generate have a point.
        key: measure of quality.

    Returns:
        The plot; None where fewer than two systems have both.
    """
    found = measure(key)
    points = {name: (found.factor * quality, cost) for name, (quality, cost) in speed_points(systems, key).items()}
    if len(points) < 2:
        return None
    front = sorted(pareto_front(points, (found.better, "lower")), key=lambda name: points[name][1])
    style = {"svg.fonttype": "none", "svg.hashsalt": key, "font.size": 9, "font.family": "sans-serif"}
    style |= {"text.parse_math": False}  # names are no formulas
    style |= {"text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK}
    with mpl.rc_context(style):
        figure = Figure(figsize=(8.0, 4.6), layout="constrained", dpi=72)  # a pixel is a point
        axes = figure.subplots()
        line = [(points[name][1], points[name][0]) for name in front]
        axes.plot(*zip(*line, strict=True), "--", color=INK, linewidth=1, zorder=1)
        bars = {}
        for name, (colour, marker) in _style(list(points), systems).items():
            value, cost = points[name]
            ends = interval_of(systems[name], key)
            if ends is not None:
                bars[cost] = (found.factor * ends[0], found.factor * ends[1])
                axes.vlines(cost, *bars[cost], color=colour, alpha=0.45, zorder=1)
            dot = axes.scatter(cost, value, s=46, color=colour, marker=marker, zorder=2, edgecolors=INK, linewidths=0.6)
            dot.set_gid(f"point{list(points).index(name)}")
        axes.set(xlabel="RTF (faster to the left)", ylabel=f"{found.label} ({found.better} is better)", xscale="log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(Plain(minor_thresholds=(2, 0.7)))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.18, color=INK)
        axes.margins(x=0.12, y=0.08)
        unnamed = _name(axes, {name: (cost, value) for name, (value, cost) in points.items()}, bars, front)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return Plot(key, found.label, _inline(stream.getvalue(), found.label, front, list(points)), front, unnamed)


def _name(
    axes: Axes,
    points: Mapping[str, tuple[float, float]],
    bars: Mapping[float, tuple[float, float]],
    front: Sequence[str],
) -> list[str]:
    """Write the names of the points, those of the front first, and return the names that found no room."""
    figure = axes.get_figure(root=True)
    assert figure is not None, "axes are drawn in a figure"
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # names must not move the axes under the points any more
    to_pixels = axes.transData.transform
    spots = {name: (float(x), float(y)) for name, (x, y) in zip(points, to_pixels(list(points.values())), strict=True)}
    texts = {}
    for name in [*front, *(one for one in points if one not in front)]:
        texts[name] = axes.text(0, 0, name, fontsize=7.5, fontweight="bold" if name in front else "normal")
    sizes = {name: text.get_window_extent(renderer).size for name, text in texts.items()}
    crossed = [
        Box(x - 1, low, x + 1, high)
        for cost, ends in bars.items()
        for (x, low), (_, high) in [to_pixels([(cost, end) for end in ends])]
    ]
    inside = axes.get_window_extent()
    area = Box(inside.x0 + 2, inside.y0 + 2, figure.bbox.x1 - 2, figure.bbox.y1 - 2)
    placed = place({name: (float(wide), float(high)) for name, (wide, high) in sizes.items()}, spots, crossed, area)
    for name, text in texts.items():
        text.remove()
        if name in placed:
            box, (x, y) = placed[name], spots[name]
            is_far = max(box.left - x, x - box.right, box.bottom - y, y - box.top) > DISTANCES[0]
            axes.annotate(
                name,
                points[name],
                (box.left - x, box.bottom - y),
                textcoords="offset points",
                fontsize=7.5,
                fontweight=text.get_fontweight(),
                arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": INK, "alpha": 0.6} if is_far else None,
            )
    return [name for name in texts if name not in placed]


def _inline(svg: str, label: str, front: list[str], names: list[str]) -> str:
    """The element alone, in the page's colour and width, with words for those who listen and a name at each point."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    said = escape(f"{label} over real-time factor; on the Pareto front, fastest first: {', '.join(front)}")
    for number, name in enumerate(names):  # the browser shows it under the mouse
        svg = svg.replace(f'<g id="point{number}">', f'<g class="point"><title>{escape(name)}</title>')
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{said}"', 1)
    return svg.replace(INK, "currentColor")
