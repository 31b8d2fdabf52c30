"""A model made ready for decoding: tables folded, linear maps packed."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import NoReturn

import torch
from torch import Tensor, nn

from espnet_ext.decoding import Step, plain_step
from espnet_ext.errors import UserError
from espnet_ext.fast.calibrate import Calibration
from espnet_ext.fast.compiled import compile_step
from espnet_ext.fast.folded import fold
from espnet_ext.fast.graphs import Graphs
from espnet_ext.fast.linear import LinearBackend, backends_of, linear_backends
from espnet_ext.fast.native import NativeStack, NativeUnavailable, library
from espnet_ext.fast.options import FastOptions
from espnet_ext.model.core_lm import CoreLM
from espnet_ext.model.heads import Head, ParallelHeads, SlotClassifiers, SlotEmbedding
from espnet_ext.model.heads.slot_transformer import SlotTransformer
from espnet_ext.model.transformer import Transformer

NATIVE_ROWS = 16  # up to which no torch backend was faster, with any strategy, on AVX2


@dataclass(frozen=True)
class Acceleration:
    """What was done to a model.

    Attributes:
        backends: (out, in) of a map as text → name of its backend.
        calibration_ms: time that choosing took.
        weight_bytes: of all packed maps.
        bytes_per_weight: their mean.
        step: what `generate` is to be handed for this model.
    """

    backends: dict[str, str]
    calibration_ms: float
    weight_bytes: int
    bytes_per_weight: float
    step: Step = field(default=plain_step, repr=False)


class PackedClassifiers(nn.Module):
    """One packed classifier per slot or per codebook, in place of `SlotClassifiers`."""

    def __init__(self, heads: list[LinearBackend]) -> None:
        super().__init__()
        self._heads = nn.ModuleList(heads)

    def forward(self, x: Tensor, first_slot: int = 0) -> Tensor:
        """Logits (P, m, V) of x (P, m, width), whose slots start at `first_slot`."""
        if x.shape[1] == 1:
            logits: Tensor = self._heads[first_slot % len(self._heads)](x)
            return logits
        slots = range(first_slot, first_slot + x.shape[1])
        heads = [self._heads[slot % len(self._heads)] for slot in slots]
        return torch.cat([head(x[:, m : m + 1]) for m, head in enumerate(heads)], dim=1)


def accelerate(model: CoreLM, options: FastOptions, rows: int = 1, budget_ms: float = 100.0) -> Acceleration:
    """Make a model decode faster, in place: it cannot be trained, saved, copied or pickled any more.

    Code tables are folded with the projection and the positions of the local transformers; on a CPU the linear maps of
    the primary and the local transformers and of the heads are packed, each for the fastest backend of the precision.
    The model as it was is the oracle: with float32 weights its greedy codes stay the same. Encoders, which run once per
    utterance, stay as they are.

    Args:
        model: in eval mode, in float32.
        options: what may be done.
        rows: the batch it will decode, twice as many with guidance.
        budget_ms: time for choosing.

    Returns:
        What was done.

    Raises:
        UserError: if the precision is not possible here, or the model is not in float32.
    """
    if next(model.parameters()).dtype != torch.float32:
        raise UserError(f"model must be in float32, got {next(model.parameters()).dtype}")
    slot_transformers = [head for head in model.heads.values() if isinstance(head, SlotTransformer)]
    # two heads may have one transformer
    transformers = list(dict.fromkeys(model.step_transformers() + [head.transformer for head in slot_transformers]))
    if next(model.parameters()).is_cuda:
        done = _on_gpu(model, options, slot_transformers, transformers)
    else:
        done = _on_cpu(model, options, slot_transformers, transformers, rows, budget_ms)
    # what `copy.deepcopy` and `pickle` ask an object for
    vars(model).update(__deepcopy__=_refuse_to_copy, __reduce_ex__=_refuse_to_copy)
    return done


def _on_cpu(
    model: CoreLM,
    options: FastOptions,
    slot_transformers: list[SlotTransformer],
    transformers: list[Transformer],
    rows: int,
    budget_ms: float,
) -> Acceleration:
    for head in slot_transformers:
        fold(head)
    native = options.native and rows <= NATIVE_ROWS and _is_there()
    calibration = Calibration(backends_of("float32" if options.exact else options.precision, native), rows, budget_ms)
    packer = _Packer(calibration)
    for transformer in model.step_transformers():
        packer.pack_all(transformer, from_memory=True)
    for part in [part for part in model.modules() if isinstance(part, Head)]:  # GPST has those of its units besides
        # a local transformer's weights are read for every slot, and stay in the cache
        packer.pack_all(part, from_memory=isinstance(part, ParallelHeads))
    for head in slot_transformers:
        if isinstance(head.heads, SlotClassifiers):
            head.heads = packer.classifiers(head.heads)  # type: ignore[assignment]  # the same interface
    for transformer in transformers:
        if native:
            stack = NativeStack(transformer)
            transformer.run, transformer.cache_dtype = stack, stack.cache_dtype  # type: ignore[method-assign]
        elif options.compile:
            compile_step(transformer)
    return Acceleration(
        packer.backends, calibration.seconds * 1000, packer.weight_bytes, packer.weight_bytes / max(packer.weights, 1)
    )


def _refuse_to_copy(_: object) -> NoReturn:
    # packed weights are addresses, and a compiled step would go on reading those of the original
    raise UserError("model must not be copied or pickled once it is accelerated: load it where it is needed instead")


def _is_there() -> bool:
    try:
        library()
    except NativeUnavailable as error:
        logging.warning("native: going on with torch's products: %s", error)
        return False
    return True


def _on_gpu(
    model: CoreLM, options: FastOptions, slot_transformers: list[SlotTransformer], transformers: list[Transformer]
) -> Acceleration:
    if options.precision in ("fp16", "int8"):
        raise UserError(f"precision must be one of ['float32', 'bf16', 'auto'] on a GPU, got {options.precision!r}")
    half = options.precision != "float32" and not options.exact
    for head in slot_transformers:
        fold(head, torch.bfloat16 if half else torch.float32)
    if half:
        model.to(torch.bfloat16)
    for transformer in transformers if options.compile else []:
        compile_step(transformer)
    weights = sum(parameter.numel() for parameter in model.parameters())
    return Acceleration(
        {"all": "bf16" if half else "float32"},
        0.0,
        weights * (2 if half else 4),
        2.0 if half else 4.0,
        Graphs() if options.graphs else plain_step,
    )


class _Packer:
    def __init__(self, calibration: Calibration) -> None:
        self.calibration = calibration
        self.backends: dict[str, str] = {}
        self.weight_bytes = self.weights = 0

    def pack(self, weight: Tensor, bias: Tensor | None, from_memory: bool) -> LinearBackend:
        name = self.calibration.choose(weight.shape[0], weight.shape[1], from_memory)
        self.backends[f"{weight.shape[0]} x {weight.shape[1]}"] = name
        packed = linear_backends[name](weight, bias)
        self.weight_bytes += packed.weight_bytes
        self.weights += weight.numel()
        return packed

    def pack_all(self, module: nn.Module, from_memory: bool) -> None:
        """Put a backend in the place of every `torch.nn.Linear`, no subclass of it; embeddings stay as they are."""
        for parent in [part for part in module.modules() if not isinstance(part, SlotEmbedding)]:
            for name, child in list(parent.named_children()):
                if type(child) is nn.Linear:
                    setattr(parent, name, self.pack(child.weight, child.bias, from_memory))

    def classifiers(self, heads: SlotClassifiers) -> PackedClassifiers:
        pairs = zip(heads.weight.unbind(0), heads.bias.unbind(0), strict=True)
        # every slot has its own, read once per step
        return PackedClassifiers([self.pack(weight.t(), bias, from_memory=True) for weight, bias in pairs])
