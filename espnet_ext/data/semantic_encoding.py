"""A semantic tokenizer applied to a shard of a corpus: what a worker does for `semantic_tokens`."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import soxr
import torch

from espnet_ext.data.audio import read_wav
from espnet_ext.data.codec_encoding import check_device
from espnet_ext.tokenizers.semantic.base import SemanticTokenizer
from espnet_ext.tokenizers.semantic.files import load_semantic


def read_converted(path: Path | str, found_hz: int, wanted_hz: int) -> np.ndarray:
    """Samples of a mono audio file at the rate of a tokenizer: (samples,) float32, full scale 1.

    Args:
        path: file in any format that libsndfile reads
        found_hz: rate that the file must have
        wanted_hz: rate to convert to

    Returns:
        The samples, at least one.

    Raises:
        UserError: as `read_wav`
    """
    samples = read_wav(path, found_hz)
    if found_hz == wanted_hz:
        return samples
    converted = soxr.resample(samples, found_hz, wanted_hz).astype(np.float32)
    return converted if len(converted) else np.zeros(1, dtype=np.float32)  # of the shortest sounds nothing is left


@functools.lru_cache(maxsize=1)
def _load_once(semantic_info: Path, modified_ns: int, device: str) -> SemanticTokenizer:
    check_device(device)
    return load_semantic(semantic_info).to(device)


def semantic_of(semantic_info: Path, device: str = "cpu") -> SemanticTokenizer:
    """The tokenizer of this process, loaded once unless its description changes.

    Args:
        semantic_info: semantic_info.yaml
        device: where it computes, cpu or cuda

    Returns:
        The tokenizer.

    Raises:
        FileNotFoundError: if a file of it is missing
        UserError: if the files do not fit each other, or there is no such device
    """
    if not semantic_info.is_file():
        raise FileNotFoundError(f"semantic_info not found: {semantic_info}")
    return _load_once(semantic_info.absolute(), semantic_info.stat().st_mtime_ns, device)


def encode_shard(
    semantic_info: Path, device: str, found_hz: int, wavs: Mapping[str, str]
) -> dict[str, np.ndarray | str]:
    """Units of audio files, or the reason why there are none.

    Args:
        semantic_info: semantic_info.yaml
        device: where the tokenizer computes
        found_hz: rate that the files must have
        wavs: utterance → audio file

    Returns:
        Utterance → (T,) int32, or one line.
    """
    tokenizer = semantic_of(semantic_info, device)
    results: dict[str, np.ndarray | str] = {}
    for utterance, wav in wavs.items():
        try:
            samples = read_converted(wav, found_hz, tokenizer.sample_rate_hz)
            results[utterance] = tokenizer.encode(torch.from_numpy(samples)).numpy().astype(np.int32)
        except ValueError as error:
            results[utterance] = str(error)
    return results
