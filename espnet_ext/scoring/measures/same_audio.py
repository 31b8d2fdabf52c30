"""Outputs with the same content, as strategies with the same codes make them: once is enough to hear them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from espnet_ext.jobs.finished import content_hash
from espnet_ext.scoring.system import System


def content_of(path: Path) -> str:
    """What is equal for files of equal content; of a file that cannot be read its name.

    Args:
        path: the file.

    Returns:
        A hash, or the name.
    """
    return content_hash(path) or str(path)


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
        codes = tuple(content_of(run.directory / "codes.ark") for run in system.runs)
        other = first.setdefault(codes, system.name)
        if other != system.name:
            found[system.name] = other
    return found
