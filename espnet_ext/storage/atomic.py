"""Files and directories that appear under their final name only when they are complete.

A temporary name says which process made it: `.NAME.PROCESS-START-HOST-….tmp`. What a process that was killed has left
is removed by the next one that writes to the same directory.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import shutil
import socket
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from espnet_ext.storage.checksums import forget
from espnet_ext.storage.lock import Owner

FULL_BYTES = 2**16  # and less is left: a disk is full
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NAME_LENGTH = 40  # of the final name in a temporary one, which file systems limit to 255 bytes
_TEMPORARY = re.compile(r"\..*\.(\d+)-(\d+)-(\w+)-\w+\.(tmp|old)(\..*)?")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _host() -> str:
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


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


@contextmanager
def atomic_path(final: Path | str) -> Iterator[Path]:
    """A temporary path that becomes `final` when the block ends without an error.

    The temporary name is in the directory of `final` (made when missing), so that the rename stays on one file
    system, and has the suffix of `final`, because writers such as soundfile and numpy choose the format by it.

    Args:
        final: name of the finished file; an existing file is replaced

    Yields:
        path to write to; the file exists and is empty
    """
    final = Path(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    remove_left(final.parent)
    prefix = f".{final.stem[:_NAME_LENGTH]}.{_mark(os.getpid())}"
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=f".tmp{final.suffix}", dir=final.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files that only the owner can read; a finished file has the usual permissions
        temporary.chmod(0o666 & ~_umask())
        forget(final)
        os.replace(temporary, final)
    except OSError as error:
        if error.errno in _NO_ROOM and error.filename is None:
            error.filename = str(final)  # a failed write knows its file descriptor only
        elif error.errno is None and shutil.disk_usage(final.parent).free < FULL_BYTES:
            # what writes audio or weights says that something is wrong, and not what
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(final)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_dir(final: Path | str) -> Iterator[Path]:
    """A temporary directory that becomes `final` when the block ends without an error.

    A directory that exists under the final name is moved aside, then removed, after the new one is complete.

    Args:
        final: name of the finished directory; an existing one is replaced as a whole

    Yields:
        empty directory to fill
    """
    final = Path(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    remove_left(final.parent)
    prefix = f".{final.name[:_NAME_LENGTH]}.{_mark(os.getpid())}"
    temporary = Path(tempfile.mkdtemp(prefix=prefix, suffix=".tmp", dir=final.parent))
    old = temporary.with_suffix(".old")
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        if final.exists():
            os.replace(final, old)
        os.replace(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
