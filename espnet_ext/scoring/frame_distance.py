"""Codec Fréchet distance of every system to the reference, with what each of them lacks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from espnet_ext.ark import read_codes
from espnet_ext.codes import CodecSpec
from espnet_ext.scoring.bootstrap import corrected
from espnet_ext.scoring.frechet import FrameStatistics, distance_draws, frame_statistics, frechet_distance
from espnet_ext.scoring.system import Reference, System

Array = NDArray[np.float64]
Vectors = list[NDArray[np.float64] | None]


class Dequantiser(Protocol):
    """The part of a codec that is needed here."""

    spec: CodecSpec

    def dequantise(self, codes: Tensor) -> Tensor:
        """Vectors (T, F) of codes (T, N)."""


def _frame_vectors(
    codec: Dequantiser, directory: Path, utterances: Sequence[str] | None = None
) -> tuple[Vectors, dict[str, str]]:
    table = read_codes(directory / "codes.scp", codec.spec.num_codebooks)
    vectors: Vectors = []
    missing: dict[str, str] = {}
    for utterance in table if utterances is None else utterances:
        try:
            codes = torch.from_numpy(np.array(table[utterance]))
            codec.spec.check(codes)
            vectors.append(codec.dequantise(codes).detach().double().numpy())
        except KeyError:
            missing[utterance] = "not in codes.scp"
            vectors.append(None)
        except (FileNotFoundError, ValueError) as error:
            missing[utterance] = str(error)
            vectors.append(None)
    return vectors, missing


def _origin(vectors: Vectors, directory: Path) -> Array:
    present = [one for one in vectors if one is not None]
    if sum(len(one) for one in present) < 2:
        raise ValueError(f"codes to measure a distance to must have two frames, got fewer in {directory / 'codes.scp'}")
    mean: Array = np.concatenate(present).mean(axis=0)
    return mean


def _summary(target: FrameStatistics, system: FrameStatistics, draws: Array) -> dict[str, Any]:
    first, second = target.gaussian(), system.gaussian()
    if first is None or second is None:
        return {"distance": None, "corrected": None, "interval": None}
    distance = frechet_distance(first, second)
    without_bias = corrected(distance, draws)
    value, ends = (None, None) if without_bias is None else without_bias
    return {"distance": distance, "corrected": value, "interval": ends}


def distance_to_reference(
    codec: Dequantiser, reference: Reference, system: System, other: Path | None
) -> dict[str, Any]:
    """Distance of the frames of a system that has other utterances than the reference; it cannot be resampled.

    Args:
        codec: makes frame vectors of codes.
        reference: the test set; its directory holds the codes.
        system: the system.
        other: directory of other codes to measure the distance to; None: the reference's.

    Returns:
        "distance", None without two frames of either; "missing", utterance → why it has no codes.

    Raises:
        FileNotFoundError: if the reference's codes.scp is missing.
        ValueError: if there are no frames to measure a distance to.
    """
    directory = other or reference.directory
    originals, _ = _frame_vectors(codec, directory, list(reference.transcripts) if other is None else None)
    origin = _origin(originals, directory)
    vectors, missing = _frame_vectors(codec, system.directory) if system.has_own_codes else ([], {})
    first, second = (frame_statistics(several, origin).gaussian() for several in (originals, vectors))
    distance = None if first is None or second is None else frechet_distance(first, second)
    return {"distance": distance, "missing": missing}


def frame_distances(
    codec: Dequantiser, reference: Reference, systems: Sequence[System], other: Path | None, weights: Array
) -> tuple[dict[str, dict[str, Any]], dict[str, Array]]:
    """Distance of the frames of every system to those of the reference, and its resampled values.

    A system without a codes.scp is recorded or resynthesised speech: its codes are those of the reference.

    Args:
        codec: makes frame vectors of codes.
        reference: the test set; its directory holds the codes.
        systems: the systems.
        other: directory of other codes to measure the distance to, such as the training set's; None: the reference's.
        weights: (resamples, utterances) from `resample_weights`.

    Returns:
        Name → "distance", "corrected", "interval", "own_codes", "missing", and name → (resamples,) distances.

    Raises:
        FileNotFoundError: if a codes.scp is missing.
        ValueError: if there are no frames to measure a distance to.
    """
    utterances = list(reference.transcripts)
    originals, unreadable = _frame_vectors(codec, reference.directory, utterances)
    origin = _origin(originals, reference.directory)
    own = target = frame_statistics(originals, origin)
    if other is not None:
        vectors, _ = _frame_vectors(codec, other)
        _origin(vectors, other)
        target = frame_statistics(vectors, origin)
    statistics, missing = {}, {}
    for system in tqdm(systems, desc="codec frames", unit="system"):
        statistics[system.name], missing[system.name] = own, unreadable
        if system.has_own_codes:
            vectors, missing[system.name] = _frame_vectors(codec, system.directory, utterances)
            statistics[system.name] = frame_statistics(vectors, origin)
    draws = distance_draws(target, statistics, weights, paired=other is None)
    results = {
        system.name: {
            **_summary(target, statistics[system.name], draws[system.name]),
            "own_codes": system.has_own_codes,
            "missing": missing[system.name],
        }
        for system in systems
    }
    return results, draws
