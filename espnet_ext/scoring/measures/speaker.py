"""Whose voice it is: similarity of speech to its target speaker and to the others of the test set, and means of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from espnet_ext.scoring.evaluators import Embedding
from espnet_ext.scoring.measures.bootstrap import Resamples, percentiles
from espnet_ext.scoring.measures.quality import mean
from espnet_ext.scoring.scores import Mean, SpeakerMean, SpeakerScores
from espnet_ext.scoring.system import Reference, System


@dataclass(frozen=True)
class Similarity:
    """Cosine similarities of one utterance.

    Attributes:
        own: to the centroid of its target speaker.
        other: mean over the centroids of the other speakers; NaN if there are none.
        nearest: whether the target speaker's centroid is the nearest of all.
    """

    own: float
    other: float
    nearest: bool


def _centroids(originals: Mapping[str, Embedding], utt2spk: Mapping[str, str], left_out: str) -> dict[str, Embedding]:
    by_speaker: dict[str, list[Embedding]] = {}
    for utterance, vector in originals.items():
        if utterance != left_out:
            by_speaker.setdefault(utt2spk[utterance], []).append(vector)
    means = {speaker: np.mean(vectors, axis=0) for speaker, vectors in by_speaker.items()}
    return {speaker: mean / np.linalg.norm(mean) for speaker, mean in means.items()}


def nearest_voices(
    embeddings: Mapping[str, Embedding], originals: Mapping[str, Embedding], utt2spk: Mapping[str, str]
) -> dict[str, float]:
    """Similarity of every utterance to that speaker of the originals whom it resembles most.

    Args:
        embeddings: utterance → what a system made, of nobody in particular.
        originals: utterance → its recording.
        utt2spk: utterance → speaker of the recording.

    Returns:
        Utterance → cosine similarity to the nearest centroid; nothing without originals.
    """
    centroids = _centroids(originals, utt2spk, left_out="").values()
    if not centroids:
        return {}
    return {utterance: max(float(vector @ one) for one in centroids) for utterance, vector in embeddings.items()}


def similarities(
    embeddings: Mapping[str, Embedding],
    originals: Mapping[str, Embedding],
    utt2spk: Mapping[str, str],
    targets: Mapping[str, str],
) -> dict[str, Similarity]:
    """Similarities of a system's utterances to the speakers of the originals.

    A speaker's centroid is the mean of that speaker's originals without the original of the utterance at hand, so that
    copying its recording exactly gains nothing over another recording of the same voice.

    Args:
        embeddings: utterance → what a system made of it.
        originals: utterance → its recording.
        utt2spk: utterance → speaker of the recording.
        targets: utterance → speaker that the system was prompted with.

    Returns:
        Utterance → similarities, without utterances whose target speaker has no other recording.
    """
    result = {}
    for utterance, vector in embeddings.items():
        close = {name: float(vector @ one) for name, one in _centroids(originals, utt2spk, utterance).items()}
        own = close.pop(targets[utterance], None)
        if own is None:
            continue
        other = float(np.mean(list(close.values()))) if close else float("nan")
        result[utterance] = Similarity(own, other, all(own > value for value in close.values()))
    return result


def _mean(chosen: Sequence[Similarity]) -> SpeakerMean:
    nearest = mean(float(one.nearest) for one in chosen if np.isfinite(one.other))
    return SpeakerMean(len(chosen), mean(one.own for one in chosen), mean(one.other for one in chosen), nearest)


def _prompt_similarity(
    system: System,
    reference: Reference,
    voices: Sequence[Mapping[str, Embedding]],
    prompts: Mapping[str, Embedding],
    resamples: Resamples,
) -> Mean:
    """Mean similarity to the very recording of the prompt, as benchmarks with fixed pairs have it."""
    rows = np.full((len(voices), len(reference.transcripts)), np.nan)
    for row, run, vectors in zip(rows, system.runs, voices, strict=True):
        for column, one in enumerate(reference.transcripts):
            if one in vectors and one in prompts and run.has_prompt_of(one, reference):
                row[column] = vectors[one] @ prompts[one]
    value, draws = resamples.mean(rows)
    return Mean(value, percentiles(draws), int(np.isfinite(rows).sum()))


def speaker_scores(
    system: System,
    reference: Reference,
    voices: Sequence[Mapping[str, Embedding]],
    recorded: tuple[Mapping[str, Embedding], Mapping[str, Embedding]],
    resamples: Resamples,
) -> SpeakerScores:
    """Similarity to the speakers of the prompts, to the prompts, and to other speakers.

    Args:
        system: the system.
        reference: the test set.
        voices: for every repeat, utterance → embedding.
        recorded: utterance → embedding of its recording, and utterance → embedding of its prompt's recording.
        resamples: draws of utterances and repeats.

    Returns:
        Means over utterances, speakers and repeats.
    """
    originals, prompts = recorded
    runs: list[dict[str, Similarity]] = []
    changed = []
    by_speaker: dict[str, list[Similarity]] = {}
    for run, vectors in zip(system.runs, voices, strict=True):
        targets = run.targets(reference)
        runs.append(similarities(vectors, originals, reference.utt2spk, targets))
        source = similarities(vectors, originals, reference.utt2spk, reference.utt2spk)
        changed += [value.own for one, value in source.items() if targets[one] != reference.utt2spk[one]]
        for one, value in runs[-1].items():
            by_speaker.setdefault(targets[one], []).append(value)
    own = np.array([[run[one].own if one in run else np.nan for one in reference.transcripts] for run in runs])
    return SpeakerScores(
        **vars(_mean([value for run in runs for value in run.values()])),
        interval=percentiles(resamples.mean(own)[1]),
        by_speaker={name: _mean(by_speaker[name]) for name in sorted(by_speaker)},
        source=mean(changed),
        prompt=_prompt_similarity(system, reference, voices, prompts, resamples),
        repeats=[mean(value.own for value in run.values()) for run in runs],
    )
