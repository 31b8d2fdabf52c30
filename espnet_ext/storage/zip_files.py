"""Zip archives: written so that equal contents give equal bytes, and unpacked as what a stranger sent."""

from __future__ import annotations

import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from espnet_ext.errors import UserError
from espnet_ext.storage.atomic import atomic_dir, atomic_path

EPOCH = (1980, 1, 1, 0, 0, 0)  # the first day that a zip can tell
MOST_FILES = 10_000
MOST_TIMES, SPARE_BYTES = 20, 2**20  # what is unpacked, as a multiple of the archive: weights hardly shrink
BLOCK_BYTES = 2**20
STORED = (".safetensors", ".npz", ".pth", ".tflite")  # which no compression makes smaller


def write_zip(directory: Path, path: Path) -> None:
    """Write all files below a directory; the same files make the same bytes.

    Args:
        directory: what is packed, under its paths inside.
        path: the archive.
    """
    files = sorted(file for file in directory.rglob("*") if file.is_file())
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for file in files:
            info = zipfile.ZipInfo(file.relative_to(directory).as_posix(), EPOCH)
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            info.compress_type = zipfile.ZIP_STORED if file.suffix in STORED else zipfile.ZIP_DEFLATED
            with file.open("rb") as source, archive.open(info, "w", force_zip64=file.stat().st_size >= 2**31) as target:
                while block := source.read(BLOCK_BYTES):
                    target.write(block)


def unpack_zip(path: Path, out: Path) -> None:
    """Unpack an archive of anybody into a directory, which appears when it is complete.

    Nothing is written outside of the directory, nothing but plain files is, and no more bytes than
    `MOST_TIMES` those of the archive.

    Args:
        path: the archive.
        out: the directory; one that is there is replaced.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: naming the archive and what is wrong with it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"archive not found: {path}")
    with path.open("rb") as stream:
        unpack_stream(stream, path, out)


def unpack_stream(stream: IO[bytes], path: Path, out: Path) -> None:
    """Unpack an archive that is open already, likewise: whoever looked at it has looked at the same file.

    Args:
        stream: the archive.
        path: its name, for errors.
        out: the directory; one that is there is replaced.

    Raises:
        UserError: naming the archive and what is wrong with it.
    """
    with _naming(path), zipfile.ZipFile(stream) as archive, atomic_dir(out) as folder:
        members = archive.infolist()
        most = MOST_TIMES * os.fstat(stream.fileno()).st_size + SPARE_BYTES
        _check_members(members, most)
        for member in members:
            if not member.is_dir():
                _extract(archive, member, folder / PurePosixPath(member.filename))


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        reason = ascii(str(error))[1:-1][:200]
        raise UserError(f"{path} must be a whole zip archive, got one that is damaged or odd: {reason}") from None


def _check_members(members: list[zipfile.ZipInfo], most: int) -> None:
    """Refuse names that lead elsewhere, what is no plain file, and more than is allowed; a ValueError says which."""
    if len(members) > MOST_FILES:
        raise ValueError(f"{len(members)} files, more than {MOST_FILES}")
    if (total := sum(member.file_size for member in members)) > most:
        raise ValueError(f"its files would have {total} bytes, more than {most}")
    seen = set()
    for member in members:
        name = member.filename
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\\" in name or not name.isprintable() or ":" in name:
            raise ValueError(f"a name that leads elsewhere: {name!a}")
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or member.flag_bits & 1:
            raise ValueError(f"{name!a} is no plain file")
        # of other methods zipfile inflates a block without a limit, and cuts it to the size that it tells only then
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{name!a} is compressed by another method than deflate")
        if parts in seen:
            raise ValueError(f"{name!a} is there twice")
        seen.add(parts)


def _extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    """Write one file; zipfile gives no more bytes than it says it has, and compares its checksum at the end."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(member) as source, target.open("xb") as sink:
            shutil.copyfileobj(source, sink, BLOCK_BYTES)
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise ValueError(f"{member.filename!a} is a file and a directory") from None
    if target.stat().st_size != member.file_size:
        raise ValueError(f"{member.filename!a} holds less than it says")
