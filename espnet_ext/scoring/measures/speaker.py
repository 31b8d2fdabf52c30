"""Whose voice it is: similarity of speech to its target speaker and to the other speakers of the test set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from espnet_ext.scoring.evaluators.voice import Embedding


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
