"""Waveforms of a codec on disk: mono files at its sample rate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from espnet_ext.errors import UserError
from espnet_ext.storage.atomic import atomic_path


def read_channels(path: Path | str) -> tuple[np.ndarray, int]:
    """Samples of an audio file, (samples, channels) float32 at full scale 1, and its rate in Hz.

    Args:
        path: file in any format that libsndfile reads

    Returns:
        Samples, possibly none, and sample rate.

    Raises:
        UserError: if the file is missing or unreadable; the kind of trouble comes before the first colon
    """
    if not Path(path).is_file():
        raise UserError(f"missing wav: {path}")
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise UserError(f"unreadable wav: {path} ({' '.join(str(error).split())})") from None
    return samples, rate


def check_samples(samples: np.ndarray, path: Path | str) -> None:
    """Refuse audio that holds nothing, or what no codec and no evaluator can use.

    Args:
        samples: what was read
        path: the file it was read from

    Raises:
        UserError: if there are no samples or not all are finite; the kind of trouble comes before the first colon
    """
    if not len(samples):
        raise UserError(f"empty wav: {path}")
    if not np.isfinite(samples).all():
        raise UserError(f"not finite: {path} has NaN or infinite samples")


def read_wav(path: Path | str, sample_rate_hz: int) -> np.ndarray:
    """Samples of a mono audio file: (samples,) float32, full scale 1.

    Args:
        path: file in any format that libsndfile reads
        sample_rate_hz: rate that the file must have

    Returns:
        The samples, at least one.

    Raises:
        UserError: if the file is missing, unreadable, empty, not mono, of another rate, or not finite; the kind
            of trouble comes before the first colon
    """
    samples, rate = read_channels(path)
    if rate != sample_rate_hz:
        raise UserError(f"wrong sample rate: {path} must have {sample_rate_hz} Hz, got {rate}")
    if samples.shape[1] != 1:
        raise UserError(f"not mono: {path} has {samples.shape[1]} channels")
    check_samples(samples, path)
    return np.ascontiguousarray(samples[:, 0])


def write_wav(path: Path, samples: np.ndarray, sample_rate_hz: int) -> None:
    """Write a 16-bit mono wav in one piece; what exceeds full scale is clipped.

    Args:
        path: file to write
        samples: (samples,) float, full scale 1
        sample_rate_hz: rate of the file

    Raises:
        OSError: if it cannot be written, no space left for example
    """
    with atomic_path(path) as temporary:
        try:
            soundfile.write(temporary, np.clip(samples, -1.0, 1.0), sample_rate_hz, format="WAV", subtype="PCM_16")
        except soundfile.LibsndfileError as error:
            raise OSError(f"wav cannot be written: {path} ({' '.join(str(error).split())})") from None
