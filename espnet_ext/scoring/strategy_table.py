"""Decoding strategies side by side: what each of them costs and what it gives, for every stacking factor."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from espnet_ext.scoring.markdown import ABSENT, interval, number, percent, table

Result = Mapping[str, Any]
NAME = re.compile(r"s(\d+)_(.+)")


def _compared(systems: Mapping[str, Result]) -> list[tuple[int, str, Result]]:
    """Stacking factor, strategy and measures of the systems called s{S}_{strategy}, smallest factor first.

    Systems that have modes are not among them: a mode changes what is asked for, not only how it is decoded.
    """
    plain = {name: scores for name, scores in systems.items() if "mode" not in (scores["timing"] or {})}
    named = [(NAME.fullmatch(name), scores) for name, scores in plain.items()]
    found = [(int(match[1]), match[2], scores) for match, scores in named if match is not None]
    return sorted(found, key=lambda row: row[0])


def strategy_table(systems: Mapping[str, Result]) -> str:
    """One row per stacking factor and strategy.

    Args:
        systems: name → measures; names are s{S}_{strategy}, others have no row.

    Returns:
        The table, empty if no system has such a name.
    """
    header = ["strategy", "S", "WER %", "CER %", "codec FD", "FD, bias-corrected", "95 %"]
    header += ["local passes / frame", "codes / pass", "frames / s", "RTF"]
    rows = []
    for factor, strategy, scores in _compared(systems):
        frames, costs = scores["frechet"], scores["timing"] or {}
        row = [strategy, str(factor), percent(scores["wer"]["rate"]), percent(scores["cer"]["rate"])]
        row += [number(frames["distance"], 4), number(frames["corrected"], 4), interval(frames["interval"], 4)]
        row += [number(costs.get("local_passes_per_frame"), 2), number(costs.get("codes_per_pass"), 2)]
        row += [number(costs.get("frames_per_second"), 0), number(costs.get("rtf"), 3)]
        rows.append(row)
    return table(header, rows) if rows else ""


def speed_remarks(systems: Mapping[str, Result]) -> list[str]:
    """How the speeds of the strategies were measured.

    Args:
        systems: name → measures.

    Returns:
        Lines of a Markdown list; none where nothing was timed.
    """
    costs = [scores["timing"] or {} for _, _, scores in _compared(systems)]
    if not any("frames_per_second" in cost for cost in costs):
        return []
    batches, threads = (
        " or ".join(sorted({str(cost.get(key, ABSENT)) for cost in costs})) for key in ("batch_size", "num_threads")
    )
    return [
        f"- frames / s: language model alone, {batches} utterances at once, threads: {threads}, while the"
        " recipe's other decoding jobs ran beside it; RTF: with the codec",
        "- codes / pass: codes of a step divided by the passes of the local head; for `local_speculative` those a pass"
        " accepts and the one it corrects",
    ]
