"""Editing: a part of an utterance is made anew by a trained masked model, and all else stays."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from fabricated import command, one_error, tone

pytest.importorskip("espnet2")
from espnet_ext.bin import codec_lm_inference
from espnet_ext.data.streams import Streams
from espnet_ext.errors import UserError
from espnet_ext.inference import CodecLM, Speaker
from espnet_ext.inference.editing import ANEW, Edit, voice_in
from espnet_ext.inference.requests import Request

pytestmark = pytest.mark.espnet
PAGE = Path(__file__).resolve().parent.parent / "docs/python.md"
NAMED = "exp/codec_lm_train_mini_masked_world_vq_phn_cmudict_s1"


@pytest.fixture(scope="session")
def masked_experiment(corpus, tmp_path_factory):
    """One trained epoch of a masked model at S = 2."""
    from espnet_ext.tasks.codec_lm import CodecLMTask

    output = tmp_path_factory.mktemp("exp") / "masked"
    config = {"best_model_criterion": [["valid", "loss", "min"]], "keep_nbest_models": 1, "frame_stacking_factor": 2}
    config |= {"corelm_conf": {"objective": "masked", "conditioning_dropout": 0.1, "frame_tables": "tied"}}
    conf = output.parent / "train.yaml"
    conf.write_text(yaml.safe_dump(config))
    CodecLMTask.main(cmd=command(corpus, output, "--config", str(conf)))
    return output


@pytest.fixture(scope="session")
def speak(masked_experiment):
    return Speaker.from_experiment(masked_experiment)


@pytest.fixture
def codes():
    return np.random.default_rng(1).integers(8, size=(21, 8))


def test_a_masked_experiment_says_texts_in_rounds_where_nothing_else_is_said(speak):
    """And one of another order is refused, with the one that it has."""
    speech = speak("abcd dcba")
    assert speech.options.order == "masked" and speech.timing.primary_passes <= 8
    with pytest.raises(UserError, match=r"order must be one of \['masked'\] .* of objective masked, got 'causal'"):
        speak("abcd", order="causal")
    with pytest.raises(UserError, match=r"order must be one of .*'causal'.* for streaming, got 'masked'"):
        next(speak.stream("abcd"))


@pytest.mark.parametrize("decoding", ["parallel", "local_ar", "local_maskgit"])
@pytest.mark.parametrize("cfg_scale", [1.0, 1.5])
def test_codes_that_are_given_stay_and_others_are_made_anew(speak, codes, decoding, cfg_scale):
    given = codes.copy()
    given[6:11] = ANEW
    given[15, 3] = ANEW
    speech = speak.speak("edit", speech=given, text="abcd dcba", decoding=decoding, cfg_scale=cfg_scale)
    assert speech.codes.shape == codes.shape and speech.has_eos and speech.runaway is None
    assert np.array_equal(speech.codes[given != ANEW], given[given != ANEW])
    speak.corelm.spec.check(torch.from_numpy(speech.codes))
    other = speak.speak("edit", speech=given, text="abcd dcba", decoding=decoding, cfg_scale=cfg_scale, seed=3)
    assert not np.array_equal(speech.codes, other.codes)


@pytest.mark.parametrize(("new_sec", "frames"), [(None, 21), (0.0, 16), (0.4, 26)])
def test_a_stretch_may_become_shorter_or_longer(speak, codes, new_sec, frames):
    rate = speak.corelm.spec.frame_rate_hz
    edit = Edit(start=6 / rate, end=11 / rate, new_sec=None if new_sec is None else round(new_sec * 25) / rate)
    if new_sec == 0.0:
        with pytest.raises(UserError, match="speech of utterance must have something to make anew"):
            speak.speak(edit, speech=codes, text="abcd")
        return
    speech = speak.speak(edit, speech=codes, text="abcd")
    assert len(speech.codes) == frames
    assert np.array_equal(speech.codes[:6], codes[:6])
    assert np.array_equal(speech.codes[frames - 10 :], codes[11:])


def test_several_edits_at_once_are_those_one_by_one(speak, codes):
    given = [codes.copy(), codes[:9].copy()]
    for one in given:
        one[3:7] = ANEW
    alone = [
        speak.speak("edit", speech=one, text="abcd", name=name).codes for one, name in zip(given, "xy", strict=True)
    ]

    requests = [Request(speech=Streams(np.zeros(0, dtype=np.int64), one), text="abcd") for one in given]
    together = speak.speak_all(Edit(), ["x", "y"], requests, speak.options(Edit()))
    assert all(np.array_equal(one.codes, other) for one, other in zip(together, alone, strict=True))


def test_the_voice_is_that_of_the_longest_stretch_that_stays(codes):
    given = codes.copy()
    given[4], given[15:17] = ANEW, ANEW
    assert np.array_equal(voice_in(given), codes[5:15])
    assert voice_in(np.full((4, 8), ANEW)).shape == (0, 8)


@pytest.mark.parametrize(
    ("mode", "given", "message"),
    [
        (lambda: Edit(start=0.9, end=0.3), {}, "end must be at least start = 0.9, got 0.3"),
        (lambda: Edit(new_sec=0.3), {}, "new_sec must come with start or end, got 0.3"),
        (lambda: Edit(start=-1), {}, "start must be"),
        (lambda: Edit(start=90, end=91), {}, "start and end must be within .* s of utterance, got 90, 91"),
        (Edit, {}, "speech of utterance must have something to make anew: start and end, or codes of -1"),
        (Edit, {"speech": None}, "speech of utterance must be given for mode edit: a recording, or codes"),
        (Edit, {"speech": np.full((4, 8), 9)}, "speech of utterance: codes must lie in"),
        (Edit, {"speech": np.full((4, 3), ANEW)}, "speech of utterance: codes must have 8 codebooks"),
    ],
)
def test_an_edit_that_cannot_be_is_refused(speak, codes, mode, given, message):
    with pytest.raises(UserError, match=message):
        speak.speak(mode(), **{"speech": codes, "text": "abcd", **given})


def test_a_causal_model_cannot_edit(experiment, codes):
    with pytest.raises(UserError, match="mode must be text with a model of objective causal, got edit"):
        CodecLM.from_experiment(experiment).speak("edit", speech=codes, text="abcd")


def test_the_command_edits_a_recording(masked_experiment, tmp_path):
    soundfile.write(tmp_path / "said.wav", tone(), 16000)
    line = ["--exp", masked_experiment, "--mode", "edit", "--target_wav", tmp_path / "said.wav", "--order", "masked"]
    line += ["--mode_conf", "start=0.2", "--mode_conf", "end=0.5", "--nj", "1", "--output_dir", tmp_path / "out"]
    error = one_error(codec_lm_inference.main, *line)
    assert "text must be given for mode edit" in error
    codec_lm_inference.main([str(word) for word in [*line, "--text", "abcd dcba"]])
    edited, rate = soundfile.read(tmp_path / "out/wav/said.wav")
    assert abs(len(edited) / rate - 1.0) < 0.1


def test_the_snippet_of_the_python_page_runs(masked_experiment, tmp_path, monkeypatch):
    block = re.search(r"## Edit speech.*?```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert block is not None and NAMED in block[1]
    monkeypatch.chdir(tmp_path)
    soundfile.write("dogs.wav", tone(), 16000)
    names: dict[str, object] = {}
    exec(block[1].replace(NAMED, str(masked_experiment)), names)
    assert Path("again.wav").is_file()
    mended, again = names["mended"].codes, names["again"].codes
    assert np.array_equal(np.delete(mended, slice(5, 9), 0), np.delete(again, slice(5, 9), 0))
