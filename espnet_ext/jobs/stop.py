"""Ends processes with all that they have started, for the shell, which knows its own children only.

    python espnet_ext/jobs/stop.py PROCESS...

They are asked to, then made to. Only the standard library is imported.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress

from espnet_ext.storage.lock import parent_of, start_of

GRACE_SECONDS = 10.0  # in which a process removes its temporary files
WAIT_SECONDS = 0.05


def families(processes: Iterable[int]) -> dict[int, str]:
    """Processes and all that they have started, directly or not, each with its start."""
    parents = {pid: parent_of(pid) for pid in map(int, filter(str.isdigit, os.listdir("/proc")))}
    found, new = set[int](), set(processes)
    while new:
        found |= new
        new = {pid for pid, parent in parents.items() if parent in new} - found
    return {pid: start for pid in found if (start := start_of(pid))}


def stop(processes: Sequence[int]) -> None:
    """End processes and all that they have started; returns when they have ended.

    Args:
        processes: of this machine.
    """
    seen = families(processes)
    for pid in seen:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + GRACE_SECONDS
    while left := {pid: start for pid, start in seen.items() if start_of(pid) == start}:
        seen = left | families(left)
        if time.monotonic() > until:
            for pid in seen:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(WAIT_SECONDS)


if __name__ == "__main__":
    stop([int(word) for word in sys.argv[1:]])
