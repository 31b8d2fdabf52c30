"""Files from the web: downloads that continue where they were interrupted and are checked before anything uses them."""

from __future__ import annotations

import hashlib
import http.client
import logging
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from espnet_ext.errors import UserError
from espnet_ext.storage.atomic import atomic_dir

BLOCK_BYTES = 1 << 20
TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class Source:
    """Where a file is, and how to tell that it arrived whole.

    Attributes:
        url: its address.
        checksum: ``ALGORITHM:HEX`` as hashlib names it, such as ``md5:d41d…``; empty where nobody published one of a
            tar archive, which then is read through instead, or of a zip, which whoever unpacks it checks.
        advice: what a user who cannot download may do, the end of an error message.
    """

    url: str
    checksum: str = ""
    advice: str = ""


def _stream(url: str, part: Path) -> None:
    """Append to `part` what it lacks of the file at `url`; a server that cannot continue sends everything again."""
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
        resumed = response.status == 206
        size = response.headers.get("Content-Length")
        total = int(size) + (start if resumed else 0) if size else None
        bar = tqdm(total=total, initial=start if resumed else 0, desc="downloading", unit="B", unit_scale=True)
        with bar, part.open("ab" if resumed else "wb") as out:
            while block := response.read(BLOCK_BYTES):
                out.write(block)
                bar.update(len(block))
    if total is not None and part.stat().st_size < total:
        raise ConnectionError(f"the connection ended after {part.stat().st_size} of {total} bytes")


def _damage(path: Path, checksum: str) -> str:
    """What is wrong with a complete download; the empty string if nothing is."""
    if checksum:
        algorithm, _, expected = checksum.partition(":")
        digest = hashlib.new(algorithm, usedforsecurity=False)
        with path.open("rb") as stream:
            bar = tqdm(total=path.stat().st_size, desc="checking", unit="B", unit_scale=True)
            with bar:
                while block := stream.read(BLOCK_BYTES):
                    digest.update(block)
                    bar.update(len(block))
        found = digest.hexdigest()
        return "" if found == expected else f"its {algorithm} must be {expected}, got {found}"
    if path.suffixes[-2:] == [".zip", ".part"]:
        return "" if zipfile.is_zipfile(path) else "it is no zip archive"
    try:
        with tarfile.open(path) as archive:
            archive.getmembers()
            while archive.fileobj is not None and archive.fileobj.read(BLOCK_BYTES):
                pass  # to the very end, where a compressed file has its own checksum
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        return " ".join(str(error).split())  # tarfile lists what it tried on several lines
    return ""


def download(source: Source, target: Path) -> Path:
    """The file at `target`, downloaded unless it is there; an interrupted download is continued.

    Args:
        source: what to fetch.
        target: file to make; what has arrived so far is kept beside it under the suffix .part.

    Returns:
        The target; a file of that name is complete and was checked.

    Raises:
        UserError: if the file cannot be fetched, or arrives damaged; what is damaged is removed, so that the next
            run starts anew.
    """
    if target.exists():
        return target
    part = target.with_name(target.name + ".part")
    target.parent.mkdir(parents=True, exist_ok=True)
    logging.info("downloading %s", source.url)
    try:
        _stream(source.url, part)
    except urllib.error.HTTPError as error:
        # nothing is left to fetch: everything arrived, and the run ended before the check
        if error.code != 416:
            raise UserError(f"cannot download {source.url} ({error}); try again{source.advice}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise UserError(f"cannot download {source.url} ({reason}); run again to continue{source.advice}") from error
    damage = _damage(part, source.checksum)
    if damage:
        part.unlink()
        raise UserError(f"{source.url} arrived damaged and was removed ({damage}); run again{source.advice}")
    part.replace(target)
    return target


def extract(archive: Path, inner: str, out: Path) -> int:
    """Unpack one folder of a tar archive; `out` appears only when it is complete.

    Args:
        archive: tar archive, compressed or not.
        inner: folder in the archive, such as ``LibriTTS/dev-clean``.
        out: the same folder on disk; replaced as a whole.

    Returns:
        Number of files.

    Raises:
        UserError: if the archive is damaged, holds a member that leads out of the folder, or lacks the folder.
    """
    prefix = PurePosixPath(inner).parts
    count = 0
    try:
        with atomic_dir(out) as folder, tarfile.open(archive, "r|*") as stream:
            for member in tqdm(stream, desc=f"unpacking {out.name}", unit="file"):
                parts = PurePosixPath(member.name).parts
                parts = parts[1:] if parts[:1] == (".",) else parts
                if member.isfile() and parts[: len(prefix)] == prefix and len(parts) > len(prefix):
                    inside = member.replace(name=str(PurePosixPath(*parts[len(prefix) :])), deep=False)
                    stream.extract(inside, folder, filter="data")
                    count += 1
            if not count:
                raise UserError(f"{archive} must hold {inner}, found nothing there")
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise UserError(
            f"{archive} must be a complete tar archive without odd members, got {' '.join(str(error).split())}"
        ) from error
    return count
