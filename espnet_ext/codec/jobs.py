"""A codec applied to every utterance of a corpus, by several processes."""

from __future__ import annotations

import functools
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TypeVar

import numpy as np
import torch
from tqdm import tqdm

from espnet_ext.ark import load_codes_entry
from espnet_ext.codec.audio import read_wav, write_wav
from espnet_ext.codec.base import Codec
from espnet_ext.codec.files import load_codec

Item = TypeVar("Item")
Result = TypeVar("Result")


def _start_process() -> None:
    torch.set_num_threads(1)
    # Ctrl-C reaches every process of the terminal; the first one ends the others
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def map_utterances(
    function: Callable[[Item], Result], items: Sequence[Item], num_jobs: int, label: str
) -> Iterator[Result]:
    """Results in the order of the items, with a progress bar.

    Args:
        function: importable by name, or a `functools.partial` of such a one
        items: one per utterance
        num_jobs: processes; 1 works in this one
        label: of the progress bar

    Yields:
        One result per item.

    Raises:
        ValueError: if `num_jobs` is less than 1
        OSError: if the system kills a process
    """
    if num_jobs < 1:
        raise ValueError(f"nj must be at least 1, got {num_jobs}")
    if num_jobs == 1 or len(items) < 2 * num_jobs:
        yield from map(function, tqdm(items, desc=label, unit="utt", mininterval=1.0))
        return
    # a forked copy of a process that has used torch's threads can hang; a fresh one cannot
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_jobs, mp_context=context, initializer=_start_process)
    try:
        chunk = max(1, min(16, len(items) // (4 * num_jobs)))
        yield from tqdm(
            pool.map(function, items, chunksize=chunk), total=len(items), desc=label, unit="utt", mininterval=1.0
        )
    except BrokenProcessPool:
        raise OSError(
            f"one of {num_jobs} processes was killed, for lack of memory perhaps: use a smaller --nj"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@functools.lru_cache(maxsize=1)
def _load_once(codec_info: Path, modified_ns: int) -> Codec:
    return load_codec(codec_info)


def _codec(codec_info: Path) -> Codec:
    """The codec of this process, loaded once unless its description changes."""
    return _load_once(codec_info, codec_info.stat().st_mtime_ns)


def encode_file(codec_info: Path, wav: str) -> np.ndarray | str:
    """Codes of an audio file, or the reason why there are none.

    Args:
        codec_info: codec_info.yaml
        wav: audio file

    Returns:
        (T, N) int64, or one line.
    """
    codec = _codec(codec_info)
    try:
        samples = torch.from_numpy(read_wav(wav, codec.spec.sample_rate_hz))
    except ValueError as error:
        return str(error)
    codes, _ = codec.encode(samples[None], torch.tensor([len(samples)]))
    return codes[0].numpy()


@dataclass(frozen=True)
class DecodeJob:
    """Codes of one utterance to be made audible.

    Attributes:
        pointer: place of the codes in an archive
        wav: file to write
        shuffle_seed: permute the frames in time by this seed; None keeps the order
    """

    pointer: str
    wav: Path
    shuffle_seed: int | None = None


def decode_entry(codec_info: Path, job: DecodeJob) -> tuple[np.ndarray, float]:
    """Decode an utterance into a wav file.

    Args:
        codec_info: codec_info.yaml
        job: what to decode

    Returns:
        The (T, N) int64 codes as they were decoded, and the seconds that it took.
    """
    codec = _codec(codec_info)
    codes = load_codes_entry(job.pointer, codec.spec.num_codebooks, job.wav.stem)
    if job.shuffle_seed is not None:
        codes = np.random.default_rng(job.shuffle_seed).permutation(codes, axis=0)
    start = perf_counter()
    wavs, _ = codec.decode(torch.from_numpy(codes)[None], torch.tensor([len(codes)]))
    seconds = perf_counter() - start
    write_wav(job.wav, wavs[0].numpy(), codec.spec.sample_rate_hz)
    return codes, seconds
