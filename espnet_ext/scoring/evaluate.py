"""All measures of all systems on one test set."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from espnet_ext.scoring.compared import pairs_to_compare, same_codes
from espnet_ext.scoring.evaluators import recognisers
from espnet_ext.scoring.measures.bootstrap import Array, Resamples, corrected
from espnet_ext.scoring.measures.error_rate import character_errors, total
from espnet_ext.scoring.measures.fluency import is_repeated, is_truncated
from espnet_ext.scoring.measures.frame_codes import heard_codes, said_codes
from espnet_ext.scoring.measures.frame_distance import Dequantiser, distance_to_reference, frame_distances
from espnet_ext.scoring.measures.heard import Heard, Output, hear
from espnet_ext.scoring.measures.quality import mean, means, summarise
from espnet_ext.scoring.measures.speaker import speaker_scores
from espnet_ext.scoring.measures.untranscribed import untranscribed_scores
from espnet_ext.scoring.measures.words import Counts, Vocabulary, errors_of, rate, rate_of, spelt_for
from espnet_ext.scoring.scores import (
    Comparison,
    Decoding,
    Difference,
    FrameDistance,
    OutputScores,
    ReferenceFacts,
    Scores,
    SystemScores,
)
from espnet_ext.scoring.settings import Settings
from espnet_ext.scoring.system import Reference, System
from espnet_ext.scoring.tables.measure import value_of

Value = TypeVar("Value")
DELIVERY_FAULTS = {"repeated": is_repeated, "truncated": is_truncated}
HEARD_RESAMPLES = 200  # of the distance of what the codec hears: a control, whose interval need not cost minutes
RATES = ("rtf", "frames_per_second", "local_passes_per_frame", "local_passes_per_step", "codes_per_pass")


def _costs(system: System) -> dict[str, Any] | None:
    """Costs of the first output; speeds, which are noisy, are the median over all."""
    if system.timing is None:
        return None
    found = {name: [run.cost(name) for run in system.runs if name in (run.timing or {})] for name in RATES}
    return {**system.timing, **{name: statistics.median(values) for name, values in found.items() if values}}


def _eos_rate(system: System, reference: Reference) -> float | None:
    if system.status is None or not system.generates:  # only what generates can forget to end
        return None
    states = [(run.status or {}).get(one, "missing") for run in system.runs for one in reference.transcripts]
    return states.count("ok") / len(states)


def decoding_of(system: System) -> Decoding | None:
    """How a system was decoded; None for one that nobody decoded."""
    if system.strategy is None:
        return None
    seeds = [run.seed for run in system.runs]
    conf, stacking = system.cost("decoding_conf") or {}, system.cost("frame_stacking_factor")
    limits = system.cost("maxlenratio"), system.cost("min_frames")
    return Decoding(system.strategy, conf, system.sampling, stacking, seeds, *limits)


def _problems(system: System, texts: Mapping[str, str], outputs: Sequence[Output]) -> dict[str, list[str]]:
    """Utterances of any repeat that something is wrong with, by what it is."""
    found: dict[str, list[str]] = {name: [] for name in ("silent", "clipped", "no_eos", "repeated", "truncated")}
    for number, (run, output) in enumerate(zip(system.runs, outputs, strict=True)):
        for one, text in texts.items():
            wrong = list(run.conditions.get(one, []))
            if system.generates and (run.status or {}).get(one) == "no_eos":
                wrong.append("no_eos")
            if one in output.words:
                wrong += [name for name, test in DELIVERY_FAULTS.items() if test(text, output.words[one])]
            for name in wrong:
                found[name].append(_labelled(one, run, number))
    return found


def _labelled(utterance: str, run: System, number: int) -> str:
    return f"{utterance} (seed {run.seed})" if number else utterance


def _of_all(system: System, tables: Sequence[Mapping[str, Value]]) -> dict[str, Value]:
    """One table of those of all outputs; utterances of repeats are labelled with the seed."""
    return {
        _labelled(one, run, number): value
        for number, (run, table) in enumerate(zip(system.runs, tables, strict=True))
        for one, value in table.items()
    }


def _difference(
    pair: tuple[str, str], results: Mapping[str, SystemScores], draws: Mapping[str, Array], key: str
) -> Difference | None:
    if pair[0] not in draws:
        return None
    first, second = (value_of(results[name], key) for name in pair)
    if first is None or second is None:
        return None
    without_bias = corrected(first - second, draws[pair[0]] - draws[pair[1]])
    return None if without_bias is None else Difference(first - second, *without_bias)


def _about(reference: Reference, settings: Settings) -> ReferenceFacts:
    recogniser = None if settings.asr is None or settings.asr.unavailable() else recognisers[settings.asr.name]
    vocabulary, unknown = None, {}
    if recogniser is not None and recogniser.hears_given_words:
        texts = list(reference.transcripts.values())
        vocabulary = len(Vocabulary.of(recogniser, [*texts, *settings.vocabulary]).known) or None
        unknown = Vocabulary.of(recogniser, texts).unknown if vocabulary else {}
    return ReferenceFacts(
        directory=str(reference.directory),
        frechet_reference=str(settings.frechet_reference or reference.directory),
        utterances=len(reference.transcripts),
        seconds=sum(reference.seconds.values()),
        speakers=len({reference.utt2spk[one] for one in reference.transcripts}),
        transcripts=reference.transcripts,
        missing=reference.missing,
        skipped=reference.skipped,
        recogniser=None if settings.asr is None else settings.asr.name,
        vocabulary=vocabulary,
        vocabulary_of=list(settings.vocabulary_of),
        unknown_words=unknown,
        other_prompt_speaker=_other_speakers(reference, reference.targets),
    )


def _other_speakers(reference: Reference, targets: Mapping[str, str]) -> int:
    return sum(targets[one] != reference.utt2spk[one] for one in reference.transcripts)


def _repeats(
    system: System, outputs: Sequence[Output], errors: Mapping[str, Sequence[Counts]], scores: SystemScores
) -> list[OutputScores]:
    """The figures of each output alone."""

    def error_rate(key: str, number: int) -> float | None:
        return rate_of(total(errors[key][number].values())) if key in errors else None

    return [
        OutputScores(
            directory=str(run.directory),
            seed=run.seed,
            wer=error_rate("wer", number),
            cer=error_rate("cer", number),
            frechet=scores.frechet.repeats[number],
            speaker=None if scores.speaker is None else scores.speaker.repeats[number],
            rtf=run.cost("rtf"),
            measures=means(output.numbers),
        )
        for number, (run, output) in enumerate(zip(system.runs, outputs, strict=True))
    ]


def _scores(
    system: System,
    reference: Reference,
    heard: Heard,
    distances: tuple[FrameDistance, FrameDistance | None],
    same: str | None,
    resamples: Resamples,
    texts: Mapping[str, str],
) -> tuple[SystemScores, Array | None]:
    """Measures of one system, and its word error rate in every resample."""
    outputs, runs = heard.outputs[system.name], system.runs
    words = [output.words for output in outputs]
    wer, cer, draws, voices = None, None, None, None
    errors = {}
    if heard.has("wer"):
        errors = {"wer": errors_of(texts, words), "cer": errors_of(texts, words, character_errors)}
        (wer, draws), (cer, _) = (rate(counts, resamples) for counts in errors.values())
    if heard.has("speaker"):
        of_recordings = heard.originals, heard.prompts
        voices = speaker_scores(system, reference, [one.voices for one in outputs], of_recordings, resamples)
    recorded = reference.seconds
    ratios = [length / recorded[one] for run in runs for one, length in run.seconds.items() if one in recorded]
    costs = _costs(system)
    scores = SystemScores(
        directory=str(system.directory),
        utterances=sum(len(run.wavs) for run in runs),
        missing=_of_all(system, [run.missing for run in runs]),
        duration_ratio=mean(ratios),
        eos_rate=_eos_rate(system, reference),
        rtf=None if costs is None else costs.get("rtf"),
        timing=costs,
        decoding=decoding_of(system),
        other_prompt_speaker=_other_speakers(reference, system.targets(reference)),
        wer=wer,
        cer=cer,
        frechet=distances[0],
        frechet_heard=distances[1],
        speaker=voices,
        measures=summarise(list(texts), [one.numbers for one in outputs], resamples),
        problems=_problems(system, texts, outputs),
        unheard=_of_all(system, [one.unheard for one in outputs]),
        hypotheses={one: words[0].get(one, "") for one in texts} if heard.has("wer") else {},
        same_codes_as=same,
    )
    return replace(scores, repeats=_repeats(system, outputs, errors, scores)), draws


def evaluate(
    reference: Reference,
    systems: Sequence[System],
    codec: Dequantiser,
    settings: Settings,
    untranscribed: Sequence[System] = (),
) -> Scores:
    """Every measure of every system, and the wanted differences between systems.

    Args:
        reference: the test set.
        systems: at least one, names all different.
        codec: makes frame vectors of codes.
        settings: how to evaluate.
        untranscribed: systems that were not told what to say, from `load_untranscribed`.

    Returns:
        The scores, without what the command that writes them knows alone: title, environment, figures, request.
    """
    pairs = pairs_to_compare(systems, settings.compare)  # first: it can fail, and what follows takes long
    groups = [reference.utt2spk[one] for one in reference.transcripts]
    resamples = Resamples.draw(groups, settings.resamples, settings.seed)
    codebooks = codec.spec.num_codebooks
    said = {system.name: [said_codes(run, reference, codebooks) for run in system.runs] for system in systems}
    spoken = heard_codes(systems, reference, settings)
    frechet, frechet_draws = frame_distances(codec, reference, said, settings.frechet_reference, resamples)
    again: dict[str, FrameDistance] = {}
    if spoken is not None:
        fewer = Resamples(resamples.utterances[:HEARD_RESAMPLES], resamples.seed)
        again, _ = frame_distances(codec, reference, spoken, settings.frechet_reference, fewer)
    heard = hear(reference, systems, untranscribed, settings)
    results: dict[str, SystemScores] = {}
    word_draws, same, texts = {}, same_codes(systems), spelt_for(settings.asr, reference.transcripts)
    for system in systems:
        name, distances = system.name, (frechet[system.name], again.get(system.name))
        results[name], draws = _scores(system, reference, heard, distances, same.get(name), resamples, texts)
        if draws is not None:
            word_draws[name] = draws
        for run in system.runs:
            if run.missing:
                logging.warning("%s lacks %d of %d utterances", run.directory, len(run.missing), len(groups))
    free = {}
    for system in untranscribed:
        distance = distance_to_reference(codec, reference, system, settings.frechet_reference)
        free[system.name] = untranscribed_scores(system, heard, reference, distance)
    return Scores(
        reference=_about(reference, settings),
        systems=results,
        untranscribed=free,
        comparisons=[
            Comparison(
                *pair,
                frechet=_difference(pair, results, frechet_draws, "frechet"),
                wer=_difference(pair, results, word_draws, "wer"),
            )
            for pair in pairs
        ],
        unavailable=heard.unavailable,
        settings={"resamples": settings.resamples, "seed": settings.seed},
    )
