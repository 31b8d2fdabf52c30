"""Contents of files by their SHA-256, and the list of those that a finished directory vouches for.

The list, .made.json, lies in the directory and names the files directly in it: tables, archives, weights, descriptions.
Logs are left out, and so is what lies in directories below: recordings, of which there are thousands and whose damage
one hears, and what has a list of its own. Whoever reads such a file calls `verify`: 0.7 s per GB on a core of 2024.
Only the standard library is imported, as recipes ask often.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from espnet_ext.errors import UserError
from espnet_ext.storage.temporary import prefix_of, umask

MADE_NAME, MADE_FORMAT = ".made.json", "espnet_ext made 1"
NOT_LISTED = (".log", ".tmp")

State = list[Any] | None  # [size, time of change, time of the inode's change, SHA-256]; None where there is no file
Stamp = tuple[int, int, int]  # size in bytes, time of the last change and of the inode's change in ns


def stamp_of(path: Path | str) -> Stamp | None:
    """What tells at little cost that a file has changed; None where there is none that can be read."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    # the inode's time, too: archives give all their files one time of change
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns) if stat.S_ISREG(status.st_mode) else None


def content_hash(path: Path | str) -> str | None:
    """SHA-256 of a file, hexadecimal, read once by a process unless it changes; None if it cannot be read."""
    found = _state(os.path.realpath(path), None)  # by whatever name it is asked for
    return None if found is None else str(found[3])


def _state(path: str, known: State) -> State:
    stamp = stamp_of(path)
    if stamp is None:
        return None
    if known is not None and known[:3] == [*stamp]:
        return known
    try:
        return [*stamp, _hash(path, *stamp)]
    except OSError:
        return None


@functools.lru_cache(maxsize=65536)
def _hash(path: str, *stamp: int) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def is_state(value: object) -> bool:
    """Whether a value of a file is one that tells what another file holds."""
    return isinstance(value, list) and [type(part) for part in value] == [int, int, int, str]


def states_of(paths: Iterable[Path | str], known: Mapping[str, State] | None = None) -> dict[str, State]:
    """Contents of files as they are now.

    Args:
        paths: files, which need not exist.
        known: what was found earlier; files with the same size and times are not read again.

    Returns:
        Path → state.
    """
    known = known or {}
    return {name: _state(name, known.get(name)) for name in map(str, paths)}


def vouch(directory: Path) -> None:
    """Put what was made on the disk, then the list of it; a loss of power from then on loses nothing.

    Args:
        directory: that is finished.
    """
    _flush(directory)
    names = [
        entry.name
        for entry in os.scandir(directory)
        if entry.is_file(follow_symlinks=False) and entry.name[0] != "." and not entry.name.endswith(NOT_LISTED)
    ]
    try:
        listed = made_in(directory)
    except UserError:  # it is replaced
        listed = {}
    known = {str(directory / name): state for name, state in listed.items()}
    states = states_of((directory / name for name in sorted(names)), known)
    files = {Path(path).name: state for path, state in states.items() if state is not None}
    write_durably(directory / MADE_NAME, json.dumps({"format": MADE_FORMAT, "files": files}) + "\n")


def _flush(directory: Path) -> None:
    """Write to the disk what the system still keeps in memory of a directory, without those below with a list."""
    for folder, below, names in os.walk(directory):
        below[:] = [name for name in below if not os.path.exists(os.path.join(folder, name, MADE_NAME))]
        for path in [*(os.path.join(folder, name) for name in names), folder]:
            if not os.path.isfile(path) and path != folder or os.path.islink(path):
                continue
            with suppress(PermissionError):  # somebody else's, who has to see to it
                _sync(path)


def _sync(path: Path | str) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_durably(path: Path, text: str) -> None:
    """Write a file that is either on the disk as a whole or not there, whatever happens.

    Args:
        path: the file; its directory is made when missing.
        text: its content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=prefix_of(path.parent, path.name), suffix=".tmp")
    with open(handle, "w", encoding="utf-8") as stream:
        try:
            stream.write(text)
            stream.flush()
            os.fchmod(stream.fileno(), 0o666 & ~umask())
            os.fsync(stream.fileno())
            os.replace(temporary, path)
        except BaseException as error:
            os.unlink(temporary)
            if isinstance(error, OSError) and error.filename is None:
                error.filename = str(path)  # a failed write knows its file descriptor only
            raise
    _sync(path.parent)


def made_in(directory: Path) -> dict[str, list[Any]]:
    """What a directory vouches for.

    Args:
        directory: made by a command with a record, or not.

    Returns:
        Name of a file → size, times and SHA-256; empty where there is no list.

    Raises:
        UserError: if the list is damaged.
    """
    path = directory / MADE_NAME
    stamp = stamp_of(path)
    return {} if stamp is None else _listed(str(path), *stamp)


@functools.lru_cache(maxsize=256)
def _listed(path: str, *stamp: int) -> dict[str, list[Any]]:
    try:
        with open(path, "rb") as stream:
            content = json.load(stream)
        files: dict[str, list[Any]] = content["files"]
        if content["format"] != MADE_FORMAT or not all(map(is_state, files.values())):
            raise ValueError
        if not all(0 < len(os.fsencode(name)) < 256 and not set(name) & {"/", "\0"} for name in files):
            raise ValueError  # whoever asks for them would be led elsewhere
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{path} is damaged: {_mending(os.path.dirname(path))}") from None
    return files


def _mending(directory: str) -> str:
    return (
        "make it again with --force or copy it again; if you changed the files yourself: "
        f"python -m espnet_ext.bin.doctor --accept {directory}"
    )


def verify(path: Path | str) -> bool:
    """Refuse a file that is not what was made; a process reads it once for that, as long as it does not change.

    Args:
        path: the file; links are followed.

    Returns:
        Whether somebody vouches for it.

    Raises:
        UserError: naming the file and what mends it.
    """
    directory, name = os.path.split(os.path.realpath(path))
    state = made_in(Path(directory)).get(name)
    if state is None:
        return False
    found = content_hash(os.path.join(directory, name))
    if found is not None and found != state[3]:  # that it is missing is said by whoever opens it
        raise UserError(f"{path} is damaged (SHA-256 {found[:12]}…, not {str(state[3])[:12]}…): {_mending(directory)}")
    return True


def forget(path: Path) -> None:
    """Vouch no more for a file, which is about to be written.

    Args:
        path: the file.
    """
    try:
        files = made_in(path.parent)
    except UserError:  # nothing in it is believed anyway
        return
    if path.name in files:
        rest = {name: state for name, state in files.items() if name != path.name}
        write_durably(path.parent / MADE_NAME, json.dumps({"format": MADE_FORMAT, "files": rest}) + "\n")
