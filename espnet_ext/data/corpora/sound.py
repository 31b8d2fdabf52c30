"""Level, clipping and silence of a sample of a corpus: to decode all of it would take as long as stage format."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

import numpy as np

from espnet_ext.data.audio import Span, read_channels
from espnet_ext.errors import UserError

FRAME_SEC = 0.02
QUIET_DB = 30.0  # below the loudest frame: a pause, or room noise
FULL = 0.999  # of full scale
RUN = 3  # samples in a row at full scale that are no peak by chance
AUDIBLE_DB = -50.0  # an utterance whose loudest frame is below that is next to silent


@dataclass(frozen=True)
class Sound:
    """What was measured on one utterance.

    Attributes:
        level_db: root mean square of what is not quiet, dB of full scale.
        clipped: whether samples stand at full scale in a row.
        lead_sec: quiet before the first sound.
        trail_sec: quiet behind the last one.
        pauses: share of quiet frames in between.
    """

    level_db: float
    clipped: bool
    lead_sec: float
    trail_sec: float
    pauses: float


def sound_of(samples: np.ndarray, rate_hz: int) -> Sound:
    """Measures of a recording: (samples,) at full scale 1, at least one frame."""
    size = max(1, round(FRAME_SEC * rate_hz))
    frames = samples[: max(len(samples) // size, 1) * size]
    frames = np.resize(frames, (max(len(frames) // size, 1), size)).astype(np.float64)
    power = np.mean(frames**2, axis=1) + 1e-12
    loud = np.flatnonzero(power > power.max() * 10 ** (-QUIET_DB / 10))
    full = np.abs(samples) >= FULL
    clipped = bool(np.convolve(full, np.ones(RUN), "valid").max(initial=0) >= RUN) if full.any() else False
    first, last = int(loud[0]), int(loud[-1])
    level = 10 * np.log10(np.mean(power[loud]))
    return Sound(
        float(level),
        clipped,
        first * FRAME_SEC,
        (len(power) - 1 - last) * FRAME_SEC,
        1 - len(loud) / (last - first + 1),
    )


def sample_sounds(store: sqlite3.Connection, most: int) -> tuple[list[tuple[str, Sound]], list[tuple[str, str]]]:
    """The sounds of up to `most` utterances that a hash chooses, and those that cannot be decoded, with the reason."""
    chosen = "SELECT id, audio, first, last FROM usable ORDER BY sentence DESC, id LIMIT ?"
    found, bad = [], []
    for name, path, first, last in store.execute(chosen, (most,)).fetchall():
        try:
            audio = read_channels(path, span=Span(first, last)).mono()
        except UserError as error:
            bad.append((name, str(error)))
            continue
        if not len(audio.samples) or not np.isfinite(audio.samples).all():
            bad.append((name, f"empty wav, or not finite: {path}"))
        else:
            found.append((name, sound_of(audio.samples, audio.rate_hz)))
    return found, bad
