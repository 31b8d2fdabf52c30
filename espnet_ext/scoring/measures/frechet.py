"""Fréchet distance between Gaussians fitted to codec frames, and its values on resampled utterances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

Array = NDArray[np.float64]
RESAMPLES_AT_A_TIME = 50  # bounds the memory of the resampled covariances


@dataclass(frozen=True)
class Gaussian:
    """Normal distribution of a frame vector.

    Attributes:
        mean: (F,) float64.
        covariance: (F, F) float64.
    """

    mean: Array
    covariance: Array


@dataclass(frozen=True)
class FrameStatistics:
    """Sums over the frames of each utterance, from which the Gaussian of any multiset of utterances follows.

    Attributes:
        frames: (utterances,) frames of each.
        sums: (utterances, F) sums of the frame vectors.
        products: (utterances, F, F) sums of their outer products.
    """

    frames: Array
    sums: Array
    products: Array

    def gaussians(self, weights: Array) -> list[Gaussian | None]:
        """One Gaussian per row of weights; None where it rests on fewer than two frames.

        Args:
            weights: (resamples, utterances) occurrences of every utterance.

        Returns:
            `resamples` Gaussians with unbiased covariances.
        """
        width = self.sums.shape[1]
        count = weights @ self.frames
        products = (weights @ self.products.reshape(len(self.products), -1)).reshape(-1, width, width)
        result: list[Gaussian | None] = []
        for frames, summed, product in zip(count, weights @ self.sums, products, strict=True):
            if frames < 2:
                result.append(None)
                continue
            mean = summed / frames
            result.append(Gaussian(mean, (product - frames * np.outer(mean, mean)) / (frames - 1)))
        return result

    def gaussian(self) -> Gaussian | None:
        """The Gaussian of all utterances."""
        return self.gaussians(np.ones((1, len(self.frames))))[0]


def frame_statistics(vectors: Sequence[NDArray[np.floating] | None], origin: Array) -> FrameStatistics:
    """Statistics of a list of utterances.

    Args:
        vectors: (T, F) frame vectors of each; None for an utterance that a system lacks.
        origin: (F,) subtracted from every vector; distances do not change, and with an origin near the mean no digits
            are lost in the outer products.

    Returns:
        The statistics, zero for utterances that are None.
    """
    width = len(origin)
    frames = np.zeros(len(vectors))
    sums = np.zeros((len(vectors), width))
    products = np.zeros((len(vectors), width, width))
    for index, utterance in enumerate(vectors):
        if utterance is not None:
            centred = utterance.astype(np.float64) - origin
            frames[index], sums[index], products[index] = len(centred), centred.sum(axis=0), centred.T @ centred
    return FrameStatistics(frames, sums, products)


def square_root(covariance: Array) -> Array:
    """The symmetric matrix whose square is a positive semi-definite one.

    Args:
        covariance: (F, F) symmetric; negative eigenvalues, which rounding can make, count as zero.

    Returns:
        (F, F) symmetric.
    """
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(values.clip(min=0.0))) @ vectors.T


def _distance(first: Gaussian, first_root: Array, second: Gaussian) -> float:
    # trace of the root of a product of two covariances, written as that of a symmetric matrix with the same eigenvalues
    crossed = np.linalg.eigvalsh(first_root @ second.covariance @ first_root)
    shift = first.mean - second.mean
    traces = np.trace(first.covariance) + np.trace(second.covariance)
    return max(float(shift @ shift + traces - 2 * np.sqrt(crossed.clip(min=0.0)).sum()), 0.0)


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """Squared 2-Wasserstein distance of two Gaussians: |m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^½).

    Args:
        first: one distribution.
        second: the other one.

    Returns:
        The distance, not negative.
    """
    return _distance(first, square_root(first.covariance), second)


def distance_draws(
    reference: FrameStatistics, systems: Mapping[str, FrameStatistics], weights: Array, paired: bool = True
) -> dict[str, Array]:
    """Distances of several systems to one reference in every resample of the utterances.

    The same utterances make up all systems of a resample, so that draws of two systems can be subtracted.

    Args:
        reference: statistics of the originals.
        systems: name → statistics, over the same utterances in the same order.
        weights: (resamples, utterances) from `resample_weights`.
        paired: whether the reference has the systems' utterances and is resampled with them; if not, it is taken whole.

    Returns:
        Name → (resamples,) distances; NaN where a side has fewer than two frames.
    """
    draws = {name: np.full(len(weights), np.nan) for name in systems}
    whole = None if paired else reference.gaussian()
    whole_root = None if whole is None else square_root(whole.covariance)
    for start in tqdm(range(0, len(weights), RESAMPLES_AT_A_TIME), desc="resampling", unit_scale=RESAMPLES_AT_A_TIME):
        part = weights[start : start + RESAMPLES_AT_A_TIME]
        references, roots = [whole] * len(part), [whole_root] * len(part)
        if paired:
            references = reference.gaussians(part)
            roots = [None if one is None else square_root(one.covariance) for one in references]
        for name, statistics in systems.items():
            if paired and statistics is reference:
                draws[name][start : start + len(part)] = 0.0  # the reference itself
                continue
            for row, (one, root, other) in enumerate(zip(references, roots, statistics.gaussians(part), strict=True)):
                if one is not None and root is not None and other is not None:
                    draws[name][start + row] = _distance(one, root, other)
    return draws
