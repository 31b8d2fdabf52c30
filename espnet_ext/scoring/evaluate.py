"""All measures of all systems on one test set, as a dictionary that can be written as JSON."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from espnet_ext.jobs import Workers
from espnet_ext.scoring.asr import known_words, transcribe, unknown_words
from espnet_ext.scoring.bootstrap import corrected, percentiles, ratio_draws, resample_weights
from espnet_ext.scoring.error_rate import ErrorCounts, character_errors, total, word_errors
from espnet_ext.scoring.frame_distance import Dequantiser, distance_to_reference, frame_distances
from espnet_ext.scoring.speaker import Embedding, Similarity, embed_files, similarities
from espnet_ext.scoring.system import Reference, System
from espnet_ext.scoring.untranscribed import untranscribed_measures

Array = NDArray[np.float64]
Result = dict[str, Any]
SAME_CODES = {"local_speculative": "local_ar"}  # a strategy and the one whose codes it should repeat


@dataclass(frozen=True)
class Settings:
    """How to evaluate.

    Attributes:
        workers: who listens to the speech.
        vocabulary: further texts whose words may be heard, besides the test set's own.
        resamples: bootstrap draws.
        seed: of the draws.
        compare: pairs of system names whose difference is wanted; empty: every system of an experiment, and of a
            mode where it has modes, minus its parallel one (its first one, where none is parallel), and `SAME_CODES`.
        frechet_reference: directory of other codes to measure the distance to; None: those of the test set itself.
        folder: where finished work is kept for a run that continues; None keeps nothing.
    """

    workers: Workers = Workers()
    vocabulary: tuple[str, ...] = ()
    resamples: int = 1000
    seed: int = 0
    compare: tuple[tuple[str, str], ...] = ()
    frechet_reference: Path | None = None
    folder: Path | None = None

    def part(self, name: str) -> Path | None:
        """A place in `folder` for one kind of work."""
        return None if self.folder is None else self.folder / name


def _mean(values: Sequence[float]) -> float | None:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else None


# --- words -----------------------------------------------------------------------------------------------------------


def _recognise(reference: Reference, systems: Iterable[System], settings: Settings) -> dict[str, dict[str, str]]:
    listed = list(systems)
    files = {(system.name, one): path for system in listed for one, path in system.whole.items()}
    texts = [*reference.transcripts.values(), *settings.vocabulary]
    heard = transcribe(files, texts, settings.workers, settings.part("recognition"))
    return {system.name: {one: heard[system.name, one] for one in system.whole} for system in listed}


def _rate(counts: Mapping[str, ErrorCounts], weights: Array) -> tuple[Result, Array]:
    pooled = total(counts.values())
    draws = ratio_draws(
        np.array([one.errors for one in counts.values()], dtype=np.float64),
        np.array([one.reference for one in counts.values()], dtype=np.float64),
        weights,
    )
    wrong = sum(one.errors > 0 for one in counts.values())
    values = {**asdict(pooled), "reference": pooled.reference, "rate": pooled.rate if pooled.reference else None}
    return {"sentences": len(counts), "wrong_sentences": wrong, **values, "interval": percentiles(draws)}, draws


# --- voices ----------------------------------------------------------------------------------------------------------


def _speaker_summary(values: Mapping[str, Similarity], targets: Mapping[str, str]) -> Result:
    def summary(chosen: Sequence[Similarity]) -> Result:
        nearest = _mean([float(one.nearest) for one in chosen if np.isfinite(one.other)])
        own, other = _mean([one.own for one in chosen]), _mean([one.other for one in chosen])
        return {"utterances": len(chosen), "own": own, "other": other, "nearest": nearest}

    names = sorted({targets[one] for one in values})
    by_speaker = {name: summary([value for one, value in values.items() if targets[one] == name]) for name in names}
    return {**summary(list(values.values())), "by_speaker": by_speaker}


def _voices(reference: Reference, systems: Iterable[System], settings: Settings) -> dict[str, dict[str, Embedding]]:
    sources = {"": reference.wavs, **{system.name: system.wavs for system in systems}}
    files = [path for wavs in sources.values() for path in wavs.values()]
    vectors = embed_files(files, settings.workers, settings.part("voices"))
    return {
        name: {one: vectors[path] for one, path in wavs.items() if path in vectors} for name, wavs in sources.items()
    }


def _likeness(system: System, reference: Reference, voices: Mapping[str, Mapping[str, Embedding]]) -> Result:
    targets = system.targets(reference)
    values = similarities(voices[system.name], voices[""], reference.utt2spk, targets)
    source = similarities(voices[system.name], voices[""], reference.utt2spk, reference.utt2spk)
    changed = [value.own for one, value in source.items() if targets[one] != reference.utt2spk[one]]
    return {
        "speaker": {**_speaker_summary(values, targets), "source": _mean(changed)},
        "similarities": {
            one: [value.own, value.other if np.isfinite(value.other) else None] for one, value in values.items()
        },
        "other_prompt_speaker": sum(targets[one] != reference.utt2spk[one] for one in reference.transcripts),
    }


# --- everything ------------------------------------------------------------------------------------------------------


def _compared(systems: Sequence[System], wanted: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    if wanted:
        names = [system.name for system in systems]
        for name in (name for pair in wanted for name in pair):
            if name not in names:
                raise ValueError(f"compare must name systems among {names}, got {name!r}")
        return list(wanted)
    pairs = []
    for task in dict.fromkeys(_task(system) for system in systems if system.experiment is not None):
        models = [system for system in systems if system.experiment is not None and _task(system) == task]
        baseline = next((system for system in models if system.decoding == "parallel"), models[0])
        pairs += [(system.name, baseline.name) for system in models if system is not baseline]
        for system in models:
            same = SAME_CODES.get(system.decoding or "")
            pairs += [(system.name, other.name) for other in models if same is not None and other.decoding == same]
    return list(dict.fromkeys(pairs))


def _task(system: System) -> tuple[Path | None, str | None]:
    """What only the strategy may differ in where systems are compared: the model, and what it was asked for."""
    asked = None if system.mode is None else system.directory.parent.name.replace(str(system.decoding), "")
    return system.experiment, asked


def _difference(first: float | None, second: float | None, draws: Array) -> Result | None:
    if first is None or second is None:
        return None
    without_bias = corrected(first - second, draws)
    if without_bias is None:
        return None
    return {"difference": first - second, "corrected": without_bias[0], "interval": without_bias[1]}


def _delivery(system: System, reference: Reference) -> Result:
    ratios = {
        one: length / reference.seconds[one] for one, length in system.seconds.items() if one in reference.seconds
    }
    states = None  # only what generates can forget to end
    if system.status is not None and system.experiment is not None:
        states = [system.status.get(one, "missing") for one in reference.transcripts]
    return {
        "directory": str(system.directory),
        "utterances": len(system.wavs),
        "missing": system.missing,
        "duration_ratio": _mean(list(ratios.values())),
        "duration_ratios": ratios,
        "eos_rate": None if states is None else states.count("ok") / len(states),
        "rtf": None if system.timing is None else system.timing.get("rtf"),
        "timing": system.timing,
    }


def _comparison(
    pair: tuple[str, str], results: Mapping[str, Result], draws: Mapping[str, Mapping[str, Array]]
) -> Result:
    one, other = pair
    rows: Result = {"first": one, "second": other}
    for measure, value in (("frechet", "distance"), ("wer", "rate")):
        difference = draws[measure][one] - draws[measure][other]
        rows[measure] = _difference(results[one][measure][value], results[other][measure][value], difference)
    return rows


def _about(reference: Reference, settings: Settings) -> Result:
    return {
        "directory": str(reference.directory),
        "frechet_reference": str(settings.frechet_reference or reference.directory),
        "utterances": len(reference.transcripts),
        "seconds": sum(reference.seconds.values()),
        "speakers": len({reference.utt2spk[one] for one in reference.transcripts}),
        "transcripts": reference.transcripts,
        "missing": reference.missing,
        "skipped": reference.skipped,
        "vocabulary": len(known_words([*reference.transcripts.values(), *settings.vocabulary])),
        "unknown_words": unknown_words(reference.transcripts.values()),
        "other_prompt_speaker": sum(reference.targets[one] != reference.utt2spk[one] for one in reference.transcripts),
    }


def evaluate(
    reference: Reference,
    systems: Sequence[System],
    codec: Dequantiser,
    settings: Settings,
    untranscribed: Sequence[System] = (),
) -> Result:
    """Every measure of every system, and the wanted differences between systems.

    Args:
        reference: the test set.
        systems: at least one, names all different.
        codec: makes frame vectors of codes.
        settings: how to evaluate.
        untranscribed: systems that were not told what to say, from `load_untranscribed`.

    Returns:
        Plain values: "reference", "systems" (name → measures), "untranscribed" (the same of fewer measures),
        "comparisons" and "settings".
    """
    pairs = _compared(systems, settings.compare)  # first: it can fail, and what follows takes long
    weights = resample_weights(
        [reference.utt2spk[one] for one in reference.transcripts], settings.resamples, settings.seed
    )
    frechet, frechet_draws = frame_distances(codec, reference, systems, settings.frechet_reference, weights)
    heard = _recognise(reference, [*systems, *untranscribed], settings)
    voices = _voices(reference, [*systems, *untranscribed], settings)
    results: dict[str, Result] = {}
    word_draws = {}
    for system in systems:
        name = system.name
        # an utterance without audio is heard as nothing, so that its words count as deletions
        hypotheses = {one: heard[name].get(one, "") for one in reference.transcripts}
        words = {one: word_errors(text, hypotheses[one]) for one, text in reference.transcripts.items()}
        letters = {one: character_errors(text, hypotheses[one]) for one, text in reference.transcripts.items()}
        wer, word_draws[name] = _rate(words, weights)
        results[name] = {
            **_delivery(system, reference),
            "wer": wer,
            "cer": _rate(letters, weights)[0],
            "frechet": frechet[name],
            **_likeness(system, reference, voices),
            "hypotheses": hypotheses,
        }
        if system.missing:
            logging.warning("%s lacks %d of %d utterances", name, len(system.missing), len(words))
    draws = {"frechet": frechet_draws, "wer": word_draws}
    return {
        "reference": _about(reference, settings),
        "systems": results,
        "untranscribed": {
            system.name: {
                **untranscribed_measures(system, heard[system.name], voices[system.name], voices[""], reference),
                "frechet": distance_to_reference(codec, reference, system, settings.frechet_reference),
            }
            for system in untranscribed
        },
        "comparisons": [_comparison(pair, results, draws) for pair in pairs],
        "settings": {"resamples": settings.resamples, "seed": settings.seed},
    }
