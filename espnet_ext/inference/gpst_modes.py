"""The modes of GPST: what stands in front of the speech that is asked for, and what becomes of the result."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from espnet_ext.data.ark import read_pointers
from espnet_ext.data.datadir import LANGUAGES_NAME, read_counts, read_if_there, read_scp
from espnet_ext.data.joint_preprocess import language_id
from espnet_ext.data.speaker_prompt import PROMPTS_NAME
from espnet_ext.data.streams import Streams, disagreement, frames_within
from espnet_ext.decoding import Generation, generate
from espnet_ext.decoding.options import DecodeOptions, GPSTDecodeOptions
from espnet_ext.defaults import NUM_UTTERANCES, PAUSE_SEC, PROMPT_SEC
from espnet_ext.errors import UserError
from espnet_ext.inference.experiment import check_codec
from espnet_ext.inference.listener import NO_UNITS, Clock, Ids
from espnet_ext.inference.requests import (
    WHOLE,
    Job,
    Mode,
    Plan,
    Recording,
    Request,
    Start,
    check_ids,
    no_codes,
    padded,
    register_mode,
    wav_of,
)
from espnet_ext.options import check_number
from espnet_ext.registries import modes as modes

if TYPE_CHECKING:
    from espnet_ext.inference.speaker import Speaker

MIN_PROMPT_SEC = 0.5
PROMPT_PLACES = ("prompt_semantic.scp", "prompt.scp")


def generated_starts(generation: Generation) -> list[Start]:
    """What the rows of generated units say."""
    rows = zip(generation.codes[..., 0].cpu(), generation.lengths.tolist(), generation.has_eos.tolist(), strict=True)
    starts = [Start(units[:length].numpy(), has_eos=ended, generated=length) for units, length, ended in rows]
    why = generation.runaway or [None] * len(starts)
    return [replace(start, runaway=reason) for start, reason in zip(starts, why, strict=True)]


def unit_names(names: Sequence[str]) -> list[str]:
    """Names for the draws of units: no utterance id has a space, and what draws units must not draw codes."""
    return [f"{name} units" for name in names]


def languages_of(speaker: Speaker, names: Sequence[str], requests: Sequence[Request]) -> Tensor | None:
    """Number of each utterance's language, (B,) int64, 0 for one that is not told; None for a model without any."""
    known = speaker.corelm.languages
    ids = [language_id(request.language, known, name) for name, request in zip(names, requests, strict=True)]
    return torch.tensor(ids, device=speaker.device) if known else None


@dataclass(frozen=True)
class SpeechMode(Mode):
    """One way to ask a GPST for speech.

    Attributes:
        prompt_sec: longest prompt: the stretch of a recording with the most voice, the beginning of codes.
        silence_sec: silence between prompt and speech.
        least_prompt_sec: smallest allowed `prompt_sec`.

    Raises:
        UserError: if an option is out of range.
    """

    prompt_sec: float = PROMPT_SEC
    silence_sec: float = PAUSE_SEC

    corelm: ClassVar[str] = "gpst"
    options: ClassVar[type[DecodeOptions]] = GPSTDecodeOptions
    source: ClassVar[str] = "speech"
    reads: ClassVar[tuple[str, ...]] = ("data_dir", "target_wav")
    material: ClassVar[str] = "recording"
    least_prompt_sec: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        check_number("silence_sec", self.silence_sec, least=0)
        check_number("prompt_sec", self.prompt_sec, least=self.least_prompt_sec)

    def check(self, speaker: Speaker, options: DecodeOptions) -> None:  # noqa: D102 (inherited)
        super().check(speaker, options)
        _units_of(options).sampler.check(1, "temperature of semantic_sampling")

    def spell(
        self, speaker: Speaker, names: Sequence[str], requests: Sequence[Request], options: DecodeOptions
    ) -> list[Start]:
        """What is to be said; units of a recording are not de-duplicated. Arguments are those of `starts`."""
        return [Start(_speech(name, request).units) for name, request in zip(names, requests, strict=True)]

    def start(self, name: str, request: Request, units: Ids, clock: Clock) -> Start:
        """Where the codes of an utterance begin, with units from `spell`; a UserError if there is no usable prompt."""
        units = clock.reduced(units)
        return Start(units, len(units), no_codes(clock.spec))

    def starts(  # noqa: D102 (inherited)
        self, speaker: Speaker, names: Sequence[str], requests: Sequence[Request], options: DecodeOptions
    ) -> list[Start]:
        for name, request in zip(names, requests, strict=True):
            for what, streams in (("speech", request.speech), ("prompt", request.prompt)):
                if streams is not None:
                    _check_streams(f"{what} of {name}", streams, speaker)
        clock, said = Clock.of(speaker), self.spell(speaker, names, requests, options)
        return [
            replace(
                self.start(name, request, one.units, clock),
                has_eos=one.has_eos,
                runaway=one.runaway,
                generated=one.generated,
                unknown=one.unknown,
            )
            for name, request, one in zip(names, requests, said, strict=True)
        ]

    def conditions(  # noqa: D102 (inherited)
        self, speaker: Speaker, names: Sequence[str], requests: Sequence[Request], starts: Sequence[Start]
    ) -> Any:
        return speaker.corelm.conditions(*padded(starts, speaker.device), languages_of(speaker, names, requests))

    def limits(  # noqa: D102 (inherited)
        self, speaker: Speaker, names: Sequence[str], starts: Sequence[Start], conditions: Any, options: DecodeOptions
    ) -> Tensor:
        room = speaker.corelm.room(conditions)
        for name, start, frames in zip(names, starts, room.tolist(), strict=True):
            if frames < options.min_frames:
                raise UserError(
                    f"{len(start.prompt)} prompt frames and {len(start.units)} units of {name} must leave room for "
                    f"min_frames = {options.min_frames} frames of the model's context, got {max(frames, 0)}"
                )
        return torch.minimum(super().limits(speaker, names, starts, conditions, options), room)

    def plan(self, args: Namespace) -> Plan:  # noqa: D102 (inherited)
        if args.data_dir is None:
            return self.plan_single(args)
        data: Path = args.data_dir
        if not data.is_dir():
            raise FileNotFoundError(f"data_dir not found: {data} (espnet_ext.bin.semantic_tokens writes it)")
        check_codec(args.exp, data, "codes.scp", units=True)
        units, codes = read_pointers(data / "semantic.scp"), read_pointers(data / "codes.scp")
        spoken = self.source == "speech"
        texts = dict.fromkeys(units, "") if spoken else read_scp(data / "text", allow_empty=True)
        languages, counted = read_if_there(data / LANGUAGES_NAME) or {}, data / "utt2num_units"
        lengths = read_counts(counted) if counted.is_file() else {}
        recordings = {utt: Recording(units[utt], codes[utt]) for utt in units if utt in codes}
        prompts: dict[str, str] = {}
        voices: dict[str, Recording] = {}
        if self.prompted:
            prompts = read_scp(data / PROMPTS_NAME if args.prompts is None else args.prompts)
            voices = recordings | _prompt_recordings(data)
        jobs, skipped = {}, {}
        for utt, text in texts.items():
            if not spoken and not text.strip():
                skipped[utt] = "empty text"
            elif spoken and utt not in recordings:
                skipped[utt] = "no codes"
            elif self.prompted and prompts.get(utt) not in voices:
                skipped[utt] = f"no prompt: {prompts[utt]} has no units and codes" if utt in prompts else "no prompt"
            else:
                jobs[utt] = Job(
                    wav_of(args.output_dir, utt),
                    wav_of(args.output_dir / WHOLE, utt) if self.continues else None,
                    text,
                    recordings[utt] if spoken else None,
                    voices[prompts[utt]] if self.prompted else None,
                    args.language or languages.get(utt, ""),
                )
        order = sorted(jobs, key=lambda utt: (len(texts[utt]), lengths.get(utt, 0), utt))
        used = {utt: utt if self.continues else prompts[utt] for utt in jobs if self.continues or self.prompted}
        return Plan({utt: jobs[utt] for utt in order}, skipped, used)


@register_mode("unconditional")
class Unconditional(SpeechMode):
    """Speech of nothing in particular: the model samples units, then codes."""

    source = ""
    reads = ("num_utterances",)

    def check(self, speaker: Speaker, options: DecodeOptions) -> None:  # noqa: D102 (inherited)
        super().check(speaker, options)
        if _units_of(options).sampler.guided:
            raise UserError(
                "cfg_scale of semantic_sampling must be 1 where units are sampled without a text, as there is nothing "
                f"to be guided by, got {_units_of(options).sampler.cfg_scale}"
            )

    def spell(  # noqa: D102 (inherited)
        self, speaker: Speaker, names: Sequence[str], requests: Sequence[Request], options: DecodeOptions
    ) -> list[Start]:
        assert isinstance(options, GPSTDecodeOptions), "checked"
        model, languages = speaker.corelm, languages_of(speaker, names, requests)
        nothing = Start(NO_UNITS, 0, no_codes(model.spec))
        units, lengths, *prompts = padded([nothing] * len(names), speaker.device)
        steps = model.room(model.conditions(units, lengths, *prompts, languages)) // model.stacking
        # the codes of the shortest speech and their end must fit as well
        room = steps - 1 - -(-options.min_frames // model.stacking)
        most = max(int(options.max_sec * model.semantic.frame_rate_hz), 1)
        stage = model.units
        conditions = stage.conditions(units, lengths, languages)
        decoding = speaker.decoding(stage, conditions, options.units, unit_names(names), room.clamp(1, most))
        starts = generated_starts(generate(*decoding))
        return [replace(start, runaway=None) for start in starts]  # nothing says when such units are to end

    def plan(self, args: Namespace) -> Plan:  # noqa: D102 (inherited)
        count = NUM_UTTERANCES if args.num_utterances is None else args.num_utterances
        names = [f"unconditional-{index:0{len(str(count - 1))}d}" for index in range(count)]
        return Plan({name: Job(wav_of(args.output_dir, name), language=args.language or "") for name in names}, {}, {})


@register_mode("semantic_to_acoustic")
class SemanticToAcoustic(SpeechMode):
    """What a recording says, in a voice that the model makes up."""


@register_mode("continuation")
class Continuation(SpeechMode):
    """The rest of a recording whose first seconds are given, with the units of all of it."""

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


class _Prompted(SpeechMode):
    """Speech behind a prompt and a little silence, all of them one utterance to the model."""

    reads: ClassVar[tuple[str, ...]] = ("prompts", "prompt_wav", "prompt_sec", "silence_sec")

    @property
    def prompted(self) -> bool:  # noqa: D102 (inherited)
        return self.prompt_sec > 0

    def prompt_frames(self, speaker: Speaker) -> int:  # noqa: D102 (inherited)
        return frames_within(self.prompt_sec, speaker.corelm.spec)

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


@register_mode("speaker_transfer")
class SpeakerTransfer(_Prompted):
    """What a recording says, in the voice of a prompt."""

    reads = ("data_dir", "target_wav", *_Prompted.reads)
    least_prompt_sec = MIN_PROMPT_SEC


@register_mode("tts")
class TextToSpeech(_Prompted):
    """What a text says, in the voice of a prompt, or with `prompt_sec` 0 in one that the model makes up."""

    source = "text"
    reads = ("data_dir", "text", "text_to_semantic", *_Prompted.reads)

    def __post_init__(self) -> None:
        super().__post_init__()
        if 0 < self.prompt_sec < MIN_PROMPT_SEC:
            raise UserError(f"prompt_sec must be 0 or at least {MIN_PROMPT_SEC}, got {self.prompt_sec}")

    def check(self, speaker: Speaker, options: DecodeOptions) -> None:  # noqa: D102 (inherited)
        super().check(speaker, options)
        if speaker.text_to_units is None:
            raise UserError(
                "text_to_semantic must be the experiment directory of a text-to-semantic model for mode tts, got none"
            )

    def spell(  # noqa: D102 (inherited)
        self, speaker: Speaker, names: Sequence[str], requests: Sequence[Request], options: DecodeOptions
    ) -> list[Start]:
        assert speaker.text_to_units is not None, "checked"
        texts, nobody = [request.text for request in requests], [None] * len(names)
        front = speaker.text_to_units
        generation, unknown = front.codes_and_unknown(unit_names(names), texts, nobody, _units_of(options))
        starts = generated_starts(generation)
        return [replace(start, unknown=tokens) for start, tokens in zip(starts, unknown, strict=True)]


def _units_of(options: DecodeOptions) -> DecodeOptions:
    assert isinstance(options, GPSTDecodeOptions), "checked"
    return options.units


def _prompt_recordings(data: Path) -> dict[str, Recording]:
    """Recordings of a token directory's own prompts, which need not be among its utterances."""
    if not all((data / name).is_file() for name in (PROMPTS_NAME, *PROMPT_PLACES)):
        return {}
    names, (units, codes) = read_scp(data / PROMPTS_NAME), (read_pointers(data / name) for name in PROMPT_PLACES)
    return {name: Recording(units[utt], codes[utt]) for utt, name in names.items() if utt in units and utt in codes}


def _check_streams(what: str, streams: Streams, speaker: Speaker) -> None:
    spec, semantic = speaker.corelm.spec, speaker.corelm.semantic
    check_ids(f"units of {what}", streams.units[:, None], semantic)
    check_ids(f"codes of {what}", streams.codes, spec)
    reason = disagreement(len(streams.units), len(streams.codes), semantic, spec)
    if reason is not None:
        raise UserError(f"units and codes of {what}: {reason}")


def _check_prompt(name: str, codes: Ids, clock: Clock) -> None:
    if clock.seconds(codes) < MIN_PROMPT_SEC:
        raise UserError(f"prompt of {name} must last at least {MIN_PROMPT_SEC:g} s, got {clock.seconds(codes):.2f} s")


def _speech(name: str, request: Request) -> Streams:
    if request.speech is None:
        raise UserError(f"{name} must have a recording, got none")
    return request.speech
