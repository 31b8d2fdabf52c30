"""Who writes where: `.running` in a directory names the process that writes there, its host and when it started.

The shell locks directories for itself with this file, which imports the standard library alone:

    python espnet_ext/storage/lock.py PROCESS DIRECTORY...

It ends with status 1 and one line if another process has one of them.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

LOCK_NAME = ".running"
UNKNOWN = "?"  # start of a process that the system does not show
EMPTY_SECONDS = 0.5  # after which an empty lock is nobody's: its process was stopped before it wrote its name
MOST_BYTES = 1000


class Owner(NamedTuple):
    """A process of some machine; the start tells it from a later one with the same number."""

    pid: int
    host: str
    start: str

    @classmethod
    def of(cls, pid: int) -> Owner:
        """A process of this machine."""
        return cls(pid, socket.gethostname(), start_of(pid))

    def is_gone(self) -> bool:
        """Whether it certainly runs no more; of another machine nobody knows."""
        if self.host != socket.gethostname():
            return False
        start = start_of(self.pid)
        return not start or (UNKNOWN not in (start, self.start) and start != self.start)


def _fields(pid: int) -> list[str]:
    """State, parent and so on of a process, as in proc(5) from the third on."""
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()


def start_of(pid: int) -> str:
    """When a process of this machine started, in ticks since it booted; empty if there is none."""
    if pid < 1:
        return ""
    try:
        fields = _fields(pid)
    except OSError:
        try:
            os.kill(pid, 0)
        except OSError as error:
            return UNKNOWN if isinstance(error, PermissionError) else ""
        return UNKNOWN
    return "" if fields[0] in "ZX" else fields[19]


def parent_of(pid: int) -> int:
    """Number of the process that started another one, or has inherited it; 0 if nobody knows."""
    try:
        return int(_fields(pid)[1])
    except OSError:
        return 0


def _ancestors(pid: int) -> Iterator[int]:
    while pid > 0:
        yield pid
        pid = parent_of(pid)


def _owner(lock: Path) -> Owner | None:
    """Who holds a lock, None if nobody can be read from it."""
    if not lock.is_file():
        return None
    try:
        with lock.open(encoding="utf-8") as stream:
            pid, host, *start = stream.read(MOST_BYTES).split()
        owner = Owner(int(pid), host, start[0] if start else UNKNOWN)
        return owner if owner.pid > 0 and host.isprintable() else None
    except (ValueError, FileNotFoundError):
        return None


@contextmanager
def _one_after_another(directory: Path) -> Iterator[None]:
    """Two processes of this machine must not both take over what a third one left."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without it
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def take(directory: Path, pid: int) -> bool:
    """Lock a directory for a process; one that was left by a process that is gone is taken over.

    Args:
        directory: made if it is missing.
        pid: of this machine.

    Returns:
        False if the process has it already, or one that started it, which then works for that.

    Raises:
        BlockingIOError: naming the process that has it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    lock = directory / LOCK_NAME
    with _one_after_another(directory):
        before = _owner(lock)
        if before is None and lock.exists():
            time.sleep(EMPTY_SECONDS)
            before = _owner(lock)
        if before is not None and not before.is_gone():
            if before.host == socket.gethostname() and before.pid in _ancestors(pid):
                return False
            raise _in_use(directory, before)
        lock.unlink(missing_ok=True)
        try:
            with lock.open("x", encoding="utf-8") as stream:
                stream.write("{} {} {}\n".format(*Owner.of(pid)))
        except FileExistsError:  # another machine was faster
            raise _in_use(directory, _owner(lock)) from None
        except OSError as error:
            with suppress(OSError):  # a full disk leaves it empty
                lock.unlink()
            error.filename = str(lock)
            raise
    return True


def _in_use(directory: Path, owner: Owner | None) -> BlockingIOError:
    who = "another process" if owner is None else f"process {owner.pid} on {owner.host}"
    return BlockingIOError(f"{directory} is in use by {who}; remove {directory / LOCK_NAME} if that has ended")


@contextmanager
def claim(directory: Path | str) -> Iterator[None]:
    """While the block runs, no other command may write to a directory.

    Args:
        directory: that a command makes, which may not be there yet. Processes that this one starts may claim it, too.

    Yields:
        Nothing.

    Raises:
        BlockingIOError: naming the process that writes there.
    """
    directory = Path(directory)
    is_new = not directory.exists()
    is_ours = take(directory, os.getpid())
    try:
        yield
    finally:
        lock = directory / LOCK_NAME
        # a process that was forked inside of the block holds nothing; a directory may have been moved
        if is_ours and (owner := _owner(lock)) is not None and owner == Owner.of(os.getpid()):
            lock.unlink(missing_ok=True)
            if is_new:
                with suppress(OSError):  # something was made there
                    directory.rmdir()


def main(arguments: Sequence[str]) -> int:
    """Lock directories for the shell.

    Args:
        arguments: as in this file's description.

    Returns:
        Exit status.
    """
    try:
        for directory in arguments[1:]:
            take(Path(directory), int(arguments[0]))
    except OSError as error:
        sys.stdout.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
