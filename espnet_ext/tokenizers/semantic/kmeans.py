"""k-means over a stream of features that need not fit into memory."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from espnet_ext.errors import UserError

Features = NDArray[np.float32]

BATCH_FRAMES = 4096
INIT_FRAMES_PER_UNIT = 30
_NEAREST_FRAMES = 4096


def buffers(features: Iterable[Features], frames: int) -> Iterator[Features]:
    """The frames of a corpus in pieces of one size, in their order; the last piece holds the rest.

    Args:
        features: (T, F) of one utterance after the other.
        frames: of a piece.

    Yields:
        (frames, F); the array is used again for the next piece.
    """
    buffer: Features | None = None
    filled = 0
    for utterance in features:
        if buffer is None:
            buffer = np.empty((frames, utterance.shape[1]), dtype=np.float32)
        start = 0
        while start < len(utterance):
            count = min(frames - filled, len(utterance) - start)
            buffer[filled : filled + count] = utterance[start : start + count]
            filled, start = filled + count, start + count
            if filled == frames:
                yield buffer
                filled = 0
    if buffer is not None and filled:
        yield buffer[:filled]


def learn_centroids(
    features: Iterable[Features], num_units: int, seed: int, buffer_frames: int = 100_000, sweeps: int = 5
) -> Features:
    """Centroids (num_units, F) of a corpus of which one buffer at a time is in memory, whatever its length.

    The first buffer gives the initial centroids (k-means++). Every buffer then is gone through several times in
    mini-batches of shuffled frames, so that a small corpus, which is one buffer, is learned well too and the features
    of a large one are computed once.

    Args:
        features: (T, F) float32 of one utterance after the other, in random order; iterated once.
        num_units: K.
        seed: of the initial centroids and of the shuffling.
        buffer_frames: frames in memory.
        sweeps: how often each buffer is gone through.

    Returns:
        The centroids; the same features, options and seed give the same bits.

    Raises:
        UserError: if there are fewer frames than units, or the buffer has.
    """
    from sklearn.cluster import MiniBatchKMeans, kmeans_plusplus
    from threadpoolctl import threadpool_limits

    if buffer_frames < num_units:
        raise UserError(f"buffer_frames must be at least num_units, {num_units}, got {buffer_frames}")
    rng = np.random.default_rng(seed)
    model: MiniBatchKMeans | None = None
    seen = 0
    # one thread: the order of the sums, hence the last bits of the centroids, depend on the number of threads
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # silence repeats exactly: fewer different vectors than centroids
        for buffer in buffers(features, buffer_frames):
            seen += len(buffer)
            if model is None:
                if len(buffer) < num_units:
                    raise UserError(
                        f"num_units must be at most {len(buffer)}, the frames to learn from, got {num_units}"
                    )
                some = rng.permutation(len(buffer))[: INIT_FRAMES_PER_UNIT * num_units]
                first, _ = kmeans_plusplus(buffer[some], num_units, random_state=seed)
                model = MiniBatchKMeans(num_units, init=first, n_init=1, random_state=seed)
            for _ in range(sweeps):
                order = rng.permutation(len(buffer))
                for start in range(0, len(order), BATCH_FRAMES):
                    model.partial_fit(buffer[order[start : start + BATCH_FRAMES]])
            logging.info("k-means: %d frames, mean squared distance %.3f", seen, -model.score(buffer) / len(buffer))
    if model is None:
        raise UserError(f"num_units must be at most 0, the frames to learn from, got {num_units}")
    return np.ascontiguousarray(model.cluster_centers_, dtype=np.float32)


def nearest(features: Tensor, centroids: Tensor) -> Tensor:
    """Index of the nearest centroid of every frame: (T,) int64.

    Args:
        features: (T, F) float32.
        centroids: (K, F) float32.

    Returns:
        The indices.
    """
    half_norms = 0.5 * centroids.square().sum(1)
    found = [(part @ centroids.T - half_norms).argmax(1) for part in features.split(_NEAREST_FRAMES)]
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.int64)
