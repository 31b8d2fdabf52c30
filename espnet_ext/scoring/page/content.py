"""What the page shows of a scores.json, as plain values for the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from espnet_ext.data.ctm import WORDS_NAME, Words, read_ctm
from espnet_ext.data.datadir import read_scp
from espnet_ext.errors import UserError
from espnet_ext.scoring.evaluators import Recogniser, recognisers
from espnet_ext.scoring.page.confined import confined_wavs, directories_of
from espnet_ext.scoring.page.heard import marked
from espnet_ext.scoring.page.media import audio_uri, picture_uri, spectrogram_uri
from espnet_ext.scoring.page.pareto_plot import Plot, plot
from espnet_ext.scoring.scores import Scores
from espnet_ext.scoring.tables.advice import TARGETS, advise, candidate, undecided
from espnet_ext.scoring.tables.figures import choose_utterances
from espnet_ext.scoring.tables.measure import MEASURES, Systems, cells, measure, value_of
from espnet_ext.scoring.tables.measure_tables import PROBLEMS
from espnet_ext.scoring.tables.report import differences, remarks
from espnet_ext.tokenizers.codec import read_codec_info

Values = dict[str, Any]
PLOTTED = ("wer", "cer", "frechet", "frechet_heard", "speaker", "dnsmos_ovrl", "utmos", "mcd")


def _columns(systems: Systems) -> list[str]:
    """Measures that some system has, in the order of `MEASURES`, then those of other evaluators."""
    keys = dict.fromkeys([*MEASURES, *(key for scores in systems.values() for key in scores.measures)])
    return [key for key in keys if any(value_of(scores, key) is not None for scores in systems.values())]


def table(result: Scores, front: Sequence[str]) -> Values:
    """Columns and rows of all measures; rows of systems on a Pareto front are marked."""
    systems = result.systems
    keys = _columns(systems)
    keys += [key for key in ("wer", "speaker", "dnsmos_ovrl", "mcd") if key not in keys]
    choice = [candidate(name, [scores]) for name, scores in systems.items() if scores.generates]
    best = {key: undecided(choice, key) for key in keys}
    columns = [{"label": measure(key).label, "what": measure(key).what, "better": measure(key).better} for key in keys]
    rows = []
    for name, scores in systems.items():
        row = []
        for key in keys:
            value, (text, ends) = value_of(scores, key), cells(scores, key, result.unavailable)
            ends = ends.strip("–").replace(" …", "\N{NO-BREAK SPACE}…")  # two lines where there is no room for one
            row.append({"text": text, "value": value, "interval": ends, "best": name in best[key]})
        rows.append({"name": name, "cells": row, "front": name in front})
    return {"columns": columns, "rows": rows}


def _wavs(directory: Path, folders: Sequence[Path]) -> dict[str, str]:
    try:
        return confined_wavs(read_scp(directory / "wav.scp"), folders, directory / "wav.scp")
    except FileNotFoundError:
        raise UserError(f"scores must be of directories that are there, got {directory} without wav.scp") from None


def _clip(wavs: Mapping[str, str], utterance: str, heard: Markup | None, words: Words) -> Values:
    if utterance not in wavs:
        return {"missing": "no audio"}
    path = Path(wavs[utterance])
    try:
        return {"audio": audio_uri(path), "picture": spectrogram_uri(path), "heard": heard, "words": words}
    except ValueError as error:
        return {"missing": str(error).partition(":")[0]}


def sentences(result: Scores, count: int) -> Values:
    """The same sentences by all systems.

    Args:
        result: of one test set.
        count: how many sentences.

    Returns:
        "utterances" (id and text) and "rows" (name and one clip each) for the template.

    Raises:
        UserError: if the directory of a system is gone.
    """
    texts, recogniser = result.reference.transcripts, result.reference.recogniser
    kind = recognisers[recogniser] if recogniser and recogniser in recognisers else Recogniser
    wavs = {name: _wavs(Path(scores.directory), directories_of(result)) for name, scores in result.systems.items()}
    utt2spk = read_scp(Path(result.reference.directory) / "utt2spk")
    chosen = choose_utterances({one: utt2spk.get(one, "") for one in texts}, list(wavs.values()), count)
    wanted = {one: kind.normalise(texts[one]) for one in chosen}
    rows = []
    for name, scores in result.systems.items():
        said = scores.hypotheses if scores.wer else {}
        heard = {one: marked(wanted[one], said[one]) for one in chosen if one in said}
        words = read_ctm(Path(scores.directory) / WORDS_NAME)
        clips = [_clip(wavs[name], one, heard.get(one), words.get(one, [])) for one in chosen]
        rows.append({"name": name, "clips": clips})
    return {"utterances": [{"id": one, "text": texts[one]} for one in chosen], "rows": rows}


def problems(result: Scores) -> list[Values]:
    """What went wrong: "system", "what" and "names" of each row."""
    rows = []
    for name, scores in result.systems.items():
        found = {label: scores.problems[key] for key, label in PROBLEMS.items()}
        found["no audio"] = [f"{one} ({reason.partition(':')[0]})" for one, reason in scores.missing.items()]
        found["evaluator failed"] = [f"{one} ({reason})" for one, reason in scores.unheard.items()]
        rows += [{"system": name, "what": what, "names": names} for what, names in found.items() if names]
    return rows


def facts(result: Scores) -> dict[str, str]:
    """Of the corpus and the codec: name → value."""
    reference = result.reference
    found = {
        "test set": f"{reference.utterances} utterances, {round(reference.seconds)} s, {reference.speakers} voices",
        "left out of it": str(len(reference.skipped)),
        "without a recording": str(len(reference.missing)),
    }
    path = Path(str(result.request.get("codec_info", "")))
    if path.is_file():
        info = read_codec_info(path)
        spec = info.spec
        bits = spec.frame_rate_hz * spec.num_codebooks * (spec.codebook_size - 1).bit_length()
        found["codec"] = f"{info.name}, {spec.num_codebooks} codebooks of {spec.codebook_size}"
        found["codec rates"] = f"{spec.sample_rate_hz} Hz, {spec.frame_rate_hz:g} frames/s, {bits / 1000:g} kbit/s"
        found["codec fingerprint"] = info.fingerprint[:16] + "…"
    return found


def curves(results: Sequence[Scores]) -> list[Values]:
    """Caption and picture of every training, once however many test sets show it; None where the file is gone."""
    named = [pair for result in results for pair in result.figures.items() if pair[0].startswith("learning curves")]
    found = dict.fromkeys((name, picture_uri(Path(path)) if Path(path).is_file() else None) for name, path in named)
    there = {name for name, picture in found if picture is not None}  # trainings of two folders may have one name
    shown = sorted((pair for pair in found if pair[1] is not None or pair[0] not in there), key=lambda pair: pair[0])
    return [{"caption": caption, "picture": picture} for caption, picture in shown]


def advices(results: Sequence[Scores]) -> list[Values]:
    """For each target the system of choice and the reasons, as `espnet_ext.bin.recommend` gives them without limits."""
    try:
        found = {target: advise(results, target) for target in TARGETS}
    except UserError:  # recordings and controls alone, or test sets without a common system
        return []
    return [
        {"target": target, "chosen": None if one.chosen is None else one.chosen.name, "reasons": one.reasons}
        for target, one in found.items()
    ]


def section(result: Scores, num_sentences: int) -> Values:
    """Everything of one test set.

    Args:
        result: of the test set.
        num_sentences: sentences to listen to.

    Returns:
        Values for the template.

    Raises:
        UserError: if the directory of a system is gone.
    """
    plots: list[Plot] = [found for key in PLOTTED if (found := plot(result.systems, key)) is not None]
    front = list(dict.fromkeys(name for one in plots[:1] for name in one.front))
    return {
        "title": result.title,
        "plots": plots,
        "table": table(result, front),
        "sentences": sentences(result, num_sentences),
        "facts": facts(result),
        "problems": problems(result),
        "unavailable": [{"label": measure(key).label, "reason": reason} for key, reason in result.unavailable.items()],
        "comparisons": [
            {"names": names, "label": label, "difference": corrected, "interval": ends, "is_clear": is_clear}
            for (names, label, _, corrected, ends), is_clear in differences(result.comparisons)
        ],
        "remarks": [line.removeprefix("- ") for line in remarks(result)],
    }
