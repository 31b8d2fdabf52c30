"""Distance of speech to the recording of the same sentence: mel-cepstral distortion and log F0, along an alignment.

The spectral envelope and F0 are WORLD's, every 10 ms. The mel-cepstrum of an envelope |H| is what
``ln |H(w)| = c_0 + c_1 cos w + … + c_M cos M w`` says with w on the mel scale from 0 to half the sample rate, M = 24.
Frames that are 45 dB below the loudest one are dropped at both ends of both signals, then the two are aligned by
dynamic time warping (Euclidean in c_1 … c_M). Over the pairs of frames of that path

    MCD = mean of (10 / ln 10) · sqrt(2 · sum over m of (c_m − c'_m)²)        decibels

(Kubichek 1993), which is the root mean square difference of the two log spectra over the mel scale: c_0, the loudness,
does not count. Others warp by an all-pass filter, take 13 to 39 coefficients or 5 ms: their values are not ours.

The packages for it (pymcd, mel-cepstral-distance) bring sources that have to be compiled, which a machine without a
compiler cannot install; pyworld and librosa, which do the work here, are wheels that we need anyway.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from espnet_ext.data.waveform import EVALUATION_RATE_HZ, read_resampled
from espnet_ext.errors import UserError, missing_package
from espnet_ext.jobs import Work, Workers
from espnet_ext.scoring.measures.condition import is_silent
from espnet_ext.scoring.measures.same_audio import content_of, judge_each, judge_once

Array = NDArray[np.float64]
Pair = tuple[Path, Path]

PERIOD_MS = 10.0
ORDER = 24  # M
BANDS = 128  # points of the mel scale on which an envelope is looked at
FLOOR = 1e-12  # power, -120 dB of full scale: digital silence has a logarithm, too
TRIM_DB = 45.0
LONGEST_RATIO = 3.0  # of the lengths; beyond it two signals are not the same sentence, and a path is mostly waiting
REQUEST = {"period_ms": PERIOD_MS, "order": ORDER, "trim_db": TRIM_DB}
SHARD_SIZE = 16


class Features(NamedTuple):
    """Frames of a signal, without silence at its ends.

    Attributes:
        cepstrum: (T, M) c_1 … c_M.
        log_f0: (T,) NaN where unvoiced.
    """

    cepstrum: Array
    log_f0: Array


def unavailable() -> str | None:
    """Why nothing can be measured here, and how to change that; None if it can."""
    return missing_package({"pyworld": "'espnet_ext[world]'", "librosa": "'espnet_ext[score]'"})


def mel_cepstrum(power: Array, rate_hz: int) -> Array:
    """Coefficients (T, 1 + M), c_0 first, of power spectra (T, bins) from 0 to half the sample rate."""
    top = 1127.0 * np.log1p(rate_hz / 2 / 700.0)
    mels = (np.arange(BANDS) + 0.5) / BANDS * top  # where a cosine transform of type 2 samples
    bins = 700.0 * np.expm1(mels / 1127.0) / (rate_hz / 2) * (power.shape[1] - 1)
    low = np.minimum(bins.astype(int), power.shape[1] - 2)
    share = bins - low
    log_amplitude = 0.5 * np.log(np.maximum(power, FLOOR))
    warped = log_amplitude[:, low] * (1 - share) + log_amplitude[:, low + 1] * share
    found: Array = scipy.fft.dct(warped, type=2, axis=1)[:, : ORDER + 1] / BANDS
    found[:, 0] /= 2
    return found


@functools.lru_cache(maxsize=256)
def _features(path: Path, modified_ns: int) -> Features | None:
    """Features of a file, None for silence; kept, because every system is compared with the same recordings."""
    import pyworld

    samples = read_resampled(path).astype(np.float64)
    if is_silent(samples):
        return None
    f0, times = pyworld.dio(samples, EVALUATION_RATE_HZ, frame_period=PERIOD_MS)
    f0 = pyworld.stonemask(samples, f0, times, EVALUATION_RATE_HZ)
    power = pyworld.cheaptrick(samples, f0, times, EVALUATION_RATE_HZ)
    cepstrum = mel_cepstrum(power, EVALUATION_RATE_HZ)
    level = 10 * np.log10(np.maximum(power.mean(axis=1), FLOOR))
    loud = np.flatnonzero(level > level.max() - TRIM_DB)
    inside = slice(loud[0], loud[-1] + 1)
    log_f0 = np.log(f0, out=np.full(len(f0), np.nan), where=f0 > 0)
    return Features(np.ascontiguousarray(cepstrum[inside, 1:]), log_f0[inside])


def _read(path: Path, what: str) -> Features:
    found = _features(path, path.stat().st_mtime_ns)
    if found is None:
        raise UserError(f"{what} is silent")
    return found


def compare(recorded: Features, spoken: Features) -> dict[str, float | None]:
    """Both distances.

    Args:
        recorded: features of the recording.
        spoken: features of the speech.

    Returns:
        "mcd" in decibels, "log_f0_rmse" in natural logarithms, None without a pair of voiced frames.

    Raises:
        UserError: if the two are not of similar length.
    """
    from librosa.sequence import dtw

    lengths = sorted(len(one.log_f0) for one in (recorded, spoken))
    if lengths[1] > LONGEST_RATIO * lengths[0]:
        seconds = " and ".join(f"{length * PERIOD_MS / 1000:.2f} s" for length in lengths)
        raise UserError(f"lengths differ by more than a factor of {LONGEST_RATIO:g}: {seconds}")
    _, path = dtw(recorded.cepstrum.T, spoken.cepstrum.T, metric="euclidean")
    first, second = path[:, 0], path[:, 1]
    squares = np.square(recorded.cepstrum[first] - spoken.cepstrum[second]).sum(axis=1)
    pitch = recorded.log_f0[first] - spoken.log_f0[second]
    pitch = pitch[np.isfinite(pitch)]
    return {
        "mcd": float(10 / np.log(10) * np.sqrt(2 * squares).mean()),
        "log_f0_rmse": float(np.sqrt(np.mean(pitch**2))) if len(pitch) else None,
    }


def distortion(recording: Path, spoken: Path) -> dict[str, float | None]:
    """What `compare` says of two files; a UserError if one is silent, unreadable, or they do not align."""
    return compare(_read(recording, "the recording"), _read(spoken, "the speech"))


def _of_pairs() -> Callable[[Pair], dict[str, float | None]]:
    return lambda pair: distortion(*pair)


def _files(pair: Pair) -> Iterable[Path]:
    return pair


def distortions(
    groups: Mapping[str, Mapping[str, Pair]], workers: Workers, folder: Path | None
) -> dict[str, dict[str, Any]]:
    """Name → utterance → distances of recording and speech, `Unheard` where there are none; see `judge_once`."""
    work = Work(functools.partial(judge_each, _of_pairs), REQUEST, "alignment", SHARD_SIZE, _files)
    return judge_once(work, groups, workers, folder, lambda pair: (pair[0], content_of(pair[1])))
