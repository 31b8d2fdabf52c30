"""The contract of a codec: what data preparation, training and synthesis rely on."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from espnet_ext.testing.refusal import assert_refused
from espnet_ext.testing.sound import corpus, voice
from espnet_ext.tokenizers.codec import Codec, codecs, create_codec, load_codec, save_codec


class CodecCase(NamedTuple):
    """A codec on trial.

    Attributes:
        name: registered name.
        conf: its options, so small that a few seconds of sound are enough to learn from.
        codec: made with them.
    """

    name: str
    conf: Mapping[str, object]
    codec: Codec

    @classmethod
    def create(cls, name: str, conf: Mapping[str, object]) -> CodecCase:
        """The case of a codec that is made here, from a corpus if it learns."""
        return cls(name, conf, fresh_codec(name, conf))


def fresh_codec(name: str, conf: Mapping[str, object]) -> Codec:
    """A new codec, always from the same seed and the same eight seconds of sound."""
    kind = codecs[name]
    return create_codec(name, corpus(kind.sample_rate_hz) if kind.learns else [], seed=3, conf=conf)


def batch_of(codec: Codec) -> tuple[Tensor, Tensor]:
    """Four rows, the third empty, the last as long as the first; garbage where the rows have ended.

    Args:
        codec: whose sample rate and hop they have.

    Returns:
        (4, samples) float32 and (4,) int64.
    """
    hop, rate = codec.hop_samples, codec.spec.sample_rate_hz
    rows = [
        voice(0.5, 130.0, 8, rate),
        voice(0.2, 200.0, 9, rate)[: 3 * hop + 1],
        np.zeros(0, np.float32),
        voice(0.5, 170.0, 10, rate),
    ]
    wavs = torch.full((4, len(rows[0])), 0.3)
    for index, row in enumerate(rows):
        wavs[index, : len(row)] = torch.from_numpy(row)
    return wavs, torch.tensor([len(row) for row in rows])


def frames_and_samples_are_tied_by_the_hop(case: CodecCase) -> None:
    """Frames = ceil(samples / hop), and back; nothing but zeros behind the end of a row."""
    codec = case.codec
    wavs, lengths = batch_of(codec)
    codes, frames = codec.encode(wavs, lengths)
    assert codes.dtype == torch.int64, f"codes must be int64, got {codes.dtype}"
    expected = [-(-int(length) // codec.hop_samples) for length in lengths]
    assert frames.tolist() == expected, f"frames must be {expected}, got {frames.tolist()}"
    shape = (4, max(expected), codec.spec.num_codebooks)
    assert codes.shape == shape, f"codes must be {shape}, got {tuple(codes.shape)}"
    codec.spec.check(codes)
    assert len(codes[0].unique(dim=0)) > 3, "a voice collapses into a few codes"
    back, samples = codec.decode(codes, frames)
    assert back.dtype == torch.float32 and bool(back.isfinite().all()), "waveforms must be finite float32"
    assert samples.tolist() == (frames * codec.hop_samples).tolist(), "a frame must give hop_samples samples"
    assert back.shape == (4, int(samples.max())), f"waveforms must be (B, samples), got {tuple(back.shape)}"
    assert not back[1, int(samples[1]) :].any() and not codes[1, int(frames[1]) :].any(), "the padding must be zero"


def a_batch_is_its_rows_alone_bit_for_bit(case: CodecCase) -> None:
    """No row depends on the padding or on the other rows."""
    codec = case.codec
    wavs, lengths = batch_of(codec)
    codes, frames = codec.encode(wavs, lengths)
    back, samples = codec.decode(codes, frames)
    for row in (0, 1, 3):
        alone, count = codec.encode(wavs[row : row + 1, : lengths[row]], lengths[row : row + 1])
        assert torch.equal(alone[0], codes[row, : frames[row]]), f"row {row} has other codes in a batch"
        wav, _ = codec.decode(alone, count)
        assert torch.equal(wav[0], back[row, : samples[row]]), f"row {row} has other samples in a batch"


def every_length_gives_whole_frames(case: CodecCase) -> None:
    """From a single sample on; a hop, one sample less and one more."""
    codec = case.codec
    whole = torch.from_numpy(voice(4.0, 130.0, 8, codec.spec.sample_rate_hz))
    for samples in sorted({max(hops * codec.hop_samples + more, 1) for hops in (0, 1, 2, 37) for more in (-1, 0, 1)}):
        codes, frames = codec.encode(whole[None, :samples], torch.tensor([samples]))
        codec.spec.check(codes)
        expected = -(-samples // codec.hop_samples)
        assert codes.shape[1] == int(frames[0]) == expected, f"{samples} samples must be {expected} frames"
        back, lengths = codec.decode(codes, frames)
        assert back.shape[1] == int(lengths[0]) == expected * codec.hop_samples, (
            f"{expected} frames have a wrong length"
        )
        assert bool(back.isfinite().all()), f"{expected} frames are not finite"


def every_frame_has_a_vector(case: CodecCase) -> None:
    """(T, F) float32, of each frame's codes alone."""
    codec = case.codec
    codes, frames = codec.encode(*batch_of(codec))
    vectors = codec.dequantise(codes[0])
    assert (vectors.dtype, vectors.ndim, len(vectors)) == (torch.float32, 2, int(frames[0])), "must be (T, F) float32"
    torch.testing.assert_close(codec.dequantise(codes[0, 2:4]), vectors[2:4])


def codes_of_a_codebook_have_vectors(case: CodecCase) -> None:
    """(N, codebook_size, F) float32, whose distances tell which codes are similar; not all are the same."""
    spec, vectors = case.codec.spec, case.codec.code_vectors()
    shape = (spec.num_codebooks, spec.codebook_size)
    assert vectors.dtype == torch.float32 and vectors.ndim == 3, (
        "vectors of codes must be (N, codebook_size, F) float32"
    )
    assert vectors.shape[:2] == shape, f"vectors of codes must be of {shape} codes, got {tuple(vectors.shape)}"
    assert bool(vectors.isfinite().all()), "vectors of codes must be finite"
    assert bool((vectors.std(dim=1).amax(dim=-1) > 0).all()), "all codes of a codebook have the same vector"


def samples_are_final_after_the_lookahead(case: CodecCase) -> None:
    """Speech is handed out while it is made; `lookahead_frames` and `lookbehind_frames` say when and from what."""
    codec = case.codec
    ahead, behind = codec.lookahead_frames, codec.lookbehind_frames
    if ahead is None:
        return
    codes, _ = codec.encode(*batch_of(codec))
    whole, hop = codec.decode_utterance(codes[0]), codec.hop_samples
    for frames in range(1, len(codes[0]) - ahead):
        first = 0 if behind is None else max(frames - 1 - behind, 0)
        part = codec.decode_utterance(codes[0, first : frames + ahead])
        of_frame = part[(frames - 1 - first) * hop : (frames - first) * hop]
        moved = float((of_frame - whole[(frames - 1) * hop : frames * hop]).abs().max())
        # networks that reflect the ends of what they are given move the very first frames of it by a little
        most = 0.01 * float(whole.abs().max())
        assert moved <= most, f"frame {frames - 1} moves by {moved:.1e} after {ahead} frames behind it are known"
    remembers = codec.streaming_decoder()
    if remembers is not None:
        pieces = [remembers(piece) for piece in codes[0].split([1, 2, len(codes[0]) - 3])]
        assert torch.equal(torch.cat(pieces), whole), "a streaming decoder makes other samples than the whole"


def decoding_refuses_ids_that_are_not_codes(case: CodecCase) -> None:
    """The special ids of a model among them."""
    special = torch.full((1, 2, case.codec.spec.num_codebooks), case.codec.spec.eos_id)
    assert_refused(partial(case.codec.decode, special, torch.tensor([2])), "codes must lie in")


def the_same_seed_gives_the_same_file_and_loading_gives_the_same_codes(case: CodecCase) -> None:
    """Equal codecs have equal fingerprints, and the file holds all there is to a codec."""
    name, codec = case.name, case.codec
    with tempfile.TemporaryDirectory() as folder:
        first = save_codec(codec, name, Path(folder) / "one", {})
        second = save_codec(fresh_codec(name, case.conf), name, Path(folder) / "two", {})
        assert first.fingerprint == second.fingerprint, "the same seed must give the same file"
        loaded = load_codec(Path(folder) / "one")
        assert loaded.spec == codec.spec and loaded.options == codec.options, "a loaded codec has other facts"
        third = save_codec(loaded, name, Path(folder) / "three", {})
        assert third.checkpoint.read_bytes() == first.checkpoint.read_bytes(), "a loaded codec is saved as another"
    assert third.fingerprint == first.fingerprint, "a loaded codec has another fingerprint"
    wavs, lengths = batch_of(codec)
    codes, frames = codec.encode(wavs, lengths)
    assert torch.equal(loaded.encode(wavs, lengths)[0], codes), "a loaded codec encodes otherwise"
    assert torch.equal(loaded.decode(codes, frames)[0], codec.decode(codes, frames)[0]), "and decodes otherwise"


def an_unknown_option_is_refused_with_those_there_are(case: CodecCase) -> None:
    """Options are the keyword arguments of `create` and `configure`."""
    message = f"codec_conf of {case.name} must be among .*, got .*no_option"
    assert_refused(partial(fresh_codec, case.name, {**case.conf, "no_option": 1}), message)


CODEC_CONTRACT: tuple[Callable[[CodecCase], None], ...] = (
    frames_and_samples_are_tied_by_the_hop,
    a_batch_is_its_rows_alone_bit_for_bit,
    every_length_gives_whole_frames,
    every_frame_has_a_vector,
    codes_of_a_codebook_have_vectors,
    samples_are_final_after_the_lookahead,
    decoding_refuses_ids_that_are_not_codes,
    the_same_seed_gives_the_same_file_and_loading_gives_the_same_codes,
    an_unknown_option_is_refused_with_those_there_are,
)


def check_codec(name: str, conf: Mapping[str, object] | None = None) -> None:
    """Hold a registered codec to its contract.

    Args:
        name: registered name.
        conf: its options; one that learns must be content with eight seconds of sound. None for the defaults.

    Raises:
        AssertionError: saying what it does not keep.
    """
    case = CodecCase.create(name, conf or {})
    for clause in CODEC_CONTRACT:
        clause(case)
