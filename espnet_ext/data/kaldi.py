"""Binary Kaldi vectors and matrices of an archive, read as numbers and as nothing else.

The libraries for archives also run a pointer that ends with a pipe, and unpickle entries that say so; whoever wrote a
codes.scp or an archive could run code with them.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from espnet_ext.data.datadir import shown
from espnet_ext.errors import UserError
from espnet_ext.storage.checksums import verify

HEADER_BYTES = 15  # the longest: that of a matrix
KEY_BYTES = 512  # of a key and the space behind it
_KEY = re.compile(rb"([^\x00-\x20\x7f]+) \Z")  # an id of codes in front of it ends with a zero byte
# file names that kaldiio or omniio, which ESPnet reads with, takes for a command, a range, the standard input or gzip
_POINTER = re.compile(r"(?!\s*\|)(.*?[^\s|]):([0-9]{1,18})", re.ASCII)
_KINDS: dict[bytes, tuple[np.dtype[Any], int]] = {
    b"FV ": (np.dtype("<f4"), 1),
    b"FM ": (np.dtype("<f4"), 2),
    b"DV ": (np.dtype("<f8"), 1),
    b"DM ": (np.dtype("<f8"), 2),
}
_COUNTED: np.dtype[Any] = np.dtype([("size", "i1"), ("value", "<i4")])  # an integer, behind the number of its bytes


@dataclass(frozen=True)
class Header:
    """What an entry begins with.

    Attributes:
        dtype: of what follows.
        shape: (length,) or (rows, columns).
        size: of the header itself in bytes.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    size: int

    @classmethod
    def of(cls, content: bytes, left: int) -> Header:
        """Read a header.

        Args:
            content: the first `HEADER_BYTES` of the entry, or what is there of them.
            left: bytes of the archive from the beginning of the entry.

        Returns:
            The header.

        Raises:
            UserError: if it is no vector of int32, vector or matrix of floats, or promises more than there is.
        """
        kind, axes, place = _COUNTED, 1, 2
        if content[:2] != b"\0B":
            raise UserError("no binary Kaldi vector or matrix")
        if content[2:3] != b"\4":
            if content[2:5] not in _KINDS:
                raise UserError("no vector or matrix of int32, float32 or float64")
            (kind, axes), place = _KINDS[content[2:5]], 5
        size = place + 5 * axes
        if len(content) < size:
            raise UserError("it ends within a header")
        counts = np.frombuffer(content[place:size], _COUNTED)
        shape = tuple(int(count) for count in counts["value"])
        if any(counts["size"] != 4) or min(shape) < 0:
            raise UserError("no length in its header")
        if size + prod(shape) * kind.itemsize > left:
            raise UserError(f"{'x'.join(map(str, shape))} numbers promised, more than there are bytes")
        return cls(kind, shape, size)


def place_of(pointer: str) -> tuple[str, int]:
    """Archive and offset of an entry.

    >>> place_of("dump/train/codes.ark:1234")
    ('dump/train/codes.ark', 1234)

    Args:
        pointer: of an scp file.

    Returns:
        Path and bytes.

    Raises:
        UserError: if it is anything else, such as a command, a range or a compressed archive.
    """
    found = _POINTER.fullmatch(pointer)
    name = found[1].rpartition("/")[2] if found else "-"
    if not found or not pointer.isprintable() or name == "-" or "[" in name or "]" in name or name.endswith(".gz"):
        raise UserError(f"must be ARCHIVE:OFFSET, got {pointer!a}")
    return found[1], int(found[2])


def open_archive(archive: str) -> BinaryIO:
    """The archive, open to be read.

    Args:
        archive: its path.

    Returns:
        The file.

    Raises:
        FileNotFoundError: if there is none.
        UserError: if it is a directory, a device, or a pipe, which might never answer.
    """
    if not stat.S_ISREG(Path(archive).stat().st_mode):
        raise UserError(f"{archive} must be a regular file")
    return open(archive, "rb")


def read_entry(pointer: str) -> np.ndarray:
    """The vector or matrix at a place: int32, float32 or float64.

    Args:
        pointer: archive:offset.

    Returns:
        The array.

    Raises:
        FileNotFoundError: if there is no such archive.
        UserError: if there is nothing of these kinds, whole, at that place.
    """
    archive, offset = place_of(pointer)
    with open_archive(archive) as stream:
        stream.seek(offset)
        left = os.fstat(stream.fileno()).st_size - offset
        header = Header.of(stream.read(HEADER_BYTES), left)
        stream.seek(offset + header.size)
        array = np.frombuffer(stream.read(prod(header.shape) * header.dtype.itemsize), header.dtype)
    if header.dtype is not _COUNTED:
        return array.reshape(header.shape)
    if (array["size"] != 4).any():
        raise UserError("damaged integers")
    return np.ascontiguousarray(array["value"])


def check_owners(scp: Path | str, table: Mapping[str, str], whose: Mapping[str, str]) -> None:
    """Refuse pointers that were exchanged: an archive has the id of an utterance in front of its entry.

    A table may give utterances other names than its archives, as one of several corpora does. What cannot be read is
    let pass here: whoever reads it says so.

    Args:
        scp: file the pointers come from, a line each.
        table: utterance → archive:offset.
        whose: utterance → the one whose entry is meant; of one that is not in it, nobody knows.

    Raises:
        UserError: naming file and line, if an entry is that of another utterance of the table, or none begins there; or
            naming an archive that is damaged.
    """
    names: set[str] = set()
    for archive in sorted({pointer.rpartition(":")[0] for pointer in table.values()} - {""}):
        verify(archive)
    for line, (utterance, key) in enumerate(_keys(table), start=1):
        if key == "":
            raise UserError(f"{scp}:{line}: must point at an entry, got {table[utterance]}, where none begins")
        meant = whose.get(utterance)
        if key is None or meant is None or key in _names_of(meant):
            continue
        names = names or {name for one in whose.values() for name in _names_of(one)}
        if key in names:
            raise UserError(
                f"{scp}:{line}: must point at the entry of {shown(meant)}, got that of {shown(key)}: {table[utterance]}"
            )


def _names_of(utterance: str) -> Iterator[str]:
    """What an utterance may be called in the archives of the corpora that local/mix_corpora.py made a table of."""
    for name in {utterance, re.sub(r"(-r[0-9]+)+\Z", "", utterance)}:
        parts = name.split("-")
        yield from ("-".join(parts[first:]) for first in range(len(parts)))


def _keys(table: Mapping[str, str]) -> Iterator[tuple[str, str | None]]:
    """Utterance, and the key in front of its entry; empty where there is none, None where nobody can tell."""
    with ExitStack() as stack:
        archives: dict[str, int] = {}
        for utterance, pointer in table.items():
            key = None
            with suppress(OSError, UserError):
                archive, offset = place_of(pointer)
                if archive not in archives:
                    archives[archive] = stack.enter_context(open_archive(archive)).fileno()
                key = _key(archives[archive], offset)
            yield utterance, key


def _key(handle: int, offset: int) -> str | None:
    first = max(0, offset - KEY_BYTES)
    content = os.pread(handle, offset - first + 2, first)
    if not offset or not content.endswith(b"\0B"):  # an entry alone, without a key; or nothing that can be read
        return None
    found = _KEY.search(content[:-2])
    return found[1].decode("utf-8", "replace") if found else ""
