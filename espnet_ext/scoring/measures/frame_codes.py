"""Codes of every system's frames: those it says, and where it says none those that the codec makes of its audio."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from espnet_ext.data.ark import read_codes
from espnet_ext.data.codec_encoding import codec_of
from espnet_ext.data.waveform import read_resampled
from espnet_ext.jobs import Work, Workers, run_groups
from espnet_ext.jobs.finished import content_hash
from espnet_ext.scoring.measures.same_audio import content_of
from espnet_ext.scoring.system import Reference, System

Codes = NDArray[np.int32]
SHARD_SIZE = 16


def encode_shard(codec_info: Path, wavs: Mapping[str, Path]) -> dict[str, Codes | str]:
    """Codes of audio files of any sample rate, or the reason why there are none.

    Args:
        codec_info: codec_info.yaml.
        wavs: utterance → audio file.

    Returns:
        Utterance → (T, N), or one line.
    """
    codec = codec_of(codec_info)
    results: dict[str, Codes | str] = {}
    for utterance, path in wavs.items():
        try:
            samples = torch.from_numpy(read_resampled(path, codec.spec.sample_rate_hz))
            codes, _ = codec.encode(samples[None], torch.tensor([len(samples)]))
            results[utterance] = codes[0].numpy().astype(np.int32)
        except ValueError as error:
            results[utterance] = str(error)
    return results


def is_original(system: System, reference: Reference) -> bool:
    """Whether the system is the test set itself, whose codes are those of its recordings."""
    return system.directory.absolute() == reference.directory.absolute()


def said_codes(run: System, reference: Reference, codebooks: int) -> Mapping[str, Codes] | None:
    """The codes that an output consists of; None where it has audio alone.

    Args:
        run: the output.
        reference: the test set.
        codebooks: N.

    Returns:
        Utterance → (T, N).

    Raises:
        FileNotFoundError: if a codes.scp is missing.
    """
    if run.says_codes or is_original(run, reference):
        return read_codes(run.directory / "codes.scp", codebooks)
    return None


def heard_codes(
    codec_info: Path | None, systems: Iterable[System], reference: Reference, workers: Workers, folder: Path | None
) -> dict[str, list[Mapping[str, Codes | str]]] | None:
    """The codes that the codec makes of everybody's audio.

    Args:
        codec_info: codec_info.yaml; None: nobody can make codes.
        systems: the systems.
        reference: the test set; its own audio was encoded before.
        workers: who encodes.
        folder: where finished work is kept for a run that continues; None for a temporary one.

    Returns:
        System → for every repeat, utterance → (T, N), or the reason why there are none; None without a codec.
    """
    if codec_info is None:
        return None
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="codes") as name:
            return heard_codes(codec_info, systems, reference, workers, Path(name))
    request = {"codec": content_hash(codec_info)}
    work = Work(functools.partial(encode_shard, codec_info), request, "codes of audio", SHARD_SIZE, lambda path: [path])
    codebooks = codec_of(codec_info).spec.num_codebooks
    places = {folder / f"{system.name}#{number}": run for system in systems for number, run in enumerate(system.runs)}
    first: dict[str, tuple[Path, str]] = {}  # content → place and utterance of the file that is encoded
    items: dict[Path, dict[str, Path]] = {}
    for place, run in places.items():
        if not is_original(run, reference):
            owners = {one: first.setdefault(content_of(path), (place, one)) for one, path in run.wavs.items()}
            items[place] = {one: run.wavs[one] for one, owner in owners.items() if owner == (place, one)}
    found: dict[tuple[Path, str], Codes | str] = {}
    for place, _, results in run_groups(work, items, workers):
        found.update({(place, one): codes for one, codes in results.items()})
    heard: dict[str, list[Mapping[str, Codes | str]]] = {}
    for place, run in places.items():
        table: Mapping[str, Codes | str]
        if is_original(run, reference):
            table = read_codes(run.directory / "codes.scp", codebooks)
        else:
            table = {one: found[first[content_of(path)]] for one, path in run.wavs.items()}
        heard.setdefault(place.name.rpartition("#")[0], []).append(table)
    return heard
