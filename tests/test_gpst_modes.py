"""The modes of GPST: what stands in front of the speech."""

from __future__ import annotations

import numpy as np
import pytest
from test_gpst import UNITS
from tiny_speech import OPTIONS, clock, streams

from espnet_ext.codes import CodecSpec
from espnet_ext.data.joint_preprocess import JointPreprocessor
from espnet_ext.data.streams import Streams
from espnet_ext.inference.requests import Request, modes, modes_of
from espnet_ext.model.core_lm import GPST, TextCoreLM


def test_the_modes_are_those_of_the_paper_and_tts():
    assert modes_of(GPST) == ["continuation", "semantic_to_acoustic", "speaker_transfer", "tts", "unconditional"]
    assert modes_of(TextCoreLM) == ["edit", "text"]


def test_units_are_deduplicated_where_the_model_was_trained_so():
    speech = Streams(np.array([3, 3, 1, 1, 1, 3]), np.zeros((3, 3), dtype=np.int64))
    for deduplicates, expected in ((True, [3, 1, 3]), (False, [3, 3, 1, 1, 1, 3])):
        start = modes["semantic_to_acoustic"]().start("a", Request(speech), speech.units, clock(1, deduplicates))
        assert start.units.tolist() == expected and start.spoken == len(expected)
        assert start.prompt.shape == (0, 3)


@pytest.mark.parametrize("stacking", [1, 2, 4])
def test_a_transfer_reads_prompt_silence_and_speech_in_both_streams(stacking):
    request = Request(streams(30), streams(40, 1))
    mode = modes["speaker_transfer"](prompt_sec=0.52, silence_sec=0.1)
    start = mode.start("a", request, request.speech.units, clock(stacking, deduplicates=False))
    prompt, silence = 13, {1: 2, 2: 3, 4: 3}[stacking]
    assert start.prompt.tolist() == [*request.prompt.codes[:prompt].tolist(), *[[7, 7, 7]] * silence]
    assert len(start.prompt) % stacking == 0
    assert start.units.tolist() == [
        *request.prompt.units[: 2 * prompt].tolist(), *[6] * 2 * silence, *request.speech.units.tolist()
    ]  # fmt: skip
    assert start.spoken == 60


def test_units_are_deduplicated_after_they_are_joined():
    """Prompt, silence and speech may meet in equal units, which the model never saw side by side."""
    speech = Streams(np.array([6, 6, 2, 2] * 8), np.zeros((16, 3), dtype=np.int64))
    prompt = Streams(np.array([1] * 13 + [6] * 13), np.zeros((13, 3), dtype=np.int64))
    start = modes["speaker_transfer"](**OPTIONS).start("a", Request(speech, prompt), speech.units, clock())
    assert start.units.tolist() == [1, 6, 2] + [6, 2] * 7
    assert start.spoken == 16


def test_silence_goes_on_where_more_is_asked_for_than_there_is():
    quiet = clock().quiet(60)
    assert quiet.codes.tolist() == [[7, 7, 7]] * 60 and quiet.units.tolist() == [6] * 120


@pytest.mark.parametrize("rate", [25.0, 40.0, 50.0, 75.0, 86.1328125])
def test_training_joins_as_much_silence_as_inference(rate):
    """At 75 Hz training joined 8 frames of it, inference 7."""
    spec = CodecSpec(3, 8, rate, 24000)
    recording, prompt = streams(90, 0, spec), streams(60, 1, spec)
    silence = Streams(np.full(50, 6), np.full((round(rate), 3), 7))
    names = ("semantic", "codes", "prompt_semantic", "prompt")
    trained = JointPreprocessor(spec, UNITS, False, prompt_sec=9.0, join_prompt=1.0, silence=silence)(
        "a", dict(zip(names, (part.flatten() for part in (*recording, *prompt)), strict=True))
    )
    spoken = modes["speaker_transfer"](prompt_sec=9.0).start(
        "a", Request(recording, prompt), recording.units, clock(1, False, spec)
    )
    assert np.array_equal(trained["semantic"], spoken.units)
    assert np.array_equal(trained["codes"], np.concatenate((spoken.prompt, recording.codes)))


def test_no_silence_is_joined_where_none_is_asked_for():
    request = Request(streams(20), streams(14))
    start = modes["speaker_transfer"](0.56, 0.0).start("a", request, request.speech.units, clock())
    assert np.array_equal(start.prompt, request.prompt.codes)


@pytest.mark.parametrize(("stacking", "frames"), [(1, 15), (2, 14), (4, 12)])
def test_a_continuation_is_given_whole_steps_and_the_units_of_all(stacking, frames):
    request = Request(streams(30))
    start = modes["continuation"](prompt_sec=0.6).start("a", request, request.speech.units, clock(stacking, False))
    assert np.array_equal(start.prompt, request.speech.codes[:frames])
    assert np.array_equal(start.units, request.speech.units)
    assert start.spoken == 60 - 2 * frames


def test_rates_that_do_not_divide_each_other_keep_both_streams_together():
    spec = CodecSpec(3, 8, 75.0, 24000)
    request = Request(streams(90, 0, spec), streams(300, 1, spec))
    for stacking in (1, 2, 4):
        start = modes["speaker_transfer"](prompt_sec=3.0, silence_sec=0.1).start(
            "a", request, request.speech.units, clock(stacking, False, spec)
        )
        seconds = len(start.prompt) / 75, (len(start.units) - len(request.speech.units)) / 50
        assert abs(seconds[0] - seconds[1]) < 1 / 50
        assert 3.09 < seconds[0] < 3.15


@pytest.mark.parametrize(
    ("mode", "values", "message"),
    [
        ("speaker_transfer", {"prompt_sec": 0.4}, "prompt_sec must be at least 0.5 and finite, got 0.4"),
        ("speaker_transfer", {"silence_sec": -1}, "silence_sec must be at least 0 and finite, got -1"),
        ("speaker_transfer", {"prompt_sec": float("nan")}, "prompt_sec must be .*, got nan"),
        ("continuation", {"prompt_sec": 0}, "prompt_sec must be at least 0.5 and finite, got 0"),
        ("tts", {"prompt_sec": 0.2}, "prompt_sec must be 0 or at least 0.5, got 0.2"),
        ("tts", {"prompt_sec": "long"}, "prompt_sec must be a number, got 'long'"),
    ],
)
def test_impossible_options_of_a_mode_are_refused(mode, values, message):
    with pytest.raises(ValueError, match=message):
        modes[mode](**values)


def test_an_unknown_mode_is_refused_with_the_list():
    with pytest.raises(ValueError, match=r"mode must be one of \['continuation', .*\], got 'dubbing'"):
        modes["dubbing"]
