"""Audio at other sample rates, and files of any kind as the evaluators want them: mono float32 at one rate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

from espnet_ext.data.audio import check_samples, read_channels

EVALUATION_RATE_HZ = 16000  # of the recogniser's acoustic model and of the speaker encoder


def read_mono(path: Path) -> tuple[NDArray[np.float32], int]:
    """Samples (samples,) float32 at full scale 1, channels averaged, and their rate in Hz.

    Args:
        path: file in any format that libsndfile reads.

    Returns:
        Samples, at least one, and sample rate.

    Raises:
        UserError: if the file is missing, unreadable, empty or not finite; the kind of trouble comes first.
    """
    samples, rate = read_channels(path)
    check_samples(samples, path)
    return samples.mean(axis=1), rate


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
