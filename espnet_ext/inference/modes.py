"""The inference modes of GPST: what stands in front of the speech that is asked for, and what becomes of the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from espnet_ext.codes import CodecSpec
from espnet_ext.data.streams import PAUSE_SEC, Streams, excerpt, frames_within, units_within
from espnet_ext.errors import UserError
from espnet_ext.options import check_number
from espnet_ext.registry import Registry
from espnet_ext.tokenizers.semantic.units import deduplicate

Ids = NDArray[np.int64]

MIN_PROMPT_SEC = 0.5


@dataclass(frozen=True)
class Request:
    """What an utterance can be made from; every mode needs some of it.

    Attributes:
        speech: recording of the utterance.
        prompt: recording of the voice to speak with.
        text: what to say.
        language: its name; empty for one that is not told.
    """

    speech: Streams | None = None
    prompt: Streams | None = None
    text: str = ""
    language: str = ""


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


class Spelling(NamedTuple):
    """Units that say what an utterance says.

    Attributes:
        units: (U,) int64.
        has_eos: False if they were generated and ran into their limit.
    """

    units: Ids
    has_eos: bool


class Speller(Protocol):
    """What makes semantic units."""

    def sample_units(self, names: Sequence[str], requests: Sequence[Request]) -> list[Spelling]:
        """Units of nothing in particular."""

    def units_of_texts(self, names: Sequence[str], requests: Sequence[Request]) -> list[Spelling]:
        """Units of the texts."""


@dataclass(frozen=True)
class Start:
    """What the codes of an utterance are generated behind.

    Attributes:
        units: (U,) int64, of prompt and speech, as the model reads them.
        spoken: how many of them are left to speak.
        prompt: (T', N) int64 codes of whole steps, possibly none.
    """

    units: Ids
    spoken: int
    prompt: Ids


@dataclass(frozen=True)
class Mode:
    """One way to ask for speech.

    Attributes:
        prompt_sec: longest prompt, taken from the beginning of its utterance.
        silence_sec: silence between prompt and speech.
        source: attribute of `Request` that tells what to say; empty where nothing does.
        reads: options of the command `gpst_inference` that mean something to it, of those that not all modes read.
        continues: whether the speech goes on from the beginning of its own recording.
        least_prompt_sec: smallest allowed `prompt_sec`.

    Raises:
        UserError: if an option is out of range.
    """

    prompt_sec: float = 3.0
    silence_sec: float = PAUSE_SEC

    source: ClassVar[str] = ""
    reads: ClassVar[tuple[str, ...]] = ()
    continues: ClassVar[bool] = False
    least_prompt_sec: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        check_number("silence_sec", self.silence_sec, least=0)
        check_number("prompt_sec", self.prompt_sec, least=self.least_prompt_sec)

    @property
    def prompted(self) -> bool:
        """Whether an utterance needs a recording of the voice to speak with."""
        return False

    @property
    def samples_units(self) -> bool:
        """Whether nothing tells what to say."""
        return not self.source

    def spell(self, speller: Speller, names: Sequence[str], requests: Sequence[Request]) -> list[Spelling]:
        """Units of what is to be said; those of a recording are not de-duplicated.

        Args:
            speller: makes units where there is no recording.
            names: utterance ids.
            requests: as many.

        Returns:
            As many.
        """
        return [Spelling(_speech(name, request).units, True) for name, request in zip(names, requests, strict=True)]

    def start(self, name: str, request: Request, units: Ids, clock: Clock) -> Start:
        """Where the codes begin.

        Args:
            name: utterance id, for errors.
            request: what is known of it.
            units: from `spell`.
            clock: how the streams lie beside each other.

        Returns:
            Units and prompt.

        Raises:
            UserError: naming the utterance, if there is no usable prompt.
        """
        units = clock.reduced(units)
        return Start(units, len(units), np.zeros((0, clock.spec.num_codebooks), dtype=np.int64))


modes: Registry[type[Mode]] = Registry("mode")


@modes.register("unconditional")
class Unconditional(Mode):
    """Speech of nothing in particular: the model samples units, then codes."""

    reads = ("num_utterances",)

    def spell(  # noqa: D102 (inherited)
        self, speller: Speller, names: Sequence[str], requests: Sequence[Request]
    ) -> list[Spelling]:
        return speller.sample_units(names, requests)


@modes.register("semantic_to_acoustic")
class SemanticToAcoustic(Mode):
    """What a recording says, in a voice that the model makes up."""

    source = "speech"
    reads = ("data_dir", "target_wav")


@modes.register("continuation")
class Continuation(Mode):
    """The rest of a recording whose first seconds are given, with the units of all of it."""

    source = "speech"
    reads = ("data_dir", "target_wav", "prompt_sec")
    continues = True
    least_prompt_sec = MIN_PROMPT_SEC

    def start(self, name: str, request: Request, units: Ids, clock: Clock) -> Start:  # noqa: D102 (inherited)
        codes = _speech(name, request).codes
        _check_prompt(name, codes, clock)
        # the speech goes on with a step of its own
        frames = max(clock.frames(self.prompt_sec) // clock.stacking, 1) * clock.stacking
        if len(codes) <= frames:
            raise UserError(
                f"{name} must last longer than its first prompt_sec = {self.prompt_sec:g} s, "
                f"got {clock.seconds(codes):.2f} s"
            )
        rest = clock.reduced(units[clock.units(frames) :])
        return Start(clock.reduced(units), len(rest), codes[:frames])


class _Prompted(Mode):
    """Speech behind a prompt and a little silence, all of them one utterance to the model."""

    reads: ClassVar[tuple[str, ...]] = ("prompts", "prompt_wav", "prompt_sec", "silence_sec")

    @property
    def prompted(self) -> bool:  # noqa: D102 (inherited)
        return self.prompt_sec > 0

    def start(self, name: str, request: Request, units: Ids, clock: Clock) -> Start:  # noqa: D102 (inherited)
        if not self.prompted:
            return super().start(name, request, units, clock)
        if request.prompt is None:
            raise UserError(f"{name} must have a prompt, got none")
        _check_prompt(name, request.prompt.codes, clock)
        prompt = clock.head(request.prompt, clock.frames(self.prompt_sec))
        frames = clock.frames(self.silence_sec)
        # the speech begins with a step of its own
        frames += -(len(prompt.codes) + frames) % clock.stacking
        silence = clock.quiet(frames)
        joined = clock.reduced(np.concatenate((prompt.units, silence.units, units)))
        return Start(joined, len(clock.reduced(units)), np.concatenate((prompt.codes, silence.codes)))


@modes.register("speaker_transfer")
class SpeakerTransfer(_Prompted):
    """What a recording says, in the voice of a prompt."""

    source = "speech"
    reads = ("data_dir", "target_wav", *_Prompted.reads)
    least_prompt_sec = MIN_PROMPT_SEC


@modes.register("tts")
class TextToSpeech(_Prompted):
    """What a text says, in the voice of a prompt, or with `prompt_sec` 0 in one that the model makes up."""

    source = "text"
    reads = ("data_dir", "text", "text_to_semantic", *_Prompted.reads)

    def __post_init__(self) -> None:
        super().__post_init__()
        if 0 < self.prompt_sec < MIN_PROMPT_SEC:
            raise UserError(f"prompt_sec must be 0 or at least {MIN_PROMPT_SEC}, got {self.prompt_sec}")

    def spell(  # noqa: D102 (inherited)
        self, speller: Speller, names: Sequence[str], requests: Sequence[Request]
    ) -> list[Spelling]:
        return speller.units_of_texts(names, requests)


def _check_prompt(name: str, codes: Ids, clock: Clock) -> None:
    if clock.seconds(codes) < MIN_PROMPT_SEC:
        raise UserError(f"prompt of {name} must last at least {MIN_PROMPT_SEC:g} s, got {clock.seconds(codes):.2f} s")


def _speech(name: str, request: Request) -> Streams:
    if request.speech is None:
        raise UserError(f"{name} must have a recording, got none")
    return request.speech
