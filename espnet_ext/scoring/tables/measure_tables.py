"""Tables of all measures, one row per system: words and voices, opinion scores and distortion, what went wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from espnet_ext.scoring.tables.markdown import ABSENT, interval, number, percent, table
from espnet_ext.scoring.tables.measure import interval_of, measure, shown, value_of

Result = Mapping[str, Any]
PROBLEMS = {
    "silent": "silent",
    "clipped": "clipped",
    "no_eos": "EOS failures",
    "repeated": "repeated",
    "truncated": "truncated",
}


def why_absent(key: str, unavailable: Mapping[str, str]) -> str | None:
    """The reason why nobody has a measure.

    Args:
        key: of the measure.
        unavailable: measure, or beginning of the names of several → reason.

    Returns:
        The reason; None where there is none.

    >>> why_absent("dnsmos_sig", {"dnsmos": "speechmos is not installed: pip install speechmos"})
    'speechmos is not installed: pip install speechmos'
    """
    return next((reason for name, reason in unavailable.items() if key == name or key.startswith(f"{name}_")), None)


def cell(scores: Result, key: str, unavailable: Mapping[str, str]) -> str:
    """A number as a table shows it, or in a word why there is none.

    Args:
        scores: measures of the system.
        key: of the measure.
        unavailable: measure → why nobody has it.

    Returns:
        The text.
    """
    if value_of(scores, key) is not None:
        return shown(scores, key)
    reason = why_absent(key, unavailable)
    if reason is None:
        return ABSENT
    return "not installed" if "not installed" in reason else "left out"


def _interval(scores: Result, key: str) -> str:
    found = measure(key)
    return interval(interval_of(scores, key), found.digits, found.factor)


def metric_table(systems: Mapping[str, Result], unavailable: Mapping[str, str]) -> str:
    """Words, voices and frames: one row per system.

    Args:
        systems: name → measures.
        unavailable: measure → why nobody has it.

    Returns:
        The table.
    """
    header = ["system", "utt", "WER %", "95 %", "CER %", "speaker own", "95 %", "others", "own nearest %"]
    header += ["codec FD", "FD, bias-corrected", "95 %", "FD, heard", "95 %", "duration ratio", "RTF"]
    rows = []
    for name, scores in systems.items():
        voice, frames = scores["speaker"] or {}, scores["frechet"]
        row = [name, str(scores["utterances"]), cell(scores, "wer", unavailable), _interval(scores, "wer")]
        row += [cell(scores, "cer", unavailable), cell(scores, "speaker", unavailable), _interval(scores, "speaker")]
        row += [number(voice.get("other"), 3), percent(voice.get("nearest"))]
        row += [number(frames["distance"], 4), number(frames["corrected"], 4), interval(frames["interval"], 4)]
        row += [cell(scores, "frechet_heard", unavailable), _interval(scores, "frechet_heard")]
        row += [number(scores["duration_ratio"], 2), number(scores["rtf"], 3)]
        rows.append(row)
    return table(header, rows)


def quality_keys(systems: Mapping[str, Result], unavailable: Mapping[str, str]) -> list[str]:
    """Measures of opinion scores and distortion that some system has, or that somebody should have had.

    Args:
        systems: name → measures.
        unavailable: measure → why nobody has it.

    Returns:
        Their names.
    """
    found = dict.fromkeys(key for scores in systems.values() for key in scores.get("measures", {}))
    missing = dict.fromkeys(name for name in unavailable if name not in ("wer", "cer", "speaker", "mos"))
    return [*found, *(name for name in missing if name not in found)]


def quality_table(systems: Mapping[str, Result], unavailable: Mapping[str, str]) -> str:
    """Predicted opinion scores and distances to the recordings: one row per system.

    Args:
        systems: name → measures.
        unavailable: measure → why nobody has it.

    Returns:
        The table, empty where nothing of the kind was asked for.
    """
    keys = quality_keys(systems, unavailable)
    header = ["system", *(label for key in keys for label in (measure(key).label, "95 %"))]
    rows = [
        [name, *(text for key in keys for text in (cell(scores, key, unavailable), _interval(scores, key)))]
        for name, scores in systems.items()
    ]
    return table(header, rows) if keys else ""


def problem_table(systems: Mapping[str, Result]) -> str:
    """How many utterances lack audio, are silent, clipped, without end, repeat themselves or break off.

    Args:
        systems: name → measures.

    Returns:
        The table; counts are over all repeats.
    """
    rows = []
    for name, scores in systems.items():
        problems = scores["problems"]
        row = [name, str(scores["utterances"] + len(scores["missing"])), str(len(scores["missing"]))]
        for key in PROBLEMS:
            heard = key not in ("repeated", "truncated") or scores["wer"] is not None
            known = key != "no_eos" or scores["eos_rate"] is not None
            row.append(str(len(problems[key])) if heard and known else ABSENT)
        row.append(str(len(scores["unheard"])))
        rows.append(row)
    return table(["system", "asked for", "no audio", *PROBLEMS.values(), "evaluator failed"], rows)
