"""Recordings as prompts: the stretch with the most voice is encoded and used, and what has no voice is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from fabricated import one_error

from espnet_ext.data.waveform import most_voice, voice_levels
from espnet_ext.testing.sound import voice

RATE_HZ = 16000
VOICE = voice(4.0, 120.0, 0)
NOISE = 0.01 * np.random.default_rng(0).standard_normal(4 * RATE_HZ)


@pytest.mark.parametrize("seconds", [0.5, 1.5, 6.0])
def test_silence_noise_and_a_click_in_front_only_shift_the_stretch_with_the_most_voice(seconds: float) -> None:
    """The first seconds were taken: of a recording with silence in front, a prompt without a voice."""
    count = round(seconds * RATE_HZ)
    click = np.zeros(count)
    click[1000:1160] = 1.0
    begin = most_voice(voice_levels(VOICE, RATE_HZ), 0.6)
    for front in (np.zeros(count), np.full(count, 0.2), np.resize(0.1 * NOISE, count), np.resize(NOISE, count), click):
        behind = np.concatenate((front, VOICE, 0.1 * NOISE))
        assert most_voice(voice_levels(behind, RATE_HZ), 0.6) == pytest.approx(seconds + begin, abs=0.021)


def test_the_stretch_is_where_a_recording_is_loud_and_its_beginning_where_all_is_alike() -> None:
    assert most_voice(np.array([30, 5, 5, 5, 25, 30, 5]), 0.04) == pytest.approx(0.08)
    assert most_voice(np.full(100, 30), 0.6) == 0
    assert most_voice(np.full(10, 30), 0.6) == 0
    # less voice than fits: it comes first, not the silence in front of it
    assert most_voice(np.repeat([0, 30, 0], 10), 0.3) == pytest.approx(0.2)
    assert most_voice(np.repeat([0, 30], 10), 0.3) == pytest.approx(0.1)
    assert most_voice(voice_levels(np.zeros(5), RATE_HZ), 0.6) == 0


@pytest.fixture(scope="module")
def speak(experiment: Path):
    pytest.importorskip("espnet2")
    from espnet_ext.inference import CodecLM

    return CodecLM.from_experiment(experiment)


def written(path: Path, samples: np.ndarray) -> Path:
    soundfile.write(path, samples, RATE_HZ, subtype="FLOAT")
    return path


@pytest.mark.espnet
def test_a_prompt_has_the_codes_of_its_stretch_and_no_more_is_encoded(speak, tmp_path: Path, monkeypatch) -> None:
    """A minute was encoded for 0.6 s."""
    listener, hop = speak.listener, speak.codec.hop_samples
    longest = speak.inputs.prompt_frames
    plain = written(tmp_path / "plain.wav", np.concatenate((VOICE, np.zeros(50 * RATE_HZ))))
    late = written(tmp_path / "late.wav", np.concatenate((np.zeros(1000 * hop), VOICE, np.zeros(RATE_HZ))))
    whole, encoded = listener.hear(plain).codes, []
    encode = speak.codec.encode_utterance
    monkeypatch.setattr(speak.codec, "encode_utterance", lambda wav: encoded.append(len(wav)) or encode(wav))
    first, second = (listener.hear_prompt(path, longest) for path in (plain, late))
    assert len(first.streams.codes) == longest and first.seconds == 54
    begin = round(most_voice(voice_levels(VOICE, RATE_HZ), longest * hop / RATE_HZ) * RATE_HZ / hop)
    np.testing.assert_array_equal(first.streams.codes, whole[begin : begin + longest])
    np.testing.assert_array_equal(first.streams.codes, second.streams.codes)
    assert max(encoded) <= 1.1 * RATE_HZ + longest * hop


@pytest.mark.espnet
def test_a_short_prompt_is_encoded_as_it_is_and_codes_keep_their_first_frames(speak, tmp_path: Path) -> None:
    longest = speak.inputs.prompt_frames
    short = written(tmp_path / "short.wav", VOICE[: longest * speak.codec.hop_samples])
    prompt = speak.listener.hear_prompt(short, longest)
    np.testing.assert_array_equal(prompt.streams.codes, speak.listener.hear(short).codes)
    codes = speak.listener.hear(written(tmp_path / "long.wav", VOICE)).codes
    whole, begun = speak("abc", codes), speak("abc", codes[:longest])
    np.testing.assert_array_equal(whole.codes, begun.codes)
    used = longest / speak.corelm.spec.frame_rate_hz
    assert (whole.prompt_sec, whole.prompt_used_sec) == (pytest.approx(4.0), pytest.approx(used))
    assert (begun.prompt_sec, speak("abc").prompt_sec) == (pytest.approx(used), 0)


@pytest.mark.espnet
def test_how_much_of_a_prompt_was_used_is_said(speak, experiment: Path, tmp_path: Path, caplog) -> None:
    from espnet_ext.bin import say
    from espnet_ext.decoding.options import DecodeOptions
    from espnet_ext.demo.speak import Wish, answers

    path = written(tmp_path / "a.wav", np.concatenate((np.zeros(56 * RATE_HZ), VOICE)))
    used = speak.inputs.prompt_frames / speak.corelm.spec.frame_rate_hz
    speech = speak("abc", path)
    assert (speech.prompt_sec, speech.prompt_used_sec) == (60, pytest.approx(used))
    caplog.set_level("INFO")
    say.main([str(experiment), "abc", "-o", str(tmp_path / "out.wav"), "--prompt", str(path)])
    line = f"{used:.1f} of 60 s of the prompt used"
    assert caplog.text.count(line) == 1
    wish = Wish("abc", path, "local_ar", {"temperature": 0.7})
    assert line in list(answers(speak, wish, {"local_ar": DecodeOptions("local_ar")}))[-1].line


@pytest.mark.espnet
def test_silence_in_front_of_a_prompt_does_not_take_its_voice(speak, tmp_path: Path) -> None:
    longest = speak.inputs.prompt_frames
    plain = written(tmp_path / "plain.wav", VOICE)
    late = written(tmp_path / "late.wav", np.concatenate((np.zeros(round(1.6 * RATE_HZ)), VOICE)))
    first, second = (speak.listener.hear_prompt(path, longest).streams.codes for path in (plain, late))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(speak.listener.hear(late).codes[:longest], first)
    np.testing.assert_array_equal(speak("abc", plain).codes, speak("abc", late).codes)


@pytest.mark.espnet
@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (VOICE[6000:6001], "prompt must have at least 0.1 s of sound in it, got 0.00 s in 0.00 s: "),
        (VOICE[6000:6160], "prompt must have at least 0.1 s of sound in it, got 0.00 s in 0.01 s: "),
        (np.concatenate((np.zeros(9000), [0.5] * 80, np.zeros(9000))), "0.1 s of sound in it, got 0.02 s in 1.13 s: "),
        (np.zeros(RATE_HZ), "prompt must be audible, got silent wav: "),
    ],
)
def test_a_prompt_in_which_nothing_is_heard_is_refused_by_name(experiment, tmp_path, samples, message: str) -> None:
    from espnet_ext.bin import say

    path = written(tmp_path / "prompt.wav", samples)
    error = one_error(say.main, experiment, "abc", "-o", tmp_path / "out.wav", "--prompt", path)
    assert message in error and str(path) in error
    assert not (tmp_path / "out.wav").exists()


@pytest.mark.espnet
def test_a_prompt_in_antiphase_is_heard(speak, tmp_path: Path, caplog) -> None:
    """Its mean was exact silence."""
    path = written(tmp_path / "a.wav", np.stack([VOICE, -0.99 * VOICE], axis=1))
    alone = written(tmp_path / "b.wav", VOICE)
    pair = (speak.listener.hear_prompt(one, 10).streams.codes for one in (path, alone))
    np.testing.assert_array_equal(*pair)
    assert f"{path}: channels of opposite phase: channel 1 of 2 is used alone" in caplog.text


@pytest.mark.espnet
def test_units_and_codes_of_a_prompt_are_of_the_same_stretch(gpst_experiment, tmp_path: Path, caplog) -> None:
    from espnet_ext.bin import gpst_inference
    from espnet_ext.data.streams import disagreement, excerpt
    from espnet_ext.inference import GPSTSpeech
    from espnet_ext.inference.gpst_modes import SpeakerTransfer

    speech = GPSTSpeech.from_experiment(gpst_experiment)
    path = written(tmp_path / "late.wav", np.concatenate((np.zeros(2 * RATE_HZ), VOICE)))
    mode, codec, semantic = SpeakerTransfer(prompt_sec=0.6), speech.corelm.spec, speech.corelm.semantic
    frames = mode.prompt_frames(speech)
    prompt, whole = speech.listener.hear_prompt(path, frames), speech.listener.hear(path)
    assert disagreement(len(prompt.streams.units), len(prompt.streams.codes), semantic, codec) is None
    first = round(most_voice(voice_levels(np.concatenate((np.zeros(2 * RATE_HZ), VOICE)), RATE_HZ), 0.6) / 0.04)
    stretch = excerpt(whole, first, frames, codec, semantic)
    np.testing.assert_array_equal(prompt.streams.codes, stretch.codes)
    assert (
        prompt.streams.units == stretch.units
    ).mean() > 0.8  # their tokenizer compares with the mean of what it hears
    spoken = speech.speak(mode, speech=path, prompt=path)
    assert (spoken.prompt_sec, spoken.prompt_used_sec) == (6, pytest.approx(0.6))
    out = ["--exp", str(gpst_experiment), "--output_dir", str(tmp_path / "out"), "--target_wav", str(path)]
    caplog.set_level("INFO")
    gpst_inference.main([*out, "--mode", "speaker_transfer", "--prompt_wav", str(path), "--prompt_sec", "0.6"])
    assert caplog.text.count("0.6 of 6 s of the prompt used") == 1
