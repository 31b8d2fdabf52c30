"""What every codec offers: waveforms to codes and back, one utterance or a padded batch, and a weights file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from espnet_ext.codes import CodecSpec
from espnet_ext.registry import Registry


class Codec(ABC):
    """A neural or classical audio codec with N parallel codebooks.

    A subclass handles one utterance at a time, and long ones in constant memory if it can; batches are rows of it,
    so that no result can depend on the padding or on the other rows. Rows of equal length in one call of a network
    would not do: libraries choose other algorithms for other batch sizes, the last bits of the latents differ, and
    near a cell border another code wins.

    Frames and samples are tied exactly: ``frames = ceil(samples / hop_samples)``, and decoding gives
    ``frames * hop_samples`` samples.

    Attributes:
        spec: codebooks, frame rate, sample rate.
        device: where the codec computes; results are where the arguments are.
        learns: whether `create` learns from a corpus.
        sample_rate_hz: rate of the audio that it learns from.
        weights_name: name of the weights file inside a codec directory.
        lookahead_frames: frames whose codes must be known before the samples of a frame are final; None where nobody
            has measured it, and all frames may matter.
        lookbehind_frames: frames in front that a frame's samples need, up to a rounding that a test measures; None for
            all of them.
    """

    learns: ClassVar[bool] = False
    sample_rate_hz: ClassVar[int]
    weights_name: ClassVar[str] = "codec.npz"
    lookahead_frames: ClassVar[int | None] = None
    lookbehind_frames: ClassVar[int | None] = None
    spec: CodecSpec
    device: torch.device = torch.device("cpu")

    @classmethod
    @abstractmethod
    def create(cls, waveforms: Iterable[np.ndarray], seed: int) -> Codec:
        """A codec ready for use; subclasses add their own options as keyword arguments with defaults.

        Args:
            waveforms: (samples,) float32 each, at the codec's sample rate; a codec that learns nothing from
                the corpus does not touch them.
            seed: makes everything random repeatable.

        Returns:
            The codec, not saved yet.
        """

    @classmethod
    @abstractmethod
    def load(cls, checkpoint: Path) -> Codec:
        """The codec stored in a weights file, which holds all that is needed to build it.

        Args:
            checkpoint: file written by `save`.

        Returns:
            The codec, on the CPU.
        """

    @abstractmethod
    def save(self, checkpoint: Path) -> None:
        """Write the weights; equal weights give equal bytes.

        Args:
            checkpoint: file to write, with the suffix of `weights_name`.
        """

    @abstractmethod
    def encode_utterance(self, wav: Tensor) -> Tensor:
        """Codes of one utterance.

        Args:
            wav: (samples,) float32, at least one sample.

        Returns:
            (T, N) int64.
        """

    @abstractmethod
    def decode_utterance(self, codes: Tensor) -> Tensor:
        """Waveform of one utterance.

        Args:
            codes: (T, N) int64, at least one frame.

        Returns:
            (T * hop_samples,) float32.
        """

    @abstractmethod
    def dequantise(self, codes: Tensor) -> Tensor:
        """Vectors that the codes of each frame stand for.

        Args:
            codes: (T, N) int64.

        Returns:
            (T, F) float32.
        """

    def configure(self) -> None:  # noqa: B027, having no options is the normal case
        """Set what the user may choose about a codec that exists; subclasses add options whose default is None.

        It is called with the user's options after `create` and with those of `options` after `load`.
        """

    @property
    def options(self) -> dict[str, object]:
        """What `configure` was called with, in types that yaml knows; ``codec_conf`` of codec_info.yaml keeps it."""
        return {}

    def to(self, device: torch.device | str) -> Self:
        """This codec, computing on a device from now on; one that is no network stays on the CPU."""
        return self

    @property
    def hop_samples(self) -> int:
        """Samples of one frame."""
        return round(self.spec.sample_rate_hz / self.spec.frame_rate_hz)

    @torch.no_grad()
    def encode(self, wavs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Codes of a batch: (B, T, N) int64, zero after the end of a row, and (B,) frames.

        Args:
            wavs: (B, samples) float32 at the codec's sample rate.
            lengths: (B,) samples of each row, 0 allowed.

        Returns:
            Codes and their lengths.
        """
        frames = (lengths + self.hop_samples - 1) // self.hop_samples
        codes = torch.zeros(
            len(wavs), int(frames.max()), self.spec.num_codebooks, dtype=torch.int64, device=wavs.device
        )
        for row, (wav, length, count) in enumerate(zip(wavs, lengths.tolist(), frames.tolist(), strict=True)):
            if count:
                codes[row, :count] = self.encode_utterance(wav[:length])
        return codes, frames

    @torch.no_grad()
    def decode(self, codes: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Waveforms of a batch: (B, samples) float32, zero after the end of a row, and (B,) samples.

        Args:
            codes: (B, T, N) int64.
            lengths: (B,) frames of each row, 0 allowed.

        Returns:
            Waveforms and their lengths.

        Raises:
            UserError: if a code is not one of this codec's (special ids included).
        """
        samples = lengths * self.hop_samples
        wavs = torch.zeros(len(codes), int(samples.max()), device=codes.device)
        for row, (frames, length, count) in enumerate(zip(codes, lengths.tolist(), samples.tolist(), strict=True)):
            if length:
                self.spec.check(frames[:length])
                wavs[row, :count] = self.decode_utterance(frames[:length])
        return wavs, samples


codecs: Registry[type[Codec]] = Registry("codec", "espnet_ext.codec")

register_codec = codecs.register
