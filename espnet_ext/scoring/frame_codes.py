"""Codes of every system's frames: those it says, and where it says none those that the codec makes of its audio."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from espnet_ext.ark import read_codes
from espnet_ext.codec.jobs import codec_of
from espnet_ext.jobs import Work, Workers, run_groups
from espnet_ext.scoring.system import Reference, System
from espnet_ext.scoring.waveform import read_resampled

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


def encode_audio(
    codec_info: Path | None, runs: Iterable[System], reference: Reference, workers: Workers, folder: Path | None
) -> dict[str, dict[str, Codes | str]]:
    """Codes of the audio of those outputs that say none themselves: recordings, the codec's own speech, noise.

    Args:
        codec_info: codec_info.yaml; None: nobody can make codes.
        runs: outputs of systems.
        reference: the test set.
        workers: who encodes.
        folder: where finished work is kept for a run that continues; None for a temporary one.

    Returns:
        Directory of the output → utterance → (T, N), or the reason why there are none.
    """
    codeless = {str(run.directory): run.wavs for run in runs if not run.says_codes and not is_original(run, reference)}
    if codec_info is None or not codeless:
        return {name: dict.fromkeys(wavs, "no codec to make codes") for name, wavs in codeless.items()}
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="codes") as name:
            return encode_audio(codec_info, runs, reference, workers, Path(name))
    request = {"codec": str(codec_info), "state": codec_info.stat().st_mtime_ns}
    work = Work(functools.partial(encode_shard, codec_info), request, "codes of audio", SHARD_SIZE, lambda path: [path])
    places = {folder / name.replace("/", "_"): name for name in codeless}
    found: dict[str, dict[str, Codes | str]] = {name: {} for name in codeless}
    for place, _, results in run_groups(work, {place: codeless[name] for place, name in places.items()}, workers):
        found[places[place]].update(results)
    return found


def codes_of(
    run: System, reference: Reference, codebooks: int, encoded: Mapping[str, Mapping[str, Codes | str]]
) -> Mapping[str, Codes | str]:
    """Codes of one output.

    Args:
        run: the output.
        reference: the test set.
        codebooks: N.
        encoded: from `encode_audio`.

    Returns:
        Utterance → (T, N), or the reason why there are none.

    Raises:
        FileNotFoundError: if a codes.scp is missing.
    """
    if run.says_codes or is_original(run, reference):
        return read_codes(run.directory / "codes.scp", codebooks)
    return encoded[str(run.directory)]
