"""Recognisers, speaker encoders, predictors of opinion scores: chosen by name, heard once, named when absent."""

from __future__ import annotations

import ast
import importlib
import json
import sys
import tarfile
import types
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import built_in
from real_data import need_real_data
from test_scoring import buzz, corpus_clips

from espnet_ext.errors import UserError
from espnet_ext.jobs import Workers
from espnet_ext.scoring.evaluators import Recogniser, mos_predictors, recognisers, speaker_encoders
from espnet_ext.scoring.evaluators.evaluator import Choice, Evaluator, Unheard, evaluate_files, registry_of
from espnet_ext.scoring.measures.error_rate import total, word_errors
from espnet_ext.storage.torchaudio_shim import import_torchaudio
from espnet_ext.testing import check_evaluator
from espnet_ext.testing.evaluator import check_choice

KINDS = ("asr", "speaker", "mos")


@pytest.fixture
def wavs(tmp_path: Path) -> dict[str, Path]:
    sounds = {"voice": buzz(1.0, 120), "high": buzz(1.0, 220), "silence": np.zeros(16000), "short": buzz(0.2, 120)}
    for name, samples in sounds.items():
        soundfile.write(tmp_path / f"{name}.wav", samples, 16000)
    return {name: tmp_path / f"{name}.wav" for name in sounds}


def said_of(choice: Choice, *paths: Path) -> list[Any]:
    return list(evaluate_files(choice, {"all": {str(path): path for path in paths}}, Workers(), None)["all"].values())


def test_every_option_has_its_evaluators() -> None:
    assert built_in(recognisers) == ["espnet", "faster_whisper", "pocketsphinx", "transformers", "whisper"]
    assert built_in(speaker_encoders) == ["espnet", "resemblyzer", "transformers"]
    assert built_in(mos_predictors) == ["dnsmos", "utmos", "versa"]


REGISTERED = [(kind, name) for kind in KINDS for name in registry_of(kind)]
# those of ours that need nothing to be downloaded, and all of other packages
HEARING = [("asr", "pocketsphinx"), ("asr", "faster_whisper"), ("speaker", "resemblyzer"), ("mos", "dnsmos")]
HEARING += [(kind, name) for kind, name in REGISTERED if name not in built_in(registry_of(kind))]


@pytest.mark.parametrize(("kind", "name"), REGISTERED)
def test_an_evaluator_can_be_chosen_whether_it_is_installed_or_not(kind: str, name: str) -> None:
    check_choice(kind, name)


@pytest.mark.parametrize(("kind", "name"), HEARING)
def test_contract(kind: str, name: str) -> None:
    reason = Choice(kind, name).unavailable()
    if reason is not None:
        pytest.skip(reason)
    check_evaluator(kind, name)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (Choice("asr", "nobody"), r"asr must be one of \[.*'espnet', .*'pocketsphinx', .*\], got 'nobody'"),
        (
            Choice("mos", "utmos", {"size": 3}),
            r"mos_conf of utmos must be among \['checkpoint', 'device'\], got \['size'\]",
        ),
    ],
)
def test_unknown_names_and_options_are_refused(choice: Choice, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choice.check()


def test_a_file_is_heard_once_and_what_cannot_be_judged_has_a_reason(
    wavs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Path] = []

    class Picky(Recogniser):
        requires = {"numpy": "numpy"}

        def recognise(self, samples: np.ndarray) -> str:
            heard.append(samples)
            if len(samples) < 8000:
                raise UserError("too short\nfor me")
            return "Two  RED dogs!"

    monkeypatch.setitem(recognisers._classes, "picky", Picky)
    groups = {"first": {"a": wavs["voice"], "b": wavs["voice"]}, "second": {"a": wavs["voice"], "b": wavs["short"]}}
    said = evaluate_files(Choice("asr", "picky"), groups, Workers(), tmp_path / "work")
    assert said["first"] == {"a": "two red dogs", "b": "two red dogs"}
    assert said["second"] == {"a": "two red dogs", "b": Unheard("too short for me")}
    assert len(heard) == 2
    evaluate_files(Choice("asr", "picky"), {**groups, "third": {"a": wavs["high"]}}, Workers(), tmp_path / "work")
    assert len(heard) == 3, "a longer list costs only what is new"


def test_silence_has_no_voice_and_no_opinion(wavs: dict[str, Path]) -> None:
    for choice in (Choice("speaker", "resemblyzer"), Choice("mos", "dnsmos")):
        assert said_of(choice, wavs["silence"]) == [None]


def test_a_recogniser_of_any_words_hears_a_reader_and_nothing_in_silence(wavs: dict[str, Path], tmp_path: Path) -> None:
    choice = Choice("asr", "faster_whisper")
    if reason := choice.unavailable():
        pytest.skip(reason)
    errors = []
    with tarfile.open(need_real_data("kathleen-16k.tar")) as archive:
        for name in sorted(one for one in archive.getnames() if one.endswith(".flac"))[:4]:
            archive.extract(name, tmp_path, filter="data")
            text = archive.extractfile(name.replace(".flac", ".txt")).read().decode()  # type: ignore[union-attr]
            (heard,) = said_of(choice, tmp_path / name)
            errors.append(word_errors(recognisers["faster_whisper"].normalise(text), heard))
    assert total(errors).rate < 0.2
    assert said_of(choice, wavs["silence"]) == [""]


def test_the_label_names_the_model_that_nobody_named() -> None:
    assert Choice("asr", "faster_whisper").label().endswith(" model=tiny.en")
    assert Choice("asr", "faster_whisper", {"model": "small"}).label().endswith(" model=small")


def test_a_model_that_cannot_be_had_is_one_line(
    tmp_path: Path, wavs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason := Choice("asr", "faster_whisper").unavailable():
        pytest.skip(reason)
    import faster_whisper

    def no_network(*args: object, **options: object) -> None:
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setattr(faster_whisper, "WhisperModel", no_network)
    (tmp_path / "model").mkdir()
    for model, message in {
        "huge": "model of faster_whisper must be a directory or one of tiny.en, tiny, .*, got 'huge'",
        "small": r"model 'small' of faster_whisper cannot be had: no route to the hub; a directory .*model=PATH$",
        str(tmp_path / "model"): "of faster_whisper cannot be had: ",
    }.items():
        with pytest.raises(ValueError, match=message) as caught:
            said_of(Choice("asr", "faster_whisper", {"model": model}), wavs["voice"])
        assert "\n" not in str(caught.value)


def test_voices_are_unit_vectors_and_tell_pitches_apart(wavs: dict[str, Path]) -> None:
    one, other = said_of(Choice("speaker", "resemblyzer"), wavs["voice"], wavs["high"])
    assert np.linalg.norm(one) == pytest.approx(1.0, abs=1e-5)
    assert float(one @ other) < 0.99


def test_dnsmos_prefers_clean_speech_to_noisy_and_short_audio_costs_one_window(tmp_path: Path) -> None:
    from speechmos import dnsmos

    (utterance, path), *_ = corpus_clips(tmp_path, 1, 1)[0].items()
    samples, rate = soundfile.read(path)
    noisy = tmp_path / "noisy.wav"
    soundfile.write(noisy, samples + np.random.default_rng(0).normal(0, 0.05, len(samples)), rate)
    clean, damaged = said_of(Choice("mos", "dnsmos"), path, noisy)
    assert set(clean) == {"dnsmos_ovrl", "dnsmos_sig", "dnsmos_bak"}
    assert clean["dnsmos_ovrl"] > damaged["dnsmos_ovrl"] + 0.5
    from espnet_ext.data.waveform import read_resampled

    published = dnsmos.run(read_resampled(path), 16000, return_df=False)
    assert clean["dnsmos_ovrl"] == pytest.approx(published["ovrl_mos"], abs=0.05), utterance


@pytest.mark.parametrize("kind", ["ctc", "seq2seq"])
def test_recogniser_of_transformers_hears_something(kind: str, wavs: dict[str, Path], tmp_path: Path) -> None:
    folder = tiny_recogniser(kind, tmp_path / kind)
    (said,) = said_of(Choice("asr", "transformers", {"model": str(folder)}), wavs["voice"])
    assert isinstance(said, str)


def transformers_here() -> Any:
    import_torchaudio()
    return importlib.import_module("transformers")


def tiny_recogniser(kind: str, folder: Path) -> Path:
    """A random network with its processor, saved as the hub has them."""
    hf = transformers_here()
    folder.mkdir()
    if kind == "ctc":
        (folder / "vocab.json").write_text(json.dumps({"<pad>": 0, "<unk>": 1, "|": 2, "a": 3, "b": 4}))
        words = {"pad_token": "<pad>", "unk_token": "<unk>", "word_delimiter_token": "|"}
        tokenizer = hf.Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), **words)
        extractor = hf.Wav2Vec2FeatureExtractor(1, 16000, 0.0, do_normalize=True)
        hf.Wav2Vec2Processor(extractor, tokenizer).save_pretrained(folder)
        small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        convolutions = {"conv_dim": (8, 8), "conv_kernel": (10, 8), "conv_stride": (5, 64), "vocab_size": 5}
        more = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
        hf.Wav2Vec2ForCTC(hf.Wav2Vec2Config(**small, **convolutions, **more)).save_pretrained(folder)
        return folder
    vocabulary = {chr(code): code for code in range(256)} | {"<|endoftext|>": 256}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = hf.WhisperTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    hf.WhisperProcessor(hf.WhisperFeatureExtractor(feature_size=20), tokenizer).save_pretrained(folder)
    small = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
    small |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "num_mel_bins": 20}
    ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 256)
    config = hf.WhisperConfig(vocab_size=257, max_target_positions=12, **small, **ids)
    model = hf.WhisperForConditionalGeneration(config)
    model.generation_config = hf.GenerationConfig(max_length=8, **ids)
    model.save_pretrained(folder)
    return folder


def test_speaker_encoder_of_transformers_gives_a_unit_vector(wavs: dict[str, Path], tmp_path: Path) -> None:
    hf = transformers_here()
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    small |= {"conv_dim": (8, 8), "conv_kernel": (10, 8), "conv_stride": (5, 64), "xvector_output_dim": 12}
    small |= {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "tdnn_dim": (8, 8, 8, 8, 16)}
    hf.WavLMForXVector(hf.WavLMConfig(**small)).save_pretrained(tmp_path)
    hf.Wav2Vec2FeatureExtractor(1, 16000, 0.0).save_pretrained(tmp_path)
    choice = Choice("speaker", "transformers", {"model": str(tmp_path)})
    voice, short = said_of(choice, wavs["voice"], wavs["short"])
    assert voice.shape == (12,) and np.linalg.norm(voice) == pytest.approx(1.0, abs=1e-5)
    assert short == Unheard("audio must last at least 0.5 s for this speaker encoder")


# Packages without wheels, or with weights on a hub: stand-ins with their interface as it is published.


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> None:
    module = types.ModuleType(name)
    module.__dict__.update(content)
    monkeypatch.setitem(sys.modules, name, module)


def test_whisper_is_asked_without_randomness(wavs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    class Model:
        def transcribe(self, samples: np.ndarray, **options: Any) -> dict[str, str]:
            asked.update(options, length=len(samples))
            return {"text": " Two red dogs."}

    stand_in(monkeypatch, "whisper", load_model=lambda name: asked.update(model=name) or Model())
    evaluator = recognisers["whisper"](model="tiny")
    assert evaluator(wavs["voice"]) == "two red dogs"
    assert (asked["model"], asked["temperature"], asked["language"], asked["length"]) == ("tiny", 0.0, "en", 16000)


def test_utmos_gives_one_number(wavs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    class Score:
        def __init__(self, ckpt_path: str | None, device: str) -> None:
            assert (ckpt_path, device) == ("weights.pth", "cpu")

        def score(self, wav: torch.Tensor) -> torch.Tensor:
            return wav.abs().max()[None]

    stand_in(monkeypatch, "utmos_pytorch", UTMOSScoreTorch=Score)
    assert 0 < mos_predictors["utmos"](checkpoint="weights.pth")(wavs["voice"])["utmos"] <= 1


def test_versa_s_numbers_carry_its_name_and_its_words_are_left_out(
    wavs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(config: list[dict[str, Any]], use_gt: bool, use_gt_text: bool, use_gpu: bool) -> dict[str, Any]:
        assert not (use_gt or use_gt_text or use_gpu)
        return {one["name"]: one for one in config if one["name"] != "unknown"}

    def use(modules: dict[str, Any], wav: np.ndarray, gt: None, rate: int) -> dict[str, Any]:
        assert rate == 16000 and gt is None
        return {**dict.fromkeys(modules, np.float32(3.5)), "language": "en"}

    stand_in(monkeypatch, "versa")
    stand_in(monkeypatch, "versa.scorer_shared", load_score_modules=load, use_score_modules=use)
    predictor = mos_predictors["versa"](metrics=["utmos", {"name": "squim_no_ref"}])
    assert predictor(wavs["voice"]) == {"versa_utmos": 3.5, "versa_squim_no_ref": 3.5}
    with pytest.raises(ValueError, match="metrics must be some that VERSA has without reference, got 'unknown'"):
        mos_predictors["versa"](metrics="unknown")


def parameters_of(module: str, name: str) -> set[str]:
    """Parameters of a class's constructor, read from its source: ESPnet's inference imports more than is installed."""
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    (cls,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    (init,) = [node for node in cls.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
    return {argument.arg for argument in init.args.args + init.args.kwonlyargs}


@pytest.mark.espnet
def test_evaluators_of_espnet_call_its_inference(wavs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    asked: dict[str, set[str]] = {}

    class Text:
        def __init__(self, **options: Any) -> None:
            assert options["asr_model_file"] == "model.pth"
            asked["Speech2Text"] = set(options)

        def __call__(self, samples: np.ndarray) -> list[tuple[Any, ...]]:
            return [("TWO RED DOGS", [], [], None)]

    class Voice:
        def __init__(self, **options: Any) -> None:
            asked["Speech2Embedding"] = set(options)

        def __call__(self, samples: np.ndarray) -> torch.Tensor:
            return torch.tensor([[3.0, 4.0]])

    stand_in(monkeypatch, "espnet2.bin.asr_inference", Speech2Text=Text)
    stand_in(monkeypatch, "espnet2.bin.spk_inference", Speech2Embedding=Voice)
    assert recognisers["espnet"](model_file="model.pth")(wavs["voice"]) == "two red dogs"
    np.testing.assert_allclose(speaker_encoders["espnet"]()(wavs["voice"]), [0.6, 0.8], atol=1e-6)
    monkeypatch.undo()
    assert asked["Speech2Text"] <= parameters_of("espnet2.bin.asr_inference", "Speech2Text")
    assert asked["Speech2Embedding"] <= parameters_of("espnet2.bin.spk_inference", "Speech2Embedding")


def test_all_evaluators_are_of_one_kind() -> None:
    assert all(issubclass(registry_of(kind)[name], Evaluator) for kind in KINDS for name in registry_of(kind))
