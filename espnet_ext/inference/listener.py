"""Recordings as a model reads them: units and codes of the same sound, and how they lie beside each other."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

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
from espnet_ext.errors import UserError
from espnet_ext.inference.sounds import AudioLike, read_recording
from espnet_ext.tokenizers.codec import Codec
from espnet_ext.tokenizers.semantic import SemanticTokenizer
from espnet_ext.tokenizers.semantic.units import deduplicate

if TYPE_CHECKING:
    from espnet_ext.inference.speaker import Speaker

Ids = NDArray[np.int64]
NO_UNITS = np.zeros(0, dtype=np.int64)
LEAST_HEARD_SEC = 0.1  # of a prompt, in all: less is no voice
CONTEXT_SEC = 0.5  # on either side of what is used of a prompt: encoders look that far, or hardly farther


class Prompt(NamedTuple):
    """The voice to speak with.

    Attributes:
        streams: what a model is given of it at most.
        seconds: how long the whole recording is.
    """

    streams: Streams
    seconds: float


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

    def hear(self, recording: AudioLike, what: str = "wav") -> Streams:
        """Both streams of a recording, or its codes alone for a model that reads no units.

        Args:
            recording: an audio file of any rate, what is in one, or samples.
            what: it is to the user, for errors.

        Returns:
            The streams.

        Raises:
            FileNotFoundError: if there is no such file.
            UserError: if it is no audio, cut off, empty, silent or not finite.
        """
        return self._encode(*read_recording(recording, what))

    def hear_prompt(self, recording: AudioLike, frames: int | None = None, what: str = "prompt") -> Prompt:
        """The streams of the stretch of a recording with the most voice; those of all of it if it is no longer.

        Args:
            recording: an audio file of any rate, what is in one, or samples.
            frames: most frames of the codec; None for all.
            what: it is to the user, for errors.

        Returns:
            The streams, and how long the recording is.

        Raises:
            FileNotFoundError: if there is no such file.
            UserError: if it is no audio, cut off, empty, not finite, or next to nothing is heard in it.
        """
        from espnet_ext.data.waveform import LEVEL_SEC, most_voice, voice_levels

        samples, rate_hz = read_recording(recording, what)
        levels, seconds = voice_levels(samples, rate_hz), len(samples) / rate_hz
        heard = float((levels > 0).sum()) * LEVEL_SEC
        if heard < LEAST_HEARD_SEC:
            where = f": {recording}" if isinstance(recording, (Path, str)) else ""
            some = f"{heard:.2f} s in {seconds:.2f} s"
            raise UserError(f"{what} must have at least {LEAST_HEARD_SEC:g} s of sound in it, got {some}{where}")
        spec, frame_sec = self.codec.spec, self.codec.hop_samples / self.codec.spec.sample_rate_hz
        there = math.ceil(seconds / frame_sec)
        if frames is None or there <= frames:
            return Prompt(self._encode(samples, rate_hz), seconds)
        first = min(round(most_voice(levels, frames * frame_sec) / frame_sec), there - frames)
        # as in the codes of a whole utterance, of which training takes prompts, what is beside the stretch is heard
        margin = math.ceil(CONTEXT_SEC / frame_sec)
        begin, end = max(first - margin, 0), first + frames + margin
        begin_sample, end_sample = (round(frame * frame_sec * rate_hz) for frame in (begin, end))
        streams = self._encode(samples[begin_sample:end_sample], rate_hz)
        semantic = spec if self._load is None else self.semantic.spec
        return Prompt(excerpt(streams, first - begin, frames, spec, semantic), seconds)

    def _encode(self, samples: NDArray[np.float32], rate_hz: int) -> Streams:
        from espnet_ext.data.waveform import resampled  # which is not needed where everything is codes

        for_codec = torch.from_numpy(resampled(samples, rate_hz, self.codec.spec.sample_rate_hz))
        if self._load is None:
            codes, _ = self.codec.encode(for_codec[None], torch.tensor([len(for_codec)]))
            return Streams(NO_UNITS, codes[0].numpy())
        for_tokenizer = torch.from_numpy(resampled(samples, rate_hz, self.semantic.sample_rate_hz))
        return encode_streams(self.codec, self.semantic, for_codec, for_tokenizer)

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
