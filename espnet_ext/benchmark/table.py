"""What was measured, as lines of JSON, as a table and as a plot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from espnet_ext.benchmark.machine import MachineRates
from espnet_ext.benchmark.race import Entry, Times
from espnet_ext.scoring.tables.markdown import table as markdown_table
from espnet_ext.storage.atomic import atomic_path


def cell_of(
    entry: Entry,
    times: Times,
    peers: Mapping[str, Times],
    frames: int,
    clock: str,
    machine: MachineRates,
    rate_hz: float,
) -> dict[str, Any]:
    """Everything that is told of one entry, as plain values.

    Args:
        entry: ours or a peer's.
        times: of it.
        peers: times of the peers in the same race.
        frames: that were timed, of every row.
        clock: "cpu" or "wall".
        machine: its limits.
        rate_hz: frames per second of the codec.

    Returns:
        Names and values, as `bin.benchmark` documents them.
    """
    sizes, answer = entry.sizes, times.answer
    made = frames * int(sizes["batch"])
    seconds = times.seconds(clock)
    steps = frames / int(sizes.get("s", 1))
    shares = _shares(answer.get("seconds_of", {}))
    floor = None
    if "bytes_per_step" in times.facts:
        floor = steps * machine.floor_seconds(times.facts["bytes_per_step"], times.facts["flops_per_step"])
    return {
        "name": entry.name,
        "strategy": sizes.get("strategy", "peer"),
        "s": int(sizes.get("s", 1)),
        "batch": int(sizes["batch"]),
        "precision": sizes.get("precision", sizes.get("dtype", "float32")),
        "native": bool(sizes.get("native", False)),
        "compile": bool(sizes.get("compile", False)),
        "frames": frames,
        "frames_per_second": round(made / seconds, 2),
        "tokens_per_second": round(made * int(sizes["codebooks"]) / seconds, 1),
        "rtf": round(seconds * rate_hz / made, 4),
        "ttfa_ms": round(answer["ttfa_ms"], 1) if "ttfa_ms" in answer else None,
        "peak_mib": round(answer["peak_mib"]),
        "local_passes_per_frame": answer.get("local_passes_per_frame"),
        "share": shares,
        "floor_ratio": round(seconds / floor, 2) if floor else None,
        "primary_of_read_rate": _read_rate(times, machine),
        "parameters": times.facts.get("parameters"),
        "rounds": [round(value, 4) for value in (times.cpu_seconds if clock == "cpu" else times.wall_seconds)],
        "clock": clock,
        "ratio_to": {
            name: round(other.seconds(clock) / seconds, 2) for name, other in peers.items() if name != entry.name
        },
    }  # fmt: skip


def _read_rate(times: Times, machine: MachineRates) -> float | None:
    """How fast the primary transformer's weights are read, as a share of what the machine can; in the last round."""
    seconds = times.answer.get("primary_seconds_per_step")
    return round(times.facts["primary_bytes"] / seconds / machine.bytes_per_second, 3) if seconds else None


def _shares(seconds: Mapping[str, float]) -> dict[str, float]:
    """Share of primary, sampling and local transformer in the language model's time; the codec's beside it."""
    if not seconds:
        return {}
    shares = {name: round(part / seconds["total"], 3) for name, part in seconds.items() if name != "total"}
    return {**shares, "local": round(1.0 - shares["primary"] - shares.get("sampling", 0.0), 3)}


def write_json(path: Path, cells: Sequence[Mapping[str, Any]]) -> None:
    """One JSON object per cell and line."""
    with atomic_path(path) as temporary:
        temporary.write_text("".join(json.dumps(cell) + "\n" for cell in cells), encoding="utf-8")


def as_markdown(cells: Sequence[Mapping[str, Any]]) -> str:
    """The cells as a table in Markdown.

    Args:
        cells: from `cell_of`.

    Returns:
        The table.
    """
    peers = sorted({name for cell in cells for name in cell["ratio_to"]})
    header = [
        "cell", "S", "batch", "precision", "ms/frame", "frames/s", "RTF", "first audio (ms)", "peak (MiB)",
        "primary / local / sampling (%)", "primary of read rate (%)", "× floor", *(f"÷ {name}" for name in peers),
    ]  # fmt: skip
    return markdown_table(header, [_row(cell, peers) for cell in cells])


def _row(cell: Mapping[str, Any], peers: Sequence[str]) -> list[str]:
    share = cell["share"]
    parts = " / ".join(f"{100 * share[name]:.0f}" for name in ("primary", "local", "sampling") if name in share)
    return [
        cell["name"] if cell["strategy"] == "peer" else cell["strategy"],
        str(cell["s"]),
        str(cell["batch"]),
        f"{cell['precision']}{', native' if cell['native'] else ''}{', compiled' if cell['compile'] else ''}",
        f"{1000 / cell['frames_per_second']:.2f}",
        f"{cell['frames_per_second']:.1f}",
        f"{cell['rtf']:.3f}",
        "" if cell["ttfa_ms"] is None else f"{cell['ttfa_ms']:.0f}",
        str(cell["peak_mib"]),
        parts,
        "" if cell["primary_of_read_rate"] is None else f"{100 * cell['primary_of_read_rate']:.0f}",
        "" if cell["floor_ratio"] is None else f"{cell['floor_ratio']:.2f}",
        *(f"{cell['ratio_to'][name]:.2f}" if name in cell["ratio_to"] else "" for name in peers),
    ]


def plot(path: Path, cells: Sequence[Mapping[str, Any]]) -> None:
    """A bar of frames per second for every cell, the peers in grey.

    Args:
        path: of the image; its suffix says which kind.
        cells: from `cell_of`.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    ordered = sorted(cells, key=lambda cell: float(cell["frames_per_second"]))
    labels = [_label(cell) for cell in ordered]
    figure, axes = pyplot.subplots(figsize=(9, 1.2 + 0.28 * len(ordered)))
    colors = ["0.6" if cell["strategy"] == "peer" else "C0" for cell in ordered]
    axes.barh(labels, [cell["frames_per_second"] for cell in ordered], color=colors)
    axes.set_xlabel("frames per second")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lstrip(".") or "png", dpi=120)
    pyplot.close(figure)


def _label(cell: Mapping[str, Any]) -> str:
    if cell["strategy"] == "peer":
        return f"{cell['name']}, batch {cell['batch']}"
    native = " native" if cell["native"] else ""
    return f"{cell['strategy']} S={cell['s']} {cell['precision']}{native}, batch {cell['batch']}"
