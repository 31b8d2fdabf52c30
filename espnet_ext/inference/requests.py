"""What an utterance can be asked for with, and the modes, which turn that into what a core LM is given."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from espnet_ext.codes import CodecSpec
from espnet_ext.data.ark import load_codes_entry, read_pointers
from espnet_ext.data.datadir import read_scp
from espnet_ext.data.preprocess import collate
from espnet_ext.data.streams import Streams
from espnet_ext.decoding import Runaway, Watch
from espnet_ext.decoding.options import DecodeOptions
from espnet_ext.errors import UserError
from espnet_ext.inference.experiment import check_codec
from espnet_ext.inference.listener import NO_UNITS, Ids
from espnet_ext.model.core_lm import CoreLM, corelms
from espnet_ext.registries import modes

if TYPE_CHECKING:
    from espnet_ext.inference.speaker import Speaker

WHOLE = "whole"  # folder of the speech that includes what was given


@dataclass(frozen=True)
class Request:
    """What an utterance can be made from; every mode needs some of it.

    Attributes:
        speech: recording of the utterance.
        prompt: recording of the voice to speak with; without units for a model that reads none.
        text: what to say.
        language: its name; empty for one that is not told.
        further: what else a mode of another package needs, plain values by name.
        prompt_sec: how long the recording is that `prompt` was taken from; 0 if it is all of it.
    """

    speech: Streams | None = None
    prompt: Streams | None = None
    text: str = ""
    language: str = ""
    further: Mapping[str, Any] = field(default_factory=dict)
    prompt_sec: float = 0.0


@dataclass(frozen=True)
class Start:
    """What the codes of an utterance are generated behind.

    Attributes:
        units: (U,) int64 ids of what is said, text tokens or semantic units, as the model reads them.
        spoken: how many of them are left to speak.
        prompt: (T', N) int64 codes, possibly none.
        has_eos: False if the units were generated and ran into their limit.
        runaway: why the units ran away, if they were generated and did.
        generated: how many units were generated for it.
        unknown: what the model does not know of its text.
        known: (T, N) int64 codes that are there already, -1 where there is to be something new; None for none.
    """

    units: Ids
    spoken: int = 0
    prompt: Ids = field(default_factory=lambda: NO_UNITS)
    has_eos: bool = True
    runaway: Runaway | None = None
    generated: int = 0
    unknown: tuple[str, ...] = ()
    known: Ids | None = None


@dataclass(frozen=True)
class Recording:
    """Where a recording is: in archives, or in an audio file that is yet to be encoded.

    Attributes:
        units: place of its semantic units in an archive; empty for a model that reads none.
        codes: place of its codes in an archive.
        wav: audio file, if there are no such places.
    """

    units: str = ""
    codes: str = ""
    wav: str = ""

    def files(self) -> list[Path]:
        """What is read."""
        places = [Path(place.rpartition(":")[0]) for place in (self.units, self.codes) if place]
        return [Path(self.wav)] if self.wav else places

    def read(self, speaker: Speaker, name: str) -> Streams:
        """Both streams, as the speaker's codec and tokenizer make or made them; the name is for errors."""
        if self.wav:
            return speaker.listener.hear(self.wav)
        units = load_codes_entry(self.units, 1, name)[:, 0] if self.units else NO_UNITS
        return Streams(units, load_codes_entry(self.codes, speaker.corelm.spec.num_codebooks, name))


@dataclass(frozen=True)
class Job:
    """One utterance to be spoken, in plain values, so that every worker can be told.

    Attributes:
        wav: file to write.
        whole: file to write with the speech that was given in front; for a mode that continues.
        text: what to say.
        speech: recording of the utterance.
        prompt: recording of the voice to speak with.
        language: its name; empty for one that is not told.
        further: what else a mode of another package needs, plain values by name.
    """

    wav: Path
    whole: Path | None = None
    text: str = ""
    speech: Recording | None = None
    prompt: Recording | None = None
    language: str = ""
    further: Mapping[str, Any] = field(default_factory=dict)

    def files(self) -> list[Path]:
        """What is read and made."""
        read = [path for recording in (self.speech, self.prompt) if recording is not None for path in recording.files()]
        return [path for path in (self.wav, self.whole) if path is not None] + read

    def read(self, speaker: Speaker, name: str, mode: Mode) -> Request:
        """What the speaker is to be given in a mode; a UserError or OSError if that cannot be read."""
        said, voice, seconds = None if self.speech is None else self.speech.read(speaker, name), None, 0.0
        if self.prompt is not None and self.prompt.wav:
            voice, seconds = speaker.listener.hear_prompt(self.prompt.wav, mode.prompt_frames(speaker))
        elif self.prompt is not None:
            voice = self.prompt.read(speaker, f"prompt of {name}")
        return Request(said, voice, self.text, self.language, self.further, seconds)


@dataclass(frozen=True)
class Plan:
    """What is to be spoken.

    Attributes:
        jobs: utterance → job, short ones first: equal lengths together waste less time on rows that have ended.
        skipped: utterance → why it cannot be spoken.
        prompts: utterance → utterance whose voice it is to have; empty where nobody's is given.
    """

    jobs: dict[str, Job]
    skipped: dict[str, str]
    prompts: dict[str, str]


def wav_of(directory: Path, utterance: str) -> Path:
    """Audio file of an utterance in an output directory."""
    return directory / "wav" / f"{utterance}.wav"


@dataclass(frozen=True)
class Mode(ABC):
    """One way to ask a core LM for speech. As it is, it reads texts and the codes of prompts.

    Attributes:
        corelm: name of the core LM that it is for.
        options: class of the decode options.
        source: attribute of `Request` that tells what to say; empty where nothing does.
        reads: options of the command that mean something to it, of those that not all modes read.
        continues: whether the speech goes on from the beginning of its own recording.
        material: what a job names, for the reason why it could not be read.
    """

    corelm: ClassVar[str]
    options: ClassVar[type[DecodeOptions]] = DecodeOptions
    source: ClassVar[str] = "text"
    reads: ClassVar[tuple[str, ...]] = ("data_dir", "text")
    continues: ClassVar[bool] = False
    material: ClassVar[str] = "prompt"

    @property
    def prompted(self) -> bool:
        """Whether an utterance needs a recording of the voice to speak with."""
        return False

    def prompt_frames(self, speaker: Speaker) -> int | None:
        """Most frames of a prompt that an utterance is given; None for all, which is then encoded whole."""
        return None

    def prompt_seconds(self, speaker: Speaker, request: Request) -> tuple[float, float]:
        """How long the prompt of an utterance is, and how much of it is used."""
        if request.prompt is None:
            return 0.0, 0.0
        frames, longest = len(request.prompt.codes), self.prompt_frames(speaker)
        rate = speaker.corelm.spec.frame_rate_hz
        whole = request.prompt_sec or frames / rate
        return whole, min(whole, (frames if longest is None else min(frames, longest)) / rate)

    def check(self, speaker: Speaker, options: DecodeOptions) -> None:
        """Refuse a model or options that do not serve the mode, with a UserError that names what is missing."""
        if not isinstance(options, self.options):
            raise UserError(f"options must be {self.options.__name__} with this mode, got {type(options).__name__}")

    @abstractmethod
    def starts(
        self, speaker: Speaker, names: Sequence[str], requests: Sequence[Request], options: DecodeOptions
    ) -> list[Start]:
        """What the codes of each utterance are generated behind.

        Args:
            speaker: who speaks.
            names: utterance ids, for errors.
            requests: as many.
            options: how to decode.

        Returns:
            As many.

        Raises:
            UserError: naming an utterance that has not what the mode needs.
        """

    def conditions(
        self, speaker: Speaker, names: Sequence[str], requests: Sequence[Request], starts: Sequence[Start]
    ) -> Any:
        """What the core LM generates from: its `conditions` of the padded starts; arguments are those of `starts`."""
        return speaker.corelm.conditions(*padded(starts, speaker.device))

    def limits(
        self, speaker: Speaker, names: Sequence[str], starts: Sequence[Start], conditions: Any, options: DecodeOptions
    ) -> Tensor:
        """Most frames of each utterance: (B,) int64; arguments are those of `starts`, and what came of them."""
        spoken = torch.tensor([start.spoken for start in starts], device=speaker.device)
        return (spoken * speaker.maxlenratio(options)).ceil().long().clamp_min(options.min_frames)

    def watch(self, speaker: Speaker, starts: Sequence[Start], options: DecodeOptions) -> Watch | None:
        """What counts as run away; None for a limit that was reached alone. The arguments are those of `limits`."""
        tokens = torch.tensor([start.spoken for start in starts], device=speaker.device)
        return Watch.of(speaker.limits, tokens, stops=bool(options.retries))

    def plan(self, args: Namespace) -> Plan:
        """What a command asks for.

        Args:
            args: its options.

        Returns:
            The plan.

        Raises:
            FileNotFoundError: if a table is missing.
            UserError: naming the option that is missing, or the table that does not fit.
        """
        if args.data_dir is None:
            return self.plan_single(args)
        check_codec(args.exp, args.data_dir)
        texts = read_scp(args.data_dir / "text", allow_empty=True)
        places = args.data_dir / "prompt.scp"
        prompts = read_pointers(places) if places.is_file() else {}
        skipped = {utt: "empty text" for utt, text in texts.items() if not text.strip()}
        order = sorted((utt for utt in texts if utt not in skipped), key=lambda utt: (len(texts[utt]), utt))
        without = [utt for utt in order if utt not in prompts]
        if without:
            logging.warning("%d utterances have no speaker prompt (%s …)", len(without), without[0])
        voices = {utt: Recording(codes=place) for utt, place in prompts.items()}
        jobs = {utt: Job(wav_of(args.output_dir, utt), text=texts[utt], prompt=voices.get(utt)) for utt in order}
        return Plan(jobs, skipped, {})

    def plan_single(self, args: Namespace) -> Plan:
        """The one utterance that a text or audio files ask for; see `plan`."""
        option = "target_wav" if self.source == "speech" else "text"
        given = {option: getattr(args, option)} | ({"prompt_wav": args.prompt_wav} if self.prompted else {})
        for name, value in given.items():
            if not value or not value.strip():
                raise UserError(f"{name} must be given for mode {name_of(self)} without data_dir, got {value!r}")
        name = "_".join(Path(args.target_wav).stem.split()) if self.source == "speech" else "text"
        job = Job(
            wav_of(args.output_dir, name),
            wav_of(args.output_dir / WHOLE, name) if self.continues else None,
            args.text or "",
            Recording(wav=args.target_wav) if self.source == "speech" else None,
            Recording(wav=args.prompt_wav) if self.prompted else None,
            args.language or "",
        )
        return Plan({name: job}, {}, {})


register_mode = modes.register


def name_of(mode: Mode) -> str:
    """The name that a mode is registered by."""
    return next(name for name in modes if modes[name] is type(mode))


def modes_of(corelm: type[CoreLM]) -> list[str]:
    """Names of the modes of a core LM."""
    return [name for name in modes if issubclass(corelm, corelms[modes[name].corelm])]


def default_mode(corelm: type[CoreLM]) -> str:
    """The mode that nobody has to name: "text", or the only one of a core LM; empty where one has to be named."""
    own = modes_of(corelm)
    return "text" if "text" in own else own[0] if len(own) == 1 else ""


def padded(starts: Sequence[Start], device: str) -> list[Tensor]:
    """The ids of utterances (B, U), their lengths, prompts (B, T', N) and their lengths, int64."""
    rows = [(str(row), {"units": start.units, "prompt": start.prompt}) for row, start in enumerate(starts)]
    return [values.to(device) for values in collate(rows)[1].values()]


@register_mode("text")
class Text(Mode):
    """What a text says, in the voice of a prompt if there is one."""

    corelm = "codec_lm"

    def prompt_frames(self, speaker: Speaker) -> int:  # noqa: D102 (inherited)
        longest: int = speaker.inputs.prompt_frames
        return longest

    def check(self, speaker: Speaker, options: DecodeOptions) -> None:  # noqa: D102 (inherited)
        super().check(speaker, options)
        _ = speaker.tokenizer  # its files are looked for before any work

    def starts(  # noqa: D102 (inherited)
        self, speaker: Speaker, names: Sequence[str], requests: Sequence[Request], options: DecodeOptions
    ) -> list[Start]:
        spec, starts, longest = speaker.corelm.spec, [], self.prompt_frames(speaker)
        for name, request in zip(names, requests, strict=True):
            prompt = no_codes(spec) if request.prompt is None else request.prompt.codes[:longest]
            check_ids(f"prompt of {name}", prompt, spec)
            encoding = speaker.tokenizer.read_to_speak(request.text)
            ids = np.asarray(encoding.ids)
            starts.append(Start(ids, len(ids), prompt, unknown=encoding.unknown))
        return starts


def no_codes(spec: CodecSpec) -> Ids:
    """The codes (0, N) of a prompt that there is not."""
    return np.zeros((0, spec.num_codebooks), dtype=np.int64)


def check_ids(what: str, ids: Ids, spec: CodecSpec) -> None:
    """Refuse ids (T, N) that there are not, with a UserError that says what they are."""
    try:
        spec.check(torch.from_numpy(ids))
    except UserError as error:
        raise UserError(f"{what}: {error}") from None
