"""Codecs that are networks: encoder, residual quantiser, decoder; long audio goes through them in chunks."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from espnet_ext.codes import CodecSpec
from espnet_ext.errors import UserError
from espnet_ext.tokenizers.codec.base import Codec
from espnet_ext.tokenizers.codec.merge import Merge
from espnet_ext.tokenizers.codec.residual import Branch, dequantise, draw_codebooks, quantise
from espnet_ext.tokenizers.codec.weights import one_line, write_weights

CHUNK_SEC = 30.0
T = TypeVar("T")


@dataclass(frozen=True)
class Parts:
    """What every neural codec is made of.

    Attributes:
        encoder: (1, 1, samples) waveform to (1, D, T) latents.
        branches: codebooks.
        decoder: (1, D, T) latents to (1, 1, samples) waveform.
    """

    encoder: Callable[[Tensor], Tensor]
    branches: Sequence[Branch]
    decoder: Callable[[Tensor], Tensor]

    @property
    def num_codebooks(self) -> int:
        """Codebooks that there are."""
        return sum(len(branch.layers) for branch in self.branches)


class Span(NamedTuple):
    """Frames of a chunk, [start, stop), and those that the network is shown with them, [left, right)."""

    start: int
    stop: int
    left: int
    right: int


def spans(frames: int, core: int, context: int) -> Iterator[Span]:
    """Chunks that cover an utterance without a gap or an overlap.

    Args:
        frames: of the utterance
        core: frames of a chunk; an utterance that is not longer is one chunk
        context: further frames on both sides

    Yields:
        One chunk after the other.

    >>> [tuple(span) for span in spans(frames=5, core=2, context=1)]
    [(0, 2, 0, 3), (2, 4, 1, 5), (4, 5, 3, 5)]
    """
    for start in range(0, frames, core):
        stop = min(start + core, frames)
        yield Span(start, stop, max(start - context, 0), min(stop + context, frames))


def build_seeded(build: Callable[[], T], seed: int) -> T:
    """What a function makes of random numbers that depend on nothing but the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def exactly(device: torch.device) -> AbstractContextManager[object]:
    """On a GPU, float32 convolutions in float32, always by the same algorithm."""
    if device.type != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)


class NeuralCodec(Codec):
    """A network with a residual quantiser; subclasses build it or read it from files.

    Args:
        network: holds all the weights
        parts: its parts
        spec: rates and codebook size; its number of codebooks is that in use
        config: what `load` builds the network from, if it needs to be told

    Raises:
        UserError: if the network does not make one frame of so many samples
    """

    # Seconds of sound on both sides of a chunk that the network is shown besides, in order that it makes of the
    # chunk what it would make of it in the whole utterance.
    context_sec: ClassVar[float] = 2.0
    network: nn.Module

    def __init__(
        self, network: nn.Module, parts: Parts, spec: CodecSpec, config: Mapping[str, Any] | None = None
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.parts = parts
        self.spec = spec
        self.config = config
        self.merge: Merge | None = None
        self.chunk_sec = CHUNK_SEC
        self._try()

    @torch.no_grad()
    def _try(self) -> None:
        """Send four frames of silence through the network, so that one that cannot do it is refused here."""
        samples = 4 * self.hop_samples
        try:
            latent = self.parts.encoder(torch.zeros(1, 1, samples))
            found = self.parts.decoder(latent).shape
        except Exception as error:  # a network that was put together badly fails in its own way
            raise UserError(f"codec must code {samples} samples of silence, got {one_line(error)}") from None
        if latent.shape[-1] != 4 or found[:-1] != (1, 1) or not samples - self.hop_samples < found[-1]:
            raise UserError(f"codec must make 4 frames of {samples} samples, got {latent.shape[-1]} and {found[-1]}")

    def configure(
        self,
        num_codebooks: int | None = None,
        merge: Mapping[str, object] | None = None,
        chunk_sec: float | None = None,
    ) -> None:
        """Set what every codec of this kind lets its user choose; None leaves it as it is.

        Args:
            num_codebooks: use the first ones
            merge: {rate: R, codebooks: [n, ...]}, codebooks that keep one code for R frames
            chunk_sec: longest part of an utterance, in seconds, that the network is given at once

        Raises:
            UserError: if a value is impossible
        """
        available = self.parts.num_codebooks
        if num_codebooks is not None:
            whole = isinstance(num_codebooks, int) and not isinstance(num_codebooks, bool)
            if not whole or not 1 <= num_codebooks <= available:
                raise UserError(f"num_codebooks must be in [1, {available}], got {num_codebooks!r}")
            self.spec = replace(self.spec, num_codebooks=num_codebooks)
        if merge is not None:
            self.merge = Merge.parse(merge, self.spec.num_codebooks)
        if chunk_sec is not None:
            number = isinstance(chunk_sec, int | float) and not isinstance(chunk_sec, bool)
            if not number or not 1 <= chunk_sec < math.inf:
                raise UserError(f"chunk_sec must be a number of at least 1, got {chunk_sec!r}")
            self.chunk_sec = float(chunk_sec)

    @property
    def options(self) -> dict[str, object]:
        """What `configure` has set."""
        merge = {} if self.merge is None else {"merge": self.merge.plain()}
        return {"num_codebooks": self.spec.num_codebooks, **merge, "chunk_sec": self.chunk_sec}

    def save(self, checkpoint: Path) -> None:
        """Write the network's state dict and configuration as an npz file."""
        write_weights(checkpoint, self.network.state_dict(), self.config)

    def draw(self, seed: int) -> None:
        """Random codebooks that fit the encoder, for a network that was never trained."""
        logging.warning("%s has random weights: its speech is noise", type(self).__name__)
        generator = torch.Generator().manual_seed(seed)
        frames = math.ceil(self.spec.frame_rate_hz)
        with torch.no_grad():
            noise = torch.randn(1, 1, frames * self.hop_samples, generator=generator)
            noise *= torch.linspace(0, 0.3, noise.shape[-1])  # as loud as speech is, from silence on
            draw_codebooks(self.parts.encoder(noise), self.parts.branches, generator)

    def _spans(self, frames: int) -> Iterator[Span]:
        rate = 1 if self.merge is None else self.merge.rate
        core = max(int(self.chunk_sec * self.spec.frame_rate_hz) // rate, 1) * rate  # no group across two chunks
        return spans(frames, core, math.ceil(self.context_sec * self.spec.frame_rate_hz))

    def encode_utterance(self, wav: Tensor) -> Tensor:
        """Codes of one utterance: (T, N) int64."""
        hop = self.hop_samples
        whole = nn.functional.pad(wav.float(), (0, -len(wav) % hop))
        codes = []
        with exactly(self.device):
            for span in self._spans(len(whole) // hop):
                piece = whole[span.left * hop : span.right * hop].to(self.device)
                latent = self.parts.encoder(piece[None, None])[..., span.start - span.left : span.stop - span.left]
                codes.append(quantise(latent, self.parts.branches, self.spec.num_codebooks, self.merge)[0])
        return torch.cat(codes)

    def dequantise(self, codes: Tensor) -> Tensor:
        """Sums of codebook entries, the decoder's input: (T, D) float32."""
        return dequantise(codes.to(self.device)[None], self.parts.branches)[0].T.contiguous().to(codes.device)

    def decode_utterance(self, codes: Tensor) -> Tensor:
        """Waveform of one utterance: (T * hop_samples,) float32."""
        hop = self.hop_samples
        wavs = []
        with exactly(self.device):
            for span in self._spans(len(codes)):
                latent = dequantise(codes[None, span.left : span.right].to(self.device), self.parts.branches)
                wav = self.parts.decoder(latent)[0, 0]
                # transposed convolutions of odd stride give a few samples less
                wav = nn.functional.pad(wav, (0, max(len(latent[0, 0]) * hop - len(wav), 0)))
                wavs.append(wav[(span.start - span.left) * hop : (span.stop - span.left) * hop])
        return torch.cat(wavs)
