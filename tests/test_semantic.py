"""What every semantic tokenizer promises, and what is particular to the spectral ones and to networks."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import built_in
from fabricated import spoil
from tiny_codecs import voice
from tiny_semantic import CONF, EVERY, NETWORKS, conf_of, fresh_tokenizer, tiny_tokenizer

from espnet_ext.errors import UserError
from espnet_ext.testing import check_semantic_tokenizer
from espnet_ext.testing.semantic import SEMANTIC_CONTRACT, SemanticCase
from espnet_ext.tokenizers.semantic import (
    SemanticTokenizer,
    copy_semantic,
    create_semantic,
    load_semantic,
    read_semantic_info,
    save_semantic,
    semantic_tokenizers,
)
from espnet_ext.tokenizers.semantic.spectral import log_mel, slopes


@pytest.fixture(params=EVERY)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def speech(seconds: float = 1.3, f0_hz: float = 130.0, seed: int = 8) -> torch.Tensor:
    return torch.from_numpy(voice(seconds, f0_hz, seed))


# --- the contract ----------------------------------------------------------------------------------------------------


def test_every_tokenizer_of_ours_has_a_tiny_configuration() -> None:
    assert set(CONF) == set(built_in(semantic_tokenizers))


@pytest.mark.parametrize("clause", SEMANTIC_CONTRACT, ids=lambda clause: clause.__name__)
def test_contract(name: str, clause: Callable[[SemanticCase], None]) -> None:
    clause(SemanticCase(name, conf_of(name), tiny_tokenizer(name)))


def test_the_contract_finds_a_tokenizer_that_remembers(monkeypatch: pytest.MonkeyPatch) -> None:
    right, heard = semantic_tokenizers["mfcc_km"].features, []

    def features(tokenizer: SemanticTokenizer, wav: torch.Tensor) -> torch.Tensor:
        heard.append(len(wav))
        return right(tokenizer, wav).roll(len(heard), dims=0)

    monkeypatch.setattr(semantic_tokenizers["mfcc_km"], "features", features)
    with pytest.raises(AssertionError, match="units must not depend on the utterances before"):
        check_semantic_tokenizer("mfcc_km", CONF["mfcc_km"])


@pytest.mark.parametrize("value", [float("nan"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(name: str, value: float, tmp_path: Path) -> None:
    if name not in CONF:
        pytest.skip("what another package writes is its own")
    checkpoint = tmp_path / "weights.npz"
    tiny_tokenizer(name).save(checkpoint)
    key = spoil(checkpoint, value)
    found = "NaN" if value != value else "infinity"
    with pytest.raises(UserError, match=f"{checkpoint} must hold finite weights, got {found} in {key} "):
        semantic_tokenizers[name].load(checkpoint)


def test_an_unknown_tokenizer_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match="semantic must be one of .*'hubert_km'.*'mfcc_km'.* got 'wavlm_km'"):
        create_semantic("wavlm_km", [], 0, {})


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_semantic(tiny_tokenizer("mfcc_km"), "mfcc_km", tmp_path / "semantic", deduplicate=True, origin={})
    return tmp_path / "semantic"


def test_a_copied_tokenizer_stands_alone_and_another_one_is_not_overwritten(saved: Path, tmp_path: Path) -> None:
    wanted = load_semantic(saved).encode(speech())
    copy = copy_semantic(saved, tmp_path / "exp")
    assert copy_semantic(saved, tmp_path / "exp") == copy
    save_semantic(fresh_tokenizer("mfcc_km", num_units=9), "mfcc_km", tmp_path / "other", deduplicate=True, origin={})
    save_semantic(tiny_tokenizer("mfcc_km"), "mfcc_km", tmp_path / "plain", deduplicate=False, origin={})
    with pytest.raises(ValueError, match="exp must hold the semantic tokenizer of .*other .*: use another directory"):
        copy_semantic(tmp_path / "other", tmp_path / "exp")
    with pytest.raises(ValueError, match="exp must have deduplicate False as .*plain: use another directory"):
        copy_semantic(tmp_path / "plain", tmp_path / "exp")
    shutil.rmtree(saved)
    assert torch.equal(load_semantic(copy).encode(speech()), wanted)


def test_weights_that_the_description_does_not_vouch_for_are_refused(saved: Path) -> None:
    weights = saved / "semantic.npz"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + b"x")
    with pytest.raises(ValueError, match="fingerprint of semantic tokenizer file .*semantic.npz must be .* damaged"):
        load_semantic(saved)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="semantic tokenizer file not found: .*semantic.npz"):
        load_semantic(saved)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"deduplicate": "yes"}, "deduplicate must be true or false, got 'yes'"),
        ({"deduplicate": None}, "deduplicate must be true or false, got None"),
        ({"spec": {"codebook_size": 3}}, "TypeError"),
        ({"tokenizer_conf": {}}, "KeyError: 'checkpoint'"),
    ],
)
def test_an_incomplete_description_is_one_line(saved: Path, change: dict[str, object], reason: str) -> None:
    path = saved / "semantic_info.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **change}))
    with pytest.raises(
        ValueError, match="semantic_info must be a file written by espnet_ext.bin.semantic_fit"
    ) as caught:
        read_semantic_info(saved)
    assert reason in str(caught.value) and "\n" not in str(caught.value)


def test_a_description_with_other_facts_than_the_weights_is_refused(saved: Path) -> None:
    path = saved / "semantic_info.yaml"
    path.write_text(path.read_text().replace("frame_rate_hz: 50.0", "frame_rate_hz: 25.0"))
    with pytest.raises(ValueError, match="spec in .* must be that of .*semantic.npz"):
        load_semantic(saved)


# --- spectral features -----------------------------------------------------------------------------------------------


def test_loudness_and_the_colour_of_the_microphone_do_not_change_the_units() -> None:
    tokenizer, wav = tiny_tokenizer("mfcc_km"), speech(2.0)
    units = tokenizer.encode(wav)
    louder = tokenizer.encode(5 * wav)
    coloured = tokenizer.encode(
        torch.nn.functional.conv1d(wav[None, None], torch.tensor([[[1.0, 0.5]]]), padding=1)[0, 0]
    )
    assert (louder == units).float().mean() > 0.9
    assert (coloured[: len(units)] == units).float().mean() > 0.8
    plain = fresh_tokenizer("mfcc_km", normalise="none")
    assert (plain.encode(5 * wav) == plain.encode(wav)).float().mean() < 0.8


@pytest.mark.parametrize("name", ["mfcc_km", "logmel_km"])
def test_digital_silence_alone_is_the_silence_of_an_utterance(name: str) -> None:
    """An utterance's statistics made silence alone the most average sound of all, in the middle of speech."""
    tokenizer, silence = tiny_tokenizer(name), torch.zeros(8000)
    within = tokenizer.encode(torch.cat([speech(2.0), silence, speech(2.0)]))
    rate = tokenizer.frame_rate_hz
    pause = within[round(2.1 * rate) : round(2.4 * rate)]
    spoken = within[: round(1.9 * rate)]
    alone = tokenizer.encode(silence)
    assert set(alone[2:-2].tolist()) == {int(alone[4])}
    assert set(pause.tolist()) == {int(alone[4])}
    assert (spoken == alone[4]).float().mean() < 0.5


def test_an_utterance_too_short_to_tell_its_average_is_completed_by_average_speech() -> None:
    """A single frame was its own mean, and so the most average sound whatever it was."""
    tokenizer, wav = tiny_tokenizer("mfcc_km"), speech()
    features = torch.cat([tokenizer.features(wav[start : start + 320]) for start in range(0, 16000, 3200)])
    assert features.abs().amax(1).min() > 0.5


def test_the_spectrum_of_a_tone_peaks_in_its_band_whatever_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    wav = 0.5 * torch.sin(2 * math.pi * 1000 * torch.arange(16000) / 16000)
    energies = log_mel(wav, 100, 40, 16000)
    edges = np.interp(np.arange(42), [0, 41], [2595 * math.log10(1 + hz / 700) for hz in (60, 7600)])
    centres = 700 * (10 ** (edges[1:-1] / 2595) - 1)
    assert set(energies[5:-5].argmax(1).tolist()) == {int(np.abs(centres - 1000).argmin())}
    monkeypatch.setattr("espnet_ext.tokenizers.semantic.spectral._CHUNK", 7)
    torch.testing.assert_close(log_mel(wav, 100, 40, 16000), energies)


def test_slopes_are_those_of_a_line() -> None:
    line = 3.0 * torch.arange(20.0)[:, None] + 1
    torch.testing.assert_close(slopes(line)[3:-3], torch.full((14, 1), 3.0))


def test_spectral_options_are_checked() -> None:
    for options, message in (
        ({"frame_rate_hz": 30}, "frame_rate_hz must be 100 divided by a whole number, got 30"),
        ({"frame_rate_hz": 0}, "frame_rate_hz must be in"),
        ({"deltas": 3}, "deltas must be in"),
        ({"dimensions": 41}, "dimensions must be in"),
        ({"normalise": "variance"}, "normalise must be one of .*'mean_variance'.* got 'variance'"),
    ):
        with pytest.raises(ValueError, match=message):
            fresh_tokenizer("mfcc_km", **options)


# --- networks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_features_are_the_output_of_the_layer_counted_from_one(name: str) -> None:
    tokenizer = fresh_tokenizer(name)
    outputs = []
    hook = tokenizer.network.encoder.layers[1].register_forward_hook(lambda *given: outputs.append(given[-1]))
    features = tokenizer.features(speech())
    hook.remove()
    found = outputs[0][0] if isinstance(outputs[0], tuple) else outputs[0]
    assert len(tokenizer.network.encoder.layers) == 2
    assert torch.equal(features, found[0] if found.ndim == 3 else found)


@pytest.mark.parametrize("name", NETWORKS)
def test_long_audio_is_encoded_in_chunks_of_which_each_knows_its_surroundings(name: str) -> None:
    tokenizer, wav = fresh_tokenizer(name), speech(9.0)
    whole = tokenizer.encode(wav)
    lengths = []
    tokenizer.network.register_forward_pre_hook(lambda module, given: lengths.append(given[0].shape[1]))
    tokenizer.chunk_sec = 3.0
    chunked = tokenizer.encode(wav)
    # 3 s each, 2 s on either side where there are any
    assert [(length - 400) // 320 + 1 for length in lengths] == [150 + 100, 100 + 150 + 100, 100 + 149]
    assert len(chunked) == len(whole) and (chunked == whole).float().mean() > 0.9


@pytest.mark.espnet
def test_networks_trained_on_normalised_waves_do_not_hear_the_loudness() -> None:
    tokenizer, wav = tiny_tokenizer("xlsr_km"), speech()
    assert torch.equal(tokenizer.encode(0.1 * wav + 0.2), tokenizer.encode(wav))


@pytest.mark.espnet
def test_a_pretrained_directory_gives_the_lower_layers_and_a_published_codebook_its_units(tmp_path: Path) -> None:
    from espnet_ext.storage.torchaudio_shim import import_torchaudio

    import_torchaudio()
    from transformers import HubertConfig, HubertModel, Wav2Vec2Config, Wav2Vec2Model

    torch.manual_seed(0)
    deep = HubertModel(HubertConfig(**CONF["hubert_km"]["config"], num_hidden_layers=4)).eval()  # type: ignore[arg-type]
    deep.save_pretrained(tmp_path / "hubert")
    Wav2Vec2Model(Wav2Vec2Config(**CONF["xlsr_km"]["config"], num_hidden_layers=1)).save_pretrained(tmp_path / "xlsr")  # type: ignore[arg-type]
    table = np.random.default_rng(0).standard_normal((7, 16)).astype(np.float32)
    np.save(tmp_path / "km.npy", table)
    conf = {"model_name_or_path": str(tmp_path / "hubert"), "layer": 3, "codebook": str(tmp_path / "km.npy")}
    tokenizer = create_semantic("hubert_km", [], 0, conf)
    with torch.no_grad():
        expected = deep(speech()[None], output_hidden_states=True).hidden_states[3][0]
    torch.testing.assert_close(tokenizer.features(speech()), expected)
    assert torch.equal(tokenizer.encode(speech()), torch.cdist(expected, torch.from_numpy(table)).argmin(1))
    np.save(tmp_path / "wide.npy", table[:, :5])
    for change, message in (
        ({"num_units": 9}, "num_units must be 7 as in codebook, got 9"),
        ({"layer": 5}, "must hold the weights of HubertModel"),
        ({"layer": 0}, "layer must be at least 1, got 0"),
        ({"codebook": str(tmp_path / "none.npy")}, "codebook not found"),
        ({"codebook": str(tmp_path / "wide.npy")}, r"codebook must hold float centroids \(K, 16\), got \(7, 5\)"),
        ({"model_name_or_path": str(tmp_path / "xlsr")}, "must be of model_type hubert, got .* of wav2vec2"),
        ({"model_name_or_path": "./none"}, "must be a directory, got ./none"),
        ({"config": {}}, "config must be fields of a network with pretrained=false"),
    ):
        with pytest.raises((ValueError, OSError), match=message):
            create_semantic("hubert_km", [], 0, {**conf, **change})
