"""Semantic tokenizers on disk: a directory with semantic_info.yaml and the weights that its fingerprint vouches for."""

from __future__ import annotations

import inspect
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from espnet_ext.codes import CodecSpec
from espnet_ext.errors import UserError
from espnet_ext.options import check_flag, check_number
from espnet_ext.storage.atomic import atomic_path
from espnet_ext.tokenizers.description import Content, InfoKind, fingerprint_of
from espnet_ext.tokenizers.semantic.base import SemanticTokenizer, semantic_tokenizers
from espnet_ext.tokenizers.semantic.kmeans import learn_centroids

KIND = InfoKind("semantic tokenizer", "semantic_info", "tokenizer", "espnet_ext.bin.semantic_fit")
INFO_NAME = f"{KIND.info}.yaml"
_CALIBRATION_SEC = 600.0


@dataclass(frozen=True)
class SemanticInfo:
    """Contents of a semantic_info.yaml, which lies beside the weights, in token directories and in experiments.

    Attributes:
        tokenizer: registered name.
        checkpoint: weights file.
        options: what can be chosen about a tokenizer that exists; empty for all there are.
        spec: number of units, their rate, sample rate.
        deduplicate: whether a model sees the units without repetitions; those on disk have them.
        fingerprint: SHA-256 of the weights: equal ones make equal units of equal audio.
        origin: how the tokenizer was made; for the reader, and to recognise a finished fit.
    """

    tokenizer: str
    checkpoint: Path
    options: dict[str, object]
    spec: CodecSpec
    deduplicate: bool
    fingerprint: str
    origin: dict[str, object]


def read_semantic_info(path: Path | str) -> SemanticInfo:
    """The tokenizer described by a semantic_info.yaml; the weights are not opened.

    Args:
        path: the file, or the directory that holds it

    Returns:
        The description; `checkpoint` is usable from the current directory.

    Raises:
        FileNotFoundError: if the file is missing
        UserError: if it is not a complete semantic_info.yaml
    """
    return KIND.read(path, _built)


def _built(content: Content) -> SemanticInfo:
    name, checkpoint, options, spec, fingerprint, origin, everything = content
    deduplicate = everything["deduplicate"]
    check_flag("deduplicate", deduplicate)
    return SemanticInfo(name, checkpoint, options, spec, deduplicate, fingerprint, origin)


def write_semantic_info(info: SemanticInfo, path: Path) -> None:
    """Write a semantic_info.yaml that names the weights file relative to itself.

    Args:
        info: the tokenizer
        path: file to write
    """
    KIND.write(info, info.tokenizer, path, {"deduplicate": info.deduplicate})


def _create_options(name: str) -> list[str]:
    return [key for key in inspect.signature(semantic_tokenizers[name].create).parameters if key != "seed"]


# of k-means, the same for all tokenizers; without num_units every tokenizer has its own number
KMEANS_OPTIONS = {"num_units": 2, "buffer_frames": 1, "sweeps": 1}  # name → least value


def check_semantic_conf(name: str, conf: Mapping[str, object]) -> None:
    """Refuse options that the tokenizer does not have.

    Args:
        name: registered name
        conf: options of the tokenizer and of k-means

    Raises:
        UserError: if the tokenizer or an option is unknown, or k-means cannot do what is asked for
    """
    known = [*_create_options(name), *KMEANS_OPTIONS]
    for key in conf:
        if key not in known:
            raise UserError(f"semantic_conf of {name} must be among {known}, got {key!r}")
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


def save_semantic(
    tokenizer: SemanticTokenizer, name: str, directory: Path, deduplicate: bool, origin: dict[str, object]
) -> SemanticInfo:
    """Write weights and semantic_info.yaml, the latter last, so that its presence means that all is there.

    Args:
        tokenizer: the tokenizer
        name: registered name
        directory: made when missing
        deduplicate: what models shall do with the units
        origin: how the tokenizer was made

    Returns:
        What semantic_info.yaml says.
    """
    checkpoint = directory / tokenizer.weights_name
    with atomic_path(checkpoint) as temporary:
        tokenizer.save(temporary)
    fingerprint = fingerprint_of(checkpoint, {})
    info = SemanticInfo(name, checkpoint, {}, tokenizer.spec, deduplicate, fingerprint, origin)
    write_semantic_info(info, directory / INFO_NAME)
    return info


def load_semantic(path: Path | str) -> SemanticTokenizer:
    """The tokenizer that made the units described by a semantic_info.yaml.

    Args:
        path: semantic_info.yaml, or a directory that holds one

    Returns:
        The tokenizer, on the CPU.

    Raises:
        FileNotFoundError: if semantic_info.yaml or the weights file is missing
        UserError: if the tokenizer is unknown or the weights are not those that the fingerprint vouches for
    """
    info = read_semantic_info(path)
    kind = semantic_tokenizers[info.tokenizer]
    KIND.check_weights(info, path)
    tokenizer = kind.load(info.checkpoint)
    if tokenizer.spec != info.spec:
        raise UserError(f"spec in {path} must be that of {info.checkpoint} ({tokenizer.spec}), got {info.spec}")
    return tokenizer


def copy_semantic(path: Path | str, directory: Path) -> Path:
    """Put a tokenizer into an experiment directory, which then can encode by itself.

    Args:
        path: semantic_info.yaml, or a directory that holds one
        directory: gets semantic_info.yaml and the weights; the same tokenizer there already is left as it is

    Returns:
        The semantic_info.yaml of the copy.

    Raises:
        FileNotFoundError: if semantic_info.yaml or the weights file is missing
        UserError: if the weights do not fit their fingerprint, or the directory holds another tokenizer
    """
    info = read_semantic_info(path)
    weights, target = directory / semantic_tokenizers[info.tokenizer].weights_name, directory / INFO_NAME
    if target.exists() and read_semantic_info(target).deduplicate != info.deduplicate:
        raise UserError(f"{directory} must have deduplicate {info.deduplicate} as {path}: use another directory")
    if KIND.copy_weights(info, path, weights):
        write_semantic_info(replace(info, checkpoint=weights), target)
    return target
