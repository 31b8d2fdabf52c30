"""What is compared: a reference test set and the output directories of systems, checked utterance by utterance."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any

from espnet_ext.data.datadir import read_if_there, read_scp, read_skipped
from espnet_ext.data.speaker_prompt import PROMPT_WAV_NAME, PROMPTS_NAME
from espnet_ext.data.waveform import read_mono
from espnet_ext.errors import UserError
from espnet_ext.scoring.measures.condition import conditions
from espnet_ext.scoring.scores import Timed

WHOLE_NAME = "whole/wav.scp"


@dataclass(frozen=True)
class Audio:
    """The audio that a directory has for the utterances of a test set.

    Attributes:
        wavs: utterance → readable audio.
        seconds: utterance → duration of it.
        missing: utterance → why there is no readable audio.
        conditions: utterance → what is wrong with its audio, "silent" or "clipped".
    """

    wavs: dict[str, Path] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    conditions: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Reference(Audio):
    """A test set as it should sound.

    Attributes:
        directory: of the codes, with text, utt2spk and wav.scp.
        transcripts: utterance → text; its keys are the test set.
        utt2spk: utterance → speaker of the recording.
        targets: utterance → speaker of the prompt that systems were given.
        prompts: utterance → the utterance whose voice systems were given; empty where nobody wrote it down.
        prompt_wavs: utterance → recording of that prompt, likewise.
        skipped: utterance that was left out of the test set → why.
    """

    directory: Path
    transcripts: dict[str, str]
    utt2spk: dict[str, str]
    targets: dict[str, str]
    prompts: dict[str, str] = field(default_factory=dict)
    prompt_wavs: dict[str, Path] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class System(Audio, Timed):
    """One system's speech for the utterances of a test set: `wavs` is spoken by it, `seconds` is of the whole.

    Attributes:
        name: row label.
        directory: its output.
        whole: utterance → readable audio of all words, with what was given of the recording; without that the same.
        has_own_codes: whether the directory has a codes.scp.
        status: utterance → "ok" or what went wrong; None if the system reports none.
        prompts: utterance → the utterance whose voice it was given; None if the system reports none.
        repeats: further outputs of the same system, with other seeds.
    """

    name: str
    directory: Path
    whole: dict[str, Path]
    has_own_codes: bool
    status: dict[str, str] | None
    timing: dict[str, Any] | None
    prompts: dict[str, str] | None
    repeats: tuple[System, ...] = ()

    @property
    def runs(self) -> tuple[System, ...]:
        """Its outputs, one for each seed; this one is the first."""
        return (self, *self.repeats)

    @property
    def says_codes(self) -> bool:
        """Whether codes.scp holds what the system says, not what a codec made of somebody else's speech."""
        return self.has_own_codes and (self.timing is None or self.generates)

    @property
    def seed(self) -> int | None:
        """Seed of its draws; None where nobody wrote it down."""
        return self.cost("seed")

    @property
    def sampling(self) -> dict[str, Any]:
        """Options of its sampler, as far as they are written down."""
        return self.cost("sampling") or {}

    @property
    def experiment(self) -> Path | None:
        """Directory of the model, two above ``<model>/<decoding>/<set>``; None for systems that generate nothing."""
        return self.directory.parent.parent if self.generates else None

    def targets(self, reference: Reference) -> dict[str, str]:
        """Utterance → speaker whose voice it should have, that of the prompt.

        A system that has modes says itself what its prompts were; where it says nothing it had none, and the speaker
        is that of the recording.
        """
        if self.prompts is None:
            return reference.utt2spk if self.mode is not None else reference.targets
        return {one: reference.utt2spk.get(self.prompts.get(one, one), own) for one, own in reference.utt2spk.items()}

    def has_prompt_of(self, utterance: str, reference: Reference) -> bool:
        """Whether it was given the prompt that the test set has for an utterance, and not another one or none."""
        if self.prompts is None:
            return self.mode is None
        return self.prompts.get(utterance) == reference.prompts.get(utterance)


def _audio(wav_scp: Mapping[str, str], utterances: Iterable[str]) -> Audio:
    found = Audio()
    for utterance in utterances:
        if utterance not in wav_scp:
            found.missing[utterance] = "not in wav.scp"
            continue
        path = Path(wav_scp[utterance])
        try:
            samples, rate = read_mono(path)
        except ValueError as error:
            found.missing[utterance] = str(error)
            continue
        found.wavs[utterance], found.seconds[utterance] = path, len(samples) / rate
        wrong = conditions(samples)
        if wrong:
            found.conditions[utterance] = wrong
    return found


def load_reference(directory: Path) -> Reference:
    """The test set of a data directory.

    Args:
        directory: with text, utt2spk and wav.scp; utt2prompt, if there, tells whose voice was the prompt.

    Returns:
        The test set.

    Raises:
        FileNotFoundError: if a file is missing.
        UserError: if a file is malformed, there is no utterance, or one has no speaker.
    """
    transcripts, utt2spk = read_scp(directory / "text"), read_scp(directory / "utt2spk")
    if not transcripts:
        raise UserError(f"reference must have utterances, got none in {directory / 'text'}")
    strangers = [utterance for utterance in transcripts if utterance not in utt2spk]
    if strangers:
        raise UserError(f"{directory}/utt2spk must name the speaker of every utterance, got none for {strangers[0]}")
    prompts = read_if_there(directory / PROMPTS_NAME) or {}
    prompt_wavs = {one: Path(path) for one, path in (read_if_there(directory / PROMPT_WAV_NAME) or {}).items()}
    targets = {one: utt2spk.get(prompts.get(one, one), utt2spk[one]) for one in transcripts}
    found = _audio(read_scp(directory / "wav.scp"), transcripts)
    return Reference(
        **vars(found),
        directory=directory,
        transcripts=transcripts,
        utt2spk=utt2spk,
        targets=targets,
        prompts=prompts,
        prompt_wavs={one: path for one, path in prompt_wavs.items() if one in transcripts and path.is_file()},
        skipped=read_skipped(directory / "skipped"),
    )


def load_system(name: str, directory: Path, utterances: Iterable[str], repeats: Iterable[Path] = ()) -> System:
    """The output directory of a system; what it lacks is recorded, not dropped.

    Args:
        name: row label.
        directory: with wav.scp and perhaps codes.scp, status, utt2prompt, timing.json, and whole/wav.scp if what
            wav.scp lists is only what follows on a given beginning.
        utterances: the test set.
        repeats: directories of the same system with other seeds.

    Returns:
        The system.

    Raises:
        FileNotFoundError: if wav.scp is missing.
        UserError: if a file is malformed.
    """
    try:
        wav_scp = read_scp(directory / "wav.scp")
    except FileNotFoundError:
        raise FileNotFoundError(f"system {name!r}: {directory / 'wav.scp'} is missing") from None
    utterances = list(utterances)
    found = whole = _audio(wav_scp, utterances)
    reasons = read_skipped(directory / "skipped")
    missing = {one: reasons.get(one, reason) for one, reason in found.missing.items()}
    whole_scp = read_if_there(directory / WHOLE_NAME)
    if whole_scp is not None:
        whole = _audio(whole_scp, utterances)
        missing = {**whole.missing, **missing}
    timing = directory / "timing.json"
    try:
        costs = json.loads(timing.read_text(encoding="utf-8")) if timing.is_file() else None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"system {name!r}: {timing} must be JSON: {error}") from None
    if not isinstance(costs, dict | NoneType):
        raise UserError(f"system {name!r}: {timing} must hold names and values")
    return System(
        name=name,
        directory=directory,
        wavs=found.wavs,
        whole=whole.wavs,
        seconds=whole.seconds,
        missing=missing,
        has_own_codes=(directory / "codes.scp").is_file(),
        status=read_if_there(directory / "status"),
        timing=costs,
        prompts=read_if_there(directory / "utt2prompt"),
        conditions=found.conditions,
        repeats=_repeats_of(name, costs, [load_system(name, path, utterances) for path in repeats]),
    )


def _repeats_of(name: str, costs: Mapping[str, Any] | None, repeats: Sequence[System]) -> tuple[System, ...]:
    """Refuse repeats that differ in more than their seed, or not even in that."""
    first = costs or {}
    seeds = [first.get("seed")]
    for repeat in repeats:
        for key in ("decoding", "decoding_conf", "sampling"):
            if repeat.cost(key) != first.get(key):
                told = f"{key} {first.get(key)!r} as its first output, got {repeat.cost(key)!r} in {repeat.directory}"
                raise UserError(f"repeat of {name!r} must have {told}")
        if repeat.seed in seeds:
            raise UserError(f"repeat of {name!r} must have another seed than {seeds}, got {repeat.directory}")
        seeds.append(repeat.seed)
    return tuple(repeats)


def load_untranscribed(name: str, directory: Path) -> System:
    """A system that speaks without being told what to say, as `load_system` loads it, with all utterances it lists."""
    tables = [read_if_there(directory / table) or {} for table in ("wav.scp", "status")]
    return load_system(name, directory, sorted({utterance for table in tables for utterance in table}))
