"""The keys and values of earlier positions, and of the text."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from espnet_ext.codes import length_mask
from espnet_ext.errors import UserError
from espnet_ext.model.rotary import RotaryEmbedding

LEAST_HOLES, MOST_HOLES = 32, 0.25  # places, and share of all, that no row needs, above which they are closed
SPARE = 8  # one of so many places is free where the cache grows, so that holes are not closed in every step


@dataclass
class KVCache:
    """Keys and values of all layers, allocated once and filled from index 0.

    All rows write at the same place. A row that has taken steps back has holes there, which nothing looks at; its own
    positions and steps then lag behind the places.

    Attributes:
        keys: (layers, B, heads, C, D / heads).
        values: like `keys`.
        key_mask: (B, C) bool, False where a row's left padding or a hole lies.
        length: filled places, the same for every row.
        padding: (B,) int64 positions of left padding; None where no row has any.
        prefix: places in front of the first step of a row that does not lag.
        lag: (2, B) int64, what is to be taken off a place for the row's position, and for its step; None where that is
            nothing for all rows.
        stays: whether its tensors have to stay what they are.
        plain: whether what attention reads lies in `keys` and `values`, place by place.
    """

    stays: ClassVar[bool] = False
    plain: ClassVar[bool] = True

    keys: Tensor
    values: Tensor
    key_mask: Tensor
    length: int = 0
    padding: Tensor | None = None
    prefix: int = 0
    lag: Tensor | None = None

    def __post_init__(self) -> None:
        self._layers = [(self.keys[layer], self.values[layer]) for layer in range(len(self.keys))]

    @property
    def capacity(self) -> int:
        """C, positions the cache can hold."""
        return self.key_mask.shape[1]

    def num_bytes(self) -> int:
        """Bytes of all its tensors, filled or not."""
        return sum(part.nbytes for part in (self.keys, self.values, self.key_mask))

    def check_room(self, count: int) -> None:
        """Refuse so many more positions if they do not fit."""
        if not self.has_room(count):
            raise UserError(f"cache capacity must be at least {self.length + count}, got {self.capacity}")

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer up to and including the new positions, which start at `length`.

        Args:
            layer: index of the layer.
            keys: (B, heads, new, D / heads).
            values: like `keys`.

        Returns:
            Two tensors (B, heads, length + new, D / heads) in the type of the new ones: views where the cache has it.

        Raises:
            UserError: if the new positions do not fit.
        """
        start, new = self.length, keys.shape[2]
        self.check_room(new)
        all_keys, all_values = self._layers[layer]
        all_keys.narrow(2, start, new).copy_(keys)
        all_values.narrow(2, start, new).copy_(values)
        return all_keys.narrow(2, 0, start + new).to(keys.dtype), all_values.narrow(2, 0, start + new).to(keys.dtype)

    def hide(self, mask: Tensor) -> None:
        """Note which of the first positions exist: (B, P) bool, False where a row has left padding."""
        self.key_mask[:, : mask.shape[1]] = mask
        padding = (~mask).sum(dim=1)
        self.padding = padding if bool(padding.any()) else None

    def visible(self, count: int = 1) -> Tensor | None:
        """What so many more positions may look at, (1 or B, 1, count, length + count) bool; None for all there is."""
        exists = None if self.padding is None and self.lag is None else self.key_mask[:, None, None]
        if count == 1:
            return None if exists is None else exists[..., : self.length + 1]
        causal = torch.ones(count, self.length + count, dtype=torch.bool, device=self.keys.device).tril(self.length)
        return causal[None, None] if exists is None else exists[..., : self.length + count] & causal

    def next_positions(self, count: int) -> Tensor:
        """Positions that come, left padding counted: (count,) int64, or (B, count) where rows differ."""
        places = torch.arange(self.length, self.length + count, device=self.keys.device)
        return places if self.lag is None else places - self.lag[0, :, None]

    def rotary_positions(self, dtype: torch.dtype, count: int = 1, steps: Tensor | None = None) -> Tensor | None:
        """Positions by which queries and keys are turned; the only place that says what of left padding counts.

        Args:
            dtype: of the new keys.
            count: positions that come, where `steps` is None.
            steps: (B, W) int64, those whose positions are asked for, wherever they lie; None for what comes.

        Returns:
            (B, count or W) int64; None for those that follow `length`, the same for all rows.
        """
        # rounded keys tell more than differences of positions: those of a row then begin behind its left padding
        padding = self.padding if self.keys.dtype != dtype or not self.plain else None
        if steps is None and self.lag is None and padding is None:
            return None
        if steps is None:
            positions = self.next_positions(count)
        else:
            positions = steps + self.prefix
            positions = positions if self.lag is None else positions + (self.lag[1] - self.lag[0])[:, None]
        return positions if padding is None else positions - padding[:, None]

    def next_step(self) -> Tensor:
        """Number of the coming step: (1,) int64, or (B,) where rows differ."""
        step = torch.full((1,), self.length - self.prefix, device=self.keys.device)
        return step if self.lag is None else step - self.lag[1]

    def rotation(self, rotary: RotaryEmbedding, count: int, dtype: torch.dtype) -> Tensor:
        """Angles of the coming positions: (2, count, head_width), or (2, B, 1, count, head_width) where rows differ."""
        positions = self.rotary_positions(dtype, count)
        if positions is None:
            return rotary.at(self.length, count, dtype)
        most = self.most_positions(count)
        # a row that has ended, and is still there, may be beyond
        return rotary.at(0, most, dtype)[:, positions.clamp(0, most - 1)][:, :, None]

    def most_positions(self, count: int) -> int:
        """More than the last of so many positions to come: left padding, which holes may have been, and places."""
        return 2 * self.capacity + count

    def advance(self, count: int) -> None:
        """Count positions that every layer has written."""
        self.length += count

    def accept(self, kept: Tensor, count: int) -> None:
        """Keep some of the last places of each row, and forget the others.

        Args:
            kept: (B,) int64, how many leading ones of these places.
            count: how many places these are.

        Raises:
            UserError: if a row is to keep more, or there are not so many.
        """
        numbers = kept.tolist()
        most = max(numbers)
        if not 0 <= min(numbers) <= most <= count <= self.length:
            raise UserError(f"kept must be in [0, {min(count, self.length)}], got {numbers}")
        self._go_to(self.length - count + most)
        if min(numbers) < most:
            self.key_mask[:, self.length - most : self.length] = length_mask(kept, most)
            self._lag_by((most - kept).expand(2, -1))
            self.close_holes()

    def may_go_back(self, steps: int) -> None:
        """Be told, before the first step, how many of the last may be taken back: nothing to do where all is kept."""

    def taken_back(self) -> AbstractContextManager[None]:
        """Passes in it are all taken back, with `accept`, right behind it: nothing to do where all is kept."""
        return nullcontext()

    def close_holes(self, always: bool = False) -> None:
        """Move what each row holds to the right of fewer places, where that spares many of them, or `always`."""
        before = self.length
        held = self.key_mask[:, :before]
        spare = before - int(held.sum(1).max())
        if not spare or not (always or spare > max(LEAST_HOLES, MOST_HOLES * before)):
            return
        order = held.to(torch.int8).argsort(dim=1, stable=True)[:, spare:]
        self._move(order)
        held = held.gather(1, order)
        self.key_mask[:, :before] = True
        self.key_mask[:, : before - spare] = held
        self._go_to(before - spare)
        self._lag_by(torch.full((2, len(held)), -spare, device=held.device))

    def has_room(self, count: int, least: int = 0) -> bool:
        """Whether so many more places fit, if at `least` so many are filled."""
        return max(self.length, least) + count <= self.capacity

    def make_room(self, count: int, least: int = 0) -> None:
        """See that so many more places fit, if at `least` so many are filled: holes are closed, or the cache grows."""
        if self.has_room(count, least):
            return
        self.close_holes(always=True)
        if (missing := max(self.length, least) + max(count, self.capacity // SPARE) - self.capacity) > 0:
            self.key_mask = F.pad(self.key_mask, (0, missing), value=True)
            self._grow(missing)

    def put(self, rows: Tensor, other: KVCache) -> None:
        """Begin rows anew, in place: what they get ends where everybody writes next.

        Args:
            rows: (K,) int64, whose old content is gone.
            other: of K rows.
        """
        if (missing := other.length - self.length) > 0:
            self.check_room(missing)
            self.key_mask[:, self.length : other.length] = False
            self._lag_by(torch.full((2, len(self.key_mask)), missing, device=rows.device))
            self._go_to(other.length)
        start = self.length - other.length
        self._take(rows, other, start)
        self.key_mask[rows] = True
        self.key_mask[rows, :start] = False
        self.key_mask[rows, start : self.length] = other.key_mask[:, : other.length]
        if self.lag is None:
            self.lag = torch.zeros(2, len(self.key_mask), dtype=torch.int64, device=rows.device)
        lag = torch.tensor([[start], [start - self.prefix + other.prefix]], device=rows.device)
        self.lag[:, rows] = lag if other.lag is None else lag + other.lag
        if self.padding is None:
            self.padding = torch.zeros_like(self.lag[0])
        self.padding[rows] = 0 if other.padding is None else other.padding

    def _move(self, order: Tensor) -> None:
        """Have the places `order` (B, P), rising, be the first ones of each row."""
        count = order.shape[1]
        first = self.length - count
        together = torch.arange(first, first + count, device=order.device)
        if bool((order == together).all()):  # as where rows have joined, and none has taken steps back
            for part in (part for layer in self._layers for part in layer):
                part[:, :, :count] = part[:, :, first : first + count].clone()
            return
        index = order[:, None, :, None].expand(-1, self.keys.shape[2], -1, self.keys.shape[4])
        for part in (part for layer in self._layers for part in layer):
            part[:, :, :count] = part.gather(2, index)

    def _grow(self, missing: int) -> None:
        """Have so many more places."""
        self.keys, self.values = (F.pad(part, (0, 0, 0, missing)) for part in (self.keys, self.values))
        self.__post_init__()

    def _take(self, rows: Tensor, other: KVCache, start: int) -> None:
        """Have in some rows, (K,) int64, from `start` to the end what another cache holds."""
        for mine, theirs in zip(self._layers, other._layers, strict=True):
            for into, part in zip(mine, theirs, strict=True):
                into[rows, :, start : self.length] = part[:, :, : other.length]

    def _go_to(self, length: int) -> None:
        """Write at this place next."""
        self.length = length

    def _lag_by(self, more: Tensor) -> None:
        """Take so much more, (2, B) int64, off the places of each row."""
        self.lag = more.clone() if self.lag is None else self.lag + more

    def keep(self, rows: Tensor) -> None:
        """Go on with some rows, (B',) int64 rising indices, in place: no more than one layer is copied at a time."""
        kept = len(rows)
        for keys, values in self._layers:
            for part in (keys, values):
                part[:kept, :, : self.length] = part[rows, :, : self.length]
        self.keys, self.values, self.key_mask = self.keys[:, :kept], self.values[:, :kept], self.key_mask[rows]
        self.padding = None if self.padding is None else self.padding[rows]
        self.lag = None if self.lag is None else self.lag[:, rows]
        self.__post_init__()

    def gather(self, rows: Tensor) -> KVCache:
        """A new cache with only the given rows, (B',) int64 indices, in their order."""
        padding = None if self.padding is None else self.padding[rows]
        lag = None if self.lag is None else self.lag[:, rows]
        keys, values = self.keys.index_select(1, rows), self.values.index_select(1, rows)
        return KVCache(keys, values, self.key_mask[rows], self.length, padding, self.prefix, lag)


@dataclass(frozen=True)
class Memory:
    """What a decoder's cross-attention reads: keys and values of every text token, layer and head.

    Attributes:
        keys: (layers, B, heads, U, head_width).
        values: like `keys`.
        mask: (B, U) bool, True where a token exists.
    """

    keys: Tensor
    values: Tensor
    mask: Tensor

    def put(self, rows: Tensor, other: Memory) -> Memory:
        """The memory with other texts in some rows, (K,) int64."""
        keys = with_rows(self.keys, other.keys, rows, dim=1)
        values = with_rows(self.values, other.values, rows, dim=1)
        return Memory(keys, values, with_rows(self.mask, other.mask, rows))

    def gather(self, rows: Tensor) -> Memory:
        """The memory of the given rows, in their order."""
        return Memory(self.keys.index_select(1, rows), self.values.index_select(1, rows), self.mask[rows])


def with_rows(x: Tensor, other: Tensor, rows: Tensor, dim: int = 0) -> Tensor:
    """A tensor with some of its rows replaced; of both the narrower one is made as wide as the other, with zeros.

    Args:
        x: (…, B, …), rows in `dim`; its width is the second last dimension, of (B, width) the last one.
        other: (…, K, …) likewise.
        rows: (K,) int64.
        dim: where the rows are.

    Returns:
        A new tensor.

    >>> with_rows(torch.ones(3, 2), torch.full((1, 3), 5.0), torch.tensor([1])).tolist()
    [[1.0, 1.0, 0.0], [5.0, 5.0, 5.0], [1.0, 1.0, 0.0]]
    """
    if x.dim() > 1:
        at = max(x.dim() - 2, 1)
        behind, size = (0, 0) * (x.dim() - 1 - at), max(x.shape[at], other.shape[at])
        x, other = (F.pad(part, (*behind, 0, size - part.shape[at])) for part in (x, other))
    return x.index_copy(dim, rows, other)
