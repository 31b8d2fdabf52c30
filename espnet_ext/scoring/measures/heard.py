"""Everything that evaluators say of the audio of all systems, utterance by utterance, and what they cannot say."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from espnet_ext.data.datadir import LANGUAGES_NAME, read_if_there
from espnet_ext.errors import UserError
from espnet_ext.scoring.evaluators import Embedding
from espnet_ext.scoring.evaluators.evaluator import Choice, Unheard, evaluate_files
from espnet_ext.scoring.measures import distortion
from espnet_ext.scoring.measures.words import words_to_hear
from espnet_ext.scoring.settings import Settings
from espnet_ext.scoring.system import Reference, System

ALIGNED = ("mcd", "log_f0_rmse")  # measures of `distortion`


@dataclass
class Output:
    """What was heard of one output of a system.

    Attributes:
        words: utterance → words, none where the recogniser could not judge; empty without a recogniser.
        voices: utterance → embedding of its voice, without silent ones.
        numbers: utterance → measure → number.
        unheard: utterance → why an evaluator could say nothing.
    """

    words: dict[str, str] = field(default_factory=dict)
    voices: dict[str, Embedding] = field(default_factory=dict)
    numbers: dict[str, dict[str, float | None]] = field(default_factory=dict)
    unheard: dict[str, str] = field(default_factory=dict)

    def answers(self, said: Mapping[str, Any], label: str) -> dict[str, Any]:
        """What an evaluator says; where it could not judge, the reason is written down.

        Args:
            said: utterance → value, or `Unheard`.
            label: of the evaluator.

        Returns:
            Utterance → value, without those of which there is nothing to say.
        """
        for utterance, value in said.items():
            if isinstance(value, Unheard):
                reasons = [self.unheard.get(utterance), f"{label}: {value.reason}"]
                self.unheard[utterance] = "; ".join(filter(None, reasons))
        return {one: value for one, value in said.items() if not (value is None or isinstance(value, Unheard))}

    def add_numbers(self, said: Mapping[str, Any], label: str) -> None:
        """Take up the measures that an evaluator gives; the arguments are those of `answers`."""
        for utterance, numbers in self.answers(said, label).items():
            self.numbers.setdefault(utterance, {}).update(numbers)


@dataclass
class Heard:
    """What was heard.

    Attributes:
        outputs: system → what was heard of each output.
        originals: utterance → embedding of its recording.
        prompts: utterance → embedding of its prompt's recording.
        unavailable: measure, or beginning of the names of several → why nobody has it.
    """

    outputs: dict[str, list[Output]]
    originals: dict[str, Embedding] = field(default_factory=dict)
    prompts: dict[str, Embedding] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)

    def has(self, measure: str) -> bool:
        """Whether somebody could be asked about a measure."""
        return measure not in self.unavailable

    def of(self, systems: Sequence[System]) -> Iterator[tuple[str, System, Output]]:
        """Every output of systems: a name of its own, its files, and what was heard of it."""
        for system in systems:
            for number, (run, output) in enumerate(zip(system.runs, self.outputs[system.name], strict=True)):
                yield f"{system.name}#{number}", run, output

    def can_ask(self, choice: Choice | None, names: Sequence[str], option: str) -> bool:
        """Whether an evaluator can be asked; if not, why its measures are missing is written down."""
        reason = f"left out by --{option} none" if choice is None else choice.unavailable()
        if reason is not None:
            self.unavailable.update(dict.fromkeys(names, reason))
        return reason is None


def _hear_words(reference: Reference, systems: Sequence[System], settings: Settings, heard: Heard) -> None:
    if not heard.can_ask(settings.asr, ("wer", "cer"), "asr") or settings.asr is None:
        return
    languages = set((read_if_there(reference.directory / LANGUAGES_NAME) or {}).values())
    try:
        choice = words_to_hear(settings.asr, [*reference.transcripts.values(), *settings.vocabulary], languages)
    except UserError as error:  # everything else can be measured
        logging.warning("no word and character error rates: %s", error)
        heard.unavailable.update(dict.fromkeys(("wer", "cer"), str(error)))
        return
    files = {name: run.whole for name, run, _ in heard.of(systems)}
    said = evaluate_files(choice, files, settings.workers, settings.folder)
    for name, _, output in heard.of(systems):
        output.words = {**dict.fromkeys(said[name], ""), **output.answers(said[name], choice.name)}


def _hear_voices(reference: Reference, systems: Sequence[System], settings: Settings, heard: Heard) -> None:
    if not heard.can_ask(settings.speaker, ("speaker",), "speaker") or settings.speaker is None:
        return
    files = {"recordings": reference.wavs, "prompts": reference.prompt_wavs}
    files |= {name: run.wavs for name, run, _ in heard.of(systems)}
    said = evaluate_files(settings.speaker, files, settings.workers, settings.folder)
    heard.originals = Output().answers(said["recordings"], settings.speaker.name)
    heard.prompts = Output().answers(said["prompts"], settings.speaker.name)
    for name, _, output in heard.of(systems):
        output.voices = output.answers(said[name], settings.speaker.name)


def _some(wavs: Mapping[str, Path], most: int) -> Mapping[str, Path]:
    """A part of the utterances that depends on nothing but their ids."""
    if not most:
        return wavs
    return {one: wavs[one] for one in sorted(wavs, key=lambda name: zlib.crc32(name.encode()))[:most]}


def _predict_opinions(systems: Sequence[System], choice: Choice, settings: Settings, heard: Heard) -> None:
    if heard.can_ask(choice, (choice.name,), "mos"):
        files = {name: _some(run.wavs, settings.mos_utterances) for name, run, _ in heard.of(systems)}
        said = evaluate_files(choice, files, settings.workers, settings.folder)
        for name, _, output in heard.of(systems):
            output.add_numbers(said[name], choice.name)


def _align(reference: Reference, systems: Sequence[System], settings: Settings, heard: Heard) -> None:
    reason = distortion.unavailable() if settings.distortion else "left out by --distortion false"
    if reason is not None:
        heard.unavailable.update(dict.fromkeys(ALIGNED, reason))
        return
    recorded = reference.wavs
    pairs = {
        name: {one: (recorded[one], path) for one, path in run.whole.items() if one in recorded}
        for name, run, _ in heard.of(systems)
    }
    said = distortion.distortions(pairs, settings.workers, settings.part("distortion"))
    for name, _, output in heard.of(systems):
        output.add_numbers(said[name], "alignment")


def hear(reference: Reference, systems: Sequence[System], untranscribed: Sequence[System], settings: Settings) -> Heard:
    """Ask every evaluator about all audio.

    Args:
        reference: the test set.
        systems: that say its texts.
        untranscribed: systems that say something else, which cannot be aligned.
        settings: which evaluators.

    Returns:
        What they say.
    """
    listed = [*systems, *untranscribed]
    heard = Heard({system.name: [Output() for _ in system.runs] for system in listed})
    _hear_words(reference, listed, settings, heard)
    _hear_voices(reference, listed, settings, heard)
    for choice in settings.mos:
        _predict_opinions(listed, choice, settings, heard)
    if not settings.mos:
        heard.unavailable["mos"] = "left out by --mos none"
    _align(reference, systems, settings, heard)
    return heard
