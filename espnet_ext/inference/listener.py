"""Recordings as a model reads them: units and codes of the same sound, and how they lie beside each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from numpy.typing import NDArray

from espnet_ext.codes import CodecSpec
from espnet_ext.data.streams import (
    Streams,
    encode_silence,
    encode_streams,
    excerpt,
    frames_within,
    units_within,
)
from espnet_ext.inference.speech import read_speech
from espnet_ext.tokenizers.codec import Codec
from espnet_ext.tokenizers.semantic import SemanticTokenizer
from espnet_ext.tokenizers.semantic.units import deduplicate

if TYPE_CHECKING:
    from espnet_ext.inference.speaker import Speaker

Ids = NDArray[np.int64]
NO_UNITS = np.zeros(0, dtype=np.int64)


class Listener:
    """Codec and semantic tokenizer of an experiment: a recording in, both streams out.

    Args:
        codec: the codec.
        semantic: loads the semantic tokenizer, which may be large and which units on disk do not need; None for a
            model that reads no units.
    """

    def __init__(self, codec: Codec, semantic: Callable[[], SemanticTokenizer] | None = None) -> None:
        self.codec, self._load = codec, semantic

    @cached_property
    def semantic(self) -> SemanticTokenizer:
        """The semantic tokenizer."""
        assert self._load is not None, "the model reads units"
        return self._load()

    def hear(self, path: Path | str, what: str = "wav") -> Streams:
        """Both streams of an audio file, or its codes alone for a model that reads no units.

        Args:
            path: of any rate.
            what: the file is to the user, for errors.

        Returns:
            The streams.

        Raises:
            FileNotFoundError: if there is no such file.
            UserError: if it is no audio, empty or not finite.
        """
        samples = torch.from_numpy(read_speech(path, self.codec.spec.sample_rate_hz, what))
        if self._load is None:
            codes, _ = self.codec.encode(samples[None], torch.tensor([len(samples)]))
            return Streams(NO_UNITS, codes[0].numpy())
        again = torch.from_numpy(read_speech(path, self.semantic.sample_rate_hz, what))
        return encode_streams(self.codec, self.semantic, samples, again)

    @cached_property
    def silence(self) -> Streams:
        """Both streams of digital silence."""
        return encode_silence(self.codec, self.semantic)


@dataclass(frozen=True)
class Clock:
    """How the two streams lie beside each other.

    Attributes:
        spec: facts of the codec.
        semantic: facts of the semantic tokenizer.
        stacking: S, frames of a step.
        deduplicates: whether the model reads units without repetitions.
        silence: makes both streams of digital silence, of one second or so; not called where nothing is joined.
    """

    spec: CodecSpec
    semantic: CodecSpec
    stacking: int
    deduplicates: bool
    silence: Callable[[], Streams]

    @classmethod
    def of(cls, speaker: Speaker) -> Self:
        """That of a model."""
        model, deduplicates = speaker.corelm, speaker.inputs.semantic["deduplicate"]
        quiet = speaker.silence
        silence = (lambda: speaker.listener.silence) if quiet is None else (lambda: quiet)
        return cls(model.spec, model.semantic, model.stacking, deduplicates, silence)

    def frames(self, seconds: float) -> int:
        """Frames that begin and end within so many seconds."""
        return frames_within(seconds, self.spec)

    def seconds(self, codes: Ids) -> float:
        """Duration of codes (T, N)."""
        return len(codes) / self.spec.frame_rate_hz

    def units(self, frames: int) -> int:
        """Units that last as long as so many frames."""
        return units_within(frames, self.spec, self.semantic)

    def head(self, streams: Streams, frames: int) -> Streams:
        """The beginning of both streams, so many frames of it."""
        return excerpt(streams, 0, frames, self.spec, self.semantic)

    def quiet(self, frames: int) -> Streams:
        """So many frames of silence; beyond what `silence` has, its last frame and unit go on."""
        silence = self.silence()
        units = np.arange(self.units(frames)).clip(max=len(silence.units) - 1)
        return Streams(silence.units[units], silence.codes[np.arange(frames).clip(max=len(silence.codes) - 1)])

    def reduced(self, units: Ids) -> Ids:
        """The units as the model reads them."""
        return deduplicate(units).astype(np.int64) if self.deduplicates else units
