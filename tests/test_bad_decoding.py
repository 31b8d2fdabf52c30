"""Bad options and inputs of decoding: each is one line that names what is wrong, and nothing half-written stays."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from fabricated import command, one_error

from espnet_ext.data.datadir import read_scp
from espnet_ext.decoding import strategies
from espnet_ext.decoding.sampling import SamplingOptions

# --- options of decoding ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": "hot"}, "temperature must be a number, got 'hot'"),
        ({"temperature": float("nan")}, r"temperature must be in \[0, 10\], got nan"),
        ({"top_k": 2.5}, "top_k must be an integer, got 2.5"),
        ({"top_k": True}, "top_k must be an integer, got True"),
        ({"top_p": None}, "top_p must be a number, got None"),
        ({"temperature": -1}, r"temperature must be in \[0, 10\], got -1"),
        ({"top_p": 0}, r"top_p must be in \(0, 1\], got 0"),
        ({"top_p": 1.5}, r"top_p must be in \(0, 1\], got 1.5"),
        ({"top_k": -1}, "top_k must be at least 0, got -1"),
        ({"cfg_scale": -2}, r"cfg_scale must be in \[0, 20\], got -2"),
        ({"repetition_threshold": 2}, r"repetition_threshold must be in \[0, 1\], got 2"),
    ],
)
def test_sampling_options_of_the_wrong_kind_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        SamplingOptions(**options)


@pytest.mark.espnet
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("sampling: {temperature: hot}", "temperature must be a number, got 'hot' (in decode.yaml)"),
        ("sampling: 3", "sampling must be names and values, got 3"),
        ("sampling: {3: 4, a: 5}", "sampling must be names and values, got {3: 4, 'a': 5}"),
        ("sampling: {heat: 1}", "sampling must have keys among ['temperature', "),
        ("decoding_conf: [1]", "decoding_conf must be names and values, got [1]"),
        ("decoding_conf: {rounds: 4}", "decoding_conf of local_ar must be among [], got ['rounds']"),
        ("decoding: fast", f"decoding must be one of {list(strategies)}, got 'fast'"),
        ("decoding_conf: {3: 4}", "decoding_conf must be names and values, got {3: 4}"),
        ("{decoding: local_maskgit, decoding_conf: {n_rounds: 0}}", "n_rounds must be at least 1, got 0"),
        ("{decoding: local_maskgit, decoding_conf: {n_rounds: 1.5}}", "n_rounds must be an integer, got 1.5"),
        ("{decoding: local_maskgit, decoding_conf: {order: best}}", "order must be one of ['confidence', "),
        ("{decoding: local_maskgit, decoding_conf: {fixed_schedule: 8}}", "fixed_schedule must be a list of integers"),
        ("{decoding: local_maskgit_adaptive, decoding_conf: {threshold: x}}", "threshold must be a number, got 'x'"),
        ("{decoding: local_maskgit_adaptive, decoding_conf: {rounds: 4}}", "must be among ['threshold', "),
        ("{decoding: local_speculative, decoding_conf: {acceptance: no}}", "acceptance must be one of ['block', "),
        ("sampling: {temperature: -1}", "temperature must be in [0, 10], got -1 (in decode.yaml)"),
        ("sampling: {top_p: 0}", "top_p must be in (0, 1], got 0 (in decode.yaml)"),
        ("sampling: {top_p: 1.5}", "top_p must be in (0, 1], got 1.5 (in decode.yaml)"),
        ("sampling: {repetition_window: 10, temperature: 0}", "repetition_window must be 0 with temperature 0, got 10"),
        ("decoding: [local_ar]", "decoding must be the name of a strategy"),
        ("maxlenratio: big", "maxlenratio must be a number, got 'big'"),
        ("maxlenratio: -1", "maxlenratio must be above 0 and finite, got -1"),
        ("maxlenratio: .nan", "maxlenratio must be above 0 and finite, got nan"),
        ("seed: x", "seed must be an integer, got 'x'"),
        ("min_frames: 0", "min_frames must be at least 1, got 0"),
        ("min_frames: 2.5", "min_frames must be an integer, got 2.5"),
        ("3: 4\na: 5", "inference_config must have keys among"),
        ("- 1", "inference_config must hold names and values, got a list (in decode.yaml)"),
        ("seed: [", "inference_config must be a yaml file, got decode.yaml"),
    ],
)
def test_a_wrong_decode_yaml_is_refused_before_anything_is_loaded(tmp_path, monkeypatch, content, message) -> None:
    pytest.importorskip("espnet2")
    from espnet_ext.bin import codec_lm_inference, say

    monkeypatch.chdir(tmp_path)
    Path("decode.yaml").write_text(content)
    more = ("--inference_config", "decode.yaml")
    assert message in one_error(say.main, "exp", "abc", "-o", "out.wav", *more)
    line = ("--exp", "exp", "--data_dir", "data", "--output_dir", "out", *more)
    assert message in one_error(codec_lm_inference.main, *line)
    assert [path.name for path in tmp_path.iterdir()] == ["decode.yaml"]


@pytest.mark.espnet
@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--batch_size", -1, "batch_size must be at least 1, got -1"),
        ("--batch_size", 0, "batch_size must be at least 1, got 0"),
        ("--num_threads", 0, "num_threads must be at least 1, got 0"),
        ("--device", "cuda", "device must be cpu where there is no GPU that torch can use, got cuda"),
    ],
)
def test_inference_refuses_what_it_cannot_do(tmp_path, monkeypatch, option, value, message) -> None:
    pytest.importorskip("espnet2")
    from espnet_ext.bin import codec_lm_inference

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    line = ("--exp", tmp_path / "exp", "--data_dir", tmp_path, "--output_dir", tmp_path / "out", option, value)
    assert message in one_error(codec_lm_inference.main, *line)
    assert not list(tmp_path.iterdir())


# --- inference and say on a trained experiment -----------------------------------------------------------------------


def without_head(experiment: Path, folder: Path, name: str) -> Path:
    """A copy of the experiment, trained as it were without one of its local transformers."""
    shutil.copytree(experiment, folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["local"].remove(name)
    del config["local_conf"][name]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    weights = folder / "valid.loss.ave.pth"
    state = torch.load(weights, weights_only=True)
    torch.save({key: value for key, value in state.items() if f"heads.{name}." not in key}, weights)
    return folder


@pytest.mark.espnet
def test_an_unknown_strategy_on_the_command_line_is_one_line(tmp_path, monkeypatch) -> None:
    pytest.importorskip("espnet2")
    from espnet_ext.bin import codec_lm_inference, say

    monkeypatch.chdir(tmp_path)
    message = f"error: decoding must be one of {list(strategies)}, got 'fast'"
    assert one_error(say.main, "exp", "abc", "-o", "out.wav", "--decoding", "fast").startswith(message)
    line = ("--exp", "exp", "--data_dir", "data", "--output_dir", "out", "--decoding", "fast")
    assert one_error(codec_lm_inference.main, *line).endswith("got 'fast'")
    assert not list(tmp_path.iterdir())


@pytest.mark.espnet
@pytest.mark.parametrize(
    ("removed", "asked", "message"),
    [
        (
            "maskgit",
            "local_maskgit",
            "'local_ar', 'local_speculative', 'parallel'] with this model's heads ['parallel', 'ar'], got "
            "'local_maskgit', which needs MaskGITLocalTransformer",
        ),
        ("ar", "local_speculative", "heads ['parallel', 'maskgit'], got 'local_speculative', which needs ARLocal"),
    ],
)
def test_a_strategy_without_its_head_is_refused_before_anything_is_written(
    corpus, experiment, tmp_path, removed, asked, message
) -> None:
    from espnet_ext.bin import codec_lm_inference, say

    exp = without_head(experiment, tmp_path / "exp", removed)
    line = ("--exp", exp, "--data_dir", corpus / "dev", "--output_dir", tmp_path / "out", "--decoding", asked)
    assert message in one_error(codec_lm_inference.main, *line)
    assert message in one_error(say.main, exp, "abc", "-o", tmp_path / "out.wav", "--decoding", asked)
    assert [path.name for path in tmp_path.iterdir()] == ["exp"]


@pytest.mark.espnet
@pytest.mark.parametrize(("positions", "spoken"), [(8, []), (40, ["s-0"])])
def test_a_text_longer_than_the_learned_positions_is_skipped_with_its_reason(
    corpus, tmp_path, caplog, positions, spoken
) -> None:
    """One text too long used to end the decoding of all others; where all are too long, it still does."""
    from espnet_ext.bin import codec_lm_inference
    from espnet_ext.tasks.codec_lm import CodecLMTask

    conf = tmp_path / "train.yaml"
    conf.write_text("best_model_criterion: [[valid, loss, min]]\nkeep_nbest_models: 1\n")
    more = ["--config", str(conf), "--primary", "prefix"]
    for option in ("heads=2", "position=learned", "max_positions=64"):
        more += ["--primary_conf", option]
    CodecLMTask.main(cmd=command(corpus, tmp_path / "exp", *more))
    shrink_positions(tmp_path / "exp", positions)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "text").write_text("s-0 a\ns-1 abcdabcdabcd\n")
    line = ("--exp", tmp_path / "exp", "--data_dir", tmp_path / "data", "--output_dir", tmp_path / "out")
    if spoken:
        caplog.set_level("INFO")
        codec_lm_inference.main([str(argument) for argument in (*line, "--decoding", "parallel")])
        assert "skipped: 1 cannot be spoken (s-1)" in caplog.text
        assert read_scp(tmp_path / "out" / "status")["s-1"] == "skipped"
        assert list(read_scp(tmp_path / "out" / "wav.scp")) == spoken
        assert not (tmp_path / "out" / "shards").exists()
    else:
        error = one_error(codec_lm_inference.main, *line, "--decoding", "parallel")
        assert "must have utterances that can be spoken: s-0: cannot be spoken: max_positions must be at" in error
        assert not (tmp_path / "out" / "wav.scp").exists()
    skipped = (tmp_path / "out" / "skipped").read_text().splitlines()
    assert [line.split("\t")[0] for line in skipped] == [utt for utt in ("s-0", "s-1") if utt not in spoken]
    assert all(line.endswith(f", got {positions}") for line in skipped)


def shrink_positions(exp: Path, positions: int) -> None:
    """Cut the experiment's table of learned positions."""
    config = yaml.safe_load((exp / "config.yaml").read_text())
    config["primary_conf"]["max_positions"] = positions
    (exp / "config.yaml").write_text(yaml.safe_dump(config))
    weights = exp / "valid.loss.ave.pth"
    state = torch.load(weights, weights_only=True)
    state["corelm.primary.position.weight"] = state["corelm.primary.position.weight"][:positions].clone()
    torch.save(state, weights)


@pytest.mark.espnet
@pytest.mark.parametrize("text", ["", "  ", "\t"])
def test_an_empty_text_is_refused_by_say_and_skipped_with_its_reason_by_inference(
    corpus, experiment, tmp_path, text
) -> None:
    from espnet_ext.bin import codec_lm_inference, say

    error = one_error(say.main, experiment, text, "-o", tmp_path / "out.wav")
    assert error.startswith("error: text must not be empty, got '")
    assert not list(tmp_path.iterdir())
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "text").write_text(f"s-0 ab\ns-1 {text}\n")
    out = tmp_path / "out"
    codec_lm_inference.main(["--exp", str(experiment), "--data_dir", str(tmp_path / "data"), "--output_dir", str(out)])
    assert (out / "skipped").read_text().startswith("s-1\tempty text")
    assert [path.stem for path in (out / "wav").iterdir()] == ["s-0"]


@pytest.mark.espnet
def test_a_prompt_with_the_wrong_number_of_codebooks_is_refused(corpus, experiment, tmp_path) -> None:
    from espnet_ext.bin import codec_lm_inference
    from espnet_ext.data.ark import codes_writer
    from espnet_ext.inference import CodecLM
    from espnet_ext.tokenizers.codec import copy_codec

    message = r"prompt of utterance: codes must have 8 codebooks in the last axis, got shape \(5, 3\)"
    with pytest.raises(ValueError, match=message):
        CodecLM.from_experiment(experiment)("abc", prompt=np.zeros((5, 3), dtype=np.int64))
    with pytest.raises(ValueError, match=r"prompt of utterance: codes must lie in \[0, 8\), got \[8, 8\]"):
        CodecLM.from_experiment(experiment)("abc", prompt=np.full((5, 8), 8))
    data = tmp_path / "data"
    with codes_writer(data) as write:
        write("s-0", np.zeros((5, 3), dtype=np.int64))
    (data / "codes.scp").rename(data / "prompt.scp")
    (data / "text").write_text("s-0 abc\n")
    copy_codec(corpus / "codec", data)
    error = one_error(
        codec_lm_inference.main, "--exp", experiment, "--data_dir", data, "--output_dir", tmp_path / "out"
    )
    assert "integers of 8 codebooks" in error and "s-0" in error
    assert (tmp_path / "out" / "skipped").read_text().startswith("s-0\tbad prompt: ")
    assert not (tmp_path / "out" / "wav.scp").exists()


@pytest.mark.espnet
def test_guidance_of_a_model_trained_without_conditioning_dropout_is_a_warning(experiment, tmp_path) -> None:
    from espnet_ext.bin import say

    (tmp_path / "decode.yaml").write_text("sampling: {cfg_scale: 2.5}\n")
    line = [
        str(experiment),
        "abc",
        "-o",
        str(tmp_path / "out.wav"),
        "--inference_config",
        str(tmp_path / "decode.yaml"),
    ]
    message = "cfg_scale must be 1 for a model trained with conditioning_dropout 0, got 2.5"
    with pytest.warns(UserWarning, match=message):
        say.main(line)
    assert (tmp_path / "out.wav").stat().st_size > 44


@pytest.mark.espnet
def test_prompts_of_a_codec_that_nobody_knows_are_refused(corpus, experiment, tmp_path) -> None:
    from espnet_ext.bin import codec_lm_inference, say

    for name in ("text", "prompt.scp", "codes.scp", "utt2spk"):
        shutil.copy(corpus / "dev" / name, tmp_path)
    line = ("--exp", experiment, "--data_dir", tmp_path, "--output_dir", tmp_path / "out")
    error = one_error(codec_lm_inference.main, *line)
    assert f"{tmp_path / 'codec_info.yaml'} not found: it must tell which codec made prompt.scp" in error
    line = (experiment, "abc", "-o", tmp_path / "out.wav", "--speaker", "s", "--data_dir", tmp_path)
    assert "codec_info.yaml not found: it must tell which codec made codes.scp" in one_error(say.main, *line)
    assert not list(tmp_path.glob("out*"))


@pytest.mark.espnet
def test_one_bad_prompt_costs_its_own_utterance_only(corpus, experiment, tmp_path, caplog) -> None:
    """It used to end the decoding of all others."""
    from espnet_ext.bin import codec_lm_inference
    from espnet_ext.data.ark import read_codes
    from espnet_ext.tokenizers.codec import copy_codec

    data = tmp_path / "data"
    copy_codec(corpus / "codec", data)
    prompts = (corpus / "dev" / "prompt.scp").read_text().splitlines()
    gone = tmp_path / "gone.ark"
    (data / "prompt.scp").write_text(f"{prompts[0]}\n{prompts[1]}\ns-2 {gone}:5\ns-3 {prompts[0].split()[1]}9999\n")
    (data / "text").write_text("s-0 abc\ns-1 abca\ns-2 abca\ns-3 ab\n")
    line = ["--exp", str(experiment), "--data_dir", str(data), "--output_dir"]
    caplog.set_level("INFO")
    codec_lm_inference.main([*line, str(tmp_path / "out")])
    assert "2 utterances (" in caplog.text and "skipped: 2 bad prompt (s-2, s-3)" in caplog.text
    assert f"s-2\tbad prompt: codes archive not found: {gone}" in (tmp_path / "out" / "skipped").read_text()
    (data / "prompt.scp").write_text("\n".join(prompts) + "\n")
    (data / "text").write_text("s-0 abc\ns-1 abca\n")
    codec_lm_inference.main([*line, str(tmp_path / "alone")])
    for name in ("s-0", "s-1"):
        codes = [read_codes(tmp_path / out / "codes.scp", 8)[name] for out in ("out", "alone")]
        assert np.array_equal(*codes)


@pytest.mark.espnet
def test_speech_does_not_depend_on_processes_and_continues(corpus, experiment, tmp_path, monkeypatch, caplog) -> None:
    from espnet_ext.bin import codec_lm_inference
    from espnet_ext.inference import corpus as decode_command

    line = ["--exp", str(experiment), "--data_dir", str(corpus / "train"), "--batch_size", "2", "--output_dir"]
    codec_lm_inference.main([*line, str(tmp_path / "alone")])
    monkeypatch.setattr(decode_command, "STARTUP_SECONDS", 0)
    monkeypatch.setattr(decode_command, "write_skipped", unwritable)
    with pytest.raises(OSError, match="No space left on device"):
        codec_lm_inference.main([*line, str(tmp_path / "two"), "--nj", "2"])
    assert not (tmp_path / "two" / "wav.scp").exists()
    monkeypatch.undo()
    (tmp_path / "two" / "wav" / "s-0.wav").unlink()
    caplog.set_level("INFO")
    codec_lm_inference.main([*line, str(tmp_path / "two")])
    assert "1 of 2 shards were finished earlier" in caplog.text
    for name in ("codes.ark", "score", "status", *(f"wav/s-{index}.wav" for index in range(6))):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes(), name


def unwritable(*arguments) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.espnet
@pytest.mark.parametrize("name", ["out.xyz", "out"])
def test_say_writes_a_wav_under_any_name(experiment, tmp_path, name) -> None:
    from espnet_ext.bin import say

    say.main([str(experiment), "abc", "-o", str(tmp_path / name)])
    info = soundfile.info(tmp_path / name)
    assert (info.format, info.subtype, info.samplerate) == ("WAV", "PCM_16", 16000)


@pytest.mark.espnet
def test_a_speaker_without_codes_is_refused_and_one_with_some_is_heard(corpus, tmp_path) -> None:
    from espnet_ext.bin.say import speaker_prompt

    (tmp_path / "codes.scp").write_text((corpus / "dev" / "codes.scp").read_text())
    (tmp_path / "utt2spk").write_text("r-0 s\ns-0 s\nt-0 t\n")
    with pytest.raises(ValueError, match=r"speaker must have an utterance in .*codes.scp, got 't' without any"):
        speaker_prompt("t", tmp_path, 8)
    assert speaker_prompt("s", tmp_path, 8).shape == (5, 8)


@pytest.mark.espnet
@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.full(16000, np.nan), "prompt must be an audio file, got not finite"),
        (np.zeros(0), "prompt must be an audio file, got empty wav"),
        (b"RIFF, not really", "prompt must be an audio file, got unreadable wav"),
    ],
)
def test_a_prompt_without_speech_is_refused(experiment, tmp_path, samples, message) -> None:
    from espnet_ext.bin import say

    prompt = tmp_path / "prompt.wav"
    if isinstance(samples, bytes):
        prompt.write_bytes(samples)
    else:
        soundfile.write(prompt, samples, 16000, subtype="FLOAT")
    assert message in one_error(say.main, experiment, "abc", "-o", tmp_path / "out.wav", "--prompt", prompt)
    assert not (tmp_path / "out.wav").exists()
