"""All measures of all systems on one test set, as a dictionary that can be written as JSON."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from espnet_ext.scoring.compared import pairs_to_compare
from espnet_ext.scoring.evaluators.recogniser import recognisers
from espnet_ext.scoring.measures.bootstrap import Array, Resamples, corrected
from espnet_ext.scoring.measures.error_rate import total
from espnet_ext.scoring.measures.fluency import is_repeated, is_truncated
from espnet_ext.scoring.measures.frame_codes import heard_codes, said_codes
from espnet_ext.scoring.measures.frame_distance import Dequantiser, distance_to_reference, frame_distances
from espnet_ext.scoring.measures.heard import Heard, hear
from espnet_ext.scoring.measures.likeness import likeness, mean
from espnet_ext.scoring.measures.quality import means, summarise
from espnet_ext.scoring.measures.same_audio import same_codes
from espnet_ext.scoring.measures.untranscribed import untranscribed_measures
from espnet_ext.scoring.measures.words import Errors, Vocabulary, errors_of, rate, rate_of
from espnet_ext.scoring.settings import Settings
from espnet_ext.scoring.system import Reference, System

Result = dict[str, Any]
DELIVERY_FAULTS = {"repeated": is_repeated, "truncated": is_truncated}
HEARD_RESAMPLES = 200  # of the distance of what the codec hears: a control, whose interval need not cost minutes
RATES = ("rtf", "frames_per_second", "local_passes_per_frame", "local_passes_per_step", "codes_per_pass")


def _costs(system: System) -> Result | None:
    """Costs of the first output; speeds, which are noisy, are the median over all."""
    if system.timing is None:
        return None
    timings = [run.timing or {} for run in system.runs]
    found = {name: [costs[name] for costs in timings if name in costs] for name in RATES}
    return {**system.timing, **{name: statistics.median(values) for name, values in found.items() if values}}


def _delivery(system: System, reference: Reference) -> Result:
    ratios = [
        length / reference.seconds[one]
        for run in system.runs
        for one, length in run.seconds.items()
        if one in reference.seconds
    ]
    states = None  # only what generates can forget to end
    if system.status is not None and system.generates:
        states = [(run.status or {}).get(one, "missing") for run in system.runs for one in reference.transcripts]
    costs = _costs(system)
    return {
        "directory": str(system.directory),
        "utterances": sum(len(run.wavs) for run in system.runs),
        "missing": {
            _labelled(one, run, number): reason
            for number, run in enumerate(system.runs)
            for one, reason in run.missing.items()
        },
        "duration_ratio": mean(ratios),
        "eos_rate": None if states is None else states.count("ok") / len(states),
        "rtf": None if costs is None else costs.get("rtf"),
        "timing": costs,
        "decoding": _decoding(system),
        "other_prompt_speaker": _changed_speakers(system, reference),
    }


def _changed_speakers(system: System, reference: Reference) -> int:
    targets = system.targets(reference)
    return sum(targets[one] != reference.utt2spk[one] for one in reference.transcripts)


def _decoding(system: System) -> Result | None:
    if system.decoding is None or system.timing is None:
        return None
    return {
        "name": system.decoding,
        "conf": system.timing.get("decoding_conf") or {},
        "sampling": system.sampling,
        "stacking": system.timing.get("frame_stacking_factor"),
        "seeds": [run.seed for run in system.runs],
    }


def _problems(system: System, reference: Reference, heard: Heard) -> dict[str, list[str]]:
    """Utterances of any repeat that something is wrong with, by what it is."""
    found: dict[str, list[str]] = {name: [] for name in ("silent", "clipped", "no_eos", "repeated", "truncated")}
    for number, run in enumerate(system.runs):
        words = heard.words[system.name][number] if heard.words else {}
        for one, text in reference.transcripts.items():
            wrong = list(run.conditions.get(one, []))
            if system.generates and (run.status or {}).get(one) == "no_eos":
                wrong.append("no_eos")
            if one in words:
                wrong += [name for name, test in DELIVERY_FAULTS.items() if test(text, words[one])]
            for name in wrong:
                found[name].append(_labelled(one, run, number))
    return found


def _labelled(utterance: str, run: System, number: int) -> str:
    return f"{utterance} (seed {run.seed})" if number else utterance


def _difference(first: float | None, second: float | None, draws: Array) -> Result | None:
    if first is None or second is None:
        return None
    without_bias = corrected(first - second, draws)
    if without_bias is None:
        return None
    return {"difference": first - second, "corrected": without_bias[0], "interval": without_bias[1]}


def _comparison(
    pair: tuple[str, str], results: Mapping[str, Result], draws: Mapping[str, Mapping[str, Array]]
) -> Result:
    one, other = pair
    rows: Result = {"first": one, "second": other}
    for measure, value in (("frechet", "distance"), ("wer", "rate")):
        rows[measure] = None
        if one in draws[measure]:
            first, second = (results[name][measure][value] for name in pair)
            rows[measure] = _difference(first, second, draws[measure][one] - draws[measure][other])
    return rows


def _about(reference: Reference, settings: Settings) -> Result:
    recogniser = None if settings.asr is None or settings.asr.unavailable() else recognisers[settings.asr.name]
    vocabulary, unknown = None, {}
    if recogniser is not None and recogniser.hears_given_words:
        texts = list(reference.transcripts.values())
        vocabulary = len(Vocabulary.of(recogniser, [*texts, *settings.vocabulary]).known)
        unknown = Vocabulary.of(recogniser, texts).unknown
    return {
        "directory": str(reference.directory),
        "frechet_reference": str(settings.frechet_reference or reference.directory),
        "utterances": len(reference.transcripts),
        "seconds": sum(reference.seconds.values()),
        "speakers": len({reference.utt2spk[one] for one in reference.transcripts}),
        "transcripts": reference.transcripts,
        "missing": reference.missing,
        "skipped": reference.skipped,
        "recogniser": None if settings.asr is None else settings.asr.name,
        "vocabulary": vocabulary,
        "unknown_words": unknown,
        "other_prompt_speaker": sum(reference.targets[one] != reference.utt2spk[one] for one in reference.transcripts),
    }


def _repeats(system: System, heard: Heard, scores: Result, errors: Errors | None) -> list[Result]:
    """The figures of each output alone."""
    found = []
    for number, run in enumerate(system.runs):
        words, letters = (None, None) if errors is None else (errors.words[number], errors.letters[number])
        found.append(
            {
                "directory": str(run.directory),
                "seed": run.seed,
                "wer": None if words is None else rate_of(total(words.values())),
                "cer": None if letters is None else rate_of(total(letters.values())),
                "frechet": scores["frechet"]["repeats"][number],
                "speaker": None if scores["speaker"] is None else scores["speaker"]["repeats"][number],
                "rtf": (run.timing or {}).get("rtf"),
                "measures": means(heard.numbers[system.name][number]),
            }
        )
    return found


def _hypotheses(system: System, reference: Reference, heard: Heard) -> dict[str, str]:
    """What was heard of the first output; nothing where there is no audio."""
    if not heard.words:
        return {}
    return {one: heard.words[system.name][0].get(one, "") for one in reference.transcripts}


def _scores(
    system: System, reference: Reference, heard: Heard, distances: Result, resamples: Resamples
) -> tuple[Result, Array | None]:
    """Measures of one system, and its word error rate in every resample."""
    errors, wer, cer, draws, voices = None, None, None, None, None
    if heard.words:
        errors = errors_of(reference.transcripts, heard.words[system.name])
        wer, draws = rate(errors.words, resamples)
        cer = rate(errors.letters, resamples)[0]
    if heard.voices:
        voices = likeness(system, reference, heard.voices[system.name], heard.originals, resamples)
    scores: Result = {**_delivery(system, reference), "wer": wer, "cer": cer, **distances, "speaker": voices}
    numbers = heard.numbers[system.name]
    unheard = heard.unheard[system.name]
    scores |= {
        "measures": summarise(list(reference.transcripts), numbers, resamples),
        "problems": _problems(system, reference, heard),
        "unheard": {
            _labelled(one, run, number): reason
            for number, run in enumerate(system.runs)
            for one, reason in unheard[number].items()
        },
        "hypotheses": _hypotheses(system, reference, heard),
    }
    scores["repeats"] = _repeats(system, heard, scores, errors)
    return scores, draws


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
        "comparisons", "unavailable" (measure → why nobody has it) and "settings".
    """
    pairs = pairs_to_compare(systems, settings.compare)  # first: it can fail, and what follows takes long
    groups = [reference.utt2spk[one] for one in reference.transcripts]
    resamples = Resamples.draw(groups, settings.resamples, settings.seed)
    said = {
        system.name: [said_codes(run, reference, codec.spec.num_codebooks) for run in system.runs] for system in systems
    }
    spoken = heard_codes(settings.codec_info, systems, reference, settings.workers, settings.part("codes"))
    frechet, frechet_draws = frame_distances(codec, reference, said, settings.frechet_reference, resamples)
    again: dict[str, Result] | dict[str, None] = dict.fromkeys(said)
    if spoken is not None:
        fewer = Resamples(resamples.utterances[:HEARD_RESAMPLES], resamples.seed)
        again, _ = frame_distances(codec, reference, spoken, settings.frechet_reference, fewer)
    heard = hear(reference, systems, untranscribed, settings)
    results: dict[str, Result] = {}
    word_draws = {}
    same = same_codes(systems)
    for system in systems:
        distances = {"frechet": frechet[system.name], "frechet_heard": again[system.name]}
        results[system.name], draws = _scores(system, reference, heard, distances, resamples)
        results[system.name]["same_codes_as"] = same.get(system.name)
        if draws is not None:
            word_draws[system.name] = draws
        for run in system.runs:
            if run.missing:
                logging.warning("%s lacks %d of %d utterances", run.directory, len(run.missing), len(groups))
    draws_of = {"frechet": frechet_draws, "wer": word_draws}
    return {
        "reference": _about(reference, settings),
        "systems": results,
        "untranscribed": {
            system.name: {
                **untranscribed_measures(system, heard, reference),
                "frechet": distance_to_reference(codec, reference, system, settings.frechet_reference),
            }
            for system in untranscribed
        },
        "comparisons": [_comparison(pair, results, draws_of) for pair in pairs],
        "unavailable": heard.unavailable,
        "settings": {"resamples": settings.resamples, "seed": settings.seed},
    }
