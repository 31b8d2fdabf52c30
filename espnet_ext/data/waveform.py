"""Audio at other sample rates, and files of any kind as the evaluators want them: mono float32 at one rate."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

from espnet_ext.data.audio import SILENT_PEAK, Audio, at_full_scale, check_samples, read_channels

EVALUATION_RATE_HZ = 16000  # of the recogniser's acoustic model and of the speaker encoder
LEVEL_SEC = 0.02  # of sound has one level
LOUDEST_SEC = 0.2  # a voice is at its loudest for that long in all; a click is not
LEVELS_DB = 30  # below the loudest: what counts as voice, most of it


def read_mono(path: Path | str) -> tuple[NDArray[np.float32], int]:
    """Samples (samples,) float32 at full scale 1, channels mixed, and their rate in Hz; what was mended is logged.

    Args:
        path: file in any format that libsndfile reads.

    Returns:
        Samples, at least one, and sample rate.

    Raises:
        UserError: if the file is missing, unreadable, cut off, empty or not finite; the kind of trouble comes first.
    """
    return _mixed(read_channels(path), path)


def mixed(samples: NDArray[np.float32], rate_hz: int, source: str) -> tuple[NDArray[np.float32], int]:
    """What `read_mono` makes of samples (samples, channels) that were in no file; the source is for messages."""
    scaled, mended = at_full_scale(samples)
    return _mixed(Audio(scaled, rate_hz, mended), source)


def _mixed(audio: Audio, source: Path | str) -> tuple[NDArray[np.float32], int]:
    check_samples(audio.samples, source)
    audio = audio.mono()
    if audio.mended:
        logging.warning("%s: %s", source, audio.mended)
    return audio.samples, audio.rate_hz


def read_resampled(path: Path, rate_hz: int = EVALUATION_RATE_HZ) -> NDArray[np.float32]:
    """Samples (samples,) float32 at `rate_hz`.

    Args:
        path: file in any format that libsndfile reads.
        rate_hz: rate to convert to.

    Returns:
        The samples.
    """
    samples, rate = read_mono(path)
    return resampled(samples, rate, rate_hz)


def resampled(samples: NDArray[np.float32], found_hz: int, wanted_hz: int) -> NDArray[np.float32]:
    """Samples (samples,) float32 at another rate, at least one."""
    if found_hz == wanted_hz:
        return samples
    converted = soxr.resample(samples, found_hz, wanted_hz).astype(np.float32)
    return converted if len(converted) else np.zeros(1, np.float32)  # of the shortest sounds nothing is left


def voice_levels(samples: NDArray[np.floating], rate_hz: int) -> NDArray[np.int64]:
    """How loud every 20 ms are, (levels,): 30 as the loudest 0.2 s, one less for each dB that is missing, 0 at least.

    Silence and room noise of any length do not change the levels of the voice beside them, nor does a click.

    Args:
        samples: (samples,) at any scale.
        rate_hz: their rate.

    Returns:
        The levels; what is left at the end has none.
    """
    size = max(round(LEVEL_SEC * rate_hz), 1)
    energies = samples[: len(samples) // size * size].reshape(-1, size).astype(np.float64).var(axis=1)
    count = min(round(LOUDEST_SEC / LEVEL_SEC), len(energies))
    loudest = max(np.sort(energies)[-count], SILENT_PEAK**2) if count else 1.0
    decibels = 10 * np.log10(np.maximum(energies, SILENT_PEAK**4) / loudest)
    return np.rint(LEVELS_DB + decibels).clip(0, LEVELS_DB).astype(np.int64)


def most_voice(levels: NDArray[np.int64], seconds: float) -> float:
    """Second at which the stretch with the most voice begins; of several the first that begins with some of it.

    Args:
        levels: from `voice_levels`.
        seconds: how long the stretch is.

    Returns:
        The second; 0 if there is no more than that.

    >>> most_voice(np.array([0, 0, 0, 20, 30, 10, 0]), 0.04)
    0.06
    """
    sums = np.concatenate(([0], levels.cumsum()))  # whole numbers, so that equal stretches are equal
    width = min(max(round(seconds / LEVEL_SEC), 1), len(levels))
    voices = sums[width:] - sums[: len(sums) - width]
    begins_with_some = np.append(levels, 0)[: len(voices)] > 0
    return int((2 * voices + begins_with_some).argmax()) * LEVEL_SEC
