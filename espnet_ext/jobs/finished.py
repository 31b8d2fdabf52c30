"""Records of finished outputs, by which a stage that runs again knows that there is nothing to do."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from espnet_ext.storage.atomic import atomic_path


def digest(paths: Iterable[Path]) -> str:
    """SHA-256 over the names and contents of those files that exist, hexadecimal."""
    total = hashlib.sha256()
    for path in paths:
        if path.is_file():
            total.update(f"{path.name} {path.stat().st_size}\n".encode())
            with path.open("rb") as stream:  # in pieces: an archive may be larger than the memory
                while content := stream.read(2**20):
                    total.update(content)
    return total.hexdigest()


def is_finished(record: Path, request: Mapping[str, object]) -> bool:
    """Look up whether this very request was completed.

    Args:
        record: file written by `mark_finished`
        request: inputs and options, as given to `mark_finished`; a missing or damaged record is no completion

    Returns:
        Whether the record says so.
    """
    try:
        return bool(yaml.safe_load(record.read_text(encoding="utf-8")) == dict(request))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return False


def mark_finished(record: Path, request: Mapping[str, object]) -> None:
    """Write a record; call it after everything else is in place.

    Args:
        record: file to write
        request: inputs and options, plain yaml values
    """
    with atomic_path(record) as temporary:
        temporary.write_text(yaml.safe_dump(dict(request), sort_keys=False), encoding="utf-8")
