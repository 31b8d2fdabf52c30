"""The recordings of the Free Spoken Digit Dataset, from a folder, an archive or its home."""

from __future__ import annotations

import io
import logging
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import soundfile
from numpy.typing import NDArray
from tqdm import tqdm

from espnet_ext.data.audio import MOST_PER_BYTE
from espnet_ext.errors import UserError
from espnet_ext.storage.download import Source, download

URL = "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/v1.0.10.tar.gz"
SAMPLE_RATE_HZ = 8000
EXPECTED_RECORDINGS = 3000
_NAME = re.compile(r"(\d)_([a-z]+)_(\d+)\.wav")


@dataclass(frozen=True)
class Recording:
    """One spoken digit.

    Attributes:
        digit: 0 to 9.
        speaker: lower-case name.
        take: number of the repetition.
        samples: float samples at `SAMPLE_RATE_HZ`.
    """

    digit: int
    speaker: str
    take: int
    samples: NDArray[np.float64]

    @property
    def name(self) -> str:
        """File name without suffix."""
        return f"{self.digit}_{self.speaker}_{self.take}"


def _files(path: Path) -> Iterator[tuple[str, bytes]]:
    if path.is_dir():
        for file in sorted(path.rglob("*.wav")):
            yield file.name, file.read_bytes()
        return
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                stream = archive.extractfile(member) if member.isfile() and member.name.endswith(".wav") else None
                if stream is not None:
                    yield PurePosixPath(member.name).name, stream.read()
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise UserError(f"--fsdd {path} must be a complete tar archive or a folder, got {error}") from error


def _decode(name: str, content: bytes) -> tuple[NDArray[np.float64], str]:
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            if file.frames > len(content) * MOST_PER_BYTE:
                return np.zeros(0), "unreadable wav: it is too small for the samples that it says it has"
            samples, rate_hz = file.read(dtype="float64", always_2d=True), file.samplerate
    except soundfile.LibsndfileError as error:
        return np.zeros(0), f"unreadable wav: {error}"
    if rate_hz != SAMPLE_RATE_HZ:
        return np.zeros(0), f"wrong sample rate: {rate_hz} Hz"
    mono = samples.mean(axis=1)
    if not len(mono) or not np.isfinite(mono).all() or not np.ptp(mono):
        return np.zeros(0), "empty or silent wav"
    return mono, ""


def read_recordings(path: Path) -> tuple[list[Recording], dict[str, str]]:
    """All recordings of a folder or a tar archive, sorted, and the files that are left out.

    Args:
        path: folder or archive; where in it the recordings lie does not matter.

    Returns:
        Recordings; file name → reason.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        UserError: if it is no archive, or holds no recording.
    """
    if not path.exists():
        raise FileNotFoundError(f"--fsdd {path} must be the recordings folder or its .tar.gz, found nothing there")
    found: dict[tuple[str, int, int], Recording] = {}
    skipped: dict[str, str] = {}
    for name, content in tqdm(_files(path), total=EXPECTED_RECORDINGS, desc="reading", unit="file"):
        match = _NAME.fullmatch(name)
        if match is None:
            skipped[name] = "misnamed: must be DIGIT_SPEAKER_TAKE.wav"
            continue
        key = (match[2], int(match[1]), int(match[3]))
        samples, reason = _decode(name, content)
        if key in found:
            skipped[name] = "duplicate"
        elif reason:
            skipped[name] = reason
        else:
            found[key] = Recording(key[1], key[0], key[2], samples)
    if not found:
        raise UserError(f"--fsdd {path} must hold recordings named DIGIT_SPEAKER_TAKE.wav, found none")
    return [found[key] for key in sorted(found)], skipped


def download_recordings(folder: Path) -> Path:
    """The archive of all recordings in `folder`, downloaded unless it is there.

    Args:
        folder: for the archive.

    Returns:
        The archive.
    """
    logging.info("the recordings are licensed CC BY-SA 4.0")
    return download(
        Source(URL, advice=", or give a copy with --fsdd PATH"), folder / "free-spoken-digit-dataset.tar.gz"
    )
