"""The recordings of the Free Spoken Digit Dataset, from a folder, an archive or its home."""

from __future__ import annotations

import http.client
import io
import logging
import re
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import soundfile
from numpy.typing import NDArray
from tqdm import tqdm

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
        raise ValueError(f"--fsdd {path} must be a complete tar archive or a folder, got {error}") from error


def _decode(name: str, content: bytes) -> tuple[NDArray[np.float64], str]:
    try:
        samples, rate_hz = soundfile.read(io.BytesIO(content), dtype="float64", always_2d=True)
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
        ValueError: if it is no archive, or holds no recording.
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
        raise ValueError(f"--fsdd {path} must hold recordings named DIGIT_SPEAKER_TAKE.wav, found none")
    return [found[key] for key in sorted(found)], skipped


def _fetch(url: str, part: Path) -> None:
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    with urllib.request.urlopen(request, timeout=30) as response:
        resumed = response.status == 206
        size = response.headers.get("Content-Length")
        total = int(size) + (start if resumed else 0) if size else None
        bar = tqdm(total=total, initial=start if resumed else 0, desc="downloading", unit="B", unit_scale=True)
        with bar, part.open("ab" if resumed else "wb") as out:
            while block := response.read(1 << 16):
                out.write(block)
                bar.update(len(block))
    if total is not None and part.stat().st_size < total:
        raise ConnectionError(f"the connection ended after {part.stat().st_size} of {total} bytes")


def download(target: Path, url: str = URL) -> Path:
    """The archive at `target`, downloaded unless it is there; an interrupted download is continued.

    Args:
        target: file to make; what has arrived so far is kept beside it under the suffix .part.
        url: where the archive is.

    Returns:
        The target.

    Raises:
        ValueError: if the archive cannot be fetched or arrives damaged.
    """
    if target.exists():
        return target
    part = target.with_name(target.name + ".part")
    target.parent.mkdir(parents=True, exist_ok=True)
    logging.info("downloading %s (CC BY-SA 4.0)", url)
    try:
        _fetch(url, part)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing was left to fetch, yet the archive was not accepted before
            part.unlink(missing_ok=True)
        raise ValueError(f"cannot download {url} ({error}); try again, or give a copy with --fsdd PATH") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise ValueError(
            f"cannot download {url} ({reason}); run again to continue, or give a copy with --fsdd PATH"
        ) from error
    try:
        with tarfile.open(part) as archive:
            archive.getmembers()
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        part.unlink()
        raise ValueError(f"{url} arrived damaged ({error}); run again, or give a copy with --fsdd PATH") from error
    part.replace(target)
    return target
