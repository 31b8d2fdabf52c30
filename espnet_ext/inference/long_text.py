"""Texts that are longer than those of the training: where they are cut, and how their speech is joined again."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from espnet_ext.decoding import Runaway
from espnet_ext.inference.speech import Speech, Word, faded
from espnet_ext.inference.streaming import SpeechChunk
from espnet_ext.tokenizers.text.english import ABBREVIATIONS
from espnet_ext.tokenizers.text.scripts import split_letters

PAUSE_SEC = 0.15  # between two parts
Cut = Callable[[str], Sequence[str]]
# neither behind an abbreviation nor behind an initial nor within "e.g. this"; I is a word more often than an initial
_NOT_BEHIND = "".join(rf"(?<!\b(?i:{short})\.)" for short in ABBREVIATIONS)
_NOT_BEHIND += r"(?<!\b[A-HJ-Z]\.)(?<!\b[^\W\d_]\.[^\W\d_]\.)"
# behind the end of a sentence, else behind a pause in it, else between words, else, without blanks, between letters
CUTS: tuple[Cut, ...] = (
    re.compile(rf"{_NOT_BEHIND}(?:(?<=[.!?…;:])\s+|\n+)|(?<=[。！？；।॥])\s*").split,
    re.compile(r"(?<=[,–—])\s+|(?<=[、，])\s*").split,
    re.compile(rf"{_NOT_BEHIND}\s+").split,
    split_letters,
)


def parts_of(text: str, fits: Callable[[str], bool], cuts: Sequence[Cut] = CUTS) -> list[str]:
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
    end = 0
    for piece in filter(None, map(str.strip, cuts[0](text))):
        begin = text.index(piece, end)
        blank = " " if begin > end else ""
        end = begin + len(piece)
        if found and fits(f"{found[-1]}{blank}{piece}"):
            found[-1] += f"{blank}{piece}"
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
    part: NDArray[np.float32], is_first: bool, is_last: bool, sample_rate_hz: int, pause: bool = True
) -> Iterator[NDArray[np.float32]]:
    """A part with faded ends where others are before or behind it, and the silence in front of the next one.

    Args:
        part: (samples,).
        is_first: whether nothing is before it.
        is_last: whether nothing is behind it.
        sample_rate_hz: of the samples.
        pause: whether silence follows, unless it is the last.

    Yields:
        Samples.
    """
    if not is_first:
        part = faded(part[::-1], sample_rate_hz)[::-1]
    if not is_last:
        part = faded(part, sample_rate_hz)
    yield part
    if pause and not is_last:
        yield np.zeros(round(PAUSE_SEC * sample_rate_hz), dtype=np.float32)


def join_speech(parts: Sequence[Speech]) -> Speech:
    """The speech of the parts of a text, joined.

    Args:
        parts: in their order, at least one.

    Returns:
        The speech; its codes are those of all parts, without the pauses between them, and its timing is that of the
        first one.
    """
    first, rate = parts[0], parts[0].sample_rate
    words: list[Word] = []
    begin = 0.0
    for part in parts:
        words += later(part.words, begin)
        begin += len(part.waveform) / rate + PAUSE_SEC
    return replace(
        first,
        codes=np.concatenate([part.codes for part in parts]),
        waveform=with_pauses([part.waveform for part in parts], rate),
        has_eos=all(part.has_eos for part in parts),
        logprob=sum(part.logprob for part in parts),
        runaway=next((part.runaway for part in parts if part.runaway), None),
        retries=sum(part.retries for part in parts),
        units=None if first.units is None else np.concatenate([part.units for part in parts if part.units is not None]),
        unknown=tuple(token for part in parts for token in part.unknown),
        words=tuple(words),
    )


def later(words: Sequence[Word], seconds: float) -> list[Word]:
    """The words, so much later."""
    return [Word(text, round(seconds + start, 3), round(seconds + end, 3)) for text, start, end in words]


def join_streams(parts: Sequence[Callable[[], Iterator[SpeechChunk]]], sample_rate_hz: int) -> Iterator[SpeechChunk]:
    """The pieces of the parts of a text one after the other, which together are what `join_speech` makes.

    Args:
        parts: each begins to speak when it is called.
        sample_rate_hz: of the samples.

    Yields:
        Pieces; only the last one of the last part is the last.
    """
    codes: list[NDArray[np.int64]] = []
    unknown: tuple[str, ...] = ()
    words: list[Word] = []
    seconds, passes, ended, sent, begin = 0.0, 0, True, 0, 0.0
    runaway: Runaway | None = None
    for place, part in enumerate(parts):
        is_first, chunk = True, None
        for chunk in part():
            is_last = chunk.is_last and place == len(parts) - 1
            edges = (not is_first or place == 0, not chunk.is_last or is_last)
            samples = np.concatenate(list(joined(chunk.samples, *edges, sample_rate_hz, pause=chunk.is_last)))
            sent += len(samples)
            if chunk.is_last:
                words += later(chunk.words, begin)
            yield replace(
                chunk,
                samples=samples,
                words=tuple(words) if is_last else (),
                unknown=unknown + chunk.unknown,
                codes=np.concatenate([*codes, chunk.codes]),
                seconds=seconds + chunk.seconds,
                local_passes=passes + chunk.local_passes,
                is_last=is_last,
                has_eos=ended and chunk.has_eos,
                runaway=(runaway or chunk.runaway) if is_last else None,
            )
            is_first = False
        if chunk is not None:
            codes.append(chunk.codes)
            unknown += chunk.unknown
            begin, runaway = sent / sample_rate_hz, runaway or chunk.runaway
            seconds, passes, ended = seconds + chunk.seconds, passes + chunk.local_passes, ended and chunk.has_eos
