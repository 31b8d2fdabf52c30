"""What one training step costs: parameters, seconds, floating point operations, memory."""

from __future__ import annotations

import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from espnet_ext.model import attention
from espnet_ext.model.attention import SelfAttention

# torch counts the attention kernels of GPUs only
CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad, q, k, v)
    ),
}


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Parameters by part of the core LM, each counted once, the largest part first.

    Args:
        model: an `ESPnetCodecLMModel`.

    Returns:
        "primary.decoder", "heads.ar", "embedding", … → number.
    """
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        words = name.removeprefix("corelm.").split(".")
        counts[".".join(words[: 2 if words[0] in ("primary", "heads") else 1])] += parameter.numel()
    return dict(counts.most_common())


def padded_positions(batches: Sequence[Sequence[str]], shapes: Sequence[Mapping[str, Sequence[int]]]) -> list[int]:
    """Frames and tokens of every batch when its utterances are padded to the longest.

    Args:
        batches: utterances of each batch.
        shapes: utterance → shape, one table per shape file; the first number is the length.

    Returns:
        One number per batch.

    >>> padded_positions([["a", "b"], ["c"]], [{"a": [5, 8], "b": [2, 8], "c": [9, 8]}, {"a": [3], "b": [4], "c": [2]}])
    [18, 11]
    """
    return [len(batch) * sum(max(table[name][0] for name in batch) for table in shapes) for batch in batches]


@dataclass
class Step:
    """Costs of forward, backward and optimizer on one batch.

    Attributes:
        seconds: by phase: forward, backward, optimizer.
        flops: floating point operations of matrix products in forward and backward.
        memory: bytes by what holds them: weights, gradients, optimizer, saved_for_backward.
        peak_bytes: measured on the device; on a CPU the growth of the process's resident memory.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    flops: int = 0
    memory: dict[str, int] = field(default_factory=dict)
    peak_bytes: int = 0


def measure_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Mapping[str, Tensor],
    grad_clip: float,
    autocast: torch.autocast,
) -> Step:
    """Costs of a training step; the first of two runs counts and warms up, the second is timed.

    Args:
        model: returns (loss, statistics, weight) of a batch; on the device to measure.
        optimizer: of its parameters.
        batch: on the same device.
        grad_clip: largest norm of the gradients.
        autocast: entered for the forward pass.

    Returns:
        The costs.
    """
    device = next(model.parameters()).device
    step, before = Step(), resident_bytes()
    model.train()
    counter = FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION)
    with counter, fused_attention(model), saved_bytes(model) as saved:
        _train(model, optimizer, batch, grad_clip, autocast, lambda phase: None)
    step.flops = int(counter.get_total_flops())
    step.memory = {
        "weights": _bytes(model.parameters()) + _bytes(model.buffers()),
        "gradients": _bytes(p.grad for p in model.parameters() if p.grad is not None),
        "optimizer": _bytes(x for state in optimizer.state.values() for x in state.values() if isinstance(x, Tensor)),
        "saved_for_backward": sum(saved.values()),
    }
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    last = time.perf_counter()

    def note(phase: str) -> None:
        nonlocal last
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        now = time.perf_counter()
        step.seconds[phase], last = now - last, now

    _train(model, optimizer, batch, grad_clip, autocast, note)
    step.peak_bytes = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_bytes() - before
    return step


def _train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Mapping[str, Tensor],
    grad_clip: float,
    autocast: torch.autocast,
    done: Callable[[str], None],
) -> None:
    optimizer.zero_grad()
    with autocast:
        loss = model(**batch)[0].sum()
    done("forward")
    loss.backward()
    done("backward")
    torch.nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
    optimizer.step()
    done("optimizer")


@contextmanager
def fused_attention(model: nn.Module) -> Iterator[None]:
    """While the block runs, attention takes the fused kernel on a CPU too, and its weights are not dropped.

    Otherwise a CPU would keep every attention matrix for the backward pass, which a GPU does not.

    Args:
        model: has `SelfAttention`s.

    Yields:
        Nothing.
    """
    found = {module: module.dropout for module in model.modules() if isinstance(module, SelfAttention)}
    for module in found:
        module.dropout = 0.0
    short = attention.SHORT, attention.SHORT_IN_TRAINING
    attention.SHORT = attention.SHORT_IN_TRAINING = 0
    try:
        yield
    finally:
        attention.SHORT, attention.SHORT_IN_TRAINING = short
        for module, dropout in found.items():
            module.dropout = dropout


@contextmanager
def saved_bytes(model: nn.Module) -> Iterator[dict[int, int]]:
    """Collects, while the block runs, the memory that the backward pass needs beside the weights.

    Args:
        model: its parameters are not counted.

    Yields:
        Address → bytes of every storage that autograd kept, each once.
    """
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = max(kept.get(storage.data_ptr(), 0), storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def _bytes(tensors: Iterator[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def resident_bytes() -> int:
    """Memory of this process now."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()


def peak_bytes() -> int:
    """The most memory that this process ever had."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
