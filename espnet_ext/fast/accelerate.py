"""A model made ready for decoding: tables folded, linear maps packed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from espnet_ext.core_lm import CoreLM
from espnet_ext.fast.calibrate import Calibration
from espnet_ext.fast.linear import LinearBackend, backends_of, linear_backends
from espnet_ext.fast.native import NativeStack, library
from espnet_ext.local_transformer import ParallelHeads, SlotHeads
from espnet_ext.local_transformer.slot_transformer import SlotTransformer
from espnet_ext.transformer import Transformer

NATIVE_ROWS = 3


@dataclass(frozen=True)
class Acceleration:
    """What was done to a model.

    Attributes:
        backends: (out, in) of a map as text → name of its backend.
        calibration_ms: time that choosing took.
        weight_bytes: of all packed maps.
    """

    backends: dict[str, str]
    calibration_ms: float
    weight_bytes: int


class PackedSlotHeads(nn.Module):
    """One packed classifier per slot, in place of `SlotHeads`."""

    def __init__(self, heads: list[LinearBackend]) -> None:
        super().__init__()
        self._heads = nn.ModuleList(heads)

    def forward(self, x: Tensor, first_slot: int = 0) -> Tensor:
        """Logits (P, m, V) of x (P, m, width), whose slots start at `first_slot`."""
        if x.shape[1] == 1:
            logits: Tensor = self._heads[first_slot](x)
            return logits
        return torch.cat([self._heads[first_slot + m](x[:, m : m + 1]) for m in range(x.shape[1])], dim=1)


def accelerate(
    model: CoreLM,
    precision: str = "auto",
    exact: bool = False,
    rows: int = 1,
    native: bool = False,
    budget_ms: float = 100.0,
) -> Acceleration:
    """Make a model decode faster, in place: it cannot be trained or saved any more.

    Code tables are folded with the projection and the positions of the local transformers; the linear maps of the
    primary and the local transformers and of the heads are packed, each for the fastest backend of the precision. The
    model as it was is the oracle: with float32 weights its greedy codes stay the same.

    Args:
        model: in eval mode, on the CPU, in float32.
        precision: of weights, one of `fast.PRECISIONS`, or "auto" for whatever is fastest.
        exact: keep to float32, whatever is faster.
        rows: the batch it will decode, twice as many with guidance.
        native: run the steps of the transformers in the native kernel, compiled at first use; for batches of up to
            `NATIVE_ROWS` rows, above which torch's products are faster.
        budget_ms: time for choosing.

    Returns:
        What was done.

    Raises:
        ValueError: if the precision is unknown, not exact, or not possible here.
    """
    if exact and precision not in ("float32", "auto"):
        raise ValueError(f"precision must be float32 or auto with exact, got {precision!r}")
    native = native and rows <= NATIVE_ROWS
    if native:
        library()
    calibration = Calibration(backends_of("float32" if exact else precision, native), rows, budget_ms)
    packer = _Packer(calibration)
    for transformer in _primary_transformers(model):
        packer.pack_all(transformer, from_memory=True)
    for head in model.heads.values():
        if isinstance(head, ParallelHeads):
            packer.pack_all(head, from_memory=True)
        elif isinstance(head, SlotTransformer):
            head.fold()
            packer.pack_all(head, from_memory=False)
            if isinstance(head.heads, SlotHeads):
                head.heads = packer.slot_heads(head.heads)  # type: ignore[assignment]  # the same interface
    if native:
        local = [head.transformer for head in model.heads.values() if isinstance(head, SlotTransformer)]
        for transformer in _primary_transformers(model) + local:
            transformer.native = NativeStack(transformer)
    unit_heads = getattr(model, "unit_heads", None)
    if unit_heads is not None:
        packer.pack_all(unit_heads, from_memory=True)
    return Acceleration(packer.backends, calibration.seconds * 1000, packer.weight_bytes)


def _primary_transformers(model: CoreLM) -> list[Transformer]:
    """Those that run once per step; encoders run once per utterance and stay as they are."""
    primary = getattr(model, "primary")  # noqa: B009 (of every core LM, but not of the base class)
    return [part for name in ("decoder", "transformer") if isinstance(part := getattr(primary, name, None), Transformer)]


class _Packer:
    def __init__(self, calibration: Calibration) -> None:
        self.calibration = calibration
        self.backends: dict[str, str] = {}
        self.weight_bytes = 0

    def pack(self, weight: Tensor, bias: Tensor | None, from_memory: bool) -> LinearBackend:
        name = self.calibration.choose(*weight.shape, from_memory)
        self.backends[f"{weight.shape[0]} x {weight.shape[1]}"] = name
        packed = linear_backends[name](weight, bias)
        self.weight_bytes += packed.weight_bytes
        return packed

    def pack_all(self, module: nn.Module, from_memory: bool) -> None:
        """Put a backend in the place of every `torch.nn.Linear`, no subclass of it."""
        for parent in list(module.modules()):
            for name, child in list(parent.named_children()):
                if type(child) is nn.Linear:
                    setattr(parent, name, self.pack(child.weight, child.bias, from_memory))

    def slot_heads(self, heads: SlotHeads) -> PackedSlotHeads:
        pairs = zip(heads.weight.unbind(0), heads.bias.unbind(0), strict=True)
        # every slot has its own, read once per step
        return PackedSlotHeads([self.pack(weight.t(), bias, from_memory=True) for weight, bias in pairs])
