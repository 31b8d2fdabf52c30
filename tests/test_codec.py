"""The contract of every registered codec, the embedded codec's sound, and codecs on disk."""

from __future__ import annotations

import functools
import importlib.util
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import built_in
from fabricated import spoil
from tiny_codecs import CONF, EVERY, PACKAGE, corpus, tiny_codec, voice

from espnet_ext.errors import UserError
from espnet_ext.testing import check_codec
from espnet_ext.testing.codec import CODEC_CONTRACT, CodecCase, batch_of
from espnet_ext.tokenizers.codec import (
    Codec,
    codecs,
    copy_codec,
    create_codec,
    load_codec,
    read_codec_info,
    save_codec,
)


@pytest.fixture(params=EVERY)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_codec_of_ours_has_a_tiny_configuration_here() -> None:
    assert set(built_in(codecs)) == set(CONF)


@pytest.mark.parametrize("clause", CODEC_CONTRACT, ids=lambda clause: clause.__name__)
def test_contract(name: str, clause: Callable[[CodecCase], None]) -> None:
    clause(CodecCase(name, CONF.get(name, {}), tiny_codec(name)))


@pytest.mark.parametrize(
    ("method", "flaw", "message"),
    [
        ("encode_utterance", lambda codes: codes[:-1], "shape|size"),
        ("encode_utterance", lambda codes: codes + 16, "codes must lie in"),
        ("encode_utterance", lambda codes: codes * 0, "a voice collapses into a few codes"),
        ("decode_utterance", lambda wav: wav * float("nan"), "waveforms must be finite float32"),
        ("decode_utterance", lambda wav: wav * wav.abs().amax() / wav.flip(0).abs().argmax(), "is not final|moves by"),
        ("dequantise", lambda vectors: vectors - vectors.mean(0), "not close"),
    ],
)
def test_the_contract_finds_what_a_codec_must_not_do(
    method: str, flaw: Callable[[torch.Tensor], torch.Tensor], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyworld")
    right = getattr(codecs["world_vq"], method)
    monkeypatch.setattr(codecs["world_vq"], method, lambda codec, values: flaw(right(codec, values)))
    with pytest.raises((AssertionError, ValueError, RuntimeError), match=message):
        check_codec("world_vq", CONF["world_vq"])


@pytest.mark.parametrize("value", [float("nan"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(name: str, value: float, tmp_path: Path) -> None:
    if name not in CONF or name == "lyra":
        pytest.skip("what another package writes is its own; the bytes of lyra have a known sum")
    checkpoint = tmp_path / "weights.npz"
    tiny_codec(name).save(checkpoint)
    key = spoil(checkpoint, value)
    found = "NaN" if value != value else "infinity"
    with pytest.raises(UserError, match=f"{checkpoint} must hold finite weights, got {found} in {key} "):
        codecs[name].load(checkpoint)


@pytest.mark.parametrize("name", list(CONF))
def test_codes_of_a_codebook_are_as_far_apart_whatever_the_others_are(name: str) -> None:
    codec = tiny_codec(name)
    spec, vectors = codec.spec, codec.code_vectors()
    others = torch.randint(spec.codebook_size, (spec.num_codebooks,), generator=torch.Generator().manual_seed(0))
    for book in range(spec.num_codebooks):
        frames = others.repeat(spec.codebook_size, 1)
        frames[:, book] = torch.arange(spec.codebook_size)
        found, told = codec.dequantise(frames), vectors[book]
        scale = float(told.std())
        torch.testing.assert_close(found - found[0], told - told[0], atol=1e-3 * scale, rtol=0)


def test_unknown_names_and_options_are_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"codec must be one of \[.*'dac', .*'world_vq'.*\], got 'soundstream'"):
        create_codec("soundstream", [], 0, {})
    with pytest.raises(ValueError, match=r"codec_conf of world_vq must be among \['codebook_size', .*got 'size'"):
        create_codec("world_vq", [], 0, {"size": 3})
    with pytest.raises(ValueError, match="bandwidth_kbps must be one of"):
        create_codec("encodec", [], 0, {"bandwidth_kbps": 5})


@pytest.mark.parametrize("name", CONF)
def test_a_codec_whose_package_is_missing_says_how_to_install_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [PACKAGE[name], *(key for key in sys.modules if key.startswith(f"{PACKAGE[name]}."))]:
        monkeypatch.setitem(sys.modules, module, None)
    extras = {"world_vq": "world", "encodec": "encodec", "lyra": "lyra"}
    requirement = "espnet einops" if name == "espnet" else f"'espnet_ext\\[{extras.get(name, 'hf')}\\]'"
    said = f"codec {name} needs a package that is not there \\(.*\\): pip install {requirement}"
    with pytest.raises(ValueError, match=said):
        create_codec(name, corpus()[:1], 0, CONF[name])


def test_encodec_names_a_missing_or_foreign_weights_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="codec file not found: .*gone.th"):
        create_codec("encodec", [], 0, {"checkpoint": str(tmp_path / "gone.th")})
    if importlib.util.find_spec("encodec") is None:
        pytest.skip("codec encodec needs encodec")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "foreign.th")
    with pytest.raises(ValueError, match="must hold the weights of EnCodec 24 kHz, got .*foreign.th") as caught:
        create_codec("encodec", [], 0, {"checkpoint": str(tmp_path / "foreign.th")})
    assert "\n" not in str(caught.value)


def test_encodec_reads_a_torch_state_dict_strictly_and_uses_the_first_codebooks(tmp_path: Path) -> None:
    codec = tiny_codec("encodec")
    torch.save(codec.network.state_dict(), tmp_path / "weights.th")  # type: ignore[attr-defined]
    other = create_codec("encodec", [], 0, {"checkpoint": str(tmp_path / "weights.th"), "bandwidth_kbps": 3})
    assert other.spec.num_codebooks == 4
    wavs, lengths = batch_of(codec)
    assert torch.equal(other.encode(wavs, lengths)[0][..., :2], codec.encode(wavs, lengths)[0])


# --- the embedded codec ----------------------------------------------------------------------------------------


@functools.cache
def fitted_codec() -> Codec:
    return create_codec("world_vq", corpus(), seed=0, conf={"codebook_size": 64})


def median_f0(wav: np.ndarray) -> float:
    from espnet_ext.tokenizers.codec import world

    features = world.analyse(wav)
    voiced = features[..., world.VOICING] > 0.5
    return float(np.exp(np.median(features[voiced][:, world.LOG_F0])))


@pytest.mark.parametrize("f0_hz", [90.0, 120.0, 160.0, 220.0])
def test_a_round_trip_keeps_pitch_and_loudness(f0_hz: float) -> None:
    pytest.importorskip("pyworld")
    codec = fitted_codec()
    wav = voice(1.5, f0_hz, seed=77)
    codes, frames = codec.encode(torch.from_numpy(wav)[None], torch.tensor([len(wav)]))
    back = codec.decode(codes, frames)[0][0, : len(wav)].numpy()
    assert abs(np.log2(median_f0(back) / median_f0(wav))) < 1 / 12  # a semitone
    assert abs(20 * np.log10(np.std(back) / np.std(wav))) < 3
    envelopes = [np.abs(x[: len(x) // 800 * 800]).reshape(-1, 800).mean(1) for x in (wav, back)]
    assert np.corrcoef(*envelopes)[0, 1] > 0.9


@pytest.mark.parametrize("samples", [1, 5, 159, 639, 640, 641, 1500])
def test_silence_noise_and_tiny_inputs_are_coded(samples: int) -> None:
    pytest.importorskip("pyworld")
    codec = fitted_codec()
    noise = 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(0))
    wavs = torch.stack([torch.zeros(samples), noise])
    codes, frames = codec.encode(wavs, torch.tensor([samples, samples]))
    assert frames.tolist() == [-(-samples // 640)] * 2
    back, lengths = codec.decode(codes, frames)
    assert torch.isfinite(back).all()
    assert lengths.tolist() == (frames * 640).tolist()


def test_band_widths_set_the_number_of_codebooks() -> None:
    pytest.importorskip("pyworld")
    codec = create_codec("world_vq", corpus()[:1], seed=0, conf={"codebook_size": 4, "band_widths": [4, 20]})
    assert codec.spec.num_codebooks == 3
    with pytest.raises(ValueError, match=r"band_widths must be positive and sum to 24, got \[1, 2\]"):
        create_codec("world_vq", corpus()[:1], seed=0, conf={"band_widths": [1, 2]})


def test_more_entries_than_frames_are_refused() -> None:
    pytest.importorskip("pyworld")
    with pytest.raises(ValueError, match=r"codebook_size must be in \[2, 50\] \(frames to learn from\), got 256"):
        create_codec("world_vq", corpus()[:1], seed=0, conf={})


# --- codecs on disk --------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    pytest.importorskip("pyworld")
    save_codec(fitted_codec(), "world_vq", tmp_path / "codec", {"seed": 0})
    return tmp_path / "codec" / "codec_info.yaml"


def test_a_changed_weights_file_is_another_codec(saved: Path) -> None:
    save_codec(tiny_codec("world_vq"), "world_vq", saved.parent / "other", {})
    shutil.copy(saved.parent / "other" / "codec.npz", saved.parent / "codec.npz")
    with pytest.raises(ValueError, match="fingerprint of codec file .*codec.npz must be .*: it is another codec"):
        load_codec(saved)


def test_missing_files_are_named(saved: Path) -> None:
    (saved.parent / "codec.npz").unlink()
    with pytest.raises(FileNotFoundError, match="codec file not found: .*codec.npz .named by .*codec_info.yaml"):
        load_codec(saved)
    saved.unlink()
    with pytest.raises(FileNotFoundError, match="codec_info not found: .*codec_info.yaml"):
        load_codec(saved.parent)


def test_damaged_descriptions_are_one_line_errors(saved: Path) -> None:
    good = yaml.safe_load(saved.read_text())
    for content in (
        "",
        "codec: [",
        "- 1",
        yaml.safe_dump({**good, "spec": {}}),
        yaml.safe_dump({**good, "codec_conf": 1}),
    ):
        saved.write_text(content)
        with pytest.raises(ValueError, match="codec_info must be a file written by") as caught:
            load_codec(saved)
        assert "\n" not in str(caught.value)
    saved.write_text(yaml.safe_dump({**good, "codec": "soundstream"}))
    with pytest.raises(ValueError, match="codec must be one of"):
        load_codec(saved)


def test_a_copy_decodes_alone_and_is_not_replaced_by_another_codec(saved: Path, tmp_path: Path) -> None:
    copy = copy_codec(saved, tmp_path / "exp" / "codec")
    assert copy_codec(saved, tmp_path / "exp" / "codec") == copy
    fingerprint = read_codec_info(saved).fingerprint
    shutil.rmtree(saved.parent)
    shutil.move(tmp_path / "exp", tmp_path / "moved")
    moved = tmp_path / "moved" / "codec"
    assert load_codec(moved).spec == fitted_codec().spec
    assert read_codec_info(moved).fingerprint == fingerprint
    save_codec(tiny_codec("world_vq"), "world_vq", tmp_path / "other", {})
    with pytest.raises(ValueError, match="must hold the codec of .*use another directory"):
        copy_codec(tmp_path / "other", moved)
