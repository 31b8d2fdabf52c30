"""Decoding strategies side by side: what each of them costs and what it gives, for every stacking factor."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from espnet_ext.scoring.measures.pareto import pareto_front
from espnet_ext.scoring.tables.markdown import ABSENT, interval, number, table
from espnet_ext.scoring.tables.measure import interval_of, value_of
from espnet_ext.scoring.tables.measure_tables import cell

Result = Mapping[str, Any]
NAME = re.compile(r"s(\d+)_(.+)")


def _compared(systems: Mapping[str, Result]) -> list[tuple[int, str, str]]:
    """Stacking factor, strategy and name of the systems called s{S}_{strategy}, smallest factor first.

    Systems that have modes are not among them: a mode changes what is asked for, not only how it is decoded.
    """
    plain = [name for name, scores in systems.items() if "mode" not in (scores["timing"] or {})]
    named = [(NAME.fullmatch(name), name) for name in plain]
    found = [(int(match[1]), match[2], name) for match, name in named if match is not None]
    return sorted(found, key=lambda row: row[0])


FRONTS = {"wer": "WER", "frechet": "FD"}  # measures of quality that a front is drawn for, against RTF


def on_fronts(systems: Mapping[str, Result]) -> dict[str, list[str]]:
    """Systems that no other one beats in both quality and speed, for every measure of quality.

    Args:
        systems: name → measures.

    Returns:
        Name → labels of the measures; the controls, which generate nothing, have no place on a front.
    """
    found: dict[str, list[str]] = {}
    compared = {name: scores for name, scores in systems.items() if (scores["timing"] or {}).get("steps")}
    for key, label in FRONTS.items():
        points = {
            name: (quality, cost)
            for name, scores in compared.items()
            if (quality := value_of(scores, key)) is not None and (cost := value_of(scores, "rtf")) is not None
        }
        for name in pareto_front(points, ("lower", "lower")):
            found.setdefault(name, []).append(label)
    return found


def strategy_table(systems: Mapping[str, Result], unavailable: Mapping[str, str]) -> str:
    """One row per stacking factor and strategy, with its settings where a sweep varied them.

    Args:
        systems: name → measures; names are s{S}_{strategy}, others have no row.
        unavailable: measure → why nobody has it.

    Returns:
        The table, empty if no system has such a name.
    """
    header = ["strategy", "S", "WER %", "95 %", "CER %", "codec FD", "FD, bias-corrected", "95 %", "speaker own"]
    header += ["DNSMOS", "local passes / frame", "codes / pass", "frames / s", "RTF", "front"]
    rows = []
    compared = _compared(systems)
    fronts = on_fronts({name: systems[name] for _, _, name in compared})
    for factor, strategy, name in compared:
        scores = systems[name]
        frames, costs = scores["frechet"], scores["timing"] or {}
        row = [strategy, str(factor), cell(scores, "wer", unavailable), interval(interval_of(scores, "wer"), 1, 100)]
        row += [cell(scores, "cer", unavailable), number(frames["distance"], 4), number(frames["corrected"], 4)]
        row += [interval(frames["interval"], 4), cell(scores, "speaker", unavailable)]
        row += [cell(scores, "dnsmos_ovrl", unavailable), number(costs.get("local_passes_per_frame"), 2)]
        row += [number(costs.get("codes_per_pass"), 2), number(costs.get("frames_per_second"), 0)]
        row += [number(costs.get("rtf"), 3), ", ".join(fronts.get(name, []))]
        rows.append(row)
    return table(header, rows) if rows else ""


def speed_remarks(systems: Mapping[str, Result]) -> list[str]:
    """How the speeds of the strategies were measured.

    Args:
        systems: name → measures.

    Returns:
        Lines of a Markdown list; none where nothing was timed.
    """
    costs = [systems[name]["timing"] or {} for _, _, name in _compared(systems)]
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
