"""What the tests of shards let workers do: functions that a worker process can import."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
import torch


def note(items: Mapping[str, int]) -> None:
    """Leave a line in `calls` for every shard that is made."""
    with Path("calls").open("a") as stream:
        stream.write(" ".join(items) + "\n")


def squares(items: Mapping[str, int]) -> dict[str, int]:
    note(items)
    return {key: value**2 for key, value in items.items()}


def slow_squares(items: Mapping[str, int]) -> dict[str, int]:
    time.sleep(0.3)
    return squares(items)


def process(items: Mapping[str, int]) -> tuple[int, bool, bool]:
    """Which process it is, whether Ctrl-C leaves it alone, and whether it listens to others."""
    time.sleep(0.05)
    listening = [one for one in psutil.Process().net_connections("all") if one.laddr]
    return os.getpid(), signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()), bool(listening)


class Harm:
    """Makes a directory when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str, int, bool]]:
        return os.makedirs, ("ran", 0o777, True)


def harmful(items: Mapping[str, int]) -> Harm:
    note(items)
    return Harm()


def fail_at_7(items: Mapping[str, int]) -> dict[str, int]:
    """Squares, but the shard with the item 7 is refused as long as there is a file `broken`."""
    if 7 in items.values() and Path("broken").exists():
        raise ValueError("item must not be 7, got 7")
    return squares(items)


def die_at_7(items: Mapping[str, int]) -> dict[str, int]:
    """Squares, but the shard with the item 7 ends its process as long as there is a file `broken`."""
    if 7 in items.values() and Path("broken").exists():
        Path("broken").unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    return squares(items)


def always_die_at_7(items: Mapping[str, int]) -> dict[str, int]:
    if 7 in items.values():
        os.kill(os.getpid(), signal.SIGKILL)
    return squares(items)


def page_faults(items: Mapping[str, int]) -> int:
    """How often the system had to give memory for a hundred tensors of 16 MB, one after the other."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(100):
        torch.zeros(2**22)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def much(items: Mapping[str, int]) -> bytes:
    """More than the disk holds, for the item 7."""
    return bytes(100_000 if 7 in items.values() else 10)
