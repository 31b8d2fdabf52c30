"""A semantic tokenizer by name, its centroids learned from a corpus."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from espnet_ext.errors import UserError
from espnet_ext.options import check_number
from espnet_ext.registries import semantic_tokenizers
from espnet_ext.tokenizers.semantic.base import SemanticTokenizer, semantic_files
from espnet_ext.tokenizers.semantic.kmeans import learn_centroids

_CALIBRATION_SEC = 600.0
# of k-means, the same for all tokenizers; without num_units every tokenizer has its own number
KMEANS_OPTIONS = {"num_units": 2, "buffer_frames": 1, "sweeps": 1}  # name → least value


def check_semantic_conf(name: str, conf: Mapping[str, object]) -> None:
    """Refuse options that neither the tokenizer nor k-means has, or that k-means cannot do."""
    semantic_files.check_conf(name, conf, KMEANS_OPTIONS)
    for key, least in KMEANS_OPTIONS.items():
        check_number(key, conf.get(key, least), least=least, whole=True)


def in_order(
    function: Callable[[np.ndarray], np.ndarray], items: Iterable[np.ndarray], threads: int
) -> Iterator[np.ndarray]:
    """What a function makes of the items, in their order, computed a few items ahead by several threads.

    Args:
        function: of an item
        items: few of them are in memory at a time
        threads: that compute; 1 is none besides this one

    Yields:
        One result per item.
    """
    if threads == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        ahead: deque[Future[np.ndarray]] = deque()
        for item in items:
            ahead.append(pool.submit(function, item))
            if len(ahead) > 2 * threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def unlearned_semantic(name: str, seed: int, conf: Mapping[str, object]) -> SemanticTokenizer:
    """A new tokenizer by name, without centroids unless its options name some.

    Args:
        name: registered name
        seed: of random weights
        conf: options of the tokenizer and of k-means

    Returns:
        The tokenizer.

    Raises:
        UserError: if an option is unknown or has an impossible value, or a package is missing
        OSError: if weights cannot be read or downloaded
    """
    check_semantic_conf(name, conf)
    tokenizer = semantic_tokenizers[name].create(
        seed, **{key: value for key, value in conf.items() if key not in KMEANS_OPTIONS}
    )
    found = len(tokenizer.centroids)
    if found and conf.get("num_units", found) != found:
        raise UserError(f"num_units must be {found} as in codebook, got {conf['num_units']}")
    return tokenizer


def create_semantic(
    name: str,
    waveforms: Iterable[np.ndarray],
    seed: int,
    conf: Mapping[str, object],
    threads: int = 1,
    device: str = "cpu",
) -> SemanticTokenizer:
    """A new tokenizer by name, its centroids learned from a corpus unless its options name some.

    Args:
        name: registered name
        waveforms: (samples,) float32 each, in random order; iterated once and never all in memory
        seed: makes everything random repeatable
        conf: options of the tokenizer and of k-means
        threads: that compute spectral features; they change nothing but the time. Networks have threads of their own
        device: where features are computed

    Returns:
        The tokenizer, not saved yet.

    Raises:
        UserError: if an option is unknown or has an impossible value, or the corpus is too small
    """
    tokenizer = unlearned_semantic(name, seed, conf).to(device)
    if len(tokenizer.centroids):
        return tokenizer
    kmeans: dict[str, Any] = {key: conf[key] for key in KMEANS_OPTIONS if key in conf}

    @torch.no_grad()
    def features(wav: np.ndarray) -> np.ndarray:
        return tokenizer.features(torch.from_numpy(wav)).numpy()

    stream = iter(waveforms)
    first = list(_beginning(stream, round(_CALIBRATION_SEC * tokenizer.sample_rate_hz)))
    if first:
        tokenizer.calibrate(first)
    threads = 1 if tokenizer.is_network else threads
    learned_from = in_order(features, itertools.chain(first, stream), threads)
    found = learn_centroids(learned_from, seed=seed, **{"num_units": tokenizer.default_units, **kmeans})
    tokenizer.centroids = torch.from_numpy(found)
    return tokenizer


def _beginning(stream: Iterator[np.ndarray], samples: int) -> Iterator[np.ndarray]:
    """The first items of a stream, until they hold so many samples."""
    while samples > 0 and (item := next(stream, None)) is not None:
        yield item
        samples -= len(item)
