"""Speech in pieces while it is generated: only frames that are final reach the codec, and only samples that are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from espnet_ext.decoding import Generation, Runaway
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
        has_eos: False if it did not end by itself; known of the last piece only.
        local_passes: passes of the local head so far.
        unknown: of the text, as in `Speech`.
        words: of the whole text with their times, likewise; known of the last piece only.
        prompt_sec: how long the prompt is; 0 for none.
        prompt_used_sec: how much of it the model was given.
        runaway: why it ran away, known of the last piece only; what was handed out cannot be taken back, so that it is
            not decoded again.
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
    runaway: Runaway | None = None


def stream_speech(codec: Codec, generations: Iterable[Generation], chunk_frames: int) -> Iterator[SpeechChunk]:
    """Pieces of the speech of one utterance.

    A codec with a `streaming_decoder` is given the new frames alone; another one also the `lookbehind_frames` in front
    of them, all so far where it needs all. The samples of the last `lookahead_frames` are held back, because later
    frames change them. What is handed out, put together, equals the decoding of the whole utterance: sample by sample
    for world_vq and lyra, up to 1e-4 of its root mean square for encodec. A codec of which nobody knows how far it
    looks ahead gives one piece at the end.

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
    started, sent, last, remembers = perf_counter(), 0, None, codec.streaming_decoder()
    for last in generations:
        frames = int(last.lengths[0])
        if codec.lookahead_frames is None or bool(last.has_eos[0]):
            continue
        settled = frames - max(codec.lookahead_frames, 1)  # the end may have to be faded
        if settled - sent >= chunk_frames:
            samples = _decode(codec, remembers, last, sent, settled)
            sent = settled
            yield _chunk(samples, last, started, is_last=False)
    if last is not None:
        samples = _decode(codec, remembers, last, sent, int(last.lengths[0]))
        samples = cut_off(samples, bool(last.has_eos[0]), codec.spec.sample_rate_hz)
        yield _chunk(samples, last, started, is_last=True)


def _decode(
    codec: Codec, remembers: Callable[[Tensor], Tensor] | None, generation: Generation, sent: int, settled: int
) -> NDArray[np.float32]:
    """Samples of the frames [sent, settled)."""
    if remembers is not None:
        new = generation.codes[0, sent:settled].cpu()
        codec.spec.check(new)
        piece: NDArray[np.float32] = remembers(new).numpy()
        return piece
    behind = sent if codec.lookbehind_frames is None else codec.lookbehind_frames
    first, frames, hop = max(sent - behind, 0), int(generation.lengths[0]), codec.hop_samples
    wavs, _ = codec.decode(generation.codes[:, first:frames].cpu(), torch.tensor([frames - first]))
    samples: NDArray[np.float32] = wavs[0, (sent - first) * hop : (settled - first) * hop].numpy()
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
        runaway=generation.runaway[0] if is_last and generation.runaway else None,
    )
