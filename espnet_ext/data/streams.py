"""Semantic units and codes of the same sound, side by side: how long they are, parts of them, and silence."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from espnet_ext.codes import CodecSpec
from espnet_ext.errors import UserError
from espnet_ext.storage.atomic import atomic_path
from espnet_ext.storage.checksums import verify
from espnet_ext.tokenizers.codec.base import Codec
from espnet_ext.tokenizers.semantic.base import SemanticTokenizer

Ids = NDArray[np.int64]

SILENCE_NAME = "silence.npz"
ENCODED_SILENCE_SEC = 1.0  # more than is ever joined, as a tokenizer may need some context
MAX_FRAMES_APART = 2  # of units and codes of the same sound, in frames of the slower rate


class Streams(NamedTuple):
    """Both descriptions of the same sound.

    Attributes:
        units: (T1,) int64 semantic units, with their repetitions.
        codes: (T2, N) int64.
    """

    units: Ids
    codes: Ids


def frames_within(seconds: float, spec: CodecSpec) -> int:
    """Frames that begin and end within so many seconds; training and inference both count by it.

    Args:
        seconds: duration.
        spec: facts of the codec, or of whatever has frames.

    Returns:
        Their number.

    >>> frames_within(0.1, CodecSpec(8, 1024, 75.0, 24000))
    7
    """
    return int(seconds * spec.frame_rate_hz + 1e-6)  # 0.6 s at 75 Hz are no exact floats


def units_within(frames: int, spec: CodecSpec, semantic: CodecSpec) -> int:
    """Units that last as long as so many frames.

    Args:
        frames: of the codec.
        spec: facts of the codec.
        semantic: facts of the semantic tokenizer.

    Returns:
        Their number.
    """
    return round(frames / spec.frame_rate_hz * semantic.frame_rate_hz)


def excerpt(streams: Streams, first: int, frames: int, spec: CodecSpec, semantic: CodecSpec) -> Streams:
    """The same part of both streams.

    Args:
        streams: both.
        first: frame that it begins with.
        frames: how many frames it has.
        spec: facts of the codec.
        semantic: facts of the semantic tokenizer.

    Returns:
        Views of both.
    """
    begin, end = (units_within(frame, spec, semantic) for frame in (first, first + frames))
    return Streams(streams.units[begin:end], streams.codes[first : first + frames])


def disagreement(num_units: int, num_frames: int, semantic: CodecSpec, codec: CodecSpec) -> str | None:
    """Why units and codes cannot be of the same sound, in one line; None if they can.

    Args:
        num_units: T1, not de-duplicated.
        num_frames: T2.
        semantic: facts of the tokenizer.
        codec: facts of the codec.

    Returns:
        The reason.
    """
    slower = min(semantic.frame_rate_hz, codec.frame_rate_hz)
    units, frames = num_units / semantic.frame_rate_hz, num_frames / codec.frame_rate_hz  # seconds
    if abs(units - frames) * slower <= MAX_FRAMES_APART + 1e-6:  # durations such as 1 / 75 s are no exact floats
        return None
    return (
        f"lengths differ by more than {MAX_FRAMES_APART} frames of {slower:g} Hz: {num_units} units ({units:.3f} s), "
        f"{num_frames} codec frames ({frames:.3f} s)"
    )


def encode_streams(codec: Codec, tokenizer: SemanticTokenizer, for_codec: Tensor, for_tokenizer: Tensor) -> Streams:
    """Both streams of a sound.

    Args:
        codec: the codec.
        tokenizer: the semantic tokenizer.
        for_codec: (samples,) float32 at the codec's rate.
        for_tokenizer: (samples,) float32 of the same sound at the tokenizer's rate.

    Returns:
        The streams.
    """
    codes, _ = codec.encode(for_codec[None], torch.tensor([len(for_codec)]))
    return Streams(tokenizer.encode(for_tokenizer).numpy(), codes[0].numpy())


def encode_silence(codec: Codec, tokenizer: SemanticTokenizer) -> Streams:
    """A second of digital silence as both encode it.

    Args:
        codec: the codec.
        tokenizer: the semantic tokenizer.

    Returns:
        The streams.
    """
    rates = codec.spec.sample_rate_hz, tokenizer.sample_rate_hz
    return encode_streams(codec, tokenizer, *(torch.zeros(round(ENCODED_SILENCE_SEC * rate)) for rate in rates))


def write_silence(path: Path, codec: Codec, tokenizer: SemanticTokenizer) -> None:
    """Write what `encode_silence` makes: codes (F, N) int32 and units (U,) int32.

    Args:
        path: file to write.
        codec: the codec.
        tokenizer: the semantic tokenizer.
    """
    silence = encode_silence(codec, tokenizer)
    arrays = {name: values.astype(np.int32) for name, values in silence._asdict().items()}
    with atomic_path(path) as temporary:
        np.savez(temporary, allow_pickle=False, **arrays)


def read_silence(folder: Path) -> Streams:
    """Both streams of silence, from the silence.npz of a token directory.

    Args:
        folder: written by semantic_tokens.

    Returns:
        The streams.

    Raises:
        FileNotFoundError: if the file is missing.
        UserError: if it is damaged.
    """
    path = folder / SILENCE_NAME
    if not path.is_file():
        raise FileNotFoundError(f"silence not found: {path} (espnet_ext.bin.semantic_tokens writes it)")
    verify(path)
    try:
        with np.load(path) as content:
            units, codes = content["units"], content["codes"]
        if (units.dtype.kind, units.ndim, codes.dtype.kind, codes.ndim) != ("i", 1, "i", 2):
            raise UserError("no whole numbers of both streams")
    except Exception as error:  # numpy and zipfile raise a dozen kinds for damaged files, all of them mean the same
        reason = " ".join(f"{type(error).__name__} {error}".split())[:200]
        raise UserError(f"{path} must hold both streams of silence (semantic_tokens --force), got {reason}") from None
    return Streams(units.astype(np.int64), codes.astype(np.int64))
