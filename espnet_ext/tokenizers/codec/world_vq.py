"""Codec `world_vq`: WORLD parameters, vector-quantised group by group; learned from the corpus in under a minute.

One codebook holds the excitation (pitch, voicing, aperiodicity) of a 40 ms frame, the others one band of the
cepstrum each. The groups are not residual, but depend on each other strongly, like those of neural codecs.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from espnet_ext.codes import CodecSpec
from espnet_ext.errors import UserError
from espnet_ext.storage.checkpoint import check_finite
from espnet_ext.storage.tensor_files import read_arrays
from espnet_ext.tokenizers.codec import world
from espnet_ext.tokenizers.codec.base import Codec, register_codec

_BAND_WIDTHS = (1, 1, 2, 3, 4, 5, 8)
_KMEANS_ITERATIONS = 30
_MAX_FIT_FRAMES = 150_000  # 100 minutes; more does not move centres of so few dimensions
# Relative weight of an excitation column in the distance, chosen by the pitch and voicing errors after coding:
# a wrong voicing flag is heard as a buzz or a gap, aperiodicity hardly at all.
_EXCITATION_WEIGHTS = np.array([3.0, 1.0, 0.3], dtype=np.float32)


def _kmeans(vectors: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Centres (size, F) float32 of (frames, F) vectors."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    model = KMeans(size, init="k-means++", n_init=1, max_iter=_KMEANS_ITERATIONS, random_state=seed)
    # one thread: the order of the sums, hence the last bits of the centres, depend on the number of threads
    with threadpool_limits(1), warnings.catch_warnings():
        # silence repeats exactly, so there can be fewer different vectors than centres
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(vectors)
    return model.cluster_centers_.astype(np.float32)


@register_codec("world_vq")
class WorldVQCodec(Codec):
    """Band-split vector quantisation of WORLD parameters, 16 kHz, 25 frames per second.

    Args:
        centres: per codebook (codebook_size, SUB_FRAMES * columns of the group) float32, in units of `scale`
        mean: (FEATURE_DIM,) float32, subtracted from every sub-frame
        scale: (FEATURE_DIM,) float32, divides every sub-frame
        band_widths: cepstral coefficients of each codebook after the first
    """

    license = "its weights are learned from the recordings and have their terms"
    extra = "world"

    sample_rate_hz = world.SAMPLE_RATE_HZ
    learns = True
    lookahead_frames = 2  # with one, samples still move by 1e-5; with two, not at all

    def __init__(
        self, centres: Sequence[np.ndarray], mean: np.ndarray, scale: np.ndarray, band_widths: Sequence[int]
    ) -> None:
        self.centres = [torch.from_numpy(table) for table in centres]
        self.mean = mean
        self.scale = scale
        self.band_widths = tuple(band_widths)
        self.spec = CodecSpec(len(centres), len(centres[0]), self.sample_rate_hz / world.HOP, self.sample_rate_hz)

    @classmethod
    def create(
        cls,
        waveforms: Iterable[np.ndarray],
        seed: int,
        codebook_size: int = 256,
        band_widths: Sequence[int] = _BAND_WIDTHS,
    ) -> WorldVQCodec:
        """A codec whose codebooks fit a corpus.

        Args:
            waveforms: (samples,) float32 each, 16 kHz
            seed: of k-means
            codebook_size: entries of each codebook
            band_widths: cepstral coefficients of each codebook after the first; they sum to 24

        Returns:
            The codec.

        Raises:
            UserError: if the band widths are impossible or the corpus has fewer frames than a codebook
        """
        if not isinstance(codebook_size, int) or codebook_size < 2:
            raise UserError(f"codebook_size must be an integer of at least 2, got {codebook_size!r}")
        widths = list(band_widths) if isinstance(band_widths, list | tuple) else []
        if not all(isinstance(width, int) and width > 0 for width in widths) or sum(widths) != world.CEPSTRUM_DIM:
            raise UserError(f"band_widths must be positive and sum to {world.CEPSTRUM_DIM}, got {band_widths!r}")
        parts = [world.analyse(wav) for wav in waveforms if len(wav)]
        features = np.concatenate(parts) if parts else np.zeros((0, world.SUB_FRAMES, world.FEATURE_DIM), np.float32)
        if not 2 <= codebook_size <= len(features):
            raise UserError(
                f"codebook_size must be in [2, {len(features)}] (frames to learn from), got {codebook_size}"
            )
        if len(features) > _MAX_FIT_FRAMES:
            keep = np.random.default_rng(seed).choice(len(features), _MAX_FIT_FRAMES, replace=False)
            features = features[np.sort(keep)]
        mean, scale = _moments(features)
        centres = []
        for index, group in enumerate(_group_vectors(features, mean, scale, band_widths)):
            centres.append(_kmeans(group, codebook_size, seed))
            logging.info("codebook %d learned from %d vectors of %d", index, *group.shape)
        return cls(centres, mean, scale, band_widths)

    @classmethod
    def load(cls, checkpoint: Path) -> WorldVQCodec:
        """The codec stored in a file written by `save`."""
        arrays = read_arrays(checkpoint, "codec file")
        check_finite(arrays, checkpoint)
        widths = [int(width) for width in arrays["band_widths"]]
        centres = [arrays[f"centres_{index}"] for index in range(len(widths) + 1)]
        shapes = {
            f"centres_{index}": (len(centres[0]), world.SUB_FRAMES * width)
            for index, width in enumerate([world.CEPSTRUM, *widths])
        }
        for name, shape in {**shapes, "mean": (world.FEATURE_DIM,), "scale": (world.FEATURE_DIM,)}.items():
            if arrays[name].shape != shape or arrays[name].dtype != np.float32:
                raise UserError(
                    f"{name} of {checkpoint} must be {shape} float32, got {arrays[name].shape} {arrays[name].dtype}"
                )
        if min(widths, default=0) < 1 or sum(widths) != world.CEPSTRUM_DIM:
            raise UserError(
                f"band_widths of {checkpoint} must be positive and sum to {world.CEPSTRUM_DIM}, got {widths}"
            )
        return cls(centres, arrays["mean"], arrays["scale"], widths)

    def save(self, checkpoint: Path) -> None:
        """Write centres and normalisation as an uncompressed npz file."""
        tables = {f"centres_{index}": table.numpy() for index, table in enumerate(self.centres)}
        widths = np.array(self.band_widths, dtype=np.int64)
        np.savez(checkpoint, allow_pickle=False, mean=self.mean, scale=self.scale, band_widths=widths, **tables)

    def encode_utterance(self, wav: Tensor) -> Tensor:
        """Codes of one utterance: (T, N) int64."""
        groups = _group_vectors(world.analyse(wav.cpu().numpy()), self.mean, self.scale, self.band_widths)
        nearest = [torch.cdist(torch.from_numpy(g), c).argmin(1) for g, c in zip(groups, self.centres, strict=True)]
        return torch.stack(nearest, dim=1)

    def dequantise(self, codes: Tensor) -> Tensor:
        """Normalised parameters of the four sub-frames of each frame, group after group: (T, 108) float32."""
        return torch.cat([table[codes[:, index].cpu()] for index, table in enumerate(self.centres)], dim=1)

    def decode_utterance(self, codes: Tensor) -> Tensor:
        """Waveform of one utterance: (T * 640,) float32."""
        codes = codes.cpu()
        rows = [table[codes[:, index]] for index, table in enumerate(self.centres)]
        parts = [part.reshape(len(codes), world.SUB_FRAMES, -1) for part in rows]
        features = torch.cat(parts, dim=2).numpy() * self.scale + self.mean
        return torch.from_numpy(world.synthesise(features))


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and scale of every parameter; pitch counts where there is some."""
    flat = features.reshape(-1, world.FEATURE_DIM)
    voiced = flat[flat[:, world.VOICING] > 0.5]
    mean, deviation = flat.mean(0), flat.std(0)
    if len(voiced):
        mean[world.LOG_F0], deviation[world.LOG_F0] = voiced[:, world.LOG_F0].mean(), voiced[:, world.LOG_F0].std()
    scale = np.maximum(deviation, 1e-3)
    scale[: world.CEPSTRUM] /= _EXCITATION_WEIGHTS
    # within a band the cepstrum keeps its natural proportions, those of a distance between log spectra
    scale[world.CEPSTRUM :] = max(float(np.sqrt((deviation[world.CEPSTRUM :] ** 2).mean())), 1e-3)
    return mean.astype(np.float32), scale.astype(np.float32)


def _group_vectors(
    features: np.ndarray, mean: np.ndarray, scale: np.ndarray, band_widths: Sequence[int]
) -> list[np.ndarray]:
    """Normalised parameters, one (T, SUB_FRAMES * columns) float32 array per codebook."""
    # pitch that was interpolated through a frame without any voicing is not heard: no entry is spent on it
    voiceless = ~(features[:, :, world.VOICING] > 0.5).any(axis=1)
    normal = (features - mean) / scale
    normal[voiceless, :, world.LOG_F0] = 0.0
    edges = list(accumulate(band_widths, initial=world.CEPSTRUM))
    groups = np.split(normal, edges[:-1], axis=2)
    return [np.ascontiguousarray(group).reshape(len(normal), -1) for group in groups]
