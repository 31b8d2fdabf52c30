"""What every semantic tokenizer does: waveform to features at a fixed rate, and to the nearest centroid."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from espnet_ext.codes import CodecSpec
from espnet_ext.errors import UserError
from espnet_ext.registries import semantic_tokenizers
from espnet_ext.tokenizers.audio import AudioTokenizer
from espnet_ext.tokenizers.description import TokenizerFiles
from espnet_ext.tokenizers.semantic.kmeans import nearest


class SemanticTokenizer(AudioTokenizer):
    """Features of speech that tell what is said rather than who says it, and a k-means codebook over them.

    An utterance is always encoded alone, so that its units depend neither on padding nor on other utterances, and a
    long one in chunks, in memory that hardly grows.

    Args:
        frame_rate_hz: units per second

    Attributes:
        default_units: K unless the user wants another.
        is_network: whether torch itself uses several threads for an utterance; in threads of ours it rounds otherwise.
        frame_rate_hz: units per second.
        centroids: (K, F) float32; empty until they are learned.
        device: where the network computes; units are on the CPU.
    """

    weights_name: ClassVar[str] = "semantic.npz"
    sample_rate_hz: ClassVar[int] = 16000
    default_units: ClassVar[int]
    is_network: ClassVar[bool] = False

    def __init__(self, frame_rate_hz: float) -> None:
        self.frame_rate_hz = frame_rate_hz
        self.centroids = torch.zeros(0, 0)

    @classmethod
    @abstractmethod
    def create(cls, seed: int) -> SemanticTokenizer:
        """A tokenizer; subclasses add their own options as keyword arguments with defaults.

        Args:
            seed: makes everything random repeatable

        Returns:
            The tokenizer, as a rule without centroids.
        """

    @abstractmethod
    def features(self, wav: Tensor) -> Tensor:
        """What the centroids are compared with.

        Args:
            wav: (samples,) float32 at `sample_rate_hz`, at least one sample

        Returns:
            (T, F) float32 on the CPU.
        """

    @classmethod
    def learns(cls, conf: Mapping[str, object]) -> bool:
        """Whether a tokenizer with these options learns its units from a corpus.

        Args:
            conf: the user's options

        Returns:
            Whether it does.
        """
        return True

    def calibrate(self, waveforms: Sequence[np.ndarray]) -> None:  # noqa: B027, most have nothing to look at
        """Look at a few utterances of the corpus before its features are computed.

        Args:
            waveforms: (samples,) float32 each
        """

    @property
    def spec(self) -> CodecSpec:  # type: ignore[override]  # known as soon as there are centroids
        """Its facts as those of a codec with one codebook."""
        return CodecSpec(1, len(self.centroids), self.frame_rate_hz, self.sample_rate_hz)

    @torch.no_grad()
    def encode(self, wav: Tensor) -> Tensor:
        """Units of one utterance: (T,) int64, not de-duplicated.

        Args:
            wav: (samples,) float32 at `sample_rate_hz`, at least one sample

        Returns:
            The units.

        Raises:
            UserError: if `wav` has another shape, holds nothing, or is not finite
        """
        if wav.ndim != 1 or not len(wav):
            raise UserError(f"wav must be (samples,) with at least one sample, got shape {tuple(wav.shape)}")
        if not torch.isfinite(wav).all():
            raise UserError("wav must be finite, got NaN or infinite samples")
        return nearest(self.features(wav.float().cpu()), self.centroids)


register_semantic = semantic_tokenizers.register

semantic_files = TokenizerFiles(
    semantic_tokenizers, "semantic tokenizer", "tokenizer", "espnet_ext.bin.semantic_fit", has_deduplicate=True
)
