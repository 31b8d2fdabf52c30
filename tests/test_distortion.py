"""Mel-cepstral distortion and log F0 against their definitions; silence, clipping, repetition and truncation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from test_scoring import buzz, corpus_clips

from espnet_ext.jobs import Workers
from espnet_ext.scoring.measures.condition import clipped_share, conditions
from espnet_ext.scoring.measures.distortion import Features, compare, distortion, distortions, mel_cepstrum
from espnet_ext.scoring.measures.fluency import is_repeated, is_truncated


def envelope(coefficients: list[float]) -> np.ndarray:
    """A power spectrum whose mel-cepstrum is known: ln |H| = c_0 + c_1 cos w + …, w on the mel scale."""
    hertz = np.linspace(0, 8000, 513)
    angle = np.pi * np.log1p(hertz / 700) / np.log1p(8000 / 700)
    log_amplitude = sum(value * np.cos(order * angle) for order, value in enumerate(coefficients))
    return np.exp(2 * log_amplitude)[None]


def test_mel_cepstrum_is_that_of_the_definition() -> None:
    known = [-3.0, 0.8, -0.4, 0.2, 0.1]
    found = mel_cepstrum(envelope(known), 16000)[0]
    np.testing.assert_allclose(found[:5], known, atol=2e-3)
    assert np.abs(found[5:]).max() < 2e-3


def test_distortion_of_known_cepstra_is_the_difference_of_their_log_spectra_in_decibels() -> None:
    one, other = (mel_cepstrum(envelope([-3.0, 0.5, first, 0.1]), 16000)[:, 1:] for first in (0.2, 0.5))
    f0 = np.full(40, np.log(100.0))
    found = compare(Features(np.repeat(one, 40, 0), f0), Features(np.repeat(other, 40, 0), f0 + 0.1))
    assert found["mcd"] == pytest.approx(10 / np.log(10) * np.sqrt(2) * 0.3, rel=1e-2)
    angle = (np.arange(4096) + 0.5) / 4096 * np.pi
    level = 20 / np.log(10) * 0.3 * np.cos(2 * angle)
    assert found["mcd"] == pytest.approx(np.sqrt(np.mean(level**2)), rel=1e-2)
    assert found["log_f0_rmse"] == pytest.approx(0.1)


def test_loudness_and_silence_at_the_ends_do_not_count_and_noise_is_far(tmp_path: Path) -> None:
    path = next(iter(corpus_clips(tmp_path, 1, 1)[0].values()))
    samples, rate = soundfile.read(path)
    assert distortion(path, path) == {"mcd": 0.0, "log_f0_rmse": 0.0}
    changed, noise = tmp_path / "changed.wav", tmp_path / "noise.wav"
    soundfile.write(changed, np.concatenate([np.zeros(rate // 2), 0.5 * samples, np.zeros(rate // 4)]), rate)
    soundfile.write(noise, np.random.default_rng(0).normal(0, 0.05, len(samples)), rate)
    near, far = distortion(path, changed), distortion(path, noise)
    assert near["mcd"] < 1.0 and far["mcd"] > 10.0
    assert near["log_f0_rmse"] < 0.03


def test_what_does_not_align_has_a_reason(tmp_path: Path) -> None:
    sounds = {"short": buzz(0.5, 120), "long": buzz(3.0, 120), "silent": np.zeros(16000), "good": buzz(0.6, 130)}
    wavs = {name: tmp_path / f"{name}.wav" for name in sounds}
    for name, samples in sounds.items():
        soundfile.write(wavs[name], samples, 16000)
    pairs = {name: (wavs["short"], wavs[name]) for name in ("long", "silent", "good")}
    found = distortions({"x": pairs, "y": {}}, Workers(), tmp_path / "work")
    assert found["y"] == {}
    assert found["x"]["long"].reason.startswith("lengths differ by more than a factor of 3: ")
    assert found["x"]["silent"].reason == "the speech is silent"
    assert found["x"]["good"]["log_f0_rmse"] == pytest.approx(np.log(130 / 120), abs=0.02)
    assert distortions({"x": pairs}, Workers(), None)["x"] == found["x"]


def test_unvoiced_speech_has_no_pitch_to_compare() -> None:
    cepstrum = np.zeros((10, 24))
    found = compare(Features(cepstrum, np.full(10, np.nan)), Features(cepstrum, np.full(10, 5.0)))
    assert found == {"mcd": 0.0, "log_f0_rmse": None}


# --- conditions ------------------------------------------------------------------------------------------------------


def test_recordings_of_the_corpus_are_neither_silent_nor_clipped(tmp_path: Path) -> None:
    for path in corpus_clips(tmp_path, 1, 4)[0].values():
        assert conditions(soundfile.read(path)[0]) == []


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.zeros(100), ["silent"]),
        (np.full(16000, 1e-6), ["silent"]),
        (np.full(16000, 1e-4), []),
        (buzz(0.5, 100) / np.abs(buzz(0.5, 100)).max(), []),
        (np.clip(20 * buzz(0.5, 100), -1, 1), ["clipped"]),
    ],
)
def test_silence_and_clipping_are_seen(samples: np.ndarray, expected: list[str]) -> None:
    assert conditions(samples) == expected


def test_runs_at_full_scale_have_one_sign() -> None:
    assert clipped_share(np.array([1.0, 1.0, -1.0, -1.0, 0.0, 0.0])) == 0.0
    assert clipped_share(np.array([-1.0, -1.0, -1.0, 1.0])) == 0.75


# --- fluency ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("transcript", "heard", "repeated", "truncated"),
    [
        ("two red dogs waited near the river", "two red dogs waited near the river", False, False),
        ("two red dogs waited near the river", "two red dogs two red dogs waited near the river", True, False),
        ("two red dogs waited near the river", "two red red dogs waited near the river", False, False),
        ("two red dogs waited near the river", "two red red red dogs waited near the river", True, False),
        ("call three three three now", "call three three three now", False, False),
        ("two red dogs waited near the river", "two red dogs waited", False, True),
        ("two red dogs waited near the river", "two red dogs waited near the", False, False),
        ("two red dogs", "", False, True),
        ("", "two", False, False),
    ],
)
def test_repetition_and_truncation(transcript: str, heard: str, repeated: bool, truncated: bool) -> None:
    assert (is_repeated(transcript, heard), is_truncated(transcript, heard)) == (repeated, truncated)
