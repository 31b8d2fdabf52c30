"""A codec applied to a shard of a corpus: what a worker does for `codec_tokens` and `codec_resynthesis`."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from espnet_ext.data.ark import load_codes_entry
from espnet_ext.data.audio import read_wav, write_wav
from espnet_ext.errors import UserError
from espnet_ext.tokenizers.codec.base import Codec
from espnet_ext.tokenizers.codec.files import load_codec


def check_device(device: str) -> None:
    """Refuse a GPU where there is none.

    Args:
        device: cpu or cuda

    Raises:
        UserError: naming the option
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device must be cpu where there is no GPU that torch can use, got cuda")


@functools.lru_cache(maxsize=1)
def _load_once(codec_info: Path, modified_ns: int, device: str) -> Codec:
    check_device(device)
    return load_codec(codec_info).to(device)


def codec_of(codec_info: Path, device: str = "cpu") -> Codec:
    """The codec of this process, loaded once unless its description changes.

    Args:
        codec_info: codec_info.yaml
        device: where it computes, cpu or cuda

    Returns:
        The codec.

    Raises:
        FileNotFoundError: if a file of it is missing
        UserError: if the files do not fit each other, or there is no such device
    """
    if not codec_info.is_file():
        raise FileNotFoundError(f"codec_info not found: {codec_info}")
    return _load_once(codec_info.absolute(), codec_info.stat().st_mtime_ns, device)


def encode_shard(codec_info: Path, device: str, wavs: Mapping[str, str]) -> dict[str, np.ndarray | str]:
    """Codes of audio files, or the reason why there are none.

    Args:
        codec_info: codec_info.yaml
        device: where the codec computes
        wavs: utterance → audio file

    Returns:
        Utterance → (T, N) int32, or one line.
    """
    codec = codec_of(codec_info, device)
    results: dict[str, np.ndarray | str] = {}
    for utterance, wav in wavs.items():
        try:
            samples = torch.from_numpy(read_wav(wav, codec.spec.sample_rate_hz))
            codes, _ = codec.encode(samples[None], torch.tensor([len(samples)]))
            results[utterance] = codes[0].numpy().astype(np.int32)  # an archive holds no other type
        except ValueError as error:
            results[utterance] = str(error)
    return results


@dataclass(frozen=True)
class DecodeJob:
    """Codes of one utterance to be made audible.

    Attributes:
        pointer: place of the codes in an archive
        wav: file to write
        shuffle_seed: permute the frames in time by this seed; None keeps the order
        noise_seed: write white noise of this seed, as long and as loud as the speech, instead of it; None writes speech
    """

    pointer: str
    wav: Path
    shuffle_seed: int | None = None
    noise_seed: int | None = None


def wavs_of(job: DecodeJob) -> Iterable[Path]:
    """The file that a job makes."""
    return [job.wav]


def decode_shard(codec_info: Path, jobs: Mapping[str, DecodeJob]) -> tuple[dict[str, np.ndarray], float]:
    """Decode utterances into wav files.

    Args:
        codec_info: codec_info.yaml
        jobs: utterance → what to decode

    Returns:
        Utterance → (T, N) int32 codes as they were decoded, and the seconds that the codec took.
    """
    codec = codec_of(codec_info)
    results, seconds = {}, 0.0
    for utterance, job in jobs.items():
        codes = load_codes_entry(job.pointer, codec.spec.num_codebooks, utterance)
        if job.shuffle_seed is not None:
            codes = np.random.default_rng(job.shuffle_seed).permutation(codes, axis=0)
        start = perf_counter()
        wavs, _ = codec.decode(torch.from_numpy(codes)[None], torch.tensor([len(codes)]))
        seconds += perf_counter() - start
        samples = wavs[0].numpy()
        if job.noise_seed is not None:
            loudness = float(np.sqrt(np.mean(samples**2)))
            samples = np.random.default_rng(job.noise_seed).normal(0.0, loudness, len(samples)).astype(np.float32)
        write_wav(job.wav, samples, codec.spec.sample_rate_hz)
        results[utterance] = codes.astype(np.int32)
    return results, seconds
