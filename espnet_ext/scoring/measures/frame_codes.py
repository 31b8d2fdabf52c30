"""Codes of every system's frames: those it says, and where it says none those that the codec makes of its audio."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from espnet_ext.data.ark import read_codes
from espnet_ext.data.encoding import codec_of, codes_of
from espnet_ext.data.waveform import read_resampled
from espnet_ext.jobs import Work
from espnet_ext.scoring.measures.same_audio import Unheard, content_of, judge_each, judge_once
from espnet_ext.scoring.settings import Settings
from espnet_ext.scoring.system import Reference, System
from espnet_ext.storage.checksums import content_hash

Codes = NDArray[np.int32]
SHARD_SIZE = 16


def _encoder(codec_info: Path) -> Callable[[Path], Codes]:
    """What makes codes (T, N) of an audio file of any sample rate."""
    codec = codec_of(codec_info)
    return lambda path: codes_of(codec, read_resampled(path, codec.spec.sample_rate_hz)).astype(np.int32)


def is_original(system: System, reference: Reference) -> bool:
    """Whether the system is the test set itself, whose codes are those of its recordings."""
    return system.directory.absolute() == reference.directory.absolute()


def said_codes(run: System, reference: Reference, codebooks: int) -> Mapping[str, Codes] | None:
    """The codes that an output consists of, utterance → (T, N); None where it has audio alone."""
    if run.says_codes or is_original(run, reference):
        return read_codes(run.directory / "codes.scp", codebooks)
    return None


def heard_codes(
    systems: Iterable[System], reference: Reference, settings: Settings
) -> dict[str, list[Mapping[str, Codes | Unheard]]] | None:
    """The codes that the codec makes of everybody's audio; the test set's own was encoded before.

    Args:
        systems: the systems.
        reference: the test set.
        settings: how to evaluate; of them the codec, who encodes, and where finished work is kept.

    Returns:
        System → for every repeat, utterance → (T, N), or the reason why there are none; None without a codec.
    """
    codec_info = settings.codec_info
    if codec_info is None:
        return None
    request = {"codec": content_hash(codec_info)}
    load = functools.partial(_encoder, codec_info)
    work = Work(functools.partial(judge_each, load), request, "codes of audio", SHARD_SIZE, lambda path: [path])
    codebooks = codec_of(codec_info).spec.num_codebooks
    outputs = {f"{system.name}#{number}": run for system in systems for number, run in enumerate(system.runs)}
    wavs = {name: run.wavs for name, run in outputs.items() if not is_original(run, reference)}
    found: dict[str, Mapping[str, Codes | Unheard]] = dict(
        judge_once(work, wavs, settings.workers, settings.part("codes"), content_of)
    )
    heard: dict[str, list[Mapping[str, Codes | Unheard]]] = {}
    for name, run in outputs.items():
        table = found[name] if name in found else read_codes(run.directory / "codes.scp", codebooks)
        heard.setdefault(name.rpartition("#")[0], []).append(table)
    return heard
