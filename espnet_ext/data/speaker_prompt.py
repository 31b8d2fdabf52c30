"""Speaker prompts: which other utterance shows a model the voice of an utterance."""

from __future__ import annotations

import bisect
import hashlib
import itertools
import logging
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from espnet_ext.data.datadir import (
    read_counts,
    read_if_there,
    read_scp,
    skipped_summary,
    speaker_to_utterances,
    write_data_dir,
    write_scp,
    write_skipped,
)
from espnet_ext.errors import UserError

PROMPTS_NAME = "utt2prompt"
FALLBACK_NAME = "prompt_fallback"
PROMPT_ONLY_NAME = "prompt_only"
PROMPT_WAV_NAME = "prompt_wav.scp"


@dataclass(frozen=True)
class PromptRule:
    """How prompts are chosen.

    Attributes:
        seed: of the choice.
        min_sec: shortest prompt, seconds.
    """

    seed: int = 0
    min_sec: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a length that is none.

        Raises:
            UserError: if `min_sec` is negative or not a number.
        """
        if not 0 <= self.min_sec < float("inf"):
            raise UserError(f"--prompt_min_sec must be at least 0 seconds, got {self.min_sec}")


def _place(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


class _Ring:
    """Utterances on a circle at places that depend on their own names alone.

    Whoever needs the voice of another speaker takes the next one behind its own place, so that more speakers change
    that choice only where one of them comes to stand in between.
    """

    def __init__(self, utterances: Iterable[str]) -> None:
        self._places = sorted((_place(utterance), utterance) for utterance in utterances)

    def after(self, name: str, utt2spk: Mapping[str, str], speaker: str) -> str:
        """The first utterance behind the place of `name` that is not of `speaker`; there must be one."""
        start = bisect.bisect(self._places, (_place(name), ""))
        behind = (self._places[(start + step) % len(self._places)][1] for step in range(len(self._places)))
        return next(utterance for utterance in behind if utt2spk[utterance] != speaker)


@dataclass(frozen=True)
class _Voice:
    """What a speaker has to offer: all that is long enough, and the two longest, for when nothing is."""

    long_enough: list[str]
    longest: list[str]

    def other(self, utterance: str, rule: PromptRule) -> str | None:
        """One of the long ones that is not `utterance`; None if there is none."""
        own = bisect.bisect_left(self.long_enough, utterance)
        is_candidate = own < len(self.long_enough) and self.long_enough[own] == utterance
        count = len(self.long_enough) - is_candidate
        if not count:
            return None
        # without a copy of the list per utterance, which would take time quadratic in a speaker's utterances
        index = random.Random(f"{rule.seed} {utterance}").randrange(count)
        return self.long_enough[index + (is_candidate and index >= own)]


def choose_prompts(
    utt2spk: Mapping[str, str],
    seconds: Mapping[str, float],
    rule: PromptRule,
    fixed: Mapping[str, str] | None = None,
) -> tuple[dict[str, str], dict[str, str]]:
    """Another utterance of the same speaker for every utterance, and the exceptions.

    A choice depends on the seed, the utterance and its speaker's utterances only, so that adding a speaker changes
    nobody else's prompt. In this order: the fixed prompt; any other utterance of the speaker that is long enough; the
    longest other one; one of another speaker.

    Args:
        utt2spk: utterance → speaker, two utterances or more.
        seconds: utterance → duration.
        rule: seed and shortest prompt.
        fixed: utterance → prompt; only these utterances get one then. Length does not matter for them.

    Returns:
        Utterance → prompt utterance, and utterance → why its prompt is not what the rule asks for.

    Raises:
        UserError: if there is only one utterance, or a fixed prompt is the utterance itself or of another speaker.

    >>> utt2spk = {"a-1": "a", "a-2": "a", "a-3": "a", "b-1": "b"}
    >>> choose_prompts(utt2spk, {"a-1": 4.0, "a-2": 2.0, "a-3": 1.0, "b-1": 5.0}, PromptRule(seed=0, min_sec=3))[0]
    {'a-1': 'a-2', 'a-2': 'a-1', 'a-3': 'a-1', 'b-1': 'a-1'}
    """
    if len(utt2spk) < 2:
        raise UserError(f"a speaker prompt needs another utterance: there must be at least 2, got {list(utt2spk)}")
    voices = _voices(utt2spk, seconds, rule)
    ring: _Ring | None = None
    prompts, fallbacks = {}, {}
    for utterance in sorted(utt2spk if fixed is None else fixed.keys() & utt2spk.keys()):
        speaker = utt2spk[utterance]
        if fixed is not None:
            _check_fixed(utterance, fixed[utterance], utt2spk)
            if fixed[utterance] in utt2spk:
                prompts[utterance] = fixed[utterance]
                continue
            fallbacks[utterance] = f"fixed prompt not usable: {fixed[utterance]}"
        prompt = voices[speaker].other(utterance, rule)
        if prompt is None:
            prompt = next((other for other in voices[speaker].longest if other != utterance), None)
            if prompt is not None:
                fallbacks[utterance] = f"shorter than {rule.min_sec:g} s: {prompt} has {seconds[prompt]:.2f} s"
        if prompt is None:
            ring = ring or _ring_of_long_ones(voices, utt2spk)
            prompt = ring.after(f"{rule.seed} {utterance}", utt2spk, speaker)
            fallbacks[utterance] = f"of another speaker: {speaker} has one utterance"
        prompts[utterance] = prompt
    return prompts, fallbacks


def _ring_of_long_ones(voices: Mapping[str, _Voice], utt2spk: Mapping[str, str]) -> _Ring:
    # of two speakers at least, so that everybody finds somebody else
    long_enough = [voice.long_enough for voice in voices.values() if voice.long_enough]
    return _Ring(itertools.chain(*long_enough) if len(long_enough) > 1 else utt2spk)


def _voices(utt2spk: Mapping[str, str], seconds: Mapping[str, float], rule: PromptRule) -> dict[str, _Voice]:
    return {
        speaker: _Voice(
            [utterance for utterance in own if seconds[utterance] >= rule.min_sec],
            sorted(own, key=lambda utterance: (-seconds[utterance], utterance))[:2],
        )
        for speaker, own in speaker_to_utterances(utt2spk).items()
    }


def _check_fixed(utterance: str, prompt: str, utt2spk: Mapping[str, str]) -> None:
    if prompt == utterance:
        raise UserError(f"{PROMPTS_NAME}: {utterance} must not be its own prompt")
    speaker = utt2spk.get(prompt, utt2spk[utterance])
    if speaker != utt2spk[utterance]:
        raise UserError(f"{PROMPTS_NAME}: prompt of {utterance} must be of its speaker, got {prompt} of {speaker}")


def write_prompts(out: Path, source: Path, rule: PromptRule, frame_rate_hz: float) -> None:
    """Write prompt.scp, which points into the archives of codes.scp, prompt_wav.scp, utt2prompt, and the exceptions.

    If the source has fixed prompts, then `out` keeps the utterances that they are for; what was encoded to be a prompt
    alone leaves its tables, so that nothing decodes or scores it, and is listed in prompt_only.

    Args:
        out: directory with codes.scp, utt2num_frames and the data files of the same utterances.
        source: data directory that it was made from.
        rule: how prompts are chosen.
        frame_rate_hz: of the codec.

    Raises:
        UserError: if none of the utterances with a fixed prompt is there.
    """
    pointers, frames = read_scp(out / "codes.scp"), read_counts(out / "utt2num_frames")
    seconds = {utterance: count / frame_rate_hz for utterance, count in frames.items()}
    fixed = read_if_there(source / PROMPTS_NAME)
    prompts, fallbacks = choose_prompts(read_scp(out / "utt2spk"), seconds, rule, fixed)
    if not prompts:
        raise UserError(f"{source / PROMPTS_NAME} must list usable utterances, found none of them in {out}")
    write_choice(out, prompts, fallbacks, pointers)
    wavs = read_scp(out / "wav.scp")
    write_scp(out / PROMPT_WAV_NAME, {utterance: wavs[prompt] for utterance, prompt in prompts.items()})
    if fixed is None:
        (out / PROMPT_ONLY_NAME).unlink(missing_ok=True)
    else:
        _keep_only(out, prompts)


def write_choice(
    out: Path, prompts: Mapping[str, str], fallbacks: Mapping[str, str], pointers: Mapping[str, str]
) -> None:
    """Write utt2prompt, prompt.scp and the list of exceptions.

    Args:
        out: directory to write.
        prompts: utterance → prompt.
        fallbacks: utterance → why it is another one than the rule asks for.
        pointers: utterance → place of its codes.
    """
    write_scp(out / PROMPTS_NAME, prompts)
    write_scp(out / "prompt.scp", {utterance: pointers[prompt] for utterance, prompt in prompts.items()})
    write_skipped(out / FALLBACK_NAME, fallbacks)
    if fallbacks:
        logging.warning("%s: prompts: %s", out, skipped_summary(fallbacks))


def _keep_only(out: Path, prompts: Mapping[str, str]) -> None:
    """Leave the keys of `prompts` in all tables of `out`, and list the others."""
    for name in ("codes.scp", "utt2num_frames"):
        table = read_scp(out / name)
        write_scp(out / name, {utterance: table[utterance] for utterance in prompts})
    wavs, text, utt2spk = read_scp(out / "wav.scp"), read_if_there(out / "text"), read_scp(out / "utt2spk")
    used = set(prompts.values())
    others = {utt: "prompt" if utt in used else f"not in {PROMPTS_NAME}" for utt in wavs if utt not in prompts}
    write_skipped(out / PROMPT_ONLY_NAME, others)
    write_data_dir(out, {utterance: wavs[utterance] for utterance in prompts}, text, utt2spk)
    logging.info("%s: %d utterances with fixed prompts; not among them: %s", out, len(prompts), skipped_summary(others))
