"""Options at the edge of neural codecs: codebooks, merging, chunks of long audio, devices; what vouches for them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
import yaml
from tiny_codecs import NEURAL, fresh_codec, tiny_codec, voice

from espnet_ext.bin import codec_fit
from espnet_ext.storage.checksums import content_hash
from espnet_ext.tokenizers.codec import copy_codec, load_codec, read_codec_info, save_codec
from espnet_ext.tokenizers.codec.merge import Merge, expand, thin
from espnet_ext.tokenizers.codec.neural import NeuralCodec


@pytest.fixture(params=NEURAL)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def neural(name: str, **options: object) -> NeuralCodec:
    return cast(NeuralCodec, fresh_codec(name, **options))


def speech(codec: NeuralCodec, seconds: float) -> tuple[torch.Tensor, torch.Tensor]:
    wav = torch.from_numpy(voice(seconds, 120.0, 5, codec.spec.sample_rate_hz))
    return wav[None], torch.tensor([len(wav)])


def test_fewer_codebooks_are_the_first_ones(name: str) -> None:
    codec = tiny_codec(name)
    one = neural(name, num_codebooks=1)
    assert (one.spec.num_codebooks, one.options["num_codebooks"]) == (1, 1)
    wavs = speech(one, 0.3)
    assert torch.equal(one.encode(*wavs)[0], codec.encode(*wavs)[0][..., :1])
    codes, frames = one.encode(*wavs)
    assert one.decode(codes, frames)[1].tolist() == (frames * one.hop_samples).tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_codebooks": 0}, r"num_codebooks must be in \[1, \d+\], got 0"),
        ({"num_codebooks": 99}, r"num_codebooks must be in \[1, \d+\], got 99"),
        ({"num_codebooks": "2"}, "num_codebooks must be in .*, got '2'"),
        ({"num_codebooks": 2, "merge": {"rate": 2, "codebooks": 2}}, r"merge.codebooks must be .* in \[0, 2\), got 2"),
        ({"chunk_sec": 0}, "chunk_sec must be a number of at least 1, got 0"),
        ({"chunk_sec": "long"}, "chunk_sec must be a number of at least 1, got 'long'"),
        ({"pretrained": "no"}, "pretrained must be true or false, got 'no'"),
    ],
)
def test_impossible_options_are_named(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        neural(name, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("option", ["num_codebooks", "merge", "chunk_sec"])
def test_the_embedded_codec_has_none_of_these_options(option: str) -> None:
    with pytest.raises(ValueError, match=f"codec_conf of world_vq must be among .*, got '{option}'"):
        fresh_codec("world_vq", **{option: 1})


@pytest.mark.parametrize("chunk_sec", [30, 1])
def test_merged_codebooks_are_constant_over_groups_and_the_others_are_not(name: str, chunk_sec: float) -> None:
    codec = neural(name, merge={"rate": 3, "codebooks": [0]}, chunk_sec=chunk_sec)
    wav = 0.1 * torch.randn(1, int(1.4 * codec.spec.sample_rate_hz), generator=torch.Generator().manual_seed(0))
    samples = (wav.shape[1] // codec.hop_samples // 6 * 6 - 1) * codec.hop_samples - 1  # odd, not whole groups
    codes, frames = codec.encode(wav[:, :samples], torch.tensor([samples]))
    assert int(frames[0]) % 3 and int(frames[0]) % 2
    slow, fast = thin(codes[0], Merge(3, (0,)))
    assert torch.equal(expand(slow, fast, Merge(3, (0,))), codes[0])
    assert len(slow.unique()) > 1
    with pytest.raises(ValueError, match="constant over groups"):
        thin(codes[0], Merge(3, (1,)))
    back, lengths = codec.decode(codes, frames)
    assert back.shape[1] == int(lengths[0]) == int(frames[0]) * codec.hop_samples
    plain, _ = tiny_codec(name).encode(wav[:, :samples], torch.tensor([samples]))
    assert not torch.equal(plain, codes)


def test_merging_at_rate_one_changes_nothing(name: str) -> None:
    codec = neural(name, merge={"rate": 1, "codebooks": [0, 1]})
    wavs = speech(codec, 0.4)
    assert torch.equal(codec.encode(*wavs)[0], tiny_codec(name).encode(*wavs)[0])


def test_long_audio_in_chunks_is_what_it_is_in_one_piece(name: str) -> None:
    whole, chunked = tiny_codec(name), neural(name, chunk_sec=1)
    wavs = speech(chunked, 3.3)
    codes, frames = whole.encode(*wavs)
    again, _ = chunked.encode(*wavs)
    assert again.shape == codes.shape
    # the latents of the small SoundStream hardly move, so that rounding alone changes codes anywhere
    assert float((again == codes).float().mean()) > (0.98 if name == "espnet" else 0.998)
    wav, samples = whole.decode(codes, frames)
    back, lengths = chunked.decode(codes, frames)
    assert torch.equal(lengths, samples)
    assert float((back - wav).abs().max()) < 1e-4 * float(wav.abs().max())


def test_chunks_without_context_would_be_heard(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, chunked = tiny_codec(name), neural(name, chunk_sec=1)
    monkeypatch.setattr(type(chunked), "context_sec", 0.0)
    wavs = speech(chunked, 3.3)
    codes, frames = whole.encode(*wavs)
    wav, back = whole.decode(codes, frames)[0], chunked.decode(codes, frames)[0]
    assert float((back - wav).abs().max()) > 1e-2 * float(wav.abs().max())


def test_the_network_is_never_given_more_than_a_chunk_and_its_context(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = neural(name, chunk_sec=1)
    monkeypatch.setattr(type(codec), "context_sec", 0.25)
    seen: list[int] = []
    parts = codec.parts

    def encoder(wav: torch.Tensor) -> torch.Tensor:
        seen.append(wav.shape[-1])
        return parts.encoder(wav)

    codec.parts = replace(parts, encoder=encoder)
    codec.encode(*speech(codec, 5.2))
    assert len(seen) == 6
    assert max(seen) <= 1.5 * codec.spec.sample_rate_hz + 3 * codec.hop_samples


def test_what_a_codec_is_configured_with_is_written_and_restored(name: str, tmp_path: Path) -> None:
    codec = neural(name, num_codebooks=2, merge={"rate": 2, "codebooks": [1]}, chunk_sec=4)
    save_codec(codec, name, tmp_path, {})
    conf = yaml.safe_load((tmp_path / "codec_info.yaml").read_text())["codec_conf"]
    options = {"num_codebooks": 2, "merge": {"rate": 2, "codebooks": [1]}, "chunk_sec": 4.0}
    assert conf == {"checkpoint": "codec.npz", **options}
    loaded = load_codec(tmp_path)
    assert (loaded.options, loaded.spec) == (options, codec.spec)
    wavs = speech(codec, 0.4)
    assert torch.equal(loaded.encode(*wavs)[0], codec.encode(*wavs)[0])


@pytest.mark.espnet
def test_the_same_weights_with_other_options_are_another_codec(tmp_path: Path) -> None:
    """The fingerprint was that of the weights alone, so codes of 2 and of 4 codebooks passed for one codec's."""
    first, second = neural("dac", num_codebooks=2), neural("dac", merge={"rate": 2, "codebooks": 0})
    save_codec(first, "dac", tmp_path / "first", {})
    save_codec(second, "dac", tmp_path / "second", {})
    assert (tmp_path / "first" / "codec.npz").read_bytes() == (tmp_path / "second" / "codec.npz").read_bytes()
    assert read_codec_info(tmp_path / "first").fingerprint != read_codec_info(tmp_path / "second").fingerprint
    copy_codec(tmp_path / "first", tmp_path / "exp")
    with pytest.raises(ValueError, match="must hold the codec of .*use another directory"):
        copy_codec(tmp_path / "second", tmp_path / "exp")
    info = tmp_path / "second" / "codec_info.yaml"
    content = yaml.safe_load(info.read_text())
    content["codec_conf"]["merge"]["rate"] = 3
    info.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match="fingerprint of codec file .* must be"):
        load_codec(info)


def test_codecs_fitted_by_the_first_release_still_load(tmp_path: Path) -> None:
    codec = neural("encodec")
    save_codec(codec, "encodec", tmp_path / "codec", {})
    info = tmp_path / "codec" / "codec_info.yaml"
    content = yaml.safe_load(info.read_text())
    content["codec_conf"] = {"checkpoint": "codec.npz", "num_codebooks": 2}
    content["fingerprint"] = content_hash(tmp_path / "codec" / "codec.npz")
    info.write_text(yaml.safe_dump(content))
    assert load_codec(copy_codec(info, tmp_path / "exp")).spec == codec.spec
    content["codec_conf"]["bandwidth"] = 6
    info.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=r"codec_conf in .* must be among \['num_codebooks', .*got 'bandwidth'"):
        load_codec(info)


def test_every_copy_is_complete(name: str, tmp_path: Path) -> None:
    codec = tiny_codec(name)
    save_codec(codec, name, tmp_path / "codec", {})
    copy = copy_codec(tmp_path / "codec", tmp_path / "exp")
    shutil.rmtree(tmp_path / "codec")
    wavs = speech(cast(NeuralCodec, codec), 0.2)
    assert torch.equal(load_codec(copy).encode(*wavs)[0], codec.encode(*wavs)[0])


@pytest.mark.gpu
def test_a_gpu_gives_the_codes_of_the_cpu(name: str) -> None:
    codec = neural(name)
    wavs = speech(codec, 1.5)
    codes, frames = codec.encode(*wavs)
    wav, _ = codec.decode(codes, frames)
    codec.to("cuda")
    there, _ = codec.encode(*wavs)
    assert there.device.type == "cpu"  # results are where the arguments are
    assert float((there == codes).float().mean()) > 0.99
    assert torch.equal(codec.encode(*wavs)[0], there)
    back, _ = codec.decode(codes.to("cuda"), frames.to("cuda"))
    assert back.device.type == "cuda"
    assert float((back.cpu() - wav).abs().max()) < 1e-3 * float(wav.abs().max())


@pytest.mark.espnet
def test_weights_that_were_moved_make_the_same_codec_byte_by_byte(tmp_path: Path) -> None:
    """Their path stood in codec_info.yaml, which every later stage reads: all of them ran again."""
    made = []
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        neural("encodec").save(tmp_path / place / "weights.npz")
        conf = ["--codec_conf", f"checkpoint={tmp_path / place / 'weights.npz'}"]
        codec_fit.main(["--codec", "encodec", *conf, "--out", str(tmp_path / "codec")])
        made.append({path.name: path.read_bytes() for path in (tmp_path / "codec").iterdir() if path.name[0] != "."})
    assert made[0] == made[1] and "codec_info.yaml" in made[0]
