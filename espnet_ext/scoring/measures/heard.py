"""Everything that evaluators say of the audio of all systems, utterance by utterance, and what they cannot say."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from espnet_ext.scoring.evaluators.evaluator import Choice, Unheard, evaluate_files
from espnet_ext.scoring.evaluators.voice import Embedding
from espnet_ext.scoring.measures import distortion
from espnet_ext.scoring.measures.quality import Numbers
from espnet_ext.scoring.measures.words import words_to_hear
from espnet_ext.scoring.settings import Settings
from espnet_ext.scoring.system import Reference, System

ALIGNED = ("mcd", "log_f0_rmse")  # measures of `distortion`


@dataclass
class Heard:
    """What was heard.

    Attributes:
        words: system → for every repeat, utterance → words; empty without a recogniser.
        voices: system → for every repeat, utterance → embedding of its voice, without silent ones.
        originals: utterance → embedding of its recording.
        numbers: system → for every repeat, utterance → measure → number.
        unavailable: measure, or beginning of the names of several → why nobody has it.
        unheard: system → for every repeat, utterance → why an evaluator could say nothing.
    """

    words: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    voices: dict[str, list[dict[str, Embedding]]] = field(default_factory=dict)
    originals: dict[str, Embedding] = field(default_factory=dict)
    numbers: dict[str, list[dict[str, Numbers]]] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)
    unheard: dict[str, list[dict[str, str]]] = field(default_factory=dict)

    def note(self, system: System, number: int, utterance: str, label: str, reason: str) -> None:
        """Write down that an evaluator could say nothing of an utterance.

        Args:
            system: whose utterance it is.
            number: of the repeat.
            utterance: its id.
            label: of the evaluator.
            reason: what was wrong.
        """
        known = self.unheard[system.name][number]
        known[utterance] = "; ".join(filter(None, [known.get(utterance), f"{label}: {reason}"]))


def _outputs(systems: Sequence[System]) -> Iterator[tuple[System, int, System]]:
    for system in systems:
        for number, run in enumerate(system.runs):
            yield system, number, run


def _ask(choice: Choice, files: Mapping[str, Mapping[str, Path]], settings: Settings) -> dict[str, dict[str, Any]]:
    """Group → utterance → what the evaluator says."""
    said = evaluate_files(
        choice, {name: paths.values() for name, paths in files.items()}, settings.workers, settings.folder
    )
    return {name: {one: said[path] for one, path in paths.items()} for name, paths in files.items()}


def _key(system: System, number: int) -> str:
    return f"{system.name}#{number}"


def _usable(choice: Choice | None, names: Sequence[str], option: str, heard: Heard) -> bool:
    """Whether an evaluator can be asked; if not, why its measures are missing is written down."""
    reason = f"left out by --{option} none" if choice is None else choice.unavailable()
    if reason is not None:
        heard.unavailable.update(dict.fromkeys(names, reason))
    return reason is None


def _hear_words(reference: Reference, systems: Sequence[System], settings: Settings, heard: Heard) -> None:
    if not _usable(settings.asr, ("wer", "cer"), "asr", heard) or settings.asr is None:
        return
    choice = words_to_hear(settings.asr, [*reference.transcripts.values(), *settings.vocabulary])
    said = _ask(choice, {_key(one, number): run.whole for one, number, run in _outputs(systems)}, settings)
    for system, number, _ in _outputs(systems):
        texts = said[_key(system, number)]
        for utterance, text in texts.items():
            if isinstance(text, Unheard):
                heard.note(system, number, utterance, choice.name, text.reason)
        heard.words.setdefault(system.name, []).append(
            {one: "" if isinstance(text, Unheard) else text for one, text in texts.items()}
        )


def _hear_voices(reference: Reference, systems: Sequence[System], settings: Settings, heard: Heard) -> None:
    if not _usable(settings.speaker, ("speaker",), "speaker", heard) or settings.speaker is None:
        return
    files = {_key(one, number): run.wavs for one, number, run in _outputs(systems)}
    said = _ask(settings.speaker, {"recordings": reference.wavs, **files}, settings)
    heard.originals.update({one: voice for one, voice in said["recordings"].items() if _is_said(voice)})
    for system, number, _ in _outputs(systems):
        for utterance, voice in said[_key(system, number)].items():
            if isinstance(voice, Unheard):
                heard.note(system, number, utterance, settings.speaker.name, voice.reason)
        heard.voices.setdefault(system.name, []).append(
            {one: voice for one, voice in said[_key(system, number)].items() if _is_said(voice)}
        )


def _is_said(value: object) -> bool:
    return value is not None and not isinstance(value, Unheard)


def _some(wavs: Mapping[str, Path], most: int) -> Mapping[str, Path]:
    """A part of the utterances that depends on nothing but their ids."""
    if not most:
        return wavs
    return {one: wavs[one] for one in sorted(wavs, key=lambda name: zlib.crc32(name.encode()))[:most]}


def _predict_opinions(systems: Sequence[System], choice: Choice, settings: Settings, heard: Heard) -> None:
    if not _usable(choice, (choice.name,), "mos", heard):
        return
    files = {_key(one, number): _some(run.wavs, settings.mos_utterances) for one, number, run in _outputs(systems)}
    said = _ask(choice, files, settings)
    for system, number, _ in _outputs(systems):
        for utterance, numbers in said[_key(system, number)].items():
            if isinstance(numbers, Unheard):
                heard.note(system, number, utterance, choice.name, numbers.reason)
            elif numbers is not None:
                known = heard.numbers[system.name][number]
                known[utterance] = {**known.get(utterance, {}), **numbers}


def _align(reference: Reference, systems: Sequence[System], settings: Settings, heard: Heard) -> None:
    reason = distortion.unavailable() if settings.distortion else "left out by --distortion false"
    if reason is not None:
        heard.unavailable.update(dict.fromkeys(ALIGNED, reason))
        return
    pairs = {
        _key(system, number): {
            one: (reference.wavs[one], path) for one, path in run.whole.items() if one in reference.wavs
        }
        for system, number, run in _outputs(systems)
    }
    said = distortion.distortions(pairs, settings.workers, settings.part("distortion"))
    for system, number, _ in _outputs(systems):
        for utterance, numbers in said[_key(system, number)].items():
            if isinstance(numbers, str):
                heard.note(system, number, utterance, "alignment", numbers)
            else:
                known = heard.numbers[system.name][number]
                known[utterance] = {**known.get(utterance, {}), **numbers}


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
    heard, listed = Heard(), [*systems, *untranscribed]
    for system in listed:
        heard.numbers[system.name] = [{} for _ in system.runs]
        heard.unheard[system.name] = [{} for _ in system.runs]
    _hear_words(reference, listed, settings, heard)
    _hear_voices(reference, listed, settings, heard)
    for choice in settings.mos:
        _predict_opinions(listed, choice, settings, heard)
    if not settings.mos:
        heard.unavailable["mos"] = "left out by --mos none"
    _align(reference, systems, settings, heard)
    return heard
