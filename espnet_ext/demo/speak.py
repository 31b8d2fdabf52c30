"""What the page's button does: options in, pieces of sound, a picture and a line of figures out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from espnet_ext.decoding import strategies
from espnet_ext.decoding.options import DecodeOptions, strategies_for
from espnet_ext.errors import UserError
from espnet_ext.inference.speaker import Speaker
from espnet_ext.inference.speech import prompt_line
from espnet_ext.inference.streaming import SpeechChunk
from espnet_ext.scoring.tables.figures import COLOURS, spectrogram

CHUNK_SECONDS = 0.4  # of a piece: short enough to begin soon, long enough for a browser not to stutter


@dataclass(frozen=True)
class Offer:
    """A model, and how it may be decoded.

    Attributes:
        speak: the model.
        bases: strategy → options of its yaml, of strategies that the model's heads serve.
        default: the strategy of the experiment.
    """

    speak: Speaker
    bases: Mapping[str, DecodeOptions]
    default: str


@dataclass(frozen=True)
class Wish:
    """What a user asks for.

    Attributes:
        text: what to say.
        prompt: codes (T, N) or an audio file of the voice; None for none.
        decoding: strategy.
        options: of the strategy, of its sampler, and the seed, as far as they are not those of the yaml.
    """

    text: str
    prompt: NDArray[np.int64] | Path | None
    decoding: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Answer:
    """What the page shows.

    Attributes:
        samples: (samples,) float32 that follow on those before.
        whole: (samples,) float32 of the whole utterance so far.
        line: how fast it went.
        unknown: what the model does not know of the text, in words; empty for nothing.
        is_last: whether the utterance is complete.
    """

    samples: NDArray[np.float32]
    whole: NDArray[np.float32]
    line: str
    unknown: str
    is_last: bool


def served(speak: Speaker, bases: Iterable[str]) -> list[str]:
    """Strategies that the heads of a model serve.

    Args:
        speak: the model.
        bases: strategies with a decode yaml.

    Returns:
        Names.
    """
    return [name for name in strategies_for(speak.corelm.heads) if name in bases]


def shown_options(base: DecodeOptions) -> dict[str, Any]:
    """What a user may change of a strategy, and the values of its yaml.

    Args:
        base: options of the yaml.

    Returns:
        Option → value: the seed, those of the sampler, those that the registry knows of the strategy.
    """
    complete = base.complete()
    conf = {name: complete["decoding_conf"][name] for name in strategies.options(base.decoding)}
    return {"seed": base.seed, **complete["sampling"], **conf}


def options_for(wish: Wish, bases: Mapping[str, DecodeOptions]) -> DecodeOptions:
    """Decode options of a wish.

    Args:
        wish: what is asked for.
        bases: strategy → options of its yaml, for what the wish leaves open.

    Returns:
        The options.

    Raises:
        UserError: naming an impossible value.
    """
    return bases[wish.decoding].changed(**wish.options)


def answers(speak: Speaker, wish: Wish, bases: Mapping[str, DecodeOptions]) -> Iterator[Answer]:
    """The speech, piece by piece.

    Args:
        speak: the model.
        wish: what is asked for.
        bases: strategy → options of its yaml.

    Yields:
        An answer for every piece.

    Raises:
        UserError: if the wish cannot be granted; the message is for the user.
    """
    if not wish.text.strip():
        raise UserError("text must not be empty")
    options, spec = options_for(wish, bases), speak.codec.spec
    chunk = max(1, round(CHUNK_SECONDS * spec.frame_rate_hz))
    parts: list[NDArray[np.float32]] = []
    first = None
    for piece in speak.stream(wish.text, wish.prompt, options, chunk_frames=chunk):
        first = piece.seconds if first is None else first
        parts.append(piece.samples)
        line = timing_line(piece, first, parts, spec.sample_rate_hz)
        unknown = f"The model does not know {speak.tokenizer.describe(piece.unknown)}" if piece.unknown else ""
        yield Answer(piece.samples, np.concatenate(parts), line, unknown, piece.is_last)


def timing_line(piece: SpeechChunk, first: float, parts: Sequence[NDArray[np.float32]], rate_hz: int) -> str:
    """How fast the speech was made.

    Args:
        piece: the newest piece.
        first: seconds to the first one.
        parts: samples of all pieces.
        rate_hz: of the samples.

    Returns:
        One line.
    """
    seconds, frames = sum(map(len, parts)) / rate_hz, len(piece.codes)
    line = f"{seconds:.2f} s of speech, RTF {piece.seconds / max(seconds, 1e-9):.3f}, "
    line += f"{frames / max(piece.seconds, 1e-9):.0f} frames/s, first audio after {1000 * first:.0f} ms, "
    line += f"{piece.local_passes / max(frames, 1):.2f} local passes/frame"
    if not piece.is_last:
        return f"{line} …"
    used = prompt_line(piece.prompt_sec, piece.prompt_used_sec)
    words = ", ".join(f"{word} {start:.2f}" for word, start, _ in piece.words)
    told = (line, used, ran_away(piece), words and f"words at {words} s")
    return "; ".join(filter(None, told))


def ran_away(piece: SpeechChunk) -> str:
    """What a user should know of the end of speech; empty if it ended by itself."""
    if piece.runaway is None:
        return "" if piece.has_eos else "no end"
    return f"ran away: {piece.runaway.words}; another seed may help"


def picture(samples: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The spectrogram as pixels (height, width, 3).

    Args:
        samples: (samples,) at the evaluation rate.

    Returns:
        The picture, high frequencies at the top.
    """
    colours: Any = mpl.colormaps[COLOURS](spectrogram(samples)[::-1])
    pixels: NDArray[np.uint8] = (colours[..., :3] * 255).astype(np.uint8)
    return pixels
