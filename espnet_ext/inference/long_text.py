"""Texts that are longer than those of the training: where they are cut, and how their speech is joined again."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

PAUSE_SEC, FADE_SEC = 0.15, 0.005  # between two parts; at their ends, so that nothing clicks
# behind the end of a sentence, else behind a pause in it, else between words; some scripts have no blanks
CUTS = (r"(?<=[.!?…;:])\s+|(?<=[。！？；।॥])\s*|\n+", r"(?<=[,–—])\s+|(?<=[、，])\s*", r"\s+")


def parts_of(text: str, fits: Callable[[str], bool], cuts: Sequence[str] = CUTS) -> list[str]:
    """The text in parts that fit, as few as its sentences allow.

    Args:
        text: what to say.
        fits: whether a text is short enough.
        cuts: where it may be cut, by what matters most; a word that does not fit stays whole.

    Returns:
        The parts; put together they are the text up to blanks.

    >>> parts_of("One two. Three four, five six seven.", lambda part: len(part) < 20)
    ['One two.', 'Three four,', 'five six seven.']
    """
    if not cuts or fits(text):
        return [text]
    found: list[str] = []
    for piece in filter(None, map(str.strip, re.split(cuts[0], text))):
        if found and fits(f"{found[-1]} {piece}"):
            found[-1] = f"{found[-1]} {piece}"
        else:
            found += parts_of(piece, fits, cuts[1:])
    return found


def with_pauses(parts: Sequence[NDArray[np.float32]], sample_rate_hz: int) -> NDArray[np.float32]:
    """The speech of several parts with silence between them: (samples,).

    Args:
        parts: (samples,) each.
        sample_rate_hz: of them all.

    Returns:
        The samples; those of one part are as they were.
    """
    last = len(parts) - 1
    return np.concatenate(
        [piece for place, part in enumerate(parts) for piece in joined(part, place == 0, place == last, sample_rate_hz)]
    )


def joined(
    part: NDArray[np.float32], is_first: bool, is_last: bool, sample_rate_hz: int
) -> Iterator[NDArray[np.float32]]:
    """A part with faded ends where others are before or behind it, and the silence in front of the next one.

    Args:
        part: (samples,).
        is_first: whether nothing is before it.
        is_last: whether nothing is behind it.
        sample_rate_hz: of the samples.

    Yields:
        Samples.
    """
    ramp = np.linspace(0, 1, round(FADE_SEC * sample_rate_hz), dtype=np.float32)[: len(part)]
    part = part.copy()
    if not is_first:
        part[: len(ramp)] *= ramp
    if not is_last:
        part[len(part) - len(ramp) :] *= ramp[::-1]
    yield part
    if not is_last:
        yield np.zeros(round(PAUSE_SEC * sample_rate_hz), dtype=np.float32)
