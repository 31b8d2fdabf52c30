"""Temporary names, which say which process made them: `.NAME.PROCESS-START-HOST-….tmp`.

What a process that was killed has left is removed by the next one that writes to the same directory. Only the standard
library is imported, as recipes ask often.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import socket
import zlib
from contextlib import suppress
from pathlib import Path

from espnet_ext.storage.lock import Owner

_NAME_LENGTH = 40  # of the final name in a temporary one, which file systems limit to 255 bytes
_TEMPORARY = re.compile(r"\..*\.(\d+)-(\d+)-(\w+)-\w+\.(tmp|old)(\..*)?")


def _host() -> str:
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


def umask() -> int:
    """Permissions that new files of this process do not get; those with temporary names are its owner's at first."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


@functools.lru_cache(maxsize=1)
def _mark(pid: int) -> str:
    return f"{pid}-{Owner.of(pid).start}-{_host()}-"


@functools.lru_cache(maxsize=1024)
def remove_left(directory: Path) -> None:
    """Remove what processes of this machine that run no more have left half written; once in a process.

    Args:
        directory: whose files and directories with temporary names are looked at.
    """
    with suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            found = entry.name.startswith(".") and _TEMPORARY.fullmatch(entry.name)
            if not found or found[3] != _host() or not Owner(int(found[1]), socket.gethostname(), found[2]).is_gone():
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                with suppress(OSError):
                    os.unlink(entry.path)


def prefix_of(directory: Path, name: str) -> str:
    """How a temporary name of this process begins; `.tmp` or `.old` follow, and perhaps a suffix.

    Args:
        directory: where it will be, which exists.
        name: the final name.

    Returns:
        The beginning.
    """
    remove_left(directory)
    return f".{name.removeprefix('.')[:_NAME_LENGTH]}.{_mark(os.getpid())}"
