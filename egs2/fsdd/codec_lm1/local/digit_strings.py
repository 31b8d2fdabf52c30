"""Which recordings make a digit string, and how they are joined."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from fsdd_recordings import SAMPLE_RATE_HZ, Recording
from numpy.typing import NDArray

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
MOST_DIGITS = 5
RMS_DB = -24.0
MARGIN_S = 0.1
PAUSE_S = (0.05, 0.25)
FADE_S = 0.005
FLOOR_DB = (-70.0, -55.0)  # bounds of the noise that fills the pauses
_FRAME = SAMPLE_RATE_HZ // 100
_KEPT_FRAMES = 3  # around the speech: its onset and its decay


@dataclass(frozen=True)
class DigitString:
    """Recordings of one speaker in the order in which they are spoken."""

    utterance: str
    speaker: str
    recordings: tuple[Recording, ...]

    @property
    def text(self) -> str:
        """The digits as words."""
        return " ".join(WORDS[recording.digit] for recording in self.recordings)


def _deck(recordings: list[Recording], rng: random.Random) -> Iterator[Recording]:
    while True:  # every recording once before any of them again
        yield from rng.sample(recordings, len(recordings))


def plan_strings(recordings: list[Recording], split: str, count: int, seed: int) -> list[DigitString]:
    """`count` strings of every speaker; all lengths and all recordings are used equally often, as far as it divides.

    Args:
        recordings: those of this split only.
        split: becomes part of the utterance ids.
        count: strings per speaker.
        seed: with split and speaker, the only source of chance.

    Returns:
        Strings, ordered by utterance id.
    """
    strings = []
    for speaker in sorted({recording.speaker for recording in recordings}):
        rng = random.Random(f"{seed} {split} {speaker}")
        cards = _deck([recording for recording in recordings if recording.speaker == speaker], rng)
        lengths = [1 + index % MOST_DIGITS for index in range(count)]
        rng.shuffle(lengths)
        for index, length in enumerate(lengths):
            chosen = tuple(next(cards) for _ in range(length))
            strings.append(DigitString(f"{speaker}-{split}-{index:04d}", speaker, chosen))
    return strings


def frame_levels_db(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Level of every full 10 ms, dB: (frames,)."""
    frames = samples[: len(samples) // _FRAME * _FRAME].reshape(-1, _FRAME)
    level: NDArray[np.float64] = 10 * np.log10(np.mean(frames**2, axis=1) + 1e-12)
    return level


def trimmed(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """The spoken part of a recording without offset, levelled, with short fades; empty if there is no speech."""
    samples = samples - samples.mean()
    levels = frame_levels_db(samples)
    if len(levels) < 2 * _KEPT_FRAMES:
        return np.zeros(0)
    # below the peak, above the noise of the room; noisy recordings must not lose their quiet consonants
    threshold = min(max(levels.max() - 35, np.percentile(levels, 5) + 3), levels.max() - 20)
    loud = np.flatnonzero(levels > threshold)
    speech = samples[max(0, loud[0] - _KEPT_FRAMES) * _FRAME : (loud[-1] + 1 + _KEPT_FRAMES) * _FRAME]
    speech = speech * 10 ** (RMS_DB / 20) / np.sqrt(np.mean(speech**2))
    fade = np.linspace(0, 1, round(FADE_S * SAMPLE_RATE_HZ))
    speech[: len(fade)] *= fade
    speech[-len(fade) :] *= fade[::-1]
    return speech


def join(string: DigitString) -> NDArray[np.float64]:
    """The audio of a digit string: speech, pauses of random length and faint noise throughout.

    Args:
        string: its utterance id seeds the pauses and the noise.

    Returns:
        Float samples at `SAMPLE_RATE_HZ`.
    """
    rng = np.random.default_rng(zlib.crc32(string.utterance.encode()))
    margin = np.zeros(round(MARGIN_S * SAMPLE_RATE_HZ))
    pieces, floors = [margin], []
    for index, recording in enumerate(string.recordings):
        if index:
            pieces.append(np.zeros(round(rng.uniform(*PAUSE_S) * SAMPLE_RATE_HZ)))
        speech = trimmed(recording.samples)
        pieces.append(speech)
        floors.append(np.percentile(frame_levels_db(speech), 5))
    joined = np.concatenate([*pieces, margin])
    # pauses as quiet as the quietest moments of the recordings: absolute silence between noisy words is an artefact
    noise = 10 ** (float(np.clip(min(floors), *FLOOR_DB)) / 20)
    return np.clip(joined + noise * rng.standard_normal(len(joined)), -0.99, 0.99)
