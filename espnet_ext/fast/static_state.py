"""The state of a model's steps in tensors that stay where they are; operations have the same shapes at every length."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from espnet_ext.model.cache import KVCache, Memory
from espnet_ext.model.primary import PrimaryState
from espnet_ext.model.rotary import RotaryEmbedding

POSITIONS, TOKENS = 256, 64  # what lengths are rounded up to, so that requests of similar lengths share their buffers


@dataclass(kw_only=True)
class StaticKVCache(KVCache):
    """A cache that every step reads in all its capacity, behind a mask; only single positions are added.

    Attributes:
        end: (1,) int64 on the device, what `length` is for the operations.
        first: (1,) int64 on the device, what `prefix` is for them.
        angles: rotations of all positions, once one was asked for; a graph goes on reading them where they are.
    """

    end: Tensor
    first: Tensor
    angles: Tensor | None = None

    stays: ClassVar[bool] = True

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values of one layer, the new position at `end`."""
        self.check_room(1)
        all_keys, all_values = self._layers[layer]
        all_keys.index_copy_(2, self.end, keys)
        all_values.index_copy_(2, self.end, values)
        return all_keys, all_values

    def visible(self, count: int = 1) -> Tensor:
        """What one more position may look at: (B, 1, 1, C) bool."""
        reached = torch.arange(self.capacity, device=self.end.device) <= self.end
        return (reached & self.key_mask)[:, None, None]

    def next_positions(self, count: int) -> Tensor:
        """The coming position of each row, (B, 1) int64; `count` is 1."""
        assert self.lag is not None
        return self.end - self.lag[0, :, None]

    def next_step(self) -> Tensor:
        """Number of the coming step: (B,) int64."""
        assert self.lag is not None
        return self.end - self.first - self.lag[1]

    def rotation(self, rotary: RotaryEmbedding, count: int, dtype: torch.dtype) -> Tensor:
        """Angles of the coming positions: (2, B, 1, 1, head_width)."""
        if self.angles is None:
            self.angles = rotary.at(0, self.most_positions(count), dtype)
        positions = self.next_positions(count).clamp(0, len(self.angles[0]) - 1)
        return self.angles[:, positions][:, :, None]

    def advance(self, count: int) -> None:
        """Count a position that every layer has written, on the device as well."""
        self.length += count
        self.end.add_(count)

    def _go_to(self, length: int) -> None:
        self.length = length
        self.end.fill_(length)

    def _lag_by(self, more: Tensor) -> None:
        assert self.lag is not None
        self.lag.add_(more)


def rounded_shape(state: PrimaryState) -> tuple[object, ...]:
    """What the buffers for a state depend on; states of the same rounded shape can share them.

    Args:
        state: what `prefill` left.

    Returns:
        Something to look buffers up by.
    """
    cache, memory, path = state.cache, state.memory, state.path
    layers, rows, heads, capacity, width = cache.keys.shape
    return (
        (layers, rows, heads, _up(capacity, POSITIONS), width, cache.keys.dtype),
        None if memory is None else (*memory.keys.shape[2:3], _up(memory.keys.shape[3], TOKENS)),
        None if path is None else _up(path.shape[1], POSITIONS),
        None if state.first_position is None else state.first_position.dtype,
    )


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


class StaticState:
    """Buffers for the states of one rounded shape, and the one that lives in them.

    Args:
        example: a state of that shape; it stays as it is.

    Attributes:
        buffers: a state at its beginning, all of whose tensors stay where they are.
    """

    def __init__(self, example: PrimaryState) -> None:
        cache, memory, path = example.cache, example.memory, example.path
        layers, rows, heads, capacity, width = cache.keys.shape
        capacity = _up(capacity, POSITIONS)
        zero = torch.zeros(1, dtype=torch.int64, device=cache.keys.device)
        keys = cache.keys.new_zeros(layers, rows, heads, capacity, width)
        self.buffers = PrimaryState(
            StaticKVCache(
                keys,
                torch.zeros_like(keys),
                cache.key_mask.new_ones(rows, capacity),
                padding=zero.new_zeros(rows),
                lag=zero.new_zeros(2, rows),
                end=zero,
                first=zero.clone(),
            ),
            None if memory is None else _empty_memory(memory),
            None if path is None else path.new_zeros(rows, _up(path.shape[1], POSITIONS)),
            None if example.first_position is None else torch.zeros_like(example.first_position),
        )
        self._held: KVCache | None = None
        self._owner: weakref.ref[PrimaryState] = weakref.ref(example)

    def load(self, state: PrimaryState) -> None:
        """Have a state live in the buffers; whatever lived in them before gets tensors of its own.

        Two generations in turns are right, and copy everything in every step.

        Args:
            state: of the rounded shape; it is changed in place.
        """
        if state.cache is self._held:
            return
        before = self._owner()
        if before is not None and before is not state and before.cache is self._held:
            _assign(before, before.gather(torch.arange(before.cache.keys.shape[1], device=before.cache.keys.device)))
        self._copy(state)
        assert isinstance(self.buffers.cache, StaticKVCache)
        cache = replace(self.buffers.cache, length=state.cache.length, prefix=state.cache.prefix)
        as_it_is = {name: getattr(state, name) for name in ("end_guard", "guard", "lengths", "layers")}
        _assign(state, replace(self.buffers, cache=cache, **as_it_is))
        self._held, self._owner = cache, weakref.ref(state)

    def _copy(self, state: PrimaryState) -> None:
        target, memory = self.buffers.cache, self.buffers.memory
        assert isinstance(target, StaticKVCache) and target.padding is not None and target.lag is not None
        target.key_mask.fill_(True)
        target.padding.zero_()
        target.lag.zero_()
        if memory is not None:
            memory.mask.zero_()
        length = state.cache.length
        for into, part in zip(_tensors(self.buffers, length), _tensors(state, length), strict=True):
            if into is not None and part is not None:
                into[tuple(slice(size) for size in part.shape)].copy_(part)
        target.end.fill_(length)
        target.first.fill_(state.cache.prefix)


def _tensors(state: PrimaryState, length: int) -> list[Tensor | None]:
    """All that a state holds, with the first positions of its cache."""
    cache, memory = state.cache, state.memory
    text = (None, None, None) if memory is None else (memory.keys, memory.values, memory.mask)
    filled = cache.keys[..., :length, :], cache.values[..., :length, :], cache.key_mask[:, :length]
    return [*filled, cache.padding, cache.lag, *text, state.path, state.first_position]


def _empty_memory(memory: Memory) -> Memory:
    *outer, tokens, width = memory.keys.shape
    keys = memory.keys.new_zeros(*outer, _up(tokens, TOKENS), width)
    # until something is loaded, there is something to attend to
    return Memory(keys, torch.zeros_like(keys), memory.mask.new_ones(keys.shape[1], keys.shape[3]))


def _assign(state: PrimaryState, other: PrimaryState) -> None:
    vars(state).update(vars(other))
