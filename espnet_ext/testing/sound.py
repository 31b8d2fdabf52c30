"""Sounds for contracts: what a tiny codec or tokenizer learns from, and what it then encodes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def voice(seconds: float, f0_hz: float, seed: int, rate_hz: int = 16000) -> NDArray[np.float32]:
    """Harmonics of a gliding pitch, a pause, and a little noise: (samples,) float32."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate_hz)) / rate_hz
    phase = 2 * np.pi * np.cumsum(f0_hz * (1 + 0.1 * np.sin(2 * np.pi * 1.5 * time))) / rate_hz
    harmonics = sum(np.sin(k * phase) / k for k in range(1, int(7000 / (1.1 * f0_hz))))
    loud = 0.1 * (np.sin(2 * np.pi * time / 0.7) > -0.6)
    return (loud * harmonics + 0.001 * rng.standard_normal(len(time))).astype(np.float32)


def corpus(rate_hz: int = 16000) -> list[NDArray[np.float32]]:
    """Four voices of two seconds each: (samples,) float32."""
    return [voice(2.0, f0, seed, rate_hz) for seed, f0 in enumerate((90.0, 120.0, 160.0, 220.0))]
