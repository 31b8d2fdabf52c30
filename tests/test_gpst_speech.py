"""Speech of GPST in every mode: rows that are what they are alone, and what cannot be spoken."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import SPEC, registered
from test_gpst import UNITS, tiny_gpst
from tiny_speech import (
    INPUTS,
    NAMES,
    OPTIONS,
    Steps,
    Zeros,
    gpst_speech,
    options,
    requests,
    shared_speech,
    streams,
    with_positions,
)

from espnet_ext.data.streams import Streams
from espnet_ext.decoding.options import GPSTDecodeOptions
from espnet_ext.inference.gpst import GPSTSpeech
from espnet_ext.inference.gpst_modes import languages_of
from espnet_ext.inference.listener import Clock
from espnet_ext.inference.requests import Request, modes, modes_of
from espnet_ext.model.core_lm import GPST

every_mode = pytest.mark.parametrize("mode", modes_of(GPST))


def assert_rows_are_their_own(speech, mode, decode):
    together = speech.batch(mode, NAMES, requests(), decode)
    for row, name in enumerate(NAMES):
        alone = speech.batch(mode, [name], [requests()[row]], decode)[0]
        for field in ("codes", "units", "waveform"):
            assert np.array_equal(getattr(together[row], field), getattr(alone, field)), (row, field)
        assert (together[row].whole is None) == (alone.whole is None) == (not mode.continues)
        assert together[row].whole is None or np.array_equal(together[row].whole, alone.whole)
        assert together[row].has_eos == alone.has_eos
        assert together[row].logprob == pytest.approx(alone.logprob, rel=1e-6)
    return together


@registered
@every_mode
@pytest.mark.parametrize("stacking", [1, 2])
def test_a_row_of_every_mode_does_not_depend_on_its_batch(name, mode, stacking):
    together = assert_rows_are_their_own(shared_speech(stacking), modes[mode](**OPTIONS), options(decoding=name))
    assert len({len(speech.codes) for speech in together} | {len(speech.units) for speech in together}) > 1
    for speech in together:
        SPEC.check(torch.from_numpy(speech.codes))
        assert len(speech.waveform) == 640 * len(speech.codes) > 0


@every_mode
def test_guidance_and_learned_positions_keep_rows_apart(mode):
    decode = options(decoding="local_ar", sampling={"cfg_scale": 1.5}, semantic_sampling={"temperature": 0.8})
    assert_rows_are_their_own(with_positions(200, stacking=2), modes[mode](**OPTIONS), decode)


def test_the_same_seed_says_the_same_and_another_seed_something_else():
    speech, mode = shared_speech(), modes["unconditional"]()
    first, again, other = (
        speech.batch(mode, NAMES, [Request()] * 3, options(seed=seed, max_sec=1.0)) for seed in (1, 1, 2)
    )
    for row in range(3):
        assert np.array_equal(first[row].units, again[row].units) and np.array_equal(first[row].codes, again[row].codes)
    assert any(not np.array_equal(first[row].units, other[row].units) for row in range(3))


def test_units_and_codes_of_an_utterance_are_drawn_with_different_numbers(monkeypatch):
    seeds = []

    def remember(seed, names, device="cpu"):
        seeds.extend((seed, name) for name in names)
        return generators(seed, names, device)

    from espnet_ext.inference import speaker

    generators = speaker.row_generators
    monkeypatch.setattr(speaker, "row_generators", remember)
    shared_speech().batch(modes["unconditional"](), NAMES, [Request()] * 3, options())
    assert len(seeds) == len(set(seeds)) == 6
    drawn = [torch.rand(1, generator=one).item() for seed, name in seeds for one in generators(seed, [name])]
    assert len(set(drawn)) == 6


def test_a_continuation_is_heard_behind_what_was_given():
    request = requests()[0]
    speech = shared_speech(2).batch(modes["continuation"](**OPTIONS), ["a"], [request], options())[0]
    given = Steps().decode_utterance(torch.from_numpy(request.speech.codes[:14])).numpy()
    assert np.array_equal(speech.whole, np.concatenate((given, speech.waveform)))


def test_the_voice_of_a_prompt_and_the_units_change_what_is_said():
    speech, (first, second, _) = shared_speech(), requests()
    mode, decode = modes["speaker_transfer"](**OPTIONS), options(sampling={"temperature": 0.0}, maxlenratio=3.0)
    said = [
        speech.batch(mode, ["a"], [Request(what.speech, who.prompt)], decode)[0].codes.tolist()
        for what, who in ((first, first), (first, second), (second, first))
    ]
    assert said[0] != said[1] and said[0] != said[2]


def test_a_length_limit_in_either_stage_is_no_end():
    speech, mode = shared_speech(), modes["tts"](prompt_sec=0)
    decode = options(maxlenratio=9.0, sampling={"temperature": 3.0})
    ended = speech.batch(mode, ["a"], [Request(text="abc")], decode)[0]
    endless = speech.batch(mode, ["a"], [Request(text="ab!")], decode)[0]
    assert ended.has_eos and not endless.has_eos


def test_what_the_model_in_front_does_not_know_comes_with_the_speech_and_is_said_once(caplog):
    made = shared_speech().batch(
        modes["tts"](prompt_sec=0), ["a", "b"], [Request(text="a?b"), Request(text="ab")], options()
    )
    assert [one.unknown for one in made] == [("?",), ()]
    assert [one.message for one in caplog.records] == ["tokens outside of the vocabulary: '?' (1)"]


def test_languages_are_told_by_their_number_and_0_is_none():
    assert languages_of(shared_speech(), NAMES, requests()).tolist() == [1, 0, 2]
    assert languages_of(gpst_speech(tiny_gpst()), NAMES, requests()) is None


def test_costs_are_counted():
    speech = gpst_speech(tiny_gpst(stacking=2))
    made = speech.batch(modes["unconditional"](), NAMES, requests(), options())
    timing = made[0].timing
    assert timing.utterances == 3 and timing.frames == sum(len(one.codes) for one in made)
    assert timing.units >= sum(len(one.units) for one in made)  # those that repeat one are left out
    assert timing.slots == 6 * timing.steps > 0
    assert timing.no_eos == sum(not one.has_eos for one in made)
    assert timing.seconds_units > 0 and timing.seconds_lm > 0 and timing.seconds_audio == timing.frames / 25
    assert timing.rtf >= (timing.seconds_units + timing.seconds_lm) / timing.seconds_audio


def test_silence_is_encoded_where_nobody_has_it():
    clock = Clock.of(GPSTSpeech(tiny_gpst(), Steps(), INPUTS, Zeros))
    assert clock.quiet(3).codes.tolist() == [[0, 0, 0]] * 3
    assert clock.quiet(3).units.tolist() == [0] * 6


# --- what cannot be spoken --------------------------------------------------------------------------------------------


def refused(mode, request, speech=None, **decode):
    with pytest.raises(ValueError, match="must|differ") as caught:
        (speech or shared_speech()).batch(modes[mode](**OPTIONS), ["utt-7"], [request], options(**decode))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("mode", ["speaker_transfer", "tts"])
def test_a_prompt_of_less_than_half_a_second_is_refused(mode):
    request = Request(streams(30), streams(12), "abc")
    assert refused(mode, request) == "prompt of utt-7 must last at least 0.5 s, got 0.48 s"


def test_a_recording_that_is_too_short_to_be_continued_is_refused():
    assert refused("continuation", Request(streams(12))) == "prompt of utt-7 must last at least 0.5 s, got 0.48 s"
    expected = "utt-7 must last longer than its first prompt_sec = 0.6 s, got 0.60 s"
    assert refused("continuation", Request(streams(15))) == expected


@pytest.mark.parametrize("mode", ["speaker_transfer", "semantic_to_acoustic", "continuation"])
def test_a_context_that_is_too_small_is_refused_with_both_numbers(mode):
    speech = with_positions(24)
    request = Request(streams(60), streams(20))
    message = refused(mode, request, speech, min_frames=3)
    assert "units of utt-7 must leave room for min_frames = 3 frames of the model's context" in message
    assert message.endswith("got 0")


def test_a_limited_context_limits_the_speech():
    speech = with_positions(30)
    request = Request(Streams(np.arange(20) % 2, np.zeros((10, 3), dtype=np.int64)))
    made = speech.batch(modes["semantic_to_acoustic"](), ["a"], [request], options(maxlenratio=99, min_frames=1))[0]
    assert len(made.codes) <= 9


def test_units_that_do_not_end_leave_room_for_codes():
    speech = with_positions(30)
    ends = speech.corelm.unit_heads["parallel"].heads.bias
    ends.data[..., UNITS.eos_id] = -1e9
    made = speech.batch(modes["unconditional"](), ["a"], [Request()], options(max_sec=99, min_frames=4))[0]
    assert made.timing.units == 30 - 1 - 1 - 4  # behind EOS, and in front of the shortest speech and its end
    assert len(made.codes) >= 4 and not made.has_eos


@pytest.mark.parametrize(
    ("units", "codes", "message"),
    [
        (np.full(20, 7), np.zeros((10, 3)), "units of speech of utt-7: codes must lie in [0, 7), got [7, 7]"),
        (np.zeros(20), np.full((10, 3), 8), "codes of speech of utt-7: codes must lie in [0, 8), got [8, 8]"),
        (np.zeros(20), np.zeros((10, 5)), "codes of speech of utt-7: codes must have 3 codebooks"),
        (
            np.zeros(28),
            np.zeros((10, 3)),
            "speech of utt-7: lengths differ by more than 2 frames of 25 Hz: 28 units (0.560 s), 10 codec",
        ),
    ],
)
def test_streams_that_the_model_cannot_read_are_refused(units, codes, message):
    request = Request(Streams(units.astype(np.int64), codes.astype(np.int64)))
    assert message in refused("semantic_to_acoustic", request)


def test_a_missing_recording_is_refused():
    assert refused("semantic_to_acoustic", Request()) == "utt-7 must have a recording, got none"


def test_a_missing_prompt_is_refused():
    assert refused("speaker_transfer", Request(streams(30))) == "utt-7 must have a prompt, got none"


def test_an_unknown_language_is_refused_with_the_list():
    request = Request(streams(30), language="tlh")
    assert refused("semantic_to_acoustic", request) == "language of utt-7 must be one of ['en', 'zh'], got 'tlh'"


def test_texts_need_a_model_that_makes_units_of_them():
    speech = gpst_speech(tiny_gpst(), texts=False)
    message = "text_to_semantic must be the experiment directory of a text-to-semantic model for mode tts, got none"
    assert refused("tts", Request(None, streams(30), "abc"), speech) == message


def test_a_strategy_without_its_head_is_refused():
    speech = gpst_speech(tiny_gpst(local=["ar"]))
    assert "which needs MaskGIT" in refused("unconditional", Request(), speech, decoding="local_maskgit")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"semantic_sampling": {"temp": 1}}, r"semantic_sampling must have keys among .*, got \['temp'\]"),
        ({"semantic_sampling": 3}, "semantic_sampling must be names and values, got 3"),
        ({"semantic_sampling": {"top_p": 2}}, r"top_p must be in \(0, 1\], got 2"),
        ({"max_sec": 0}, "max_sec must be above 0 and finite, got 0"),
        ({"semantic_maxlenratio": -1}, "semantic_maxlenratio must be above 0 and finite, got -1"),
        ({"max_secs": 3}, r"inference_config must have keys among .*'max_sec'\], got \['max_secs'\]"),
    ],
)
def test_wrong_decode_options_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        GPSTDecodeOptions.from_mapping(values)


def test_guidance_of_units_that_depend_on_nothing_is_refused():
    """It doubled the work, changed nothing, and warned about a text that nobody had given."""
    guided = {"semantic_sampling": {"cfg_scale": 1.5}}
    message = "cfg_scale of semantic_sampling must be 1 where units are sampled without a text, as there is nothing"
    assert message in refused("unconditional", Request(), **guided)
    shared_speech().check(options(**guided), modes["tts"]())


@pytest.mark.parametrize(
    ("languages", "message"),
    [((), "language must be left out with a model that is told no language, got 'tlh'"),
     (("en", "zh"), r"language must be one of \['en', 'zh'\], got 'tlh'")],
)  # fmt: skip
def test_a_language_that_the_model_cannot_be_told_is_refused(languages, message):
    """A model without languages ignored it."""
    speech = gpst_speech(tiny_gpst(languages=languages))
    with pytest.raises(ValueError, match=message):
        speech.speak(modes["unconditional"](), language="tlh", options=options())


@pytest.mark.parametrize("max_sec", [0.1, 0.5])
def test_the_longest_unconditional_speech_has_so_many_units_whatever_they_last(max_sec):
    speech = gpst_speech(tiny_gpst())
    speech.corelm.unit_heads["parallel"].heads.bias.data[..., UNITS.eos_id] = -1e9
    (made,) = speech.batch(modes["unconditional"](), ["a"], [Request()], options(max_sec=max_sec))
    assert made.timing.units == max_sec * 50
