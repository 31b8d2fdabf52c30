"""Speech that nobody was told to say: it has no error rate, but a length, words of some kind, and a voice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from espnet_ext.scoring.markdown import ABSENT, number, table
from espnet_ext.scoring.speaker import Embedding, nearest_voices
from espnet_ext.scoring.system import Reference, System

Result = Mapping[str, Any]


def untranscribed_measures(
    system: System,
    heard: Mapping[str, str],
    voices: Mapping[str, Embedding],
    originals: Mapping[str, Embedding],
    reference: Reference,
) -> dict[str, Any]:
    """What can be said of the speech of a system without a text.

    Args:
        system: from `load_untranscribed`.
        heard: utterance → words.
        voices: utterance → embedding, of those that are not silent.
        originals: the same of the recordings.
        reference: the test set that the recordings are of.

    Returns:
        Plain values: counts, seconds, words, share of utterances that ended, mean similarity to the nearest speaker.
    """
    words = sum(len(text.split()) for text in heard.values())
    seconds = sum(system.seconds.values())
    states = list((system.status or {}).values())
    nearest = nearest_voices(voices, originals, reference.utt2spk)
    return {
        "directory": str(system.directory),
        "utterances": len(system.wavs),
        "missing": system.missing,
        "seconds": seconds,
        "words": words,
        "words_per_second": words / seconds if seconds else None,
        "wordless": sum(not text for text in heard.values()),
        "silent": len(system.wavs) - len(voices),
        "eos_failures": len(states) - states.count("ok") if states else None,
        "nearest_voice": float(np.mean(list(nearest.values()))) if nearest else None,
        "rtf": None if system.timing is None else system.timing.get("rtf"),
        "timing": system.timing,
        "hypotheses": dict(heard),
    }


def untranscribed_table(systems: Mapping[str, Result]) -> str:
    """One row per system.

    Args:
        systems: name → measures.

    Returns:
        The table, empty without systems.
    """
    header = ["system", "utt", "seconds", "words heard / s", "utt without a word", "silent", "nearest voice"]
    header += ["codec FD", "EOS failures", "RTF"]
    rows = []
    for name, scores in systems.items():
        row = [name, str(scores["utterances"]), number(scores["seconds"], 1), number(scores["words_per_second"], 2)]
        row += [str(scores["wordless"]), str(scores["silent"]), number(scores["nearest_voice"], 3)]
        row += [number(scores["frechet"]["distance"], 4)]
        failures = scores["eos_failures"]
        row += [ABSENT if failures is None else str(failures), number(scores["rtf"], 3)]
        rows.append(row)
    return table(header, rows) if rows else ""


def untranscribed_remarks(result: Result) -> list[str]:
    """Why these systems have no error rate, and what their numbers are to be held against.

    Args:
        result: contents of a scores.json.

    Returns:
        Lines of a Markdown list; none without such systems.
    """
    names = list(result.get("untranscribed", {}))
    if not names:
        return []
    lines = [f"- no text, so no error rate and no prompt's speaker: {', '.join(names)}"]
    recordings = [scores for scores in result["systems"].values() if scores["timing"] is None]
    if recordings and result["reference"]["seconds"]:
        heard = sum(len(text.split()) for text in recordings[0]["hypotheses"].values())
        rate = number(heard / result["reference"]["seconds"], 2)
        lines.append(
            f"- words heard / s: the recogniser hears {rate} in the recordings; it hears some in noise as well,"
            " because silence apart it knows nothing but words"
        )
    lines.append("- nearest voice: mean similarity to that speaker of the test set who is most similar")
    return lines
