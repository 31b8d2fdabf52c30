"""RESULTS.md in ESPnet's style, made from the contents of scores.json files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from espnet_ext.scoring.measures.frame_distance import ENOUGH_FRAMES_PER_DIMENSION
from espnet_ext.scoring.measures.untranscribed import untranscribed_remarks, untranscribed_table
from espnet_ext.scoring.tables.markdown import ABSENT, interval, number, percent, table
from espnet_ext.scoring.tables.measure import measure, shown
from espnet_ext.scoring.tables.measure_tables import PROBLEMS, metric_table, problem_table, quality_table
from espnet_ext.scoring.tables.mode_table import mode_remarks, mode_table
from espnet_ext.scoring.tables.strategy_table import speed_remarks, strategy_table

Result = Mapping[str, Any]
MOST_NAMES = 5  # utterances named per system and reason; scores.json has them all


def error_table(systems: Mapping[str, Result], measure: str) -> str:
    """Rows of correct, substituted, deleted and inserted units in percent of the reference's.

    Args:
        systems: name → measures.
        measure: "wer" or "cer".

    Returns:
        The table, without rows where nobody recognised words.
    """
    rows = []
    for name, scores in systems.items():
        counts = scores[measure]
        if counts is None:
            continue
        units, sentences = counts["reference"], counts["sentences"]
        shares = [
            percent(counts[key] / units if units else None)
            for key in ("correct", "substitutions", "deletions", "insertions")
        ]
        wrong = percent(counts["wrong_sentences"] / sentences if sentences else None)
        rows.append([name, str(sentences), str(units), *shares, percent(counts["rate"]), wrong])
    unit = {"wer": "Wrd", "cer": "Chr"}[measure]
    return table(["dataset", "Snt", unit, "Corr", "Sub", "Del", "Ins", "Err", "S.Err"], rows)


def comparison_table(comparisons: Sequence[Result]) -> str:
    """One row per difference between two systems, on the same utterances.

    Args:
        comparisons: from `evaluate`.

    Returns:
        The table.
    """
    rows = []
    for pair in comparisons:
        names = f"{pair['first']} − {pair['second']}"
        for label, key, digits, factor in (("codec FD", "frechet", 4, 1.0), ("WER, points", "wer", 1, 100.0)):
            found = pair[key]
            if found is not None:
                values = [number(factor * found[part], digits) for part in ("difference", "corrected")]
                rows.append([names, label, *values, interval(found["interval"], digits, factor)])
    return table(["systems", "measure", "difference", "bias-corrected", "95 %"], rows)


def speaker_table(systems: Mapping[str, Result]) -> str:
    """Similarity to the own speaker / mean to the others, for every target speaker (rows) and system (columns).

    Args:
        systems: name → measures.

    Returns:
        The table.
    """
    voices = [(scores["speaker"] or {}).get("by_speaker", {}) for scores in systems.values()]
    rows = []
    for speaker in sorted({name for by_speaker in voices for name in by_speaker}):
        cells = []
        for by_speaker in voices:
            found = by_speaker.get(speaker)
            cells.append(ABSENT if found is None else f"{number(found['own'], 2)} / {number(found['other'], 2)}")
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


def remarks(result: Result) -> list[str]:
    """What a reader must know about the numbers: absent utterances, unknown words, what the distance measures.

    Args:
        result: contents of a scores.json.

    Returns:
        Lines of a Markdown list.
    """
    reference = result["reference"]
    lines = _named("left out of the test set", reference.get("skipped", {}))
    lines += _named("reference, no recording", reference["missing"])
    for name, scores in result["systems"].items():
        lines += _named(f"{name}, no audio (words count as deleted)", scores["missing"])
        lines += _named(f"{name}, no codes", scores["frechet"]["missing"])
        lines += _named(f"{name}, evaluator failed", scores["unheard"])
        if scores.get("same_codes_as"):
            lines.append(
                f"- {name} has the very codes of {scores['same_codes_as']}: its audio was measured with that one's"
            )
        for key, utterances in scores["problems"].items():
            lines += _named(name, dict.fromkeys(utterances, PROBLEMS[key]))
    for name, scores in result.get("untranscribed", {}).items():
        lines += _named(f"{name}, no audio", scores["missing"])
        lines += _named(f"{name}, evaluator failed", scores["unheard"])
    lines += [f"- {measure(key).label}: {reason}" for key, reason in result["unavailable"].items()]
    if reference["vocabulary"] is not None:
        lines.append(f"- the recogniser chooses among {reference['vocabulary']} words, all equally likely anywhere")
    if reference["unknown_words"]:
        words = ", ".join(f"{word} ({count})" for word, count in reference["unknown_words"].items())
        lines.append(f"- words that the recogniser does not know and so cannot hear: {words}")
    if reference["other_prompt_speaker"]:
        lines.append(f"- prompts of another speaker than the recording's: {reference['other_prompt_speaker']}")
    lines.append(
        f"- codec FD: Fréchet distance to the codec frames of `{reference['frechet_reference']}`, of the frames that a"
        " system says; it sees which frames occur, not their order"
    )
    lines += _few_frames(result)
    lines.append("- FD, heard: the same of the codes that the codec makes of a system's audio, so that all have one")
    lines += speed_remarks(result["systems"]) + mode_remarks(result["systems"]) + untranscribed_remarks(result)
    lines += _about_repeats(result)
    lines.append("- a distance between few utterances is biased upwards; the corrected one is not, and can be negative")
    return lines


def _few_frames(result: Result) -> list[str]:
    sizes = [(one["frechet"]["frames"], one["frechet"]["dimensions"]) for one in result["systems"].values()]
    least = min((frames / width for frames, width in sizes if frames), default=float(ENOUGH_FRAMES_PER_DIMENSION))
    if least >= ENOUGH_FRAMES_PER_DIMENSION:
        return []
    return [
        f"- {least:.0f} frames for each dimension are fewer than {ENOUGH_FRAMES_PER_DIMENSION}: distances to the same"
        " sentences can be compared within their intervals, those to other sentences are sampling for the most part"
    ]


def _about_repeats(result: Result) -> list[str]:
    resamples, utterances = result["settings"]["resamples"], result["reference"]["utterances"]
    line = f"- intervals: {resamples} bootstrap resamples of {utterances} utterances, drawn within their speakers"
    counts = sorted({len(scores["repeats"]) for scores in result["systems"].values() if scores["timing"] is not None})
    if not counts or counts[-1] == 1:
        return [line]
    return [
        f"{line}, and of a system's outputs",
        f"- outputs with different seeds: {' or '.join(map(str, counts))}; figures are means over them, speeds medians",
    ]


def _section(result: Result, folder: Path) -> str:
    systems = result["systems"]
    parts = [f"## {result['title']}\n"]
    strategies = strategy_table(systems, result["unavailable"])
    if strategies:
        parts.append("### Strategies\n\n" + strategies)
    untranscribed = result.get("untranscribed", {})
    modes = mode_table(systems, untranscribed)
    if modes:
        parts.append("### Modes\n\n" + modes)
    if untranscribed:
        parts.append("### Speech without a text\n\n" + untranscribed_table(untranscribed))
    if any(scores["wer"] is not None for scores in systems.values()):
        parts.append("### WER\n\n" + error_table(systems, "wer"))
        parts.append("### CER\n\n" + error_table(systems, "cer"))
    parts.append("### Measures\n\n" + metric_table(systems, result["unavailable"]))
    quality = quality_table(systems, result["unavailable"])
    if quality:
        parts.append("### Quality\n\n" + quality)
    parts.append("### What went wrong, utterances\n\n" + problem_table(systems))
    if result["comparisons"]:
        parts.append("### Differences on the same utterances\n\n" + comparison_table(result["comparisons"]))
    if any(len((scores["speaker"] or {}).get("by_speaker", {})) > 1 for scores in systems.values()):
        parts.append("### Speaker similarity, own / others\n\n" + speaker_table(systems))
    parts.append("### Remarks\n\n" + "".join(f"{line}\n" for line in remarks(result)))
    figures = "".join(
        f"![{caption}]({os.path.relpath(path, folder)})\n\n" for caption, path in result["figures"].items()
    )
    return "\n".join(parts) + (f"\n### Figures\n\n{figures}" if figures else "")


def environment_block(environment: Mapping[str, str]) -> str:
    """ESPnet's list of versions.

    Args:
        environment: name → value.

    Returns:
        Lines of a Markdown list.
    """
    return "".join(f"- {name}: `{value}`\n" for name, value in environment.items())


def results_page(results: Sequence[Result], folder: Path) -> str:
    """The page of one or several test sets.

    Args:
        results: contents of scores.json files; the environment is that of the newest.
        folder: where the page will be; links to figures start there.

    Returns:
        Contents of RESULTS.md.
    """
    newest = max(results, key=lambda result: str(result["environment"]["date"]))
    parts = ["<!-- Generated by espnet_ext.bin.evaluate -->\n# RESULTS\n"]
    parts.append("## Environments\n\n" + environment_block(newest["environment"]))
    parts += [_section(result, folder) for result in results]
    return "\n".join(parts).rstrip("\n") + "\n"


def terminal_summary(results: Sequence[Result]) -> str:
    """The most important measures as aligned text.

    Args:
        results: contents of scores.json files.

    Returns:
        Lines.
    """
    rows = [["test set", "system", "WER %", "speaker own", "others", "codec FD", "duration", "EOS %", "RTF"]]
    for result in results:
        for name, scores in result["systems"].items():
            row = [result["title"], name, shown(scores, "wer"), shown(scores, "speaker")]
            row += [number((scores["speaker"] or {}).get("other"), 3), shown(scores, "frechet")]
            row += [number(scores["duration_ratio"], 2), percent(scores["eos_rate"]), number(scores["rtf"], 3)]
            rows.append(row)
        for name, scores in result.get("untranscribed", {}).items():
            distance, costs = number(scores["frechet"]["distance"], 4), number(scores["rtf"], 3)
            rows.append([result["title"], name, "no text", ABSENT, ABSENT, distance, ABSENT, ABSENT, costs])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)
