"""Codec `lyra` with its real weights: exact in batches, pieces and processes; other weights are refused by name."""

from __future__ import annotations

import hashlib
import importlib.util
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from real_data import need_real_data
from test_download import Server
from test_stream import generations
from tiny_codecs import fresh_codec, tiny_codec, voice

from espnet_ext.inference.streaming import stream_speech
from espnet_ext.tokenizers.codec import create_codec, lyra

WAV = torch.from_numpy(voice(2.0, 130.0, 8, 16000))


with_runtime = pytest.mark.skipif(
    importlib.util.find_spec("ai_edge_litert") is None, reason="codec lyra needs ai-edge-litert"
)


def test_codes_do_not_depend_on_what_was_coded_before() -> None:
    codec = tiny_codec("lyra")
    first = codec.encode_utterance(WAV)
    codec.encode_utterance(WAV.flip(0))
    sound = codec.decode_utterance(first)
    codec.decode_utterance(first.flip(0))
    assert torch.equal(codec.encode_utterance(WAV), first)
    assert torch.equal(codec.decode_utterance(first), sound)


def test_fewer_codebooks_are_the_first_ones_and_two_quantisers_are_one_codebook_without_loss() -> None:
    every, one = fresh_codec("lyra", num_codebooks=23), fresh_codec("lyra", num_codebooks=1)
    codes = every.encode_utterance(WAV)
    assert codes.shape == (100, 23) and int(codes.max()) > 239 and int(codes.min()) < 16
    assert torch.equal(codes[:, :1], one.encode_utterance(WAV))
    # the runtime's quantiser on the same features, without merging: `16 * first + second` loses nothing
    step = every._steps(lyra.ENCODER)  # type: ignore[attr-defined]
    latents = np.stack([step(frame) for frame in WAV.numpy().reshape(-1, 320)])
    quantise = every._started(lyra.QUANTISER).get_signature_runner("encode")  # type: ignore[attr-defined]
    theirs = [
        quantise(input_frames=row[None, None], num_quantizers=np.int32(46))["output_0"].ravel() for row in latents
    ]
    assert np.array_equal(np.stack([codes // 16, codes % 16], axis=2).reshape(100, 46), np.array(theirs))
    error = [float((fresh_codec("lyra", num_codebooks=n).dequantise(codes[:, :n]) - torch.from_numpy(latents)).norm())
             for n in (1, 8, 23)]  # fmt: skip
    assert error[0] > error[1] > error[2]


def test_a_voice_is_recognised_after_eight_codebooks() -> None:
    codec = fresh_codec("lyra", num_codebooks=8)
    back = codec.decode_utterance(codec.encode_utterance(WAV)).numpy()
    spectra = [
        np.abs(np.fft.rfft(x.reshape(-1, 1000) * np.hanning(1000), axis=1))[:, :250] for x in (WAV.numpy(), back)
    ]
    assert np.corrcoef(*[np.log(spectrum + 1e-2).ravel() for spectrum in spectra])[0, 1] > 0.8
    assert abs(20 * np.log10(back.std() / WAV.numpy().std())) < 4


def test_pieces_are_the_whole_bit_for_bit_and_cost_their_own_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = fresh_codec("lyra")
    codes = codec.encode_utterance(WAV)
    expected, given = codec.decode_utterance(codes).numpy(), []
    dequantise = codec.dequantise
    monkeypatch.setattr(codec, "dequantise", lambda some: given.append(len(some)) or dequantise(some))  # type: ignore[func-returns-value]
    pieces = list(stream_speech(codec, generations([*range(7, 100, 7), 100], codes), 7))
    assert np.array_equal(np.concatenate([piece.samples for piece in pieces]), expected)
    assert (
        len(pieces) > 10
        and sum(given) == 100
        and all(len(p.samples) == 320 * n for p, n in zip(pieces, given, strict=True))
    )
    with pytest.raises(ValueError, match="codes must lie in"):
        list(stream_speech(codec, generations([7, 14], codes + 256), 1))


def test_samples_need_the_frames_of_half_a_second_and_no_others() -> None:
    codec = tiny_codec("lyra")
    codes, behind = codec.encode_utterance(WAV), codec.lookbehind_frames
    assert behind is not None
    whole = codec.decode_utterance(codes)
    assert torch.equal(codec.decode_utterance(codes[40 - behind :])[behind * 320 :], whole[40 * 320 :])
    assert not torch.equal(codec.decode_utterance(codes[42 - behind :])[(behind - 2) * 320 :], whole[40 * 320 :])


def test_threads_and_pickled_copies_make_the_same_codes() -> None:
    codec = tiny_codec("lyra")
    expected = codec.encode_utterance(WAV)
    found: list[torch.Tensor] = []
    threads = [threading.Thread(target=lambda: found.append(codec.encode_utterance(WAV))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    copy = pickle.loads(pickle.dumps(codec))
    assert all(torch.equal(codes, expected) for codes in [*found, copy.encode_utterance(WAV)])


# --- weights ---------------------------------------------------------------------------------------------------


@with_runtime
def test_weights_of_another_lyra_are_refused_before_the_runtime_sees_them(tmp_path: Path) -> None:
    for name in lyra.SHA256:
        (tmp_path / name).write_bytes(b"another " + name.encode())
    for checkpoint in (tmp_path, tmp_path / "codec.npz"):
        with pytest.raises(
            ValueError, match="encoder.tflite in .* must be that of Lyra 1.3.2 .*got sha256 .*: fetch"
        ) as caught:
            create_codec("lyra", [], 0, {"checkpoint": str(checkpoint)})
        assert "\n" not in str(caught.value)
        np.savez(tmp_path / "codec.npz", **{name: np.zeros(3, np.uint8) for name in lyra.SHA256})
    np.savez(tmp_path / "codec.npz", other=np.zeros(3, np.uint8))
    with pytest.raises(ValueError, match="got none: fetch it again"):
        create_codec("lyra", [], 0, {"checkpoint": str(tmp_path / "codec.npz")})


@with_runtime
def test_a_missing_file_and_an_impossible_option_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"checkpoint of codec lyra must hold \[.*lacks \[.*lyragan.tflite"):
        create_codec("lyra", [], 0, {"checkpoint": str(tmp_path)})
    for value in (0, 24, "8", True):
        with pytest.raises(ValueError, match=r"num_codebooks must be in \[1, 23\], got"):
            fresh_codec("lyra", num_codebooks=value)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server in place of the weights' home, and an empty place for what comes from it."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(lyra, "HOME", f"{server.url}/")
    return server


@with_runtime
def test_weights_are_downloaded_once_and_checked(home: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"arrived damaged and was removed \(its sha256 must be .*checkpoint=PATH"):
        create_codec("lyra", [], 0, {})
    # the server has the same content under each of the three names
    monkeypatch.setattr(lyra, "SHA256", dict.fromkeys(lyra.SHA256, hashlib.sha256(home.content).hexdigest()))
    assert set(create_codec("lyra", [], 0, {}).weights) == set(lyra.SHA256)  # type: ignore[attr-defined]
    home.shutdown()
    home.server_close()
    assert create_codec("lyra", [], 0, {}).weights[lyra.DECODER] == home.content  # type: ignore[attr-defined]
    kept = tmp_path / "hub" / "checkpoints" / "lyra-1.3.2" / lyra.DECODER
    kept.write_bytes(home.content[:-1])  # by a disk that was full: it was refused for ever
    with pytest.raises(ValueError, match="cannot download .*run again to continue"):
        create_codec("lyra", [], 0, {})


@with_runtime
def test_without_a_network_the_way_out_is_named(home: Server) -> None:
    home.shutdown()
    home.server_close()
    with pytest.raises(
        ValueError, match="cannot download .*run again to continue; or name a directory that holds"
    ) as caught:
        create_codec("lyra", [], 0, {})
    assert "\n" not in str(caught.value)


def test_the_real_weights_are_those_that_are_vouched_for() -> None:
    folder = need_real_data("lyra")
    assert {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in lyra.SHA256} == lyra.SHA256
