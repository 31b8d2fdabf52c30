"""The list in a packed voice of what it holds: file → bytes and SHA-256, and who may use it how."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from espnet_ext.errors import UserError
from espnet_ext.storage.checksums import content_hash

VOICE_NAME, VOICE_FORMAT = "voice.json", "espnet_ext voice 1"


def write_list(directory: Path, facts: Mapping[str, Any]) -> None:
    """Write the list of all files below a directory into it.

    Args:
        directory: of the voice.
        facts: what else there is to tell, plain values.
    """
    files = {
        file.relative_to(directory).as_posix(): {"bytes": file.stat().st_size, "sha256": content_hash(file)}
        for file in sorted(directory.rglob("*"))
        if file.is_file() and file != directory / VOICE_NAME
    }
    content = {"format": VOICE_FORMAT, **facts, "files": files}
    (directory / VOICE_NAME).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def check_list(directory: Path) -> dict[str, Any]:
    """What the list tells, after every file was compared with it.

    Args:
        directory: of the voice.

    Returns:
        The facts.

    Raises:
        UserError: if the list cannot be read, or a file is missing, changed or not in it; the message names it.
    """
    path = directory / VOICE_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        listed = {str(name): str(one["sha256"]) for name, one in content["files"].items()}
        form = content["format"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} must be a list of a voice's files, got {ascii(str(error))[:100]}") from None
    if form != VOICE_FORMAT:
        raise UserError(f"{path} must have format {VOICE_FORMAT!r}, got {form!a}: a newer espnet_ext may read it")
    found = {file.relative_to(directory) for file in directory.rglob("*") if file.is_file()} - {Path(VOICE_NAME)}
    there = {file.as_posix() for file in found if not file.parts[0].startswith(".")}  # a hub's own, which nobody reads
    for name in sorted(there ^ set(listed)):
        state = "misses" if name in listed else "holds, and its list does not know,"
        raise UserError(f"{directory} must hold what its {VOICE_NAME} lists: it {state} {name!a}")
    for name, expected in listed.items():
        if content_hash(directory / name) != expected:
            raise UserError(f"{directory / name} must hold what {VOICE_NAME} vouches for: it is damaged, get it again")
    facts: dict[str, Any] = content
    return facts
