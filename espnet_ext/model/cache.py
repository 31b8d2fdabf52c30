"""The keys and values of earlier positions, and of the text."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from espnet_ext.errors import UserError
from espnet_ext.model.rotary import RotaryEmbedding


@dataclass
class KVCache:
    """Keys and values of all layers, allocated once and filled from index 0.

    Attributes:
        keys: (layers, B, heads, C, D / heads).
        values: like `keys`.
        key_mask: (B, C) bool, False where a row's left padding lies.
        length: filled positions, the same for every row.
        padding: (B,) int64 positions of left padding; None where no row has any.
        prefix: positions in front of the first step.
    """

    keys: Tensor
    values: Tensor
    key_mask: Tensor
    length: int = 0
    padding: Tensor | None = None
    prefix: int = 0

    def __post_init__(self) -> None:
        self._layers = [(self.keys[layer], self.values[layer]) for layer in range(len(self.keys))]

    @property
    def capacity(self) -> int:
        """C, positions the cache can hold."""
        return self.keys.shape[3]

    def check_room(self, count: int) -> None:
        """Refuse so many more positions if they do not fit."""
        if self.length + count > self.capacity:
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

    def visible(self) -> Tensor | None:
        """What one more position may look at: (B, 1, 1, length + 1) bool, or None for all there is."""
        return None if self.padding is None else self.key_mask[:, None, None, : self.length + 1]

    def next_positions(self, count: int) -> Tensor:
        """Places of the coming positions: (count,) int64."""
        return torch.arange(self.length, self.length + count, device=self.keys.device)

    def next_step(self) -> Tensor:
        """Number of the coming step: (1,) int64."""
        return self.next_positions(1) - self.prefix

    def rotation(self, rotary: RotaryEmbedding, count: int, dtype: torch.dtype) -> Tensor:
        """Angles of the coming positions: (2, count, head_width)."""
        return rotary.at(self.length, count, dtype)

    def advance(self, count: int) -> None:
        """Count positions that every layer has written."""
        self.length += count

    def truncate(self, length: int) -> None:
        """Forget every position from `length` on; there must be so many."""
        if not 0 <= length <= self.length:
            raise UserError(f"length must be in [0, {self.length}], got {length}")
        self.length = length

    def keep(self, rows: Tensor) -> None:
        """Go on with some rows, (B',) int64 rising indices, in place: no more than one layer is copied at a time."""
        kept = len(rows)
        for keys, values in self._layers:
            for part in (keys, values):
                part[:kept, :, : self.length] = part[rows, :, : self.length]
        self.keys, self.values, self.key_mask = self.keys[:, :kept], self.values[:, :kept], self.key_mask[rows]
        self.padding = None if self.padding is None else self.padding[rows]
        self.__post_init__()

    def gather(self, rows: Tensor) -> KVCache:
        """A new cache with only the given rows, (B',) int64 indices, in their order."""
        padding = None if self.padding is None else self.padding[rows]
        keys, values = self.keys.index_select(1, rows), self.values.index_select(1, rows)
        return KVCache(keys, values, self.key_mask[rows], self.length, padding, self.prefix)


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

    def gather(self, rows: Tensor) -> Memory:
        """The memory of the given rows, in their order."""
        return Memory(self.keys.index_select(1, rows), self.values.index_select(1, rows), self.mask[rows])
