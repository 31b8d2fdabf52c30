"""Codec Fréchet distance of every system to the reference, with what each of them lacks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from espnet_ext.codes import CodecSpec
from espnet_ext.data.ark import read_codes
from espnet_ext.errors import UserError
from espnet_ext.scoring.measures.bootstrap import Resamples, corrected
from espnet_ext.scoring.measures.frame_codes import Codes
from espnet_ext.scoring.measures.frechet import FrameStatistics, distance_draws, frame_statistics, frechet_distance
from espnet_ext.scoring.measures.same_audio import Unheard
from espnet_ext.scoring.scores import Distance, FrameDistance
from espnet_ext.scoring.system import Reference, System

Array = NDArray[np.float64]
# `make bench-frechet`: with fewer, two sets of recordings are as far apart as systems
ENOUGH_FRAMES_PER_DIMENSION = 200
Vectors = list[NDArray[np.float64] | None]


class Dequantiser(Protocol):
    """The part of a codec that is needed here."""

    spec: CodecSpec

    def dequantise(self, codes: Tensor) -> Tensor:
        """Vectors (T, F) of codes (T, N)."""


def _frame_vectors(
    codec: Dequantiser, table: Mapping[str, Codes | Unheard], utterances: Iterable[str]
) -> tuple[Vectors, dict[str, str]]:
    vectors: Vectors = []
    missing: dict[str, str] = {}
    for utterance in utterances:
        try:
            found = table[utterance]
            if isinstance(found, Unheard):
                raise UserError(found.reason)
            codes = torch.from_numpy(np.array(found))
            codec.spec.check(codes)
            vectors.append(codec.dequantise(codes).detach().double().numpy())
        except KeyError:
            missing[utterance] = "not in codes.scp"
            vectors.append(None)
        except (FileNotFoundError, ValueError) as error:
            missing[utterance] = str(error)
            vectors.append(None)
    return vectors, missing


def _recorded(
    codec: Dequantiser, directory: Path, utterances: Iterable[str] | None, origin: Array | None = None
) -> tuple[FrameStatistics, Array]:
    """Statistics of the codes of a directory, of all utterances where none are named, and the origin they are about."""
    table = read_codes(directory / "codes.scp", codec.spec.num_codebooks)
    vectors, _ = _frame_vectors(codec, table, table if utterances is None else utterances)
    present = [one for one in vectors if one is not None]
    if sum(len(one) for one in present) < 2:
        raise UserError(f"codes to measure a distance to must have two frames, got fewer in {directory / 'codes.scp'}")
    if origin is None:
        origin = np.concatenate(present).mean(axis=0)
    return frame_statistics(vectors, origin), origin


def _distance(target: FrameStatistics, system: FrameStatistics) -> float | None:
    first, second = target.gaussian(), system.gaussian()
    return None if first is None or second is None else frechet_distance(first, second)


def distance_to_reference(codec: Dequantiser, reference: Reference, system: System, other: Path | None) -> Distance:
    """Distance of the frames of a system that has other utterances than the reference; it cannot be resampled.

    Args:
        codec: makes frame vectors of codes.
        reference: the test set; its directory holds the codes.
        system: the system.
        other: directory of other codes to measure the distance to; None: the reference's.

    Returns:
        The distance.

    Raises:
        FileNotFoundError: if the reference's codes.scp is missing.
        UserError: if there are no frames to measure a distance to.
    """
    target, origin = _recorded(codec, other or reference.directory, reference.transcripts if other is None else None)
    own = read_codes(system.directory / "codes.scp", codec.spec.num_codebooks) if system.has_own_codes else {}
    vectors, missing = _frame_vectors(codec, own, own)
    return Distance(_distance(target, frame_statistics(vectors, origin)), missing)


def frame_distances(
    codec: Dequantiser,
    reference: Reference,
    tables: Mapping[str, Sequence[Mapping[str, Codes | Unheard] | None]],
    other: Path | None,
    resamples: Resamples,
) -> tuple[dict[str, FrameDistance], dict[str, Array]]:
    """Distance of the frames of every system to those of the reference, mean over its repeats, and resampled values.

    Args:
        codec: makes frame vectors of codes.
        reference: the test set; its directory holds the codes.
        tables: name of a system → for every repeat, utterance → codes or the reason why there are none; None where an
            output has no codes at all.
        other: directory of other codes to measure the distance to, such as the training set's; None: the reference's.
        resamples: draws of utterances and repeats.

    Returns:
        Name → distances; and name → (resamples,) distances.

    Raises:
        FileNotFoundError: if a codes.scp is missing.
        UserError: if there are no frames to measure a distance to.
    """
    utterances = list(reference.transcripts)
    target, origin = _recorded(codec, reference.directory, utterances)
    if other is not None:
        target, _ = _recorded(codec, other, None, origin)
    statistics, missing = {}, {}
    for name, runs in tqdm(tables.items(), desc="codec frames", unit="system"):
        for number, found in enumerate(runs):
            vectors, missing[name, number] = _frame_vectors(codec, found or {}, utterances if found else ())
            vectors = vectors or [None] * len(utterances)
            statistics[f"{name}#{number}"] = frame_statistics(vectors, origin)
    draws = distance_draws(target, statistics, resamples.utterances, paired=other is None)
    results, pooled = {}, {}
    for name, runs in tables.items():
        keys = [f"{name}#{number}" for number in range(len(runs))]
        pooled[name] = resamples.pool([draws[key] for key in keys])
        repeats = [_distance(target, statistics[key]) for key in keys]
        known = [one for one in repeats if one is not None]
        distance = float(np.mean(known)) if len(known) == len(repeats) else None
        value, ends = (None if distance is None else corrected(distance, pooled[name])) or (None, None)
        frames = int(sum(statistics[key].frames.sum() for key in keys))
        results[name] = FrameDistance(distance, value, ends, missing[name, 0], frames, len(origin), repeats)
    return results, pooled
