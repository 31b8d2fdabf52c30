"""Speech in pieces: the same codes, the same samples, and nothing handed out before it is final."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from conftest import NAMES, SPEC, ragged_batch, registered, tiny_model

from espnet_ext.decoding import Generation, build_strategy, generate, generate_stream
from espnet_ext.decoding.sampling import Sampler, SamplingOptions, row_generators
from espnet_ext.inference.streaming import stream_speech
from espnet_ext.tokenizers.codec import EncodecCodec
from espnet_ext.tokenizers.codec.base import Codec


class Smear(Codec):
    """A sample is the mean of its frame's code and that of the frame behind it: it looks ahead by one frame."""

    spec = SPEC
    lookahead_frames = 1

    def decode_utterance(self, codes: torch.Tensor) -> torch.Tensor:
        level = codes.float().mean(dim=1)
        return ((level + torch.cat([level[1:], level[-1:]])) / 2).repeat_interleave(self.hop_samples)

    create = load = save = encode_utterance = dequantise = None


Smear.__abstractmethods__ = frozenset()


def generations(lengths: list[int], codes: torch.Tensor, ends: bool = True) -> list[Generation]:
    """What a loop says after steps that brought an utterance to these lengths."""
    none = torch.zeros(1, dtype=torch.long)
    last = len(lengths) - 1
    return [
        Generation(
            codes[None, :length], torch.tensor([length]), torch.tensor([ends and step == last]), none, none, none
        )
        for step, length in enumerate(lengths)
    ]


@registered
@pytest.mark.parametrize("stacking", [1, 2])
def test_streaming_makes_the_codes_of_generating_step_by_step(name: str, stacking: int) -> None:
    model, batch = tiny_model(stacking=stacking), ragged_batch()
    conditions, strategy = batch.conditions(model), build_strategy(name)
    options = SamplingOptions(temperature=0.8, cfg_scale=1.5)
    model.conditioning_dropout = 0.1

    def sampler() -> Sampler:
        return Sampler(options, row_generators(3, NAMES))

    whole = generate(model, conditions, strategy, sampler(), 9)
    parts = list(generate_stream(model, conditions, strategy, sampler(), 9))
    assert torch.equal(parts[-1].codes, whole.codes) and torch.equal(parts[-1].lengths, whole.lengths)
    assert torch.equal(parts[-1].local_passes, whole.local_passes)
    for before, after in zip(parts, parts[1:], strict=False):
        for row in range(3):
            final = int(before.lengths[row])
            assert int(after.lengths[row]) >= final
            assert torch.equal(after.codes[row, :final], before.codes[row, :final])


def test_model_with_delays_is_refused() -> None:
    model, batch = tiny_model(delays=[0, 1, 2], local="ar"), ragged_batch()
    sampler = Sampler(SamplingOptions(temperature=0.0), [])
    with pytest.raises(ValueError, match=r"delays must be none for streaming, got a model with \[0, 1, 2\]"):
        next(generate_stream(model, batch.conditions(model), build_strategy("parallel"), sampler, 9))


@pytest.mark.parametrize(("chunk", "stacking"), [(1, 1), (3, 1), (4, 2), (99, 1)])
def test_pieces_together_are_the_whole_and_only_final_samples_are_handed_out(chunk: int, stacking: int) -> None:
    codec, codes = Smear(), torch.randint(8, (13, 3), generator=torch.Generator().manual_seed(0))
    lengths = [*range(stacking, 13, stacking), 13]
    pieces = list(stream_speech(codec, generations(lengths, codes), chunk))
    expected = codec.decode_utterance(codes).numpy()
    assert np.array_equal(np.concatenate([piece.samples for piece in pieces]), expected)
    assert [piece.is_last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert all(len(piece.samples) >= chunk * codec.hop_samples for piece in pieces[:-1])
    assert len(pieces) == {1: 12, 3: 4, 4: 3, 99: 1}[chunk]
    assert pieces[-1].has_eos and np.array_equal(pieces[-1].codes, codes.numpy())


def test_encodec_in_pieces_is_the_whole_up_to_the_stated_tolerance() -> None:
    if (
        importlib.util.find_spec("encodec") is None
    ):  # importing it is the codec's business: it needs the torchaudio shim
        pytest.skip("encodec is not installed")
    codec = EncodecCodec.create([], 0, pretrained=False)
    codes = torch.randint(1024, (200, 8), generator=torch.Generator().manual_seed(0))
    expected = codec.decode_utterance(codes).numpy()
    given = []
    decode = codec.decode

    def counted(some: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        given.append(some.shape[1])
        return decode(some, lengths)

    codec.decode = counted  # type: ignore[method-assign]
    pieces = list(stream_speech(codec, generations([*range(21, 200, 20), 200], codes), 20))
    streamed = np.concatenate([piece.samples for piece in pieces])
    assert len(pieces) == 10 and max(given) <= 21 + 75  # what a piece costs does not grow
    assert np.abs(streamed - expected).max() < 1e-4 * np.sqrt((expected**2).mean())


def test_codec_of_unknown_lookahead_speaks_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Smear, "lookahead_frames", None)
    codes = torch.zeros(6, 3, dtype=torch.long)
    (piece,) = stream_speech(Smear(), generations([2, 4, 6], codes, ends=False), 1)
    assert piece.is_last and not piece.has_eos and len(piece.samples) == 6 * Smear().hop_samples


def test_pieces_have_at_least_one_frame() -> None:
    with pytest.raises(ValueError, match="chunk_frames must be at least 1, got 0"):
        stream_speech(Smear(), [], 0)


@pytest.mark.espnet
def test_streamed_speech_of_an_experiment_is_that_of_a_call(experiment) -> None:
    from espnet_ext.inference import CodecLM, DecodeOptions

    speak = CodecLM.from_experiment(experiment)
    options = DecodeOptions("local_ar", seed=4, maxlenratio=8.0)
    whole = speak("abba", options=options)
    pieces = list(speak.stream("abba", options=options, chunk_frames=2))
    assert np.array_equal(pieces[-1].codes, whole.codes)
    assert pieces[-1].has_eos == whole.has_eos
    streamed = np.concatenate([piece.samples for piece in pieces])
    np.testing.assert_allclose(streamed, whole.waveform, atol=1e-6)
    assert len(pieces) > 1 and pieces[0].seconds < pieces[-1].seconds
