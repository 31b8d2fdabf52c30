"""Pictures of a comparison: spectrograms side by side, error rates, learning curves."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import scipy.signal
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from espnet_ext.data.waveform import EVALUATION_RATE_HZ, read_resampled
from espnet_ext.scoring.tables.learning_curve import Curves
from espnet_ext.scoring.tables.measure import Systems
from espnet_ext.storage.atomic import atomic_path

STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "figure.constrained_layout.use": True}
COLOUR = "#33658a"
COLOURS = "magma"  # of spectrograms
DYNAMIC_RANGE_DB = 60.0
DPI = 110
_CODEBOOK_LOSS = re.compile(r"loss_cb(\d+)_(\w+)")  # as espnet_ext.model.loss names them
_GAIN = re.compile(r"gain_(\w+?)(?:_frame(\d+))?")  # as espnet_ext.model.text_gain does
SCALE = "loss_scale"  # of mixed precision, as ESPnet's trainer calls it: no loss
MOST_KEYS = 17  # in a column of a legend
WINDOW, HOP = 400, 80  # 25 ms and 5 ms at the evaluation rate


def _save(figure: Figure, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DPI)


def choose_utterances(utt2spk: Mapping[str, str], present: Sequence[Container[str]], most: int) -> list[str]:
    """Utterances for the spectrograms: those that most systems have, then new speakers first, then in order."""
    seen: dict[str, int] = {}
    rank = {}
    for utterance, speaker in utt2spk.items():
        rank[utterance] = seen.get(speaker, 0)
        seen[speaker] = rank[utterance] + 1
    having = {utterance: sum(utterance in system for system in present) for utterance in utt2spk}
    return sorted(utt2spk, key=lambda utterance: (-having[utterance], rank[utterance], utterance))[:most]


def spectrogram(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """Levels (bins, frames) in 0 to 1, the highest 60 dB of audio at the evaluation rate, low frequencies first."""
    if len(samples) < WINDOW:
        samples = np.pad(samples, (0, WINDOW - len(samples)))
    _, _, power = scipy.signal.spectrogram(samples, EVALUATION_RATE_HZ, "hann", WINDOW, WINDOW - HOP, mode="psd")
    level = 10 * np.log10(power + 1e-12)
    top = float(np.quantile(level, 0.999))  # not the maximum: one click would darken everything else
    levels: NDArray[np.float64] = np.clip((level - top) / DYNAMIC_RANGE_DB + 1, 0.0, 1.0)
    return levels


def _spectrogram(axes: Axes, path: Path) -> None:
    samples = read_resampled(path)
    axes.imshow(
        spectrogram(samples),
        origin="lower",
        aspect="auto",
        cmap=COLOURS,
        vmin=0,
        vmax=1,
        extent=(0, max(len(samples), WINDOW) / EVALUATION_RATE_HZ, 0, EVALUATION_RATE_HZ / 2000),
        interpolation="nearest",
    )


def spectrograms(
    systems: Mapping[str, Mapping[str, Path]],
    hypotheses: Mapping[str, Mapping[str, str]],
    transcripts: Mapping[str, str],
    path: Path,
) -> None:
    """The same sentences (columns) by every system (rows), each with what the recogniser heard.

    Args:
        systems: name → utterance → audio file.
        hypotheses: name → utterance → words heard.
        transcripts: the utterances to show → text.
        path: PNG to write.
    """
    seconds = {
        one: max(
            [len(read_resampled(wavs[one])) / EVALUATION_RATE_HZ for wavs in systems.values() if one in wavs] or [1]
        )
        for one in transcripts
    }
    with mpl.rc_context({**STYLE, "font.size": 8}):
        figure = Figure(figsize=(4.2 * len(transcripts), 1.55 * len(systems) + 0.6))
        panels = figure.subplots(len(systems), len(transcripts), squeeze=False)
        for row, (name, wavs) in enumerate(systems.items()):
            for column, (utterance, text) in enumerate(transcripts.items()):
                axes = panels[row][column]
                if utterance in wavs:
                    _spectrogram(axes, wavs[utterance])
                heard = hypotheses[name].get(utterance, "") if utterance in wavs else "missing"
                title = textwrap.fill(f"heard: {heard or '(nothing)'}", 70)
                axes.set_title(f"{utterance}: {textwrap.fill(text, 60)}\n{title}" if row == 0 else title, fontsize=7)
                axes.set(xlim=(0, seconds[utterance]), ylim=(0, EVALUATION_RATE_HZ / 2000))
                axes.label_outer()
            panels[row][0].set_ylabel(f"{textwrap.fill(name, 16)}\nkHz")
        for axes in panels[-1]:
            axes.set_xlabel("s")
        _save(figure, path)


def error_bars(systems: Systems, title: str, path: Path) -> None:
    """Write a PNG of the word error rate of every system that has one, with its interval."""
    words = {name: one.wer for name, one in systems.items() if one.wer is not None and one.wer.rate is not None}
    rates = np.array([100 * (counts.rate or 0) for counts in words.values()])
    ends = np.array([100 * np.array(counts.interval or [counts.rate] * 2) for counts in words.values()])
    # percentiles of a rate that is hardly ever anything else can lie on one side of it
    errors = np.stack([rates - ends[:, 0], ends[:, 1] - rates]).clip(min=0.0)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7, 0.42 * len(words) + 1.1))
        axes = figure.subplots()
        axes.barh(
            list(words), rates, xerr=errors, color=COLOUR, height=0.62, error_kw={"capsize": 3, "ecolor": "#222222"}
        )
        for row, (rate, high) in enumerate(zip(rates, ends[:, 1], strict=True)):
            axes.annotate(f"{rate:.1f}", (max(rate, high), row), (5, 0), textcoords="offset points", va="center")
        axes.invert_yaxis()
        axes.set(title=title, xlabel="word error rate, % (95 % interval)")
        axes.margins(x=0.12)
        axes.set_xlim(left=0)
        _save(figure, path)


def _line(axes: Axes, epochs: Mapping[int, float], **style: Any) -> None:
    """Values over epochs; a single one is a point, which a line would not show."""
    values = sorted(epochs.items())
    if values:
        axes.plot(*zip(*values, strict=True), marker="o" if len(values) == 1 else None, **style)


def _colour(place: int) -> Any:
    return mpl.colormaps["tab10"](place % 10)


def _keys(axes: Axes, found: Iterable[tuple[str, dict[str, Any]]]) -> None:
    """What the lines of a panel are, beside it, where no line is: each name with the look of its line."""
    handles = [Line2D([], [], **style, label=name) for name, style in found]
    columns = 1 + (len(handles) - 1) // MOST_KEYS
    axes.legend(handles=handles, fontsize=8, frameon=False, ncols=columns, loc="upper left", bbox_to_anchor=(1, 1))


def _curve_panel(axes: Axes, curves: Curves, prefix: str) -> None:
    found = {name for part in curves.values() for name in part if name.startswith(prefix) and "_cb" not in name}
    names = sorted(found - {SCALE})
    looks = {name: {"color": _colour(place)} for place, name in enumerate(names)}
    for name, style in looks.items():
        for part, line in (("train", "--"), ("valid", "-")):
            _line(axes, curves.get(part, {}).get(name, {}), linestyle=line, **style)
    _keys(axes, looks.items())


def _codebook_panel(axes: Axes, curves: Curves) -> None:
    found = {name: _CODEBOOK_LOSS.fullmatch(name) for name in curves.get("valid", {})}
    books = {name: (int(match[1]), match[2]) for name, match in found.items() if match}
    heads = sorted({head for _, head in books.values()})
    numbers = sorted({book for book, _ in books.values()})
    colours = {book: mpl.colormaps["viridis"](0.9 * book / max(numbers[-1], 1)) for book in numbers}
    lines = {head: ("-", "--", ":", "-.")[place % 4] for place, head in enumerate(heads)}
    for name, (book, head) in books.items():
        _line(axes, curves["valid"][name], linestyle=lines[head], color=colours[book])
    looks = [(f"codebook {book}", {"color": colour}) for book, colour in colours.items()]
    _keys(axes, [*looks, *((head, {"color": "black", "linestyle": line}) for head, line in lines.items())])


def _gain_panel(axes: Axes, curves: Curves) -> None:
    found = {name: _GAIN.fullmatch(name) for name in sorted(curves.get("valid", {}))}
    gains = {name: (match[1], match[2]) for name, match in found.items() if match}
    heads = sorted({head for head, _ in gains.values()})
    looks = []
    for name, (head, frame) in gains.items():
        style = {"color": _colour(heads.index(head)), "linestyle": "-", "linewidth": 1.5}
        if frame is not None:
            style |= {"linestyle": ("--", ":", "-.")[int(frame) % 3], "linewidth": 0.8}
        _line(axes, curves["valid"][name], **style)
        looks.append((head if frame is None else f"{head}, frame {frame}", style))
    _keys(axes, looks)


def learning_curves(curves: Curves, title: str, path: Path) -> None:
    """Write a PNG of losses, accuracies, wrong-text gain of each head and validation loss of each codebook by epoch."""
    names = [name for part in curves.values() for name in part]
    labels = ["loss (dashed: training)"]
    if any(name.startswith("acc") for name in names):
        labels.append("accuracy (dashed: training)")
    if any(_GAIN.fullmatch(name) for name in curves.get("valid", {})):
        labels.append("wrong-text gain (validation), nats per code")
    if any(_CODEBOOK_LOSS.fullmatch(name) for name in curves.get("valid", {})):
        labels.append("validation loss per codebook, nats")
    rows, columns = (
        -(-len(labels) // 2),
        min(len(labels), 2),
    )  # at most two beside each other, or a page shrinks the text
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.4 * columns, 3.4 * rows))
        panels = figure.subplots(rows, columns, squeeze=False).flat
        for axes, label in zip(panels, labels, strict=False):
            if label.startswith("validation"):
                _codebook_panel(axes, curves)
            elif label.startswith("wrong-text"):
                _gain_panel(axes, curves)
            else:
                _curve_panel(axes, curves, label[:3])
            axes.set(xlabel="epoch", ylabel=label)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(alpha=0.25)
        for axes in panels:
            axes.set_axis_off()
        figure.suptitle(title)
        _save(figure, path)
