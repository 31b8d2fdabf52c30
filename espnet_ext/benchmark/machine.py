"""What this machine can do in this minute: bytes read and multiplications per second."""

from __future__ import annotations

import platform
from pathlib import Path
from time import perf_counter, process_time
from typing import NamedTuple

import torch
from torch import Tensor


class MachineRates(NamedTuple):
    """Measured limits.

    Attributes:
        bytes_per_second: of reading memory.
        flops_per_second: of a float32 (on a GPU bfloat16) matrix product.
    """

    bytes_per_second: float
    flops_per_second: float

    def floor_seconds(self, read_bytes: float, flops: float) -> float:
        """The least that a step can take: the longer one of reading its weights and of its multiplications."""
        return max(read_bytes / self.bytes_per_second, flops / self.flops_per_second)


@torch.inference_mode()
def measure_machine(device: str, threads: int, clock: str) -> MachineRates:
    """The limits, each the best of several tries.

    Args:
        device: "cpu" or "cuda".
        threads: of torch, on a CPU.
        clock: "cpu" for process time, "wall".

    Returns:
        The rates.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    now = process_time if clock == "cpu" and device == "cpu" else perf_counter
    # more than the caches hold
    numbers = torch.ones(64 << 20 if device == "cpu" else 512 << 20, device=device)
    size = 1024 if device == "cpu" else 8192
    square = torch.randn(size, size, device=device, dtype=torch.float32 if device == "cpu" else torch.bfloat16)
    read = min(_seconds(lambda: numbers.sum(), now, device) for _ in range(7))
    multiply = min(_seconds(lambda: square @ square, now, device) for _ in range(5))
    torch.set_num_threads(before)
    return MachineRates(numbers.numel() * 4 / read, 2.0 * size**3 / multiply)


def _seconds(work: object, now: object, device: str) -> float:
    assert callable(work) and callable(now)
    started: float = now()
    result: Tensor = work()
    if device == "cuda":
        torch.cuda.synchronize(result.device)
    return float(now() - started)


def describe(device: str) -> str:
    """One line about processor or GPU and torch."""
    name = torch.cuda.get_device_name() if device == "cuda" else _processor()
    return f"{name}, torch {torch.__version__}"


def _processor() -> str:
    """Its name and its widest vectors."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (
        f"{names[0] if names else platform.machine()} ({torch.backends.cpu.get_cpu_capability()}, {len(names)} cores)"
    )
