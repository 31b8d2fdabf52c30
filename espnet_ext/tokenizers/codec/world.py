"""Speech as slow parameters and back, by the WORLD vocoder: pitch, voicing, aperiodicity and a spectral envelope."""

from __future__ import annotations

import importlib
from types import ModuleType

import numpy as np

from espnet_ext.errors import needs_package

SAMPLE_RATE_HZ = 16000
SUB_FRAMES = 4  # analysis frames of 10 ms in one codec frame
SUB_HOP = 160  # samples
HOP = SUB_FRAMES * SUB_HOP
CEPSTRUM_DIM = 24
LOG_F0, VOICING, APERIODICITY, CEPSTRUM = 0, 1, 2, 3  # columns; the cepstrum takes all from its own on
FEATURE_DIM = CEPSTRUM + CEPSTRUM_DIM

_PERIOD_MS = 10.0
_F0_FLOOR_HZ, _F0_CEIL_HZ = 65.0, 400.0
_FFT_SIZE = 1024
# -120 dB of full scale: digital silence becomes one frame. A higher floor would fill what is empty in speech that was
# recorded at a lower rate, its upper band, with noise that a recogniser hears.
_POWER_FLOOR = 1e-12
_NEUTRAL_LOG_F0 = float(np.log(130.0))


def import_pyworld() -> ModuleType:
    """The pyworld module.

    Returns:
        The module.

    Raises:
        UserError: if it is not installed, with the command that installs it
    """
    with needs_package("codec world_vq", "'espnet_ext[world]'"):
        return importlib.import_module("pyworld")


def _interpolated_log_f0(f0: np.ndarray) -> np.ndarray:
    voiced = np.flatnonzero(f0 > 0)
    if len(voiced) == 0:
        return np.full(len(f0), _NEUTRAL_LOG_F0)
    return np.interp(np.arange(len(f0)), voiced, np.log(f0[voiced]))


def analyse(wav: np.ndarray) -> np.ndarray:
    """Parameters of an utterance.

    Columns: natural log of F0 in Hz (interpolated where unvoiced), voicing 0 or 1, aperiodicity in dB, cepstrum
    of the log power spectrum.

    Args:
        wav: (samples,) float, full scale 1, at SAMPLE_RATE_HZ

    Returns:
        (T, SUB_FRAMES, FEATURE_DIM) float32, T = ceil(samples / HOP).
    """
    world = import_pyworld()
    frames = -(-len(wav) // HOP)
    samples = np.zeros(frames * HOP, dtype=np.float64)
    samples[: len(wav)] = wav
    f0, times = world.dio(samples, SAMPLE_RATE_HZ, _F0_FLOOR_HZ, _F0_CEIL_HZ, frame_period=_PERIOD_MS)
    f0 = world.stonemask(samples, f0, times, SAMPLE_RATE_HZ)
    # WORLD also reports the instant after the last sample
    f0, times = np.ascontiguousarray(f0[: frames * SUB_FRAMES]), np.ascontiguousarray(times[: frames * SUB_FRAMES])
    power = world.cheaptrick(samples, f0, times, SAMPLE_RATE_HZ, f0_floor=_F0_FLOOR_HZ, fft_size=_FFT_SIZE)
    noise = world.d4c(samples, f0, times, SAMPLE_RATE_HZ, fft_size=_FFT_SIZE)
    features = np.empty((frames * SUB_FRAMES, FEATURE_DIM), dtype=np.float32)
    features[:, LOG_F0] = _interpolated_log_f0(f0)
    features[:, VOICING] = f0 > 0
    features[:, APERIODICITY] = world.code_aperiodicity(noise, SAMPLE_RATE_HZ)[:, 0]  # 16 kHz has one band
    cepstrum = world.code_spectral_envelope(np.maximum(power, _POWER_FLOOR), SAMPLE_RATE_HZ, CEPSTRUM_DIM)
    features[:, CEPSTRUM:] = cepstrum
    return features.reshape(frames, SUB_FRAMES, FEATURE_DIM)


def synthesise(features: np.ndarray) -> np.ndarray:
    """Waveform of an utterance.

    Args:
        features: (T, SUB_FRAMES, FEATURE_DIM), columns as in `analyse`; voicing above one half is voiced

    Returns:
        (T * HOP,) float32, full scale 1.
    """
    world = import_pyworld()
    rows = features.reshape(-1, FEATURE_DIM).astype(np.float64)
    # WORLD ends at the instant of the last row; one more row completes the last hop
    rows = np.concatenate([rows, rows[-1:]])
    f0 = np.where(rows[:, VOICING] > 0.5, np.exp(np.clip(rows[:, LOG_F0], 0.0, 7.0)), 0.0)
    f0 = np.where(f0 > 0, np.clip(f0, _F0_FLOOR_HZ, _F0_CEIL_HZ), 0.0)
    cepstrum = np.ascontiguousarray(rows[:, CEPSTRUM:])
    power = world.decode_spectral_envelope(cepstrum, SAMPLE_RATE_HZ, _FFT_SIZE)
    noise_db = np.ascontiguousarray(np.minimum(rows[:, APERIODICITY : APERIODICITY + 1], 0.0))
    noise = world.decode_aperiodicity(noise_db, SAMPLE_RATE_HZ, _FFT_SIZE)
    wav = world.synthesize(f0, power, noise, SAMPLE_RATE_HZ, _PERIOD_MS)
    return wav[: len(features) * HOP].astype(np.float32)
