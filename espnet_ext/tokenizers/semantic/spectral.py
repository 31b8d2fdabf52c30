"""Semantic tokenizers `mfcc_km` and `logmel_km`: k-means on spectral features; nothing pretrained, learned in a minute.

Their units know less of words than those of self-supervised networks, and are good for recipes that need no download.
"""

from __future__ import annotations

import functools
import json
import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from espnet_ext.errors import UserError
from espnet_ext.options import check_choice, check_number
from espnet_ext.storage.checkpoint import check_finite
from espnet_ext.storage.tensor_files import read_arrays
from espnet_ext.tokenizers.semantic.base import SemanticTokenizer, register_semantic

HOP = 160  # samples of a sub-frame, 10 ms; a unit is the mean of some of them
WINDOW = 400
N_FFT = 512
NUM_MEL = 40
_LOW_HZ, _HIGH_HZ = 60.0, 7600.0
_POWER_FLOOR = 1e-8  # below the quantisation noise of 16-bit audio: only digital silence is there
_DELTA_REACH = 3  # sub-frames on either side
_CHUNK = 3000  # sub-frames whose spectra are in memory at once
# An utterance's mean and variance are estimated as if this much of average speech were part of it: those of half a
# second, or of silence, would not be worth much.
_PRIOR_SEC = 0.5
NORMALISATIONS = ("none", "mean", "mean_variance")


@dataclass(frozen=True)
class SpectralOptions:
    """What a spectral tokenizer's user chooses.

    Attributes:
        frame_rate_hz: units per second, 100 divided by a whole number.
        dimensions: cepstral coefficients or mel bands.
        deltas: 0 none, 1 slopes, 2 slopes and curvatures.
        normalise: what of an utterance's features is brought to the same value in every utterance.
    """

    frame_rate_hz: float
    dimensions: int
    deltas: int
    normalise: str

    def __post_init__(self) -> None:
        check_number("frame_rate_hz", self.frame_rate_hz, above=0, most=100)
        if not float(100 / self.frame_rate_hz).is_integer():
            raise UserError(f"frame_rate_hz must be 100 divided by a whole number, got {self.frame_rate_hz}")
        check_number("dimensions", self.dimensions, least=2, most=NUM_MEL, whole=True)
        check_number("deltas", self.deltas, least=0, most=2, whole=True)
        check_choice("normalise", self.normalise, NORMALISATIONS)

    @property
    def sub_frames(self) -> int:
        """10 ms parts of a unit."""
        return round(100 / self.frame_rate_hz)


@functools.cache
def _mel_filters(bands: int, rate_hz: int) -> Tensor:
    """Triangles (N_FFT // 2 + 1, bands) of equal height whose edges are equally spaced on the mel scale."""

    def mel(hz: float) -> float:
        return 2595.0 * math.log10(1.0 + hz / 700.0)

    edges = 700.0 * (10.0 ** (torch.linspace(mel(_LOW_HZ), mel(_HIGH_HZ), bands + 2, dtype=torch.float64) / 2595) - 1)
    hz = torch.arange(N_FFT // 2 + 1, dtype=torch.float64)[:, None] * rate_hz / N_FFT
    rising = (hz - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - hz) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0).float()


@functools.cache
def _cosines(bands: int, coefficients: int) -> Tensor:
    """Orthonormal DCT-II, (bands, coefficients)."""
    angle = math.pi / bands * (torch.arange(bands, dtype=torch.float64)[:, None] + 0.5)
    matrix = torch.cos(angle * torch.arange(coefficients, dtype=torch.float64)) * math.sqrt(2.0 / bands)
    matrix[:, 0] /= math.sqrt(2.0)
    return matrix.float()


def log_mel(wav: Tensor, count: int, bands: int, rate_hz: int) -> Tensor:
    """Log energies of mel bands, 100 times per second: (count, bands) float32.

    Args:
        wav: (samples,) float32, full scale 1
        count: sub-frames; the audio is continued with silence
        bands: of the mel scale
        rate_hz: of the audio

    Returns:
        The energies.
    """
    before = (WINDOW - HOP) // 2  # a window's middle is that of its sub-frame
    padded = torch.nn.functional.pad(wav, (before, count * HOP + WINDOW - HOP - before - len(wav)))
    window, filters = torch.hann_window(WINDOW), _mel_filters(bands, rate_hz)
    parts = []
    for piece in padded.unfold(0, WINDOW, HOP).split(_CHUNK):
        power = torch.fft.rfft(piece * window, n=N_FFT).abs().square()
        parts.append(torch.log((power @ filters).clamp(min=_POWER_FLOOR)))
    return torch.cat(parts)


def slopes(features: Tensor) -> Tensor:
    """Slope of every column by linear regression over the neighbours: (T, F) as given."""
    reach = torch.arange(-_DELTA_REACH, _DELTA_REACH + 1, dtype=torch.float32)
    edges = [features[:1].expand(_DELTA_REACH, -1), features, features[-1:].expand(_DELTA_REACH, -1)]
    windows = torch.cat(edges).unfold(0, len(reach), 1)
    return windows @ (reach / reach.square().sum())


class SpectralTokenizer(SemanticTokenizer):
    """Spectral features, their slopes, and the mean and variance of the utterance taken out of them.

    Args:
        options: what the user chose

    Attributes:
        default_dimensions: cepstral coefficients or mel bands unless the user wants others.
        moments: (2, F) mean and mean square of the features of average speech, before normalisation.
    """

    default_dimensions: ClassVar[int]
    default_units = 128

    def __init__(self, options: SpectralOptions) -> None:
        super().__init__(options.frame_rate_hz)
        self.options = options
        width = options.dimensions * (1 + options.deltas)
        self.moments = torch.stack([torch.zeros(width), torch.ones(width)])

    @classmethod
    def create(
        cls,
        seed: int,
        frame_rate_hz: float = 50.0,
        dimensions: int | None = None,
        deltas: int = 2,
        normalise: str = "mean_variance",
    ) -> Self:
        """A tokenizer without centroids.

        Args:
            seed: not used
            frame_rate_hz: units per second, 100 divided by a whole number
            dimensions: cepstral coefficients or mel bands
            deltas: 0 none, 1 slopes, 2 slopes and curvatures
            normalise: none, mean or mean_variance of every utterance

        Returns:
            The tokenizer.

        Raises:
            UserError: if an option has an impossible value
        """
        if dimensions is None:
            dimensions = cls.default_dimensions
        return cls(SpectralOptions(frame_rate_hz, dimensions, deltas, normalise))

    @staticmethod
    @abstractmethod
    def static(wav: Tensor, count: int, options: SpectralOptions, rate_hz: int) -> Tensor:
        """The features themselves, 100 times per second.

        Args:
            wav: (samples,) float32
            count: sub-frames
            options: what the user chose
            rate_hz: of the audio

        Returns:
            (count, dimensions) float32.
        """

    def _raw(self, wav: Tensor) -> Tensor:
        """Features and slopes of the units before normalisation: (T, F)."""
        options, sub = self.options, self.options.sub_frames
        count = -(-len(wav) // (HOP * sub)) * sub
        parts = [self.static(wav, count, options, self.sample_rate_hz)]
        for _ in range(options.deltas):
            parts.append(slopes(parts[-1]))
        return torch.cat(parts, dim=1).view(-1, sub, parts[0].shape[1] * len(parts)).mean(1)

    def _voiced(self, wav: Tensor, raw: Tensor) -> Tensor:
        """The rows of units in which there is any sound: digital silence tells nothing about a voice."""
        samples = wav.new_zeros(len(raw) * HOP * self.options.sub_frames)
        samples[: len(wav)] = wav
        return raw[samples.view(len(raw), -1).any(1)]

    def calibrate(self, waveforms: Sequence[np.ndarray]) -> None:
        """Learn what average speech is like: utterances too short to tell are completed by it."""
        wavs = [torch.from_numpy(wav) for wav in waveforms]
        raw = torch.cat([self._voiced(wav, self._raw(wav)) for wav in wavs])
        if len(raw):
            self.moments = torch.stack([raw.mean(0), raw.square().mean(0)])

    def features(self, wav: Tensor) -> Tensor:
        """Normalised features: (T, F) float32."""
        raw = self._raw(wav)
        if self.options.normalise == "none":
            return raw
        own, prior = self._voiced(wav, raw), _PRIOR_SEC * self.frame_rate_hz
        total = torch.stack([own.sum(0), own.square().sum(0)]) + prior * self.moments
        mean, square = total / (len(own) + prior)
        if self.options.normalise == "mean":
            return raw - mean
        return (raw - mean) / (square - mean.square()).clamp(min=1e-6).sqrt()

    def save(self, checkpoint: Path) -> None:
        """Write centroids, moments and options as an npz file."""
        text = np.frombuffer(json.dumps(asdict(self.options), sort_keys=True).encode(), dtype=np.uint8)
        arrays = {"centroids": self.centroids.numpy(), "moments": self.moments.numpy(), "options": text}
        np.savez(checkpoint, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, checkpoint: Path) -> Self:
        """The tokenizer stored in a file written by `save`."""
        arrays = read_arrays(checkpoint, "semantic tokenizer file")
        check_finite(arrays, checkpoint)
        tokenizer = cls(SpectralOptions(**json.loads(arrays["options"].tobytes())))
        tokenizer.centroids = torch.from_numpy(arrays["centroids"])
        tokenizer.moments = torch.from_numpy(arrays["moments"])
        return tokenizer


@register_semantic("mfcc_km")
class MfccTokenizer(SpectralTokenizer):
    """k-means on mel-frequency cepstral coefficients."""

    default_dimensions = 13

    @staticmethod
    def static(wav: Tensor, count: int, options: SpectralOptions, rate_hz: int) -> Tensor:
        """Cepstral coefficients: (count, dimensions)."""
        return log_mel(wav, count, NUM_MEL, rate_hz) @ _cosines(NUM_MEL, options.dimensions)


@register_semantic("logmel_km")
class LogMelTokenizer(SpectralTokenizer):
    """k-means on the log energies of mel bands."""

    default_dimensions = 40

    @staticmethod
    def static(wav: Tensor, count: int, options: SpectralOptions, rate_hz: int) -> Tensor:
        """Log energies: (count, dimensions)."""
        return log_mel(wav, count, options.dimensions, rate_hz)
