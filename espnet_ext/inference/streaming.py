"""Speech in pieces while it is generated: only frames that are final reach the codec, and only samples that are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray

from espnet_ext.decoding import Generation
from espnet_ext.inference.speech import Word, cut_off
from espnet_ext.options import check_number
from espnet_ext.tokenizers.codec.base import Codec


@dataclass(frozen=True)
class SpeechChunk:
    """A piece of speech.

    Attributes:
        samples: (samples,) float32, those that follow on the piece before.
        codes: (T, N) int64, of the whole utterance so far.
        seconds: wall time since the request.
        is_last: whether the utterance is complete.
        has_eos: False if it ran into its length limit; known of the last piece only.
        local_passes: passes of the local head so far.
        unknown: of the text, as in `Speech`.
        words: of the whole text with their times, likewise; known of the last piece only.
        prompt_sec: how long the prompt is; 0 for none.
        prompt_used_sec: how much of it the model was given.
    """

    samples: NDArray[np.float32]
    codes: NDArray[np.int64]
    seconds: float
    is_last: bool
    has_eos: bool
    local_passes: int
    unknown: tuple[str, ...] = ()
    words: tuple[Word, ...] = ()
    prompt_sec: float = 0.0
    prompt_used_sec: float = 0.0


def stream_speech(codec: Codec, generations: Iterable[Generation], chunk_frames: int) -> Iterator[SpeechChunk]:
    """Pieces of the speech of one utterance.

    The codec is given the new frames and the `lookbehind_frames` in front of them, all so far where it needs all, and
    the samples of the last `lookahead_frames` are held back, because later frames change them. What is handed out, put
    together, equals the decoding of the whole utterance: sample by sample for world_vq, up to 1e-4 of its root mean
    square for encodec. A codec of which nobody knows how far it looks ahead gives one piece at the end.

    Args:
        codec: of the codes.
        generations: from `generate_stream`, of one row.
        chunk_frames: frames of a piece, at least; the last may be shorter.

    Returns:
        The pieces.

    Raises:
        UserError: if `chunk_frames` is below 1.
    """
    check_number("chunk_frames", chunk_frames, least=1, whole=True)
    return _pieces(codec, generations, chunk_frames)


def _pieces(codec: Codec, generations: Iterable[Generation], chunk_frames: int) -> Iterator[SpeechChunk]:
    started, sent, last = perf_counter(), 0, None
    for last in generations:
        frames = int(last.lengths[0])
        if codec.lookahead_frames is None or bool(last.has_eos[0]):
            continue
        settled = frames - max(codec.lookahead_frames, 1)  # the end may have to be faded
        if settled - sent // codec.hop_samples >= chunk_frames:
            samples = _decode(codec, last, sent, frames)[: settled * codec.hop_samples - sent]
            sent += len(samples)
            yield _chunk(samples, last, started, is_last=False)
    if last is not None:
        samples = _decode(codec, last, sent, int(last.lengths[0]))
        samples = cut_off(samples, bool(last.has_eos[0]), codec.spec.sample_rate_hz)
        yield _chunk(samples, last, started, is_last=True)


def _decode(codec: Codec, generation: Generation, sent: int, frames: int) -> NDArray[np.float32]:
    """Samples from number `sent`, the first one of a frame, to the end of a number of frames."""
    behind = frames if codec.lookbehind_frames is None else codec.lookbehind_frames
    first = max(sent // codec.hop_samples - behind, 0)
    wavs, lengths = codec.decode(generation.codes[:, first:frames].cpu(), torch.tensor([frames - first]))
    samples: NDArray[np.float32] = wavs[0, sent - first * codec.hop_samples : int(lengths[0])].numpy()
    return samples


def _chunk(samples: NDArray[np.float32], generation: Generation, started: float, is_last: bool) -> SpeechChunk:
    frames = int(generation.lengths[0])
    return SpeechChunk(
        samples,
        generation.codes[0, :frames].cpu().numpy(),
        perf_counter() - started,
        is_last,
        bool(generation.has_eos[0]),
        int(generation.local_passes.sum()),
    )
