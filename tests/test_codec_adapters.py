"""Codecs of other packages: their own codes are ours, and checkpoints that do not fit are refused in one line."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import soundfile
import torch
import yaml
from tiny_codecs import CONF, FUNCODEC, NEURAL, SOUNDSTREAM, fresh_codec, tiny_codec, voice

from espnet_ext.bin import codec_fit
from espnet_ext.tokenizers.codec import codecs, create_codec, load_codec, read_codec_info
from espnet_ext.tokenizers.codec.neural import NeuralCodec

pytestmark = pytest.mark.espnet
HUGGING_FACE = ["dac", "encodec_hf", "mimi"]


def codes_of(name: str, network: Any, wav: torch.Tensor) -> torch.Tensor:
    """(N, T) codes as the package's own method makes them."""
    if name == "mimi":
        return network.encode(wav).audio_codes[0]
    if name == "dac":
        return network.encode(wav).audio_codes[0]
    if name == "encodec_hf":
        return network.encode(wav, bandwidth=network.config.target_bandwidths[-1]).audio_codes[0][0]
    if name == "encodec":
        network.set_target_bandwidth(24.0)
        return network.encode(wav)[0][0][0]
    return network.encode(wav, target_bw=1000.0)[:, 0]


def wav_of(name: str, network: Any, codes: torch.Tensor) -> torch.Tensor:
    """(samples,) waveform as the package's own method makes it of (N, T) codes."""
    if name == "mimi":
        return network.decode(codes[None]).audio_values[0, 0]
    if name == "dac":
        return network.decode(audio_codes=codes[None]).audio_values[0]
    if name == "encodec_hf":
        return network.decode(codes[None, None], [None]).audio_values[0, 0]
    if name == "encodec":
        return network.decode([(codes[None], None)])[0, 0]
    return network.decode(codes[:, None])[0, 0]


def speech(codec: NeuralCodec, frames: int = 21) -> tuple[torch.Tensor, torch.Tensor]:
    samples = frames * codec.hop_samples
    wav = torch.from_numpy(voice(1.0, 120.0, 5, codec.spec.sample_rate_hz)[:samples])
    return wav[None], torch.tensor([samples])


@pytest.mark.parametrize("name", NEURAL)
def test_codes_and_waveforms_are_those_of_the_package(name: str) -> None:
    codec = cast(NeuralCodec, tiny_codec(name))
    wav, lengths = speech(codec)
    codes, frames = codec.encode(wav, lengths)
    back, _ = codec.decode(codes, frames)
    with torch.no_grad():
        theirs = codes_of(name, codec.network, wav[None])[: codec.spec.num_codebooks]
        sound = wav_of(name, codec.network, codes[0].T)
    assert torch.equal(theirs.T, codes[0])
    assert 0 <= back.shape[1] - len(sound) < codec.hop_samples
    torch.testing.assert_close(back[0, : len(sound)], sound, rtol=1e-5, atol=1e-6)


@pytest.fixture
def directory(name: str, tmp_path: Path) -> Path:
    """A checkpoint as the hub has them."""
    codec = cast(NeuralCodec, tiny_codec(name))
    codec.network.save_pretrained(tmp_path / "checkpoint")  # type: ignore[operator]
    return tmp_path / "checkpoint"


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_a_directory_of_the_hub_becomes_a_codec_that_needs_it_no_more(
    name: str, directory: Path, tmp_path: Path
) -> None:
    conf = ["--codec_conf", f"checkpoint={directory}", "--codec_conf", "num_codebooks=2"]
    codec_fit.main(["--codec", name, *conf, "--out", str(tmp_path / "codec")])
    shutil.rmtree(directory)
    codec = load_codec(tmp_path / "codec")
    wavs = speech(cast(NeuralCodec, codec))
    assert torch.equal(codec.encode(*wavs)[0], fresh_codec(name).encode(*wavs)[0][..., :2])


@pytest.mark.parametrize("name", ["dac"])
def test_a_directory_whose_weights_change_makes_another_codec(directory: Path, tmp_path: Path) -> None:
    """Only files were looked at, not directories, so the second codec was the first one."""
    from safetensors.torch import load_file, save_file

    weights = directory / "model.safetensors"
    line = ["--codec", "dac", "--codec_conf", f"checkpoint={directory}", "--out", str(tmp_path / "codec")]
    codec_fit.main(line)
    before = read_codec_info(tmp_path / "codec").fingerprint
    save_file({key: value * 1.5 for key, value in load_file(weights).items()}, weights, metadata={"format": "pt"})
    codec_fit.main(line)
    assert read_codec_info(tmp_path / "codec").fingerprint != before


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_an_incomplete_or_foreign_directory_is_refused_in_one_line(name: str, directory: Path) -> None:
    from safetensors.torch import load_file, save_file

    def message(kind: type[Exception], checkpoint: Path | str) -> str:
        with pytest.raises(kind) as caught:
            create_codec(name, [], 0, {"checkpoint": str(checkpoint)})
        assert "\n" not in str(caught.value)
        return str(caught.value)

    weights, config = directory / "model.safetensors", directory / "config.json"
    state, content = load_file(weights), json.loads(config.read_text())
    left_out = next(key for key in state if key.startswith("encoder"))
    save_file({key: value for key, value in state.items() if key != left_out}, weights, metadata={"format": "pt"})
    assert "missing_keys" in message(ValueError, directory)
    save_file({**state, "more.weight": torch.zeros(1)}, weights, metadata={"format": "pt"})
    assert "unexpected_keys" in message(ValueError, directory)
    save_file(state, weights, metadata={"format": "pt"})
    config.write_text(json.dumps({**content, "codebook_size": 32}))
    assert "mismatched_keys" in message(ValueError, directory)
    config.write_text(json.dumps({**content, "model_type": "bert"}))
    assert f"must be of model_type {codecs[name].hub.model_type}, got" in message(ValueError, directory)  # type: ignore[attr-defined]
    config.write_text("{")
    assert "cannot be read" in message(OSError, directory)
    assert "must be a directory, got ./none" in message(FileNotFoundError, "./none")


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_without_a_network_the_local_directory_is_recommended(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(codecs[name], "hub", replace(codecs[name].hub, published="nobody/nothing"))  # type: ignore[attr-defined]
    with pytest.raises(
        OSError, match=f"{name} weights of nobody/nothing cannot be read.*--codec_conf checkpoint=PATH"
    ) as caught:
        create_codec(name, [], 0, {})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", HUGGING_FACE)
@pytest.mark.parametrize("config", [{"nonsense": 1}, {"codebook_size": "many"}, {"codebook_size": 17}, 3])
def test_an_impossible_configuration_is_refused_in_one_line(name: str, config: object) -> None:
    with pytest.raises(ValueError, match="onfig|power of 2") as caught:
        create_codec(name, [], 0, {"pretrained": False, "config": config})
    assert "\n" not in str(caught.value)


def test_a_stereo_codec_that_rescales_is_refused() -> None:
    config = {**cast(dict[str, object], CONF["encodec_hf"]["config"]), "audio_channels": 2, "normalize": True}
    with pytest.raises(ValueError, match="checkpoint of codec encodec_hf must be mono without normalisation"):
        create_codec("encodec_hf", [], 0, {"pretrained": False, "config": config})


def experiment(tmp_path: Path, codec: str = "soundstream") -> Path:
    """The files that GANCodecTask leaves, of a model with discriminator."""
    from espnet2.gan_codec.espnet_model import ESPnetGANCodecModel

    from espnet_ext.tokenizers.codec.espnet import _codec_classes

    conf = FUNCODEC if codec == "funcodec" else SOUNDSTREAM
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"codec": codec, "codec_conf": conf, "batch_size": 2}))
    random = create_codec("espnet", [], 3, {"pretrained": False, "config": str(tmp_path / "config.yaml")})
    model = ESPnetGANCodecModel(_codec_classes()[codec](**copy.deepcopy(conf)))
    model.codec.generator.load_state_dict(cast(NeuralCodec, random).network.state_dict())
    torch.save(model.state_dict(), tmp_path / "train.total_count.best.pth")
    return tmp_path / "train.total_count.best.pth"


@pytest.mark.parametrize("kind", ["soundstream", "funcodec"])
def test_an_experiment_of_espnet_becomes_a_codec_that_needs_it_no_more(kind: str, tmp_path: Path) -> None:
    checkpoint = experiment(tmp_path, kind)
    conf = {"pretrained": False, "config": str(tmp_path / "config.yaml")}
    expected = cast(NeuralCodec, create_codec("espnet", [], 3, conf))
    named = checkpoint if kind == "funcodec" else tmp_path  # one of an experiment's weights, or its directory
    conf_args = ["--codec_conf", f"checkpoint={named}", "--codec_conf", "merge.rate=2", "--codec_conf"]
    codec_fit.main(["--codec", "espnet", *conf_args, "merge.codebooks=0", "--out", str(tmp_path / "codec")])
    checkpoint.unlink()
    (tmp_path / "config.yaml").unlink()
    codec = load_codec(tmp_path / "codec")
    wavs = speech(expected)
    codes, frames = expected.encode(*wavs)
    assert int(frames[0]) == 21
    assert len(codes[0].unique(dim=0)) > 3
    assert torch.equal(codec.decode(codes, frames)[0], expected.decode(codes, frames)[0])
    assert codec.spec == expected.spec
    expected.configure(merge={"rate": 2, "codebooks": [0]})
    assert torch.equal(codec.encode(*wavs)[0], expected.encode(*wavs)[0])
    assert codec.spec.sample_rate_hz == 16000


def test_an_experiment_that_does_not_fit_its_configuration_is_refused_in_one_line(tmp_path: Path) -> None:
    checkpoint = experiment(tmp_path)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())

    def message(kind: type[Exception] = ValueError, **conf: object) -> str:
        with pytest.raises(kind) as caught:
            create_codec("espnet", [], 0, conf)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    other = copy.deepcopy(config)
    other["codec_conf"]["generator_params"]["hidden_dim"] = 6
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(other))
    assert "must hold the weights of the soundstream of" in message(
        checkpoint=str(checkpoint), config=str(tmp_path / "other.yaml")
    )
    state = torch.load(checkpoint)
    state.pop(next(key for key in state if key.startswith("codec.generator.quantizer")))
    torch.save(state, tmp_path / "incomplete.pth")
    assert "Missing key" in message(checkpoint=str(tmp_path / "incomplete.pth"))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**config, "codec": "wavenet"}))
    assert "must be one of ['dac', 'encodec', 'funcodec', 'soundstream'], got 'wavenet'" in message(
        checkpoint=str(checkpoint)
    )
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**config, "codec_conf": {"n_filters": 3}}))
    assert "codec_conf in" in message(checkpoint=str(checkpoint))
    assert "config of codec espnet not found" in message(FileNotFoundError, checkpoint="gone/x.pth")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    checkpoint.unlink()
    assert "codec file not found: " in message(FileNotFoundError, checkpoint=str(tmp_path))
    assert "--codec_conf checkpoint=PATH" in message()
    in_time = {"codec": "funcodec", "codec_conf": copy.deepcopy(FUNCODEC)}
    in_time["codec_conf"]["generator_params"]["codec_domain"] = ["time", "time"]  # type: ignore[index]
    assert "codec must code 320 samples of silence" in message(pretrained=False, config=in_time)


def test_a_random_codec_of_espnet_does_not_depend_on_what_was_drawn_before() -> None:
    first = cast(NeuralCodec, fresh_codec("espnet")).network.state_dict()
    torch.rand(3)
    second = cast(NeuralCodec, fresh_codec("espnet")).network.state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert "sample_rate" not in cast(dict[str, object], SOUNDSTREAM["generator_params"])  # ESPnet would put it there


def test_audio_of_another_rate_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", voice(0.1, 100.0, 0), 16000)
    (tmp_path / "wav.scp").write_text(f"a {tmp_path / 'a.wav'}\n")
    conf = tmp_path / "codec.yaml"
    conf.write_text(yaml.safe_dump({"codec": "mimi", "codec_conf": CONF["mimi"]}))
    line = ["--config", str(conf), "--wav_scp", str(tmp_path / "wav.scp"), "--out", str(tmp_path / "codec")]
    with pytest.raises(ValueError, match="audio for codec mimi must have 24000 Hz, got 16000 in .*a.wav"):
        codec_fit.main(line)
    assert not (tmp_path / "codec").exists()


def test_a_checkpoint_that_changes_makes_another_codec(tmp_path: Path) -> None:
    """A finished fit was recognised by its options alone, so a codec that was trained further was never read again."""
    checkpoint = experiment(tmp_path)
    line = ["--codec", "espnet", "--codec_conf", f"checkpoint={checkpoint}", "--out", str(tmp_path / "codec")]
    codec_fit.main(line)
    before = read_codec_info(tmp_path / "codec").fingerprint
    state = torch.load(checkpoint)
    torch.save({key: value * 1.5 if value.is_floating_point() else value for key, value in state.items()}, checkpoint)
    codec_fit.main(line)
    assert read_codec_info(tmp_path / "codec").fingerprint != before
