"""Speech that nobody was told to say: it has no error rate, but a length, words of some kind, and a voice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from espnet_ext.scoring.measures.heard import Heard
from espnet_ext.scoring.measures.quality import means
from espnet_ext.scoring.measures.speaker import nearest_voices
from espnet_ext.scoring.system import Reference, System
from espnet_ext.scoring.tables.markdown import ABSENT, number, table

Result = Mapping[str, Any]


def untranscribed_measures(system: System, heard: Heard, reference: Reference) -> dict[str, Any]:
    """What can be said of the speech of a system without a text.

    Args:
        system: from `load_untranscribed`.
        heard: what evaluators say.
        reference: the test set, with whose speakers voices are compared.

    Returns:
        Plain values: counts, seconds, words, share of utterances that ended, mean similarity to the nearest speaker,
        means of opinion scores; None where nobody could tell.
    """
    texts = heard.words[system.name][0] if heard.words else None
    voices = heard.voices[system.name][0] if heard.voices else {}
    words = None if texts is None else sum(len(text.split()) for text in texts.values())
    seconds = sum(system.seconds.values())
    states = list((system.status or {}).values())
    nearest = nearest_voices(voices, heard.originals, reference.utt2spk)
    return {
        "directory": str(system.directory),
        "utterances": len(system.wavs),
        "missing": system.missing,
        "seconds": seconds,
        "words": words,
        "words_per_second": words / seconds if words is not None and seconds else None,
        "wordless": None if texts is None else sum(not text for text in texts.values()),
        "silent": sum("silent" in wrong for wrong in system.conditions.values()),
        "clipped": sum("clipped" in wrong for wrong in system.conditions.values()),
        "eos_failures": len(states) - states.count("ok") if states else None,
        "nearest_voice": float(np.mean(list(nearest.values()))) if nearest else None,
        "measures": means(heard.numbers[system.name][0]),
        "unheard": heard.unheard[system.name][0],
        "rtf": None if system.timing is None else system.timing.get("rtf"),
        "timing": system.timing,
        "hypotheses": dict(texts or {}),
    }


def untranscribed_table(systems: Mapping[str, Result]) -> str:
    """One row per system.

    Args:
        systems: name → measures.

    Returns:
        The table, empty without systems.
    """
    header = ["system", "utt", "seconds", "words heard / s", "utt without a word", "silent", "clipped", "nearest voice"]
    header += ["DNSMOS", "codec FD", "EOS failures", "RTF"]
    rows = []
    for name, scores in systems.items():
        row = [name, str(scores["utterances"]), number(scores["seconds"], 1), number(scores["words_per_second"], 2)]
        wordless = scores["wordless"]
        row += [ABSENT if wordless is None else str(wordless), str(scores["silent"]), str(scores["clipped"])]
        row += [number(scores["nearest_voice"], 3), number(scores["measures"].get("dnsmos_ovrl"), 2)]
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
    if recordings and recordings[0]["wer"] is not None and result["reference"]["seconds"]:
        heard = sum(len(text.split()) for text in recordings[0]["hypotheses"].values())
        rate = number(heard / result["reference"]["seconds"], 2)
        lines.append(
            f"- words heard / s: the recogniser hears {rate} in the recordings; it hears some in noise as well,"
            " because silence apart it knows nothing but words"
        )
    lines.append("- nearest voice: mean similarity to that speaker of the test set who is most similar")
    return lines
