"""What every codec offers: waveforms to codes and back, one utterance or a padded batch, and a weights file."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from espnet_ext.registries import codecs
from espnet_ext.tokenizers.audio import AudioTokenizer
from espnet_ext.tokenizers.description import TokenizerFiles


class Codec(AudioTokenizer):
    """A neural or classical audio codec with N parallel codebooks.

    A subclass handles one utterance at a time, and long ones in constant memory if it can; batches are rows of it,
    so that no result can depend on the padding or on the other rows. Rows of equal length in one call of a network
    would not do: libraries choose other algorithms for other batch sizes, the last bits of the latents differ, and
    near a cell border another code wins.

    Frames and samples are tied exactly: ``frames = ceil(samples / hop_samples)``, and decoding gives
    ``frames * hop_samples`` samples.

    Attributes:
        device: where the network computes; results are where the arguments are.
        learns: whether `create` learns from a corpus.
        lookahead_frames: frames whose codes must be known before the samples of a frame are final; None where nobody
            has measured it, and all frames may matter.
        license: terms of the codec and its weights, in words, for whoever gets a model that speaks with it.
        extra: extra of this package that installs what it needs; empty where nothing is needed, or nobody knows.
        lookbehind_frames: frames in front that a frame's samples need, up to a rounding that a test measures; None for
            all of them.
    """

    learns: ClassVar[bool] = False
    license: ClassVar[str] = "not stated"
    extra: ClassVar[str] = ""
    weights_name: ClassVar[str] = "codec.npz"
    lookahead_frames: ClassVar[int | None] = None
    lookbehind_frames: ClassVar[int | None] = None

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

    @torch.no_grad()
    def code_vectors(self) -> Tensor:
        """What codes stand for, of which those of one codebook can be compared: (N, codebook_size, F) float32.

        They are the vectors of frames whose other codes are 0, less their mean. Where codebooks are added or stand side
        by side, the distances within a codebook are those of its entries.
        """
        count, size = self.spec.num_codebooks, self.spec.codebook_size
        codes = torch.zeros(count, size, count, dtype=torch.int64)
        for book in range(count):
            codes[book, :, book] = torch.arange(size)
        vectors = torch.stack([self.dequantise(frames) for frames in codes])
        return vectors - vectors.mean(dim=1, keepdim=True)

    def streaming_decoder(self) -> Callable[[Tensor], Tensor] | None:
        """What decodes one utterance in pieces and remembers what it was given; None where there is no such thing.

        Returns:
            A function of (T, N) codes, those behind the codes of the call before, that returns their samples; put
            together they are what `decode_utterance` makes of all codes. None for a codec whose pieces are decoded
            together with frames in front of them.
        """
        return None

    @property
    def options(self) -> dict[str, object]:
        """What `configure` was called with, in types that yaml knows; ``codec_conf`` of codec_info.yaml keeps it."""
        return {}

    def configured(self) -> dict[str, object]:
        """The options, under the name that all audio tokenizers have for them."""
        return self.options

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


register_codec = codecs.register

codec_files = TokenizerFiles(codecs, "codec", "codec", "espnet_ext.bin.codec_fit")


def create_codec(name: str, waveforms: Iterable[np.ndarray], seed: int, conf: Mapping[str, object]) -> Codec:
    """A new codec by name.

    Args:
        name: registered name.
        waveforms: (samples,) float32 each, the corpus to learn from.
        seed: makes everything random repeatable.
        conf: the codec's own options.

    Returns:
        The codec, not saved yet.

    Raises:
        UserError: if the codec or an option is unknown.
    """
    codec_files.check_conf(name, conf)
    chosen = {key: conf[key] for key in codec_files.choices(name) if key in conf}
    codec = codecs[name].create(waveforms, seed, **{key: value for key, value in conf.items() if key not in chosen})
    codec.configure(**chosen)
    return codec
