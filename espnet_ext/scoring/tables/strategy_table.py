"""Decoding strategies side by side: what each of them costs and what it gives, for every stacking factor."""

from __future__ import annotations

import re

from espnet_ext.scoring.measures.pareto import pareto_front
from espnet_ext.scoring.tables.markdown import ABSENT, interval, number, table
from espnet_ext.scoring.tables.measure import Reasons, Systems, cell, cells, speed_points

NAME = re.compile(r"s(\d+)_(.+)")


def _compared(systems: Systems) -> list[tuple[int, str, str]]:
    """Stacking factor, strategy and name of the systems called s{S}_{strategy}, smallest factor first.

    Systems that have modes are not among them: a mode changes what is asked for, not only how it is decoded.
    """
    plain = [name for name, scores in systems.items() if scores.mode is None]
    named = [(NAME.fullmatch(name), name) for name in plain]
    found = [(int(match[1]), match[2], name) for match, name in named if match is not None]
    return sorted(found, key=lambda row: row[0])


FRONTS = {"wer": "WER", "frechet": "FD"}  # measures of quality that a front is drawn for, against RTF


def on_fronts(systems: Systems) -> dict[str, list[str]]:
    """Systems that no other one beats in both quality and speed: name → labels of the measures of quality."""
    found: dict[str, list[str]] = {}
    for key, label in FRONTS.items():
        for name in pareto_front(speed_points(systems, key), ("lower", "lower")):
            found.setdefault(name, []).append(label)
    return found


def strategy_table(systems: Systems, unavailable: Reasons) -> str:
    """One row per stacking factor and strategy, with its settings where a sweep varied them.

    Args:
        systems: names are s{S}_{strategy}, others have no row.
        unavailable: measures that nobody has.

    Returns:
        The table, empty if no system has such a name.
    """
    header = ["strategy", "S", "WER %", "95 %", "CER %", "codec FD", "FD, bias-corrected", "95 %", "speaker own"]
    header += ["DNSMOS", "local passes / frame", "codes / pass", "frames / s", "RTF", "front"]
    rows = []
    compared = _compared(systems)
    fronts = on_fronts({name: systems[name] for _, _, name in compared})
    for factor, strategy, name in compared:
        scores, frames = systems[name], systems[name].frechet
        row = [strategy, str(factor), *cells(scores, "wer", unavailable), cell(scores, "cer", unavailable)]
        row += [number(frames.distance, 4), number(frames.corrected, 4), interval(frames.interval, 4)]
        row += [cell(scores, key, unavailable) for key in ("speaker", "dnsmos_ovrl", "local_passes_per_frame")]
        row += [number(scores.cost("codes_per_pass"), 2), number(scores.cost("frames_per_second"), 0)]
        row += [number(scores.cost("rtf"), 3), ", ".join(fronts.get(name, []))]
        rows.append(row)
    return table(header, rows) if rows else ""


def speed_remarks(systems: Systems) -> list[str]:
    """How the speeds of the strategies were measured: lines of a Markdown list; none where nothing was timed."""
    costs = [systems[name].timing or {} for _, _, name in _compared(systems)]
    if not any("frames_per_second" in cost for cost in costs):
        return []
    batches, threads = (
        " or ".join(sorted({str(cost.get(key, ABSENT)) for cost in costs})) for key in ("batch_size", "num_threads")
    )
    return [
        f"- frames / s: language model alone, {batches} utterances at once, threads: {threads}, while the"
        " recipe's other decoding jobs ran beside it; RTF: with the codec",
        "- front: no other strategy here is better in this measure and as fast, or as good and faster (RTF)",
        "- codes / pass: codes of a step divided by the passes of the local head; for `local_speculative` those a pass"
        " accepts and the one it corrects",
    ]
