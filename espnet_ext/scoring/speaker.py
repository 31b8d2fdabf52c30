"""Whose voice it is: similarity of speech to its target speaker and to the other speakers of the test set."""

from __future__ import annotations

import functools
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from espnet_ext.jobs import Work, Workers, run_shards
from espnet_ext.scoring.waveform import EVALUATION_RATE_HZ, read_resampled

if TYPE_CHECKING:
    from resemblyzer import VoiceEncoder

Embedding = NDArray[np.float32]
SHORTEST_SPEECH_SECONDS = 0.3  # where the voice detector leaves less, the whole audio is embedded
SHARD_SIZE = 8
SILENCE = 1e-5  # root mean square, full scale 1; below it there is no voice to describe


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


def load_encoder() -> VoiceEncoder:
    """Resemblyzer's speaker encoder on the CPU, with the weights inside its wheel."""
    with warnings.catch_warnings():
        # its import of scipy.ndimage.morphology is deprecated, which no user of ours can change
        warnings.simplefilter("ignore", DeprecationWarning)
        from resemblyzer import VoiceEncoder
    return VoiceEncoder("cpu", verbose=False)


_load_once = functools.cache(load_encoder)


def embed(encoder: VoiceEncoder, path: Path) -> Embedding | None:
    """Unit vector (256,) that describes the voice of a file; None for silence.

    Args:
        encoder: from `load_encoder`.
        path: audio of any sample rate.

    Returns:
        The embedding.
    """
    from resemblyzer.audio import normalize_volume, trim_long_silences
    from resemblyzer.hparams import audio_norm_target_dBFS

    samples = read_resampled(path)
    if float(np.sqrt(np.mean(samples**2))) < SILENCE:
        return None
    samples = np.clip(normalize_volume(samples, audio_norm_target_dBFS, increase_only=True), -1.0, 1.0)
    speech = trim_long_silences(samples)
    if len(speech) < SHORTEST_SPEECH_SECONDS * EVALUATION_RATE_HZ:
        speech = samples
    return encoder.embed_utterance(speech)


def embed_shard(paths: Mapping[str, Path]) -> dict[str, Embedding | None]:
    """Embeddings of files; None for silent ones.

    Args:
        paths: any key → audio file.

    Returns:
        Key → embedding.
    """
    encoder = _load_once()
    return {key: embed(encoder, path) for key, path in paths.items()}


def embed_files(
    paths: Iterable[Path], workers: Workers | None = None, folder: Path | None = None
) -> dict[Path, Embedding]:
    """Embeddings of files, each file once; silent files are absent.

    Args:
        paths: audio files of any sample rate.
        workers: who does it; None for this process.
        folder: where finished work is kept for a run that continues, all workers must see it; None for a temporary one.

    Returns:
        Path → embedding.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="voices") as name:
            return embed_files(paths, workers, Path(name))
    files = {str(path): path for path in paths}
    work = Work(embed_shard, {}, "speaker embeddings", SHARD_SIZE, lambda path: [path])
    found: dict[Path, Embedding] = {}
    for _, results in run_shards(work, files, folder, workers or Workers()):
        found.update({files[key]: vector for key, vector in results.items() if vector is not None})
    return found


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
