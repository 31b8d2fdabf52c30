"""Files and directories that appear under their final name only when they are complete."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from espnet_ext.storage.checksums import forget
from espnet_ext.storage.temporary import prefix_of, umask

FULL_BYTES = 2**16  # and less is left: a disk is full
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
    handle, name = tempfile.mkstemp(
        prefix=prefix_of(final.parent, final.stem), suffix=f".tmp{final.suffix}", dir=final.parent
    )
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files that only the owner can read; a finished file has the usual permissions
        temporary.chmod(0o666 & ~umask())
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
    temporary = Path(tempfile.mkdtemp(prefix=prefix_of(final.parent, final.name), suffix=".tmp", dir=final.parent))
    old = temporary.with_suffix(".old")
    try:
        yield temporary
        temporary.chmod(0o777 & ~umask())
        if final.exists():
            os.replace(final, old)
        os.replace(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
