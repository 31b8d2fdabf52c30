"""`gpst_inference` and `GPSTSpeech.from_experiment` on tiny experiments: every mode, and what they refuse."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import soundfile
import torch
import yaml
from fabricated import one_error, tone

pytest.importorskip("espnet2")
from espnet_ext.bin import codec_lm_inference, gpst_inference, pack
from espnet_ext.data.ark import codes_writer, read_codes
from espnet_ext.data.datadir import read_scp, write_scp
from espnet_ext.decoding.options import DecodeOptions, GPSTDecodeOptions
from espnet_ext.inference import CodecLM
from espnet_ext.inference.gpst import GPSTSpeech
from espnet_ext.inference.requests import modes
from espnet_ext.tasks.codec_lm import CodecLMTask
from espnet_ext.tokenizers.codec import copy_codec, create_codec, save_codec
from espnet_ext.tokenizers.semantic import create_semantic, save_semantic

pytestmark = pytest.mark.espnet
MODEL_FILE = "valid.loss.ave.pth"
MODES = ["continuation", "semantic_to_acoustic", "speaker_transfer", "tts"]
DECODE = "maxlenratio: 1.0\nmin_frames: 2\nmax_sec: 0.4\nsemantic_sampling: {top_k: 8}\n"


def text_command(tokens, semantic, output, *more):
    """The command line of a training of a text-to-semantic model."""
    line = ["--output_dir", str(output), "--ngpu", "0", "--num_workers", "0", "--use_matplotlib", "false"]
    line += ["--use_tensorboard", "false", "--codec_info", str(semantic / "semantic_info.yaml"), "--prompt_sec", "0"]
    line += ["--token_list", str(tokens / "tokens.txt"), "--local", "none", "--max_epoch", "1", "--batch_size", "3"]
    line += ["--primary_conf", "width=32", "--primary_conf", "layers=1", "--batch_type", "unsorted"]
    for part, name in (("train", "train"), ("valid", "dev")):
        for file, key, kind in (("text", "text", "text"), ("semantic.scp", "codes", "kaldi_ark")):
            line += [f"--{part}_data_path_and_name_and_type", f"{tokens / name / file},{key},{kind}"]
        line += [f"--{part}_shape_file", str(tokens / name / "shape")]
    return [*line, *more]


@pytest.fixture(scope="module")
def text_to_semantic(token_corpus, tmp_path_factory):
    """One trained epoch of a text-to-semantic model."""
    output = tmp_path_factory.mktemp("texts") / "model"
    conf = output.parent / "train.yaml"
    conf.write_text("best_model_criterion: [[valid, loss, min]]\nkeep_nbest_models: 1\n")
    CodecLMTask.main(cmd=text_command(token_corpus, token_corpus / "semantic", output, "--config", str(conf)))
    return output


@pytest.fixture
def line(gpst_experiment, text_to_semantic, tmp_path):
    """Mode → options of every decoding of these tests."""
    (tmp_path / "decode.yaml").write_text(DECODE)
    shared = [
        "--inference_config",
        tmp_path / "decode.yaml",
        "--decoding",
        "local_ar",
        "--output_dir",
        tmp_path / "out",
    ]

    def options(mode, exp=gpst_experiment, texts=text_to_semantic):
        own = {"prompt_sec": 0.6, "text_to_semantic": texts}
        given = [word for name in own if name in modes[mode].reads for word in (f"--{name}", own[name])]
        return [str(word) for word in ["--exp", exp, "--mode", mode, *shared, *given]]

    return options


def decode(line, *more):
    gpst_inference.main([*line, *map(str, more)])


# --- every mode -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_writes_everything_it_promises(token_corpus, gpst_experiment, tmp_path, line, mode, caplog):
    caplog.set_level("INFO")
    decode(line(mode), "--data_dir", token_corpus / "train", "--batch_size", "4")
    out = tmp_path / "out"
    assert "6 utterances (" in caplog.text and "skipped: none" in caplog.text
    codes = read_codes(out / "codes.scp", 8)
    names = [f"s-{index}" for index in range(6)]
    assert sorted(codes) == sorted(read_scp(out / "wav.scp")) == sorted(read_scp(out / "status")) == names
    for name, path in read_scp(out / "wav.scp").items():
        assert soundfile.info(path).frames == 640 * len(codes[name]) > 0
    timing = json.loads((out / "timing.json").read_text())
    assert (timing["mode"], timing["decoding"], timing["utterances"]) == (mode, "local_ar", 6)
    assert timing["frames"] == sum(len(one) for one in codes.values()) and timing["rtf"] > 0
    assert (timing["units"] > 0) == (mode == "tts")
    prompts = read_scp(out / "utt2prompt") if mode != "semantic_to_acoustic" else {}
    if mode in ("speaker_transfer", "tts"):
        assert prompts == read_scp(token_corpus / "train" / "utt2prompt")
    assert not (out / "shards").exists() and (out / "skipped").read_text() == ""


def test_a_continuation_comes_alone_and_behind_what_was_given(token_corpus, tmp_path, line):
    decode(line("continuation"), "--data_dir", token_corpus / "train")
    out, whole = tmp_path / "out", tmp_path / "out" / "whole"
    assert read_scp(whole / "utt2prompt") == {name: name for name in read_scp(out / "wav.scp")}
    assert read_scp(whole / "status") == read_scp(out / "status")
    given = 14  # frames of 0.6 s that fill steps of two
    for name, path in read_scp(whole / "wav.scp").items():
        rest = soundfile.info(read_scp(out / "wav.scp")[name]).frames
        assert soundfile.info(path).frames == rest + given * 640


def test_unconditional_speech_needs_no_data(tmp_path, line):
    decode(line("unconditional"), "--num_utterances", "12")
    names = list(read_scp(tmp_path / "out" / "wav.scp"))
    assert names == [f"unconditional-{index:02d}" for index in range(12)]
    assert len({tuple(codes.flatten()) for codes in read_codes(tmp_path / "out" / "codes.scp", 8).values()}) > 6
    assert not (tmp_path / "out" / "utt2prompt").exists()


def test_tts_without_a_prompt_speaks_with_any_voice(token_corpus, tmp_path, line):
    decode(line("tts"), "--prompt_sec", "0", "--data_dir", token_corpus / "dev")
    assert list(read_scp(tmp_path / "out" / "wav.scp")) == ["s-0", "s-1"]
    assert not (tmp_path / "out" / "utt2prompt").exists()


@pytest.mark.parametrize("decoding", ["parallel", "local_maskgit", "local_speculative"])
def test_speech_does_not_depend_on_batches(token_corpus, tmp_path, line, decoding):
    for size in (1, 4):
        decode(line("speaker_transfer"), "--data_dir", token_corpus / "train", "--decoding", decoding,
               "--batch_size", size, "--output_dir", tmp_path / f"out{size}")  # fmt: skip
    for name in ("codes.ark", "status", *(f"wav/s-{index}.wav" for index in range(6))):
        assert (tmp_path / "out1" / name).read_bytes() == (tmp_path / "out4" / name).read_bytes(), name


def test_prompts_may_be_chosen_and_change_the_speech(token_corpus, tmp_path, line):
    data = token_corpus / "train"
    write_scp(tmp_path / "table", {"s-0": "s-5", "s-1": "s-2", "s-2": "s-9"})
    options = [*line("speaker_transfer"), "--data_dir", str(data)]
    decode(options, "--output_dir", tmp_path / "own")
    decode(options, "--prompts", tmp_path / "table")
    out = tmp_path / "out"
    assert read_scp(out / "utt2prompt") == {"s-0": "s-5", "s-1": "s-2"}
    skipped = (out / "skipped").read_text().splitlines()
    assert skipped[0] == "s-2\tno prompt: s-9 has no units and codes" and "s-3\tno prompt" in skipped
    one, other = (read_codes(tmp_path / name / "codes.scp", 8) for name in ("own", "out"))
    assert np.array_equal(one["s-1"], other["s-1"])
    assert not np.array_equal(one["s-0"], other["s-0"])


def test_a_prompt_that_is_none_of_the_utterances_is_found(token_corpus, tmp_path, line):
    """Utterances that are there to be prompts alone are in prompt.scp and not in codes.scp."""
    data = tmp_path / "data"
    shutil.copytree(token_corpus / "train", data)
    for name in ("codes.scp", "semantic.scp"):
        table = read_scp(data / name)
        write_scp(data / name, {"s-0": table["s-0"]})
    options = [*line("speaker_transfer"), "--batch_size", "1"]
    decode(options, "--data_dir", data)
    decode(options, "--data_dir", token_corpus / "train", "--output_dir", tmp_path / "all")
    one, other = (read_codes(tmp_path / name / "codes.scp", 8) for name in ("out", "all"))
    assert list(one) == ["s-0"] and np.array_equal(one["s-0"], other["s-0"])


# --- from audio files -------------------------------------------------------------------------------------------------


@pytest.fixture
def wavs(tmp_path):
    """A target at the codec's rate and a prompt at another one."""
    soundfile.write(tmp_path / "the target.wav", tone(0.9), 16000)
    soundfile.write(tmp_path / "voice.wav", np.repeat(tone(0.8), 3), 48000)
    return tmp_path / "the target.wav", tmp_path / "voice.wav"


def test_audio_files_are_enough(gpst_experiment, tmp_path, line, wavs):
    target, voice = wavs
    for mode in ("speaker_transfer", "continuation", "semantic_to_acoustic"):
        whose = ["--prompt_wav", voice] if mode == "speaker_transfer" else []
        decode(line(mode), "--target_wav", target, *whose, "--output_dir", tmp_path / mode)
        assert soundfile.info(tmp_path / mode / "wav" / "the_target.wav").frames > 0
    assert (tmp_path / "continuation" / "whole" / "wav" / "the_target.wav").is_file()
    decode(line("tts"), "--text", "abcd", "--prompt_wav", voice)
    assert soundfile.info(tmp_path / "out" / "wav" / "text.wav").frames > 0
    speech = GPSTSpeech.from_experiment(gpst_experiment)
    mode, options = (
        modes["speaker_transfer"](0.6),
        GPSTDecodeOptions.from_mapping(yaml.safe_load(DECODE) | {"retries": 0}),
    )
    spoken = speech.speak(mode, target, voice, options=options, name="the_target")
    assert np.array_equal(spoken.codes, read_codes(tmp_path / "speaker_transfer" / "codes.scp", 8)["the_target"])


def test_packed_models_speak_as_their_directories_do(token_corpus, tmp_path, line, gpst_experiment, text_to_semantic,
                                                     monkeypatch):  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for exp, name in ((gpst_experiment, "gpst.zip"), (text_to_semantic, "texts.zip")):
        pack.main([str(exp), "-o", str(tmp_path / name)])
    codes = []
    for options in (line("tts"), line("tts", tmp_path / "gpst.zip", tmp_path / "texts.zip")):
        decode(options, "--data_dir", token_corpus / "dev")
        codes.append(dict(read_codes(tmp_path / "out" / "codes.scp", 8).items()))
        shutil.rmtree(tmp_path / "out")
    assert codes[0] and all(np.array_equal(codes[0][utt], codes[1][utt]) for utt in codes[0] | codes[1])


def test_silence_of_a_token_directory_is_what_the_tokenizers_make_of_silence(gpst_experiment, token_corpus, tmp_path):
    from espnet_ext.data.streams import read_silence, write_silence
    from espnet_ext.tokenizers.codec import load_codec
    from espnet_ext.tokenizers.semantic import load_semantic

    codec, tokenizer = load_codec(token_corpus / "codec"), load_semantic(token_corpus / "semantic")
    write_silence(tmp_path / "silence.npz", codec, tokenizer)
    written, heard = read_silence(tmp_path), GPSTSpeech.from_experiment(gpst_experiment).listener.silence
    assert np.array_equal(written.units, heard.units) and np.array_equal(written.codes, heard.codes)


# --- what is refused before any work ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "more", "message"),
    [
        ("speaker_transfer", [], "target_wav must be given for mode speaker_transfer without data_dir"),
        ("tts", ["--text", " "], "text must be given for mode tts without data_dir, got ' '"),
        ("tts", ["--text", "ab"], "prompt_wav must be given for mode tts without data_dir, got None"),
        ("tts", ["--num_utterances", "3"], "num_utterances must be left out with mode tts, got 3"),
        ("unconditional", ["--num_utterances", "0"], "num_utterances must be at least 1, got 0"),
        ("unconditional", ["--data_dir", "x"], "data_dir must be left out with mode unconditional, got x"),
        ("continuation", ["--data_dir", "x", "--target_wav", "y"], "target_wav must not be given with"),
        ("speaker_transfer", ["--prompts", "y"], "prompts must be given with data_dir, got y without"),
        ("continuation", ["--prompt_sec", "0.3"], "prompt_sec must be at least 0.5 and finite, got 0.3"),
        ("continuation", ["--data_dir", "nowhere"], "data_dir not found: nowhere"),
        ("continuation", ["--target_wav", "nowhere.wav"], "wav not found: nowhere.wav"),
        ("tts", ["--prompt_sec", "0", "--prompt_wav", "y"], "prompt_wav must be left out with prompt_sec 0, got y"),
        ("unconditional", ["--language", "en"], "language must be left out with a model that is told no language, got"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_are_one_line_and_write_nothing(tmp_path, line, mode, more, message):
    assert message in one_error(gpst_inference.main, *line(mode), *more)
    assert not (tmp_path / "out" / "wav.scp").exists()


def test_tts_without_a_text_to_semantic_model_is_refused(token_corpus, gpst_experiment, tmp_path):
    error = one_error(gpst_inference.main, "--exp", gpst_experiment, "--mode", "tts", "--data_dir",
                      token_corpus / "train", "--output_dir", tmp_path / "out")  # fmt: skip
    assert "text_to_semantic must be the experiment directory of a text-to-semantic model for mode tts" in error
    assert not list(tmp_path.iterdir())


def test_a_text_to_semantic_model_of_other_units_is_refused(token_corpus, gpst_experiment, tmp_path, line):
    other = create_semantic("mfcc_km", iter([tone(), tone(0.7)]), seed=1, conf={"num_units": 12, "frame_rate_hz": 25})
    info = save_semantic(other, "mfcc_km", tmp_path / "semantic", deduplicate=True, origin={})
    copy = copy_of(token_corpus, tmp_path, tmp_path / "semantic")
    CodecLMTask.main(cmd=text_command(copy, tmp_path / "semantic", tmp_path / "texts", "--max_epoch", "0"))
    error = one_error(gpst_inference.main, *line("tts", texts=tmp_path / "texts"), "--data_dir", token_corpus / "train")
    assert "text_to_semantic must say units of semantic tokenizer " in error
    assert info.fingerprint[:12] in error and str(gpst_experiment) in error


def copy_of(tokens, folder, semantic):
    """Token directories whose units, it seems, another tokenizer made."""
    copy = folder / "tokens"
    shutil.copytree(tokens, copy)
    for part in ("train", "dev"):
        for path in semantic.iterdir():
            shutil.copy(path, copy / part)
    return copy


def test_a_model_that_says_codes_makes_no_units(token_corpus, gpst_experiment, experiment, line):
    error = one_error(gpst_inference.main, *line("tts", texts=experiment), "--data_dir", token_corpus / "train")
    assert f"text_to_semantic must be a model that says units, got {experiment}, which says codes" in error


def test_an_experiment_of_another_kind_is_refused(experiment, gpst_experiment, line):
    error = one_error(gpst_inference.main, *line("unconditional", experiment))
    assert "mode must be one of ['edit', 'text'] with this core LM, got 'unconditional'" in error
    with pytest.raises(ValueError, match="exp must be an experiment of corelm codec_lm, got .* of gpst"):
        CodecLM.from_experiment(gpst_experiment)


def test_units_are_no_waveforms(text_to_semantic):
    speak = CodecLM.from_experiment(text_to_semantic)
    options = DecodeOptions("parallel", min_frames=1)
    units = speak.codes(["a", "b"], ["abc", "ab"], [None, None], options)
    assert units.codes.shape[2] == 1 and int(units.codes.max()) < 12
    alone = speak.codes(["b"], ["ab"], [None], options)
    assert torch.equal(units.codes[1, : units.lengths[1]], alone.codes[0])
    with pytest.raises(ValueError, match="a model that says semantic units makes no waveforms: .* --mode tts"):
        speak("abc", options=options)


def test_a_text_to_semantic_experiment_is_no_codec_lm_and_the_right_command_is_named(
    token_corpus, text_to_semantic, tmp_path
):
    """The error was that codec_fit had not written a codec_info.yaml."""
    error = one_error(
        codec_lm_inference.main, "--exp", text_to_semantic, "--data_dir", token_corpus / "train", "--decoding",
        "parallel", "--output_dir", tmp_path / "out",
    )  # fmt: skip
    assert f"exp must be an experiment of a model that says codes, got {text_to_semantic}, which says " in error
    assert f"espnet_ext.bin.gpst_inference --mode tts --text_to_semantic {text_to_semantic}" in error


@pytest.mark.parametrize(
    ("name", "change", "found"),
    [
        ("embedding.table.weight", lambda table: torch.cat((table, table)), "with 32 codes a step"),
        # 16 codes of a frame have the shapes of 8 codes of two frames; such weights were loaded
        ("depth", lambda _: torch.tensor([16.0, 1.0]), "with 16 codebooks x 1 frames"),
        ("depth", lambda _: torch.tensor([4.0, 4.0]), "with 4 codebooks x 4 frames"),
        ("depth", lambda _: None, "corelm.depth is missing (1 such)"),
    ],
)
def test_a_checkpoint_of_another_depth_says_both_numbers(gpst_experiment, tmp_path, line, name, change, found):
    exp = tmp_path / "exp"
    shutil.copytree(gpst_experiment, exp, symlinks=True)
    state = torch.load(exp / MODEL_FILE, weights_only=True)
    assert state["corelm.depth"].tolist() == [8, 2]
    changed = change(state.pop(f"corelm.{name}"))
    (exp / MODEL_FILE).unlink()
    torch.save(state if changed is None else {**state, f"corelm.{name}": changed}, exp / MODEL_FILE)
    error = one_error(gpst_inference.main, *line("unconditional", exp))
    wanted = "model_file must be of a model with 8 codebooks x 2 frames = 16 codes a step as config.yaml says"
    assert error.endswith(found) and (changed is None or wanted in error)


def test_tokens_of_another_codec_or_tokenizer_are_refused_with_both_numbers(token_corpus, tmp_path, line):
    codec = create_codec("world_vq", [tone(0.8)], seed=1, conf={"codebook_size": 8, "band_widths": [12, 12]})
    save_codec(codec, "world_vq", tmp_path / "codec", origin={})
    data = tmp_path / "data"
    shutil.copytree(token_corpus / "train", data)
    for path in data.glob("codec*"):
        path.unlink()
    copy_codec(tmp_path / "codec", data)
    options = [*line("continuation"), "--data_dir", str(data)]
    error = one_error(gpst_inference.main, *options)
    books = codec.spec.num_codebooks
    assert "(8 codebooks) as " in error and error.endswith(f"({books} codebooks)") and books != 8
    shutil.copytree(token_corpus / "train", data, dirs_exist_ok=True)
    other = create_semantic("mfcc_km", iter([tone(), tone(0.7)]), seed=1, conf={"num_units": 9})
    save_semantic(other, "mfcc_km", data, deduplicate=True, origin={})
    error = one_error(gpst_inference.main, *options)
    assert "must hold units of semantic tokenizer" in error and "(12 units) as " in error
    assert error.endswith("(9 units)")


# --- what is skipped --------------------------------------------------------------------------------------------------


def test_unusable_utterances_are_skipped_with_their_reason_and_counted(token_corpus, tmp_path, line, caplog):
    data = tmp_path / "data"
    shutil.copytree(token_corpus / "train", data)
    rng = np.random.default_rng(0)
    with codes_writer(tmp_path / "short") as write:
        write("p-0", rng.integers(8, size=(11, 8)))
    with codes_writer(tmp_path / "short_units") as write:
        write("p-0", rng.integers(12, size=(22, 1)))
        write("p-1", np.full((52, 1), 12))
    short = read_scp(tmp_path / "short" / "codes.scp")["p-0"]
    units = read_scp(tmp_path / "short_units" / "codes.scp")
    for table, changes in {
        "prompt.scp": {"s-1": short},
        "prompt_semantic.scp": {"s-1": units["p-0"]},
        "utt2prompt": {"s-1": "p-0"},
        "semantic.scp": {"s-0": f"{tmp_path / 'gone.ark'}:5", "s-2": units["p-1"], "s-3": units["p-0"]},
    }.items():
        write_scp(data / table, read_scp(data / table) | changes)
    table = read_scp(data / "codes.scp")
    del table["s-4"]
    write_scp(data / "codes.scp", table)
    caplog.set_level("INFO")
    decode(line("speaker_transfer"), "--data_dir", data)
    out = tmp_path / "out"
    skipped = dict(row.split("\t") for row in (out / "skipped").read_text().splitlines())
    assert skipped["s-0"] == f"bad recording: codes archive not found: {tmp_path / 'gone.ark'} (with codes of s-0)"
    assert skipped["s-1"] == "cannot be spoken: prompt of s-1 must last at least 0.5 s, got 0.44 s"
    assert "units of speech of s-2: codes must lie in [0, 12), got [12, 12]" in skipped["s-2"]
    expected = (
        "units and codes of speech of s-3: lengths differ by more than 2 frames of 25 Hz: 22 units (0.440 s), 28 "
    )
    assert expected in skipped["s-3"]
    assert skipped["s-4"] == "no codes"
    assert list(read_scp(out / "wav.scp")) == list(read_scp(out / "utt2prompt")) == ["s-5"]
    assert "1 utterances (" in caplog.text and "3 cannot be spoken (s-1, s-2, s-3)" in caplog.text
    assert set(read_scp(out / "status")) == {f"s-{index}" for index in range(6)}


def test_where_nothing_can_be_spoken_the_first_reason_is_said(token_corpus, tmp_path, line):
    options = [*line("continuation"), "--data_dir", token_corpus / "dev", "--prompt_sec", "5"]
    error = one_error(gpst_inference.main, *options)
    assert (
        "must have utterances that can be spoken: s-0: cannot be spoken: s-0 must last longer than its first" in error
    )
    assert not (tmp_path / "out" / "wav.scp").exists()
