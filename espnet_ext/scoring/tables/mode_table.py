"""Inference modes side by side: what they say, in whose voice, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping

from espnet_ext.scoring.measures.error_rate import words_of
from espnet_ext.scoring.scores import Scores, SpeakerScores, SystemScores, UntranscribedScores
from espnet_ext.scoring.tables.markdown import ABSENT, number, percent, table
from espnet_ext.scoring.tables.measure import Systems, cell, cells
from espnet_ext.scoring.tables.strategy_table import NAME


def mode_table(systems: Systems, untranscribed: Mapping[str, UntranscribedScores]) -> str:
    """One row per stacking factor, mode and strategy; speech without a text has dashes.

    Args:
        systems: names are s{S}_{mode}, or s{S}_{mode}_{strategy}; others have no row.
        untranscribed: systems that were not told what to say.

    Returns:
        The table, empty if no system has a mode.
    """
    header = ["mode", "strategy", "S", "WER %", "95 %", "prompt's speaker", "others", "nearest %", "source"]
    header += ["codec FD", "EOS failures", "RTF"]
    rows = []
    everyone: dict[str, SystemScores | UntranscribedScores] = {**untranscribed, **systems}
    for name, scores in everyone.items():
        match = NAME.fullmatch(name)
        if match is None or not scores.mode:
            continue
        strategy = scores.strategy or ABSENT
        row = [match[2].removesuffix(f"_{strategy}"), strategy, match[1]]
        if isinstance(scores, SystemScores):
            voice = scores.speaker or SpeakerScores()
            row += [*cells(scores, "wer", {}), cell(scores, "speaker", {})]
            row += [number(voice.other, 3), percent(voice.nearest), number(voice.source, 3)]
            share, total = scores.eos_rate, scores.utterances + len(scores.missing)
            failures = None if share is None else total - round(share * total)
        else:
            row += [ABSENT] * 6
            failures, total = scores.eos_failures, scores.utterances
        row.append(number(scores.frechet.distance, 4))
        row += [ABSENT if failures is None else f"{failures} of {total}", number(scores.rtf, 3)]
        rows.append(row)
    return table(header, sorted(rows, key=lambda row: int(row[2]))) if rows else ""


def untranscribed_table(systems: Mapping[str, UntranscribedScores]) -> str:
    """Speech without a text: one row per system; empty without any."""
    header = ["system", "utt", "seconds", "words heard / s", "utt without a word", "silent", "clipped", "nearest voice"]
    header += ["DNSMOS", "codec FD", "EOS failures", "RTF"]
    rows = [
        [
            name,
            number(scores.utterances, 0),
            number(scores.seconds, 1),
            number(scores.words_per_second, 2),
            number(scores.wordless, 0),
            number(scores.silent, 0),
            number(scores.clipped, 0),
            number(scores.nearest_voice, 3),
            number(scores.measures.get("dnsmos_ovrl"), 2),
            number(scores.frechet.distance, 4),
            number(scores.eos_failures, 0),
            number(scores.rtf, 3),
        ]
        for name, scores in systems.items()
    ]
    return table(header, rows) if rows else ""


def untranscribed_remarks(scores: Scores) -> list[str]:
    """Why systems without a text have no error rate, and what their numbers are to be held against."""
    if not scores.untranscribed:
        return []
    lines = [f"- no text, so no error rate and no prompt's speaker: {', '.join(scores.untranscribed)}"]
    recordings = [one for one in scores.systems.values() if one.timing is None]
    if recordings and recordings[0].wer is not None and scores.reference.seconds:
        heard = sum(len(words_of(text)) for text in recordings[0].hypotheses.values())
        rate = number(heard / scores.reference.seconds, 2)
        lines.append(
            f"- words heard / s: the recogniser hears {rate} in the recordings; it hears some in noise as well,"
            " because silence apart it knows nothing but words"
        )
    lines.append("- nearest voice: mean similarity to that speaker of the test set who is most similar")
    return lines


def mode_remarks(systems: Systems) -> list[str]:
    """What the columns mean for each mode; none where no system has a mode."""
    found = {name: scores for name, scores in systems.items() if scores.mode}
    if not found:
        return []
    modes = {scores.mode for scores in found.values()}
    lines = ["- prompt's speaker: similarity to the speaker of the prompt; where there is none, to the recording's"]
    if "continuation" in modes:
        lines.append(
            "- continuation: words are those of the whole, with the given beginning; voice, codec FD and EOS are those"
            " of what follows it"
        )
    others = [
        f"{name} ({scores.other_prompt_speaker})" for name, scores in found.items() if scores.other_prompt_speaker
    ]
    if others:
        lines.append(f"- prompts of another speaker than the recording's: {', '.join(others)}")
        lines.append("- source: similarity to the speaker of the recording whose units were spoken in another's voice")
    return lines
