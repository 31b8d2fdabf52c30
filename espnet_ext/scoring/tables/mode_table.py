"""Inference modes side by side: what they say, in whose voice, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from espnet_ext.scoring.tables.markdown import ABSENT, interval, number, percent, table
from espnet_ext.scoring.tables.measure import interval_of, shown
from espnet_ext.scoring.tables.strategy_table import NAME

Result = Mapping[str, Any]


def has_modes(scores: Result) -> bool:
    """Whether these are measures of a system that has modes."""
    return bool((scores["timing"] or {}).get("mode"))


def mode_table(systems: Mapping[str, Result], untranscribed: Mapping[str, Result]) -> str:
    """One row per stacking factor, mode and strategy; speech without a text has dashes.

    Args:
        systems: name → measures; names are s{S}_{mode}, or s{S}_{mode}_{strategy}; others have no row.
        untranscribed: the same of systems that were not told what to say.

    Returns:
        The table, empty if no system has a mode.
    """
    header = ["mode", "strategy", "S", "WER %", "95 %", "prompt's speaker", "others", "nearest %", "source"]
    header += ["codec FD", "EOS failures", "RTF"]
    rows = []
    for name, scores in {**untranscribed, **systems}.items():
        match = NAME.fullmatch(name)
        if match is None or not has_modes(scores):
            continue
        strategy = scores["timing"].get("decoding") or ABSENT
        row = [match[2].removesuffix(f"_{strategy}"), strategy, match[1]]
        if name in systems:
            voice = scores["speaker"] or {}
            row += [shown(scores, "wer"), interval(interval_of(scores, "wer"), 1, 100)]
            row += [shown(scores, "speaker"), number(voice.get("other"), 3), percent(voice.get("nearest"))]
            row.append(number(voice.get("source"), 3))
            share, total = scores["eos_rate"], scores["utterances"] + len(scores["missing"])
            failures = None if share is None else total - round(share * total)
        else:
            row += [ABSENT] * 6
            failures, total = scores["eos_failures"], scores["utterances"]
        row.append(number(scores["frechet"]["distance"], 4))
        row += [ABSENT if failures is None else f"{failures} of {total}", number(scores["rtf"], 3)]
        rows.append(row)
    return table(header, sorted(rows, key=lambda row: int(row[2]))) if rows else ""


def mode_remarks(systems: Mapping[str, Result]) -> list[str]:
    """What the columns mean for each mode.

    Args:
        systems: name → measures.

    Returns:
        Lines of a Markdown list; none where no system has a mode.
    """
    found = {name: scores for name, scores in systems.items() if has_modes(scores)}
    if not found:
        return []
    modes = {scores["timing"]["mode"] for scores in found.values()}
    lines = ["- prompt's speaker: similarity to the speaker of the prompt; where there is none, to the recording's"]
    if "continuation" in modes:
        lines.append(
            "- continuation: words are those of the whole, with the given beginning; voice, codec FD and EOS are those"
            " of what follows it"
        )
    others = [
        f"{name} ({scores['other_prompt_speaker']})" for name, scores in found.items() if scores["other_prompt_speaker"]
    ]
    if others:
        lines.append(f"- prompts of another speaker than the recording's: {', '.join(others)}")
        lines.append("- source: similarity to the speaker of the recording whose units were spoken in another's voice")
    return lines
