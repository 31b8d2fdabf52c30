"""What every codec offers: waveforms to codes and back, one utterance or a padded batch, and a weights file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from espnet_ext.codes import CodecSpec
from espnet_ext.registry import Registry


class Codec(ABC):
    """A neural or classical audio codec with N parallel codebooks.

    A subclass handles one utterance at a time; batches are rows of it, so that no result can depend on the
    padding or on the other rows. It may override `encode` and `decode` where it can keep that promise faster.

    Frames and samples are tied exactly: ``frames = ceil(samples / hop_samples)``, and decoding gives
    ``frames * hop_samples`` samples.

    Attributes:
        spec: codebooks, frame rate, sample rate.
        options: what `load` needs besides the weights file; written to ``codec_conf`` of codec_info.yaml.
        sample_rate_hz: rate of the audio that `create` learns from, that of `spec`.
        learns: whether `create` learns from a corpus.
        weights_name: name of the weights file inside a codec directory.
    """

    sample_rate_hz: ClassVar[int]
    learns: ClassVar[bool] = False
    weights_name: ClassVar[str] = "codec.npz"
    spec: CodecSpec
    options: dict[str, object]

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
        """The codec stored in a weights file; subclasses add the options that `options` names.

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
        codes = torch.zeros(len(wavs), int(frames.max()), self.spec.num_codebooks, dtype=torch.int64)
        for row, (wav, length, count) in enumerate(zip(wavs, lengths.tolist(), frames.tolist(), strict=True)):
            if count:
                codes[row, :count] = self.encode_utterance(wav[:length])
        return codes.to(wavs.device), frames

    @torch.no_grad()
    def decode(self, codes: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Waveforms of a batch: (B, samples) float32, zero after the end of a row, and (B,) samples.

        Args:
            codes: (B, T, N) int64.
            lengths: (B,) frames of each row, 0 allowed.

        Returns:
            Waveforms and their lengths.

        Raises:
            ValueError: if a code is not one of this codec's (special ids included).
        """
        samples = lengths * self.hop_samples
        wavs = torch.zeros(len(codes), int(samples.max()))
        for row, (frames, length, count) in enumerate(zip(codes, lengths.tolist(), samples.tolist(), strict=True)):
            if length:
                self.spec.check(frames[:length])
                wavs[row, :count] = self.decode_utterance(frames[:length])
        return wavs.to(codes.device), samples


codecs: Registry[type[Codec]] = Registry("codec", "espnet_ext.codec")

register_codec = codecs.register
