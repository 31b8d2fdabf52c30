"""Quality over speed of every system as an SVG that takes its colours from the page."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from espnet_ext.scoring.measures.pareto import pareto_front
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
    """

    key: str
    label: str
    svg: str
    front: list[str]


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
        figure = Figure(figsize=(8.0, 4.6), layout="constrained")
        axes = figure.subplots()
        axes.plot(
            [points[name][1] for name in front],
            [points[name][0] for name in front],
            "--",
            color=INK,
            linewidth=1,
            zorder=1,
        )
        for name, (colour, marker) in _style(list(points), systems).items():
            value, cost = points[name]
            ends = interval_of(systems[name], key)
            if ends is not None:
                axes.vlines(cost, *(found.factor * end for end in ends), color=colour, alpha=0.45, zorder=1)
            axes.scatter(cost, value, s=46, color=colour, marker=marker, zorder=2, edgecolors=INK, linewidths=0.6)
            weight = "bold" if name in front else "normal"
            axes.annotate(name, (cost, value), (6, 4), textcoords="offset points", fontsize=7.5, fontweight=weight)
        axes.set(xlabel="RTF (faster to the left)", ylabel=f"{found.label} ({found.better} is better)", xscale="log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(Plain(minor_thresholds=(2, 0.7)))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.18, color=INK)
        axes.margins(x=0.12, y=0.08)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return Plot(key, found.label, _inline(stream.getvalue(), found.label, front), front)


def _inline(svg: str, label: str, front: list[str]) -> str:
    """The element alone, with the page's text colour, a width that follows the page, and words for those who listen."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    said = f"{label} over real-time factor; on the Pareto front, fastest first: {', '.join(front)}".replace('"', "")
    said = said.replace("&", "&amp;").replace("<", "&lt;")
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{said}"', 1)
    return svg.replace(INK, "currentColor")
