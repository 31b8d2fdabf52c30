"""Outputs with the same content, as strategies with the same codes make them: once is enough to hear them."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

from espnet_ext.jobs.finished import digest
from espnet_ext.scoring.system import System


@functools.lru_cache(maxsize=65536)
def _digest(path: Path, size: int, changed_ns: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def content_of(path: Path) -> str:
    """What is equal for files of equal content; of a file that cannot be read its name.

    Args:
        path: the file.

    Returns:
        A digest, or the name.
    """
    try:
        status = path.stat()
        return _digest(path, status.st_size, status.st_mtime_ns)
    except OSError:
        return str(path)


def same_codes(systems: Sequence[System]) -> dict[str, str]:
    """Systems whose outputs have the very codes of another one.

    Args:
        systems: all of them.

    Returns:
        Name → name of the first one that has the same.
    """
    first: dict[tuple[str, ...], str] = {}
    found = {}
    for system in systems:
        if not all(run.generates and run.says_codes for run in system.runs):
            continue
        codes = tuple(digest([run.directory / "codes.ark"]) for run in system.runs)
        other = first.setdefault(codes, system.name)
        if other != system.name:
            found[system.name] = other
    return found
