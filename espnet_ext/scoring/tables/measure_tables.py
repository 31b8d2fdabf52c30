"""Tables of all measures, one row per system: words and voices, opinion scores and distortion, what went wrong."""

from __future__ import annotations

from espnet_ext.scoring.scores import SpeakerScores
from espnet_ext.scoring.tables.markdown import ABSENT, interval, number, percent, table
from espnet_ext.scoring.tables.measure import Reasons, Systems, cell, cells, measure

PROBLEMS = {
    "silent": "silent",
    "clipped": "clipped",
    "no_eos": "EOS failures",
    "repeated": "repeated",
    "truncated": "truncated",
}


def metric_table(systems: Systems, unavailable: Reasons) -> str:
    """Words, voices and frames: one row per system."""
    header = ["system", "utt", "WER %", "95 %", "CER %", "speaker own", "95 %", "others", "own nearest %"]
    header += ["codec FD", "FD, bias-corrected", "95 %", "FD, heard", "95 %", "duration ratio", "RTF"]
    rows = []
    for name, scores in systems.items():
        voice, frames = scores.speaker or SpeakerScores(), scores.frechet
        row = [name, str(scores.utterances), *cells(scores, "wer", unavailable), cell(scores, "cer", unavailable)]
        row += [*cells(scores, "speaker", unavailable), number(voice.other, 3), percent(voice.nearest)]
        row += [number(frames.distance, 4), number(frames.corrected, 4), interval(frames.interval, 4)]
        row += [*cells(scores, "frechet_heard", unavailable), number(scores.duration_ratio, 2), number(scores.rtf, 3)]
        rows.append(row)
    return table(header, rows)


def quality_table(systems: Systems, unavailable: Reasons) -> str:
    """Predicted opinion scores and distances to the recordings, of those that some system has or should have had.

    Args:
        systems: one row each.
        unavailable: measures that nobody has.

    Returns:
        The table, empty where nothing of the kind was asked for.
    """
    keys = list(dict.fromkeys(key for scores in systems.values() for key in scores.measures))
    keys += [key for key in unavailable if key not in ("wer", "cer", "speaker", "mos", *keys)]
    header = ["system", *(label for key in keys for label in (measure(key).label, "95 %"))]
    rows = [
        [name, *(text for key in keys for text in cells(scores, key, unavailable))] for name, scores in systems.items()
    ]
    return table(header, rows) if keys else ""


def problem_table(systems: Systems) -> str:
    """How many utterances, over all repeats, lack audio, are silent, clipped, without end, repeated or truncated."""
    rows = []
    for name, scores in systems.items():
        row = [name, str(scores.utterances + len(scores.missing)), str(len(scores.missing))]
        for key in PROBLEMS:
            heard = key not in ("repeated", "truncated") or scores.wer is not None
            known = key != "no_eos" or scores.eos_rate is not None
            row.append(str(len(scores.problems[key])) if heard and known else ABSENT)
        row.append(str(len(scores.unheard)))
        rows.append(row)
    return table(["system", "asked for", "no audio", *PROBLEMS.values(), "evaluator failed"], rows)
