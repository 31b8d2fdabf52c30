"""RESULTS.md in ESPnet's style, made from the contents of scores.json files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from espnet_ext.scoring.measures.frame_distance import ENOUGH_FRAMES_PER_DIMENSION
from espnet_ext.scoring.scores import Comparison, Scores, SpeakerScores
from espnet_ext.scoring.tables.markdown import ABSENT, interval, number, percent, plain, table
from espnet_ext.scoring.tables.measure import Systems, measure, shown, value_of
from espnet_ext.scoring.tables.measure_tables import PROBLEMS, metric_table, problem_table, quality_table
from espnet_ext.scoring.tables.mode_table import mode_remarks, mode_table, untranscribed_remarks, untranscribed_table
from espnet_ext.scoring.tables.strategy_table import speed_remarks, strategy_table

MOST_NAMES = 5  # utterances named per system and reason; scores.json has them all


def error_table(systems: Systems, measure: str) -> str:
    """Correct, substituted, deleted and inserted units in percent of the reference's, for "wer" or "cer"."""
    rows = []
    for name, scores in systems.items():
        counts = scores.wer if measure == "wer" else scores.cer
        if counts is not None:
            units, sentences = counts.reference, counts.sentences
            kinds = (counts.correct, counts.substitutions, counts.deletions, counts.insertions)
            shares = [percent(kind / units if units else None) for kind in kinds]
            wrong = percent(counts.wrong_sentences / sentences if sentences else None)
            rows.append([name, str(sentences), str(units), *shares, percent(counts.rate), wrong])
    unit = {"wer": "Wrd", "cer": "Chr"}[measure]
    return table(["dataset", "Snt", unit, "Corr", "Sub", "Del", "Ins", "Err", "S.Err"], rows)


def differences(comparisons: Iterable[Comparison]) -> list[tuple[list[str], bool]]:
    """Differences between two systems on the same utterances, and whether they are clear.

    Args:
        comparisons: of a scores.json.

    Returns:
        For each difference the systems, the measure, the difference, the same without bias and its interval; and
        whether the interval lacks zero.
    """
    rows = []
    for pair in comparisons:
        for label, found, digits, factor in (
            ("codec FD", pair.frechet, 4, 1.0),
            ("WER, points", pair.wer, 1, 100.0),
        ):
            if found is not None:
                values = [number(factor * value, digits) for value in (found.difference, found.corrected)]
                ends = interval(found.interval, digits, factor)
                is_clear = found.interval[0] > 0 or found.interval[1] < 0
                rows.append(([f"{pair.first} − {pair.second}", label, *values, ends], is_clear))
    return rows


def speaker_table(systems: Systems) -> str:
    """Similarity to the own speaker / mean to the others, for every target speaker (rows) and system (columns)."""
    voices = [(scores.speaker or SpeakerScores()).by_speaker for scores in systems.values()]
    rows = []
    for speaker in sorted({name for by_speaker in voices for name in by_speaker}):
        found = [by_speaker.get(speaker) for by_speaker in voices]
        cells = [ABSENT if one is None else f"{number(one.own, 2)} / {number(one.other, 2)}" for one in found]
        rows.append([speaker, *cells])
    return table(["speaker", *systems], rows)


def _named(what: str, missing: Mapping[str, str]) -> list[str]:
    by_reason: dict[str, list[str]] = {}
    for utterance, reason in missing.items():
        by_reason.setdefault(reason.partition(":")[0], []).append(utterance)
    lines = []
    for reason, names in sorted(by_reason.items()):
        shown = ", ".join(names[:MOST_NAMES]) + (", …" if len(names) > MOST_NAMES else "")
        lines.append(f"- {what}: {len(names)} × {reason} ({shown})")
    return lines


def _ran_away(name: str, costs: Mapping[str, Any]) -> list[str]:
    """How many utterances of a system's first output ran away, and why; nothing if none did."""
    found = {key: value for key, value in costs.items() if isinstance(value, int) and value}
    if not {"runaways", "retries"} & set(found):
        return []
    why = ", ".join(f"{count} {key.partition('_')[2]}" for key, count in found.items() if key.startswith("runaways_"))
    line = f"- {name}: {found.get('runaways', 0)} of {costs.get('utterances')} utterances ran away"
    return [f"{line}, {found.get('retries', 0)} times one was decoded again (attempts: {why})"]


def remarks(result: Scores) -> list[str]:
    """What a reader must know about the numbers: absent utterances, unknown words, what the distance measures."""
    reference = result.reference
    lines = _named("left out of the test set", reference.skipped)
    lines += _named("reference, no recording", reference.missing)
    for name, scores in result.systems.items():
        lines += _named(f"{name}, no audio (words count as deleted)", scores.missing)
        lines += _named(f"{name}, no codes", scores.frechet.missing)
        lines += _named(f"{name}, evaluator failed", scores.unheard)
        if scores.same_codes_as:
            lines.append(
                f"- {name} has the very codes of {scores.same_codes_as}: its audio was measured with that one's"
            )
        for key, utterances in scores.problems.items():
            lines += _named(name, dict.fromkeys(utterances, PROBLEMS[key]))
        lines += _ran_away(name, scores.timing or {})
    for name, one in result.untranscribed.items():
        lines += _named(f"{name}, no audio", one.missing)
        lines += _named(f"{name}, evaluator failed", one.unheard)
    lines += [f"- {measure(key).label}: {reason}" for key, reason in result.unavailable.items()]
    if reference.recogniser and "wer" not in result.unavailable:
        lines.append(f"- words are heard by {result.environment.get('recogniser', reference.recogniser)}")
    if reference.vocabulary is not None:
        whose = " and of ".join(["of the test set", *(f"`{path}`" for path in reference.vocabulary_of)])
        lines.append(
            f"- the recogniser chooses among {reference.vocabulary} words, those {whose}, all equally likely anywhere"
        )
    if reference.unknown_words:
        words = ", ".join(f"{word} ({count})" for word, count in reference.unknown_words.items())
        lines.append(f"- words that the recogniser does not know and so cannot hear: {words}")
    if reference.other_prompt_speaker:
        lines.append(f"- prompts of another speaker than the recording's: {reference.other_prompt_speaker}")
    lines.append(
        f"- codec FD: Fréchet distance to the codec frames of `{reference.frechet_reference}`, of the frames that a"
        " system says; it sees which frames occur, not their order"
    )
    lines += _few_frames(result)
    lines.append("- FD, heard: the same of the codes that the codec makes of a system's audio, so that all have one")
    lines += speed_remarks(result.systems) + mode_remarks(result.systems) + untranscribed_remarks(result)
    lines += _about_repeats(result)
    lines.append("- a distance between few utterances is biased upwards; the corrected one is not, and can be negative")
    return lines


def _few_frames(result: Scores) -> list[str]:
    sizes = [one.frechet.frames / one.frechet.dimensions for one in result.systems.values() if one.frechet.frames]
    least = min(sizes, default=float(ENOUGH_FRAMES_PER_DIMENSION))
    if least >= ENOUGH_FRAMES_PER_DIMENSION:
        return []
    return [
        f"- {least:.0f} frames for each dimension are fewer than {ENOUGH_FRAMES_PER_DIMENSION}: distances to the same"
        " sentences can be compared within their intervals, those to other sentences are sampling for the most part"
    ]


def _about_repeats(result: Scores) -> list[str]:
    resamples, utterances = result.settings["resamples"], result.reference.utterances
    line = f"- intervals: {resamples} bootstrap resamples of {utterances} utterances, drawn within their speakers"
    counts = sorted({len(scores.repeats) for scores in result.systems.values() if scores.timing is not None})
    if not counts or counts[-1] == 1:
        return [line]
    return [
        f"{line}, and of a system's outputs",
        f"- outputs with different seeds: {' or '.join(map(str, counts))}; figures are means over them, speeds medians",
    ]


def _section(result: Scores, folder: Path) -> str:
    systems, unavailable = result.systems, result.unavailable
    is_heard = any(scores.wer is not None for scores in systems.values())
    has_voices = any(len((scores.speaker or SpeakerScores()).by_speaker) > 1 for scores in systems.values())
    header = ["systems", "measure", "difference", "bias-corrected", "95 %"]
    compared = table(header, [row for row, _ in differences(result.comparisons)]) if result.comparisons else ""
    tables = {
        "Strategies": strategy_table(systems, unavailable),
        "Modes": mode_table(systems, result.untranscribed),
        "Speech without a text": untranscribed_table(result.untranscribed),
        "WER": error_table(systems, "wer") if is_heard else "",
        "CER": error_table(systems, "cer") if is_heard else "",
        "Measures": metric_table(systems, unavailable),
        "Quality": quality_table(systems, unavailable),
        "What went wrong, utterances": problem_table(systems),
        "Differences on the same utterances": compared,
        "Speaker similarity, own / others": speaker_table(systems) if has_voices else "",
        "Remarks": "".join(f"{plain(line)}\n" for line in remarks(result)),
    }
    parts = [
        f"## {plain(result.title)}\n",
        *(f"### {name}\n\n{content}" for name, content in tables.items() if content),
    ]
    links = [(plain(caption), plain(os.path.relpath(path, folder))) for caption, path in result.figures.items()]
    figures = "".join(f"![{caption}]({path})\n\n" for caption, path in links)
    return "\n".join(parts) + (f"\n### Figures\n\n{figures}" if figures else "")


def newest(results: Sequence[Scores]) -> Scores:
    """Those of several scores that were made last: a page shows their environment."""
    return max(results, key=lambda result: str(result.environment["date"]))


def results_page(results: Sequence[Scores], folder: Path) -> str:
    """RESULTS.md of one or several test sets; links to figures start at the folder where it will be."""
    environment = "".join(plain(f"- {name}: `{value}`") + "\n" for name, value in newest(results).environment.items())
    parts = ["<!-- Generated by espnet_ext.bin.evaluate -->\n# RESULTS\n"]
    parts += [f"## Environments\n\n{environment}", *(_section(result, folder) for result in results)]
    return "\n".join(parts).rstrip("\n") + "\n"


def terminal_summary(results: Sequence[Scores]) -> str:
    """The most important measures as aligned text."""
    rows = [["test set", "system", "WER %", "speaker own", "others", "codec FD", "duration", "EOS %", "RTF"]]
    for result in results:
        for name, scores in result.systems.items():
            wer, own, distance = (shown(key, value_of(scores, key)) for key in ("wer", "speaker", "frechet"))
            row = [result.title, name, wer, own, number((scores.speaker or SpeakerScores()).other, 3), distance]
            rows.append([*row, number(scores.duration_ratio, 2), percent(scores.eos_rate), number(scores.rtf, 3)])
        for name, one in result.untranscribed.items():
            distance, costs = number(one.frechet.distance, 4), number(one.rtf, 3)
            rows.append([result.title, name, "no text", ABSENT, ABSENT, distance, ABSENT, ABSENT, costs])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)
