"""The contract of recognisers, speaker encoders and opinion predictors: what an evaluation relies on."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from espnet_ext.scoring.evaluators.evaluator import Choice, Evaluator, registry_of
from espnet_ext.scoring.measures.error_rate import normalise
from espnet_ext.testing.refusal import assert_refused
from espnet_ext.testing.sound import voice

SOUNDS = {"voice": (1.5, 120.0), "high": (1.5, 220.0), "short": (0.05, 120.0)}  # seconds, Hz


def check_choice(kind: str, name: str, conf: Mapping[str, Any] | None = None) -> Choice:
    """The choice of an evaluator that can be named on the command line, installed or not.

    Args:
        kind: asr, speaker or mos.
        name: registered name.
        conf: its options.

    Returns:
        The choice.

    Raises:
        AssertionError: saying what it does not keep.
    """
    choice = Choice(kind, name, dict(conf or {}))
    choice.check()
    reason = choice.unavailable()
    known = reason is None or re.search("^.+ is not installed: pip install .+$", reason)
    assert known, f"the reason must name a package and how to install it, got {reason!r}"
    assert choice.label().startswith(name), f"the label must begin with the name, got {choice.label()!r}"
    unknown = Choice(kind, name, {**choice.conf, "no_option": 1})
    assert_refused(unknown.check, rf"{kind}_conf of {re.escape(name)} must be among .*, got \['no_option'\]")
    return choice


def _are_words(name: str, heard: object) -> None:
    assert isinstance(heard, str) and heard == normalise(heard), f"words must be normalised, got {heard!r}"


def _is_unit_vector(name: str, heard: object) -> None:
    assert isinstance(heard, np.ndarray) and heard.ndim == 1, f"a voice must be a vector (E,), got {heard!r}"
    length = float(np.linalg.norm(heard))
    assert heard.dtype == np.float32 and abs(length - 1) < 1e-4, f"it must be float32 of length 1, got {length}"


def _are_opinions(name: str, heard: object) -> None:
    assert isinstance(heard, dict) and heard, f"opinions must be names and numbers, got {heard!r}"
    for key, value in heard.items():
        assert key.startswith(name), f"the names of numbers must begin with {name!r}, got {key!r}"
        assert isinstance(value, float) and np.isfinite(value), f"{key} must be a finite number, got {value!r}"


VALUES: dict[str, Callable[[str, object], None]] = {
    "asr": _are_words,
    "speaker": _is_unit_vector,
    "mos": _are_opinions,
}


def _judged(evaluator: Evaluator, path: Path) -> object:
    """What is said of a file; None where it cannot be judged."""
    try:
        return evaluator(path)
    except ValueError:
        return None


def _same(first: object, second: object) -> bool:
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return np.array_equal(first, second)
    return bool(first == second)


def check_evaluator(kind: str, name: str, conf: Mapping[str, Any] | None = None) -> None:
    """Hold a registered evaluator to its contract; it must be installed.

    Args:
        kind: the option that chooses it: asr, speaker or mos.
        name: registered name.
        conf: its options; None for the defaults.

    Raises:
        AssertionError: saying what it does not keep.
    """
    if getattr(registry_of(kind)[name], "hears_given_words", False):
        conf = {"words": ["two", "red", "dogs"], **(conf or {})}
    choice = check_choice(kind, name, conf)
    assert choice.unavailable() is None, choice.unavailable()
    with tempfile.TemporaryDirectory() as folder:
        paths = {sound: Path(folder) / f"{sound}.wav" for sound in (*SOUNDS, "silence")}
        for index, (sound, (seconds, f0_hz)) in enumerate(SOUNDS.items()):
            soundfile.write(paths[sound], voice(seconds, f0_hz, index), 16000)
        soundfile.write(paths["silence"], np.zeros(16000), 16000)
        first, again = (registry_of(kind)[name](**choice.conf) for _ in range(2))
        heard = {sound: _judged(first, path) for sound, path in paths.items()}
        # in another order, by another object: nothing but the file decides
        for sound, path in reversed(paths.items()):
            assert _same(_judged(again, path), heard[sound]), f"{sound} is not heard as before"
    for sound in ("voice", "high"):
        VALUES[kind](name, heard[sound])
    for sound in ("short", "silence"):
        if heard[sound] is not None:
            VALUES[kind](name, heard[sound])


def check_recogniser(name: str, conf: Mapping[str, Any] | None = None) -> None:
    """Hold a registered recogniser to the contract of `check_evaluator`."""
    check_evaluator("asr", name, conf)


def check_speaker_encoder(name: str, conf: Mapping[str, Any] | None = None) -> None:
    """Hold a registered speaker encoder to the contract of `check_evaluator`."""
    check_evaluator("speaker", name, conf)


def check_opinion_predictor(name: str, conf: Mapping[str, Any] | None = None) -> None:
    """Hold a registered predictor of opinion scores to the contract of `check_evaluator`."""
    check_evaluator("mos", name, conf)
