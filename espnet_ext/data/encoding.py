"""Codecs and semantic tokenizers applied to a corpus: what a worker does with a shard, and the archive of all."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
import torch

from espnet_ext.data.ark import Write, load_codes_entry
from espnet_ext.data.audio import read_wav, write_wav
from espnet_ext.data.datadir import skipped_summary, write_skipped
from espnet_ext.data.waveform import resampled
from espnet_ext.errors import UserError
from espnet_ext.jobs import Work, Workers, run_shards
from espnet_ext.storage.checksums import Stamp, stamp_of
from espnet_ext.tokenizers.audio import AudioTokenizer
from espnet_ext.tokenizers.codec.base import Codec, codec_files
from espnet_ext.tokenizers.description import TokenizerFiles
from espnet_ext.tokenizers.semantic.base import SemanticTokenizer, semantic_files

T = TypeVar("T")
Kind = TypeVar("Kind", bound=AudioTokenizer)
Encoded = dict[str, np.ndarray | str]  # utterance → int32 ids, or one line why there are none


def check_device(device: str) -> None:
    """Refuse a device that torch or this machine does not have."""
    name, _, number = device.partition(":")
    if name not in ("cpu", "cuda") or (number and not number.isdecimal()) or (number and name == "cpu"):
        raise UserError(f"device must be cpu, cuda or cuda:N, got {device!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device must be cpu where there is no GPU that torch can use, got {device}")
    if name == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise UserError(f"device must be one of {torch.cuda.device_count()} GPUs, cuda:0 the first, got {device}")


@functools.lru_cache(maxsize=2)  # a codec and a semantic tokenizer
def _load_once(files: TokenizerFiles[Any], path: Path, stamps: tuple[Stamp | None, ...], device: str) -> Any:
    check_device(device)
    return files.load(path).to(device)


def _loaded(files: TokenizerFiles[Kind], path: Path, device: str) -> Kind:
    """The codec or tokenizer of this process, loaded once unless its description or its weights change."""
    if not path.is_file():
        raise FileNotFoundError(f"{files.classes.kind}_info not found: {path}")
    stamps = stamp_of(path), stamp_of(files.read(path).checkpoint)
    made: Kind = _load_once(files, path.absolute(), stamps, device)
    return made


def codec_of(codec_info: Path, device: str = "cpu") -> Codec:
    """The codec of a codec_info.yaml on a device, loaded once by a process."""
    return _loaded(codec_files, codec_info, device)


def semantic_of(semantic_info: Path, device: str = "cpu") -> SemanticTokenizer:
    """The tokenizer of a semantic_info.yaml on a device, loaded once by a process."""
    return _loaded(semantic_files, semantic_info, device)


def encode_each(encode: Callable[[T], np.ndarray], wavs: Mapping[str, T]) -> Encoded:
    """What a function makes of audio files, or the reason why there is nothing.

    Args:
        encode: ids of a file; its `UserError` is the reason.
        wavs: utterance → audio file.

    Returns:
        Utterance → int32 ids, or one line.
    """
    results: Encoded = {}
    for utterance, wav in wavs.items():
        try:
            results[utterance] = encode(wav).astype(np.int32)  # an archive holds no other type
        except UserError as error:
            results[utterance] = str(error)
    return results


def codes_of(codec: Codec, samples: np.ndarray) -> np.ndarray:
    """Codes (T, N) of one utterance, (samples,) float32 at the codec's rate."""
    codes, _ = codec.encode(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))
    return codes[0].numpy()


def encode_codes(codec_info: Path, device: str, wavs: Mapping[str, str]) -> Encoded:
    """Codes (T, N) of audio files at the codec's rate, the work of a shard."""
    codec = codec_of(codec_info, device)
    return encode_each(lambda wav: codes_of(codec, read_wav(wav, codec.spec.sample_rate_hz)), wavs)


def encode_units(semantic_info: Path, device: str, found_hz: int, wavs: Mapping[str, str]) -> Encoded:
    """Units (T,) of audio files.

    Args:
        semantic_info: semantic_info.yaml.
        device: where the tokenizer computes.
        found_hz: rate that the files must have; they are converted to the tokenizer's.
        wavs: utterance → audio file.

    Returns:
        Utterance → units, or one line.
    """
    tokenizer = semantic_of(semantic_info, device)

    def encode(wav: str) -> np.ndarray:
        samples = resampled(read_wav(wav, found_hz), found_hz, tokenizer.sample_rate_hz)
        return tokenizer.encode(torch.from_numpy(samples)).numpy()

    return encode_each(encode, wavs)


def write_encoded(
    work: Work[str, Encoded],
    wavs: Mapping[str, str],
    place: tuple[Path, Path],
    workers: Workers,
    writer: Callable[[Path], AbstractContextManager[Write]],
    skipped: dict[str, str],
    wanted: Collection[str],
    refuse: Callable[[str, np.ndarray], str | None] = lambda utterance, ids: None,
) -> dict[str, int]:
    """Write the archive of a corpus's codes or units and the list of skipped utterances.

    Args:
        work: encodes a shard.
        wavs: utterance → audio file.
        place: data directory, for errors, and the directory to write.
        workers: who encodes.
        writer: of the archive.
        skipped: utterance → reason; gets those without codes or units.
        wanted: utterances of which at least one must be usable.
        refuse: why the ids of an utterance are not usable; None if they are.

    Returns:
        Utterance → length, of those that were written.

    Raises:
        UserError: if no utterance is usable.
    """
    (source, out), kept = place, dict[str, int]()
    shards = run_shards(work, wavs, out, workers)
    with writer(out) as write:
        for _, results in shards:
            for utterance, ids in results.items():
                reason = ids if isinstance(ids, str) else refuse(utterance, ids)
                if reason is not None:
                    skipped[utterance] = reason
                elif not isinstance(ids, str):
                    write(utterance, ids)
                    kept[utterance] = len(ids)
        write_skipped(out / "skipped", skipped)
        if kept.keys().isdisjoint(wanted):
            raise UserError(f"{source} must have usable utterances, skipped: {skipped_summary(skipped)}")
    logging.info("%s: %d utterances; skipped: %s", out, len(kept), skipped_summary(skipped))
    return kept


@dataclass(frozen=True)
class DecodeJob:
    """Codes of one utterance to be made audible.

    Attributes:
        pointer: place of the codes in an archive.
        wav: file to write.
        shuffle_seed: permute the frames in time by this seed; None keeps the order.
        noise_seed: write white noise of this seed, as long and as loud as the speech, instead of it; None for speech.
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
        codec_info: codec_info.yaml.
        jobs: utterance → what to decode.

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
