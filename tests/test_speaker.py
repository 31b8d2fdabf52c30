"""One speaker for every core LM: its modes, what a worker keeps, and whose fault it is that nothing is spoken."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from fabricated import one_error
from test_gpst import tiny_gpst
from tiny_speech import gpst_speech, options, streams

from espnet_ext.data.datadir import read_scp
from espnet_ext.decoding import DecodingStrategy, register_strategy, strategies
from espnet_ext.decoding.options import DecodeOptions, GPSTDecodeOptions
from espnet_ext.errors import UserError
from espnet_ext.inference.corpus import speak_shard
from espnet_ext.inference.model_ref import ModelRef, model_state
from espnet_ext.inference.requests import Job, Request, Text, modes, register_mode

AVERAGE = "valid.loss.ave.pth"


# --- options ---------------------------------------------------------------------------------------------------------


def test_decode_options_are_parsed_once_and_can_be_a_key() -> None:
    given = {"decoding": "local_maskgit", "decoding_conf": {"n_rounds": 2}, "sampling": {"temperature": [0.5, 0.7]}}
    one, other = (DecodeOptions(**given, maxlenratio=3.0) for _ in range(2))
    assert one == other and hash(one) == hash(other) and {one: 1}[other] == 1
    assert one.strategy is one.strategy and one.strategy.n_rounds == 2
    assert one.sampler.temperature == (0.5, 0.7)
    gpst = GPSTDecodeOptions("parallel", semantic_sampling={"top_k": 5}, semantic_maxlenratio=2.0, seed=3)
    assert hash(gpst) == hash(
        GPSTDecodeOptions("parallel", semantic_sampling={"top_k": 5}, semantic_maxlenratio=2.0, seed=3)
    )
    assert (gpst.units.sampler.top_k, gpst.units.maxlenratio, gpst.units.seed, gpst.units.min_frames) == (5, 2.0, 3, 1)


# --- modes -----------------------------------------------------------------------------------------------------------


@pytest.mark.espnet
def test_every_experiment_is_loaded_by_one_class_and_speaks_in_the_modes_of_its_core_lm(
    experiment: Path, gpst_experiment: Path
) -> None:
    from espnet_ext.inference import CodecLM, Speaker

    decode = DecodeOptions("parallel", maxlenratio=2.0)
    speaker = Speaker.from_experiment(experiment)
    said = speaker("abba", options=decode)
    assert np.array_equal(said.codes, CodecLM.from_experiment(experiment)("abba", options=decode).codes)
    assert np.array_equal(said.codes, speaker.speak("text", text="abba", options=decode).codes)
    with pytest.raises(UserError, match=r"mode must be one of \['edit', 'text'\] .*, got 'unconditional'"):
        speaker.speak("unconditional")
    gpst = Speaker.from_experiment(gpst_experiment)
    assert len(gpst.speak("unconditional", options=GPSTDecodeOptions("parallel", max_sec=0.3)).codes)
    with pytest.raises(UserError, match="options must be GPSTDecodeOptions with this mode, got DecodeOptions"):
        gpst.speak("unconditional", options=decode)


@pytest.mark.espnet
def test_similar_codes_may_be_those_of_the_experiments_codec(experiment: Path, gpst_experiment: Path) -> None:
    from espnet_ext.inference import Speaker

    lenient = {"acceptance": "pcg", "acceptance_conf": {"groups": 1, "vectors": "codec"}, "exact": False}
    for exp in (experiment, gpst_experiment):
        speaker = Speaker.from_experiment(exp)
        speaker.check(DecodeOptions("parallel", order="speculative", order_conf=lenient))
        told, own = speaker.corelm.heads.code_vectors["codec"], speaker.codec.code_vectors()
        assert torch.equal(told.vectors(), own)
    options = GPSTDecodeOptions("parallel", max_sec=0.3, order="speculative", order_conf=lenient)
    assert len(speaker.speak("unconditional", options=options).codes)


@pytest.mark.espnet
def test_one_command_serves_every_mode_and_the_only_one_need_not_be_named(
    corpus: Path, experiment: Path, gpst_experiment: Path, tmp_path: Path
) -> None:
    from espnet_ext.bin import codec_lm_inference, gpst_inference

    line = ["--exp", str(gpst_experiment), "--decoding", "parallel", "--num_utterances", "2"]
    for name, command in (("one", codec_lm_inference), ("other", gpst_inference)):
        command.main([*line, "--mode", "unconditional", "--output_dir", str(tmp_path / name)])
    assert (tmp_path / "one/codes.ark").read_bytes() == (tmp_path / "other/codes.ark").read_bytes()
    error = one_error(codec_lm_inference.main, *line, "--output_dir", tmp_path / "out")
    assert error.startswith("error: mode must be given, one of ['continuation', ")
    line = ["--exp", str(experiment), "--decoding", "parallel", "--output_dir", str(tmp_path / "said")]
    codec_lm_inference.main([*line, "--text", "abba"])
    assert list(read_scp(tmp_path / "said/wav.scp")) == ["text"]
    assert "mode" not in json.loads((tmp_path / "said/timing.json").read_text())
    message = "text must be given for mode text without data_dir, got None"
    assert message in one_error(codec_lm_inference.main, *line)
    message = "prompts must be left out with mode text, got x: it is for speaker_transfer, tts"
    assert message in one_error(codec_lm_inference.main, *line, "--data_dir", corpus / "dev", "--prompts", "x")


@pytest.mark.espnet
def test_a_mode_from_outside_is_asked_for_by_its_name(
    corpus: Path, experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from espnet_ext.bin import codec_lm_inference

    monkeypatch.setattr(modes, "_classes", dict(modes._classes))

    @register_mode("backwards")
    class Backwards(Text):
        def starts(self, speaker, names, requests, options):
            turned = [Request(prompt=one.prompt, text=one.text[::-1]) for one in requests]
            return super().starts(speaker, names, turned, options)

    data = tmp_path / "data"
    data.mkdir()
    line = ["--exp", str(experiment), "--data_dir", str(data), "--decoding", "local_ar", "--output_dir"]
    (data / "text").write_text("s-0 abcd\n")
    codec_lm_inference.main([*line, str(tmp_path / "turned"), "--mode", "backwards"])
    (data / "text").write_text("s-0 dcba\n")
    codec_lm_inference.main([*line, str(tmp_path / "plain")])
    assert (tmp_path / "turned/codes.ark").read_bytes() == (tmp_path / "plain/codes.ark").read_bytes()
    assert json.loads((tmp_path / "turned/timing.json").read_text())["mode"] == "backwards"


# --- what a worker keeps ---------------------------------------------------------------------------------------------


@pytest.mark.espnet
def test_model_is_loaded_once_and_again_when_its_weights_are_replaced(experiment: Path, tmp_path: Path) -> None:
    """A worker that lived long filed the speech of old weights as that of new ones: it looked at config.yaml alone."""
    exp = tmp_path / "exp"
    shutil.copytree(experiment, exp)
    model = ModelRef(exp)
    first = model.load()
    (exp / "unused.pth").write_bytes(b"")
    assert ModelRef(exp).load() is first
    content = (exp / AVERAGE).read_bytes()
    (exp / "new.pth").write_bytes(content)
    os.replace(exp / "new.pth", exp / AVERAGE)
    second = model.load()
    assert second is not first and model.load() is second


def test_model_in_front_is_one_of_the_files_that_make_a_model_another(tmp_path: Path) -> None:
    """Another text-to-semantic model under the same name was not noticed."""
    for name in ("exp", "texts"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("best_model_criterion: [[valid, loss, min]]\n")
    model = ModelRef(tmp_path / "exp", "some.pth", text_to_semantic=tmp_path / "texts")
    assert [str(path.relative_to(tmp_path)) for path in model.files()] == [
        "exp/config.yaml", "exp/some.pth", "texts/config.yaml", f"texts/{AVERAGE}",
    ]  # fmt: skip


@pytest.mark.espnet
def test_a_dangling_link_that_nobody_asked_for_does_no_harm(corpus: Path, experiment: Path, tmp_path: Path) -> None:
    """Training one epoch and then more leaves one: inference ended with its name and Errno 2."""
    from espnet_ext.bin import codec_lm_inference

    exp = tmp_path / "exp"
    shutil.copytree(experiment, exp)
    (exp / "train.loss.ave_1best.pth").unlink(missing_ok=True)
    (exp / "train.loss.ave_1best.pth").symlink_to("1epoch.gone.pth")
    assert list(model_state(exp)["weights"]) == [AVERAGE]
    line = ["--exp", exp, "--data_dir", corpus / "dev", "--decoding", "parallel", "--output_dir", tmp_path / "out"]
    codec_lm_inference.main([str(word) for word in line])
    (exp / AVERAGE).unlink()
    (exp / AVERAGE).symlink_to("gone.pth")
    assert f"model_file not found: {exp / AVERAGE}" in one_error(codec_lm_inference.main, *line)


# --- what cannot be spoken -------------------------------------------------------------------------------------------


class Here:
    """A model that is loaded already."""

    def __init__(self, speaker) -> None:
        self.speaker = speaker

    def load(self):
        return self.speaker


def test_units_of_a_batch_that_failed_are_not_counted_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One utterance that could not be spoken doubled the units of its batch-mates."""
    requests = {
        "s-0": Request(prompt=streams(30), text="abc"),
        "s-1": Request(prompt=streams(12), text="abcdef"),
        "s-2": Request(prompt=streams(40), text="fade"),
    }
    monkeypatch.setattr(Job, "read", lambda job, speaker, name, mode: requests[name])
    jobs = {name: Job(tmp_path / f"{name}.wav") for name in requests}
    mode = modes["tts"](prompt_sec=0.6)
    results, timing = speak_shard(Here(gpst_speech(tiny_gpst())), mode, options(), jobs)
    assert results["s-1"] == "cannot be spoken: prompt of s-1 must last at least 0.5 s, got 0.48 s"
    assert (timing.utterances, timing.units) == (2, 7)


@pytest.mark.parametrize("most_rows", [1, 2])
def test_rows_of_a_speaker_that_join_say_what_all_at_once_say(most_rows: int) -> None:
    speaker, names = gpst_speech(tiny_gpst()), [f"s-{number}" for number in range(5)]
    requests = [Request(prompt=streams(30 + 3 * number), text="abcdef"[: 2 + number]) for number in range(5)]
    mode = modes["tts"](prompt_sec=0.6)
    right, seen = speaker.speak_all(mode, names, requests, options()), []
    speaker.most_rows = most_rows
    run = speaker._step

    def step(model, strategy, codes, state, sampler):
        seen.append(len(codes))
        return run(model, strategy, codes, state, sampler)

    speaker._step = step
    for one, other in zip(speaker.speak_all(mode, names, requests, options()), right, strict=True):
        assert np.array_equal(one.codes, other.codes) and np.array_equal(one.units, other.units)
        assert np.array_equal(one.waveform, other.waveform)
    assert max(seen) == most_rows


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> str:
    """A strategy of another package that unpacks wrongly."""
    monkeypatch.setattr(strategies, "_classes", dict(strategies._classes))

    @register_strategy("broken")
    @dataclass(frozen=True)
    class Broken(DecodingStrategy):
        head_types = ()

        def decode_step(self, heads, hidden, sampler):
            codes, logprobs = hidden, hidden, hidden
            return codes, logprobs

    return "broken"


@pytest.mark.espnet
def test_a_defect_of_a_plug_in_stops_the_run_with_its_traceback_and_names_utterance_and_plug_in(
    corpus: Path, experiment: Path, tmp_path: Path, broken: str
) -> None:
    """It read "cannot be spoken: too many values to unpack" for every utterance."""
    from espnet_ext.bin import codec_lm_inference, run

    line = ["--exp", experiment, "--data_dir", corpus / "dev", "--decoding", broken, "--output_dir", tmp_path / "out"]
    with pytest.raises(ValueError, match="too many values to unpack") as caught:
        run(lambda: codec_lm_inference.main([str(word) for word in line]))
    assert not isinstance(caught.value, UserError)
    assert caught.traceback[-1].name == "decode_step"
    (note,) = caught.value.__notes__
    assert note.startswith("while speaking s-0, s-1 with decoding broken (test_speaker.")
    assert "codec (espnet_ext.tokenizers.codec.world_vq.WorldVQCodec)" in note
    assert not (tmp_path / "out/skipped").exists()


@pytest.mark.espnet
@pytest.mark.parametrize(("value", "found"), [(torch.nan, "NaN"), (-torch.inf, "infinity")])
def test_weights_that_are_not_finite_are_refused_with_file_and_parameter(
    corpus: Path, experiment: Path, tmp_path: Path, value: float, found: str
) -> None:
    """One NaN gave three seconds of speech that looked like any other, and exit code 0."""
    from espnet_ext.bin import codec_lm_inference, say

    exp, name = tmp_path / "exp", "corelm.primary.decoder.blocks.0.attention.qkv.weight"
    shutil.copytree(experiment, exp)
    checkpoint = exp / AVERAGE
    weights = torch.load(checkpoint, weights_only=True)
    weights[name][0, 0] = value
    checkpoint.unlink()  # a link to the epoch's
    torch.save(weights, checkpoint)
    message = f"{checkpoint} must hold finite weights, got {found} in {name} (1 such)"
    assert message in one_error(say.main, exp, "abc", "-o", tmp_path / "out.wav")
    line = ("--exp", exp, "--data_dir", corpus / "dev", "--output_dir", tmp_path / "out")
    assert message in one_error(codec_lm_inference.main, *line)
    assert not list(tmp_path.glob("out*"))


@pytest.mark.espnet
def test_logits_that_are_no_numbers_cost_their_utterance_which_is_named(experiment: Path) -> None:
    from espnet_ext.inference import Speaker

    speaker = Speaker.from_experiment(experiment)
    speaker.corelm.heads["ar"].position.data[0] = torch.inf  # as what overflows in a precision
    with pytest.raises(UserError, match="logits must be finite, got NaN in the first step of utterance u1"):
        speaker("abc", name="u1")
    with pytest.raises(UserError, match="logits must be finite, got NaN in the first step of utterance u2"):
        list(speaker.stream("abc", name="u2"))
