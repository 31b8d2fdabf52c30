"""A cache of packed blocks behind a buffer of the newest positions, every row by its own clock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor

from espnet_ext.model.cache import KVCache
from espnet_ext.model.caches.packing import Packing


@dataclass(kw_only=True)
class PackedCache(KVCache):
    """A cache whose `keys` and `values` are the newest of each row; older ones are packed, in blocks.

    Places say what time it is, as everywhere; where something lies is each row's own affair, without gaps.

    Attributes:
        packings: of keys and of values.
        packed: parts of both, (layers, B, heads, blocks, …).
        blocks: (B,) int64 on the CPU, packed blocks of each row.
        fill: (B,) int64 on the CPU, newest positions of each row, which follow them.
        margin: newest positions that are not packed, as they may be taken back; 0 before the first step.
        packs: whether blocks are made; not while all that comes is taken back.
    """

    plain = False

    packings: tuple[Packing, Packing]
    packed: list[list[Tensor]]
    blocks: Tensor
    fill: Tensor
    margin: int = 0
    packs: bool = True

    @property
    def size(self) -> int:
        """Positions of a block."""
        return self.packings[0].rows

    @property
    def _begins(self) -> bool:
        """Whether what comes is what rows begin with, of which nothing is taken back."""
        return self.length == 0 and not self.margin

    def num_bytes(self) -> int:  # noqa: D102 (inherited)
        return super().num_bytes() + sum(part.nbytes for parts in self.packed for part in parts)

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer, as `visible` tells what is what; those that begin a row are as they are."""
        new = keys.shape[2]
        self.check_room(new)
        if self._begins:
            for which, part in enumerate((keys, values)):
                self._begin(layer, which, part)
            return keys, values
        self._widen(self._width(new))
        places = (self.fill[:, None] + torch.arange(new)).to(keys.device)[:, None, :, None]
        read = []
        for which, part in enumerate((keys, values)):
            newest = self._layers[layer][which]
            newest.scatter_(2, places.expand_as(part), part.to(newest.dtype))
            read.append(torch.cat((self._older(layer, which).to(part.dtype), newest.to(part.dtype)), dim=2))
        return read[0], read[1]

    def visible(self, count: int = 1) -> Tensor | None:
        """What so many more positions may look at: (B, 1, count, positions that are read) bool; None for all."""
        if self._begins:
            return super().visible(count)
        device = self.keys.device
        held, fill = (self.blocks * self.size)[:, None, None].to(device), self.fill[:, None, None].to(device)
        older = torch.arange(int(self.blocks.max()) * self.size, device=device) < held
        newest = torch.arange(self._width(count), device=device)
        newest = newest <= fill + torch.arange(count, device=device)[:, None]
        return torch.cat((older.expand(-1, count, -1), newest), dim=2)[:, None]

    def advance(self, count: int) -> None:  # noqa: D102 (inherited)
        if self._begins:
            held = self.key_mask[:, :count].sum(1).cpu()
            self.blocks, self.fill = held // self.size, held % self.size
        else:
            self.fill = self.fill + count
            while self.packs and len(rows := (self.fill - max(count, self.margin) >= self.size).nonzero()[:, 0]):
                self._pack(rows)
        super().advance(count)

    def may_go_back(self, steps: int) -> None:  # noqa: D102 (inherited)
        self.margin = max(self.margin, steps)

    @contextmanager
    def taken_back(self) -> Iterator[None]:
        """As in every cache: how many passes these are is for other rows to say, and no block is to tell of it."""
        self.packs = False
        try:
            yield
        finally:
            self.packs = True

    def accept(self, kept: Tensor, count: int) -> None:  # noqa: D102 (inherited)
        super().accept(kept, count)
        self.fill = self.fill - (count - kept.cpu())
        while len(rows := (self.fill < 0).nonzero()[:, 0]):
            self._unpack(rows)

    def keep(self, rows: Tensor) -> None:  # noqa: D102 (inherited)
        super().keep(rows)
        self.packed = [[part[:, rows] for part in parts] for parts in self.packed]
        self.blocks, self.fill = self.blocks[rows.cpu()], self.fill[rows.cpu()]

    def gather(self, rows: Tensor) -> KVCache:  # noqa: D102 (inherited)
        new, here = super().gather(rows), rows.cpu()
        shared = {name: getattr(new, name) for name in ("keys", "values", "key_mask", "padding", "lag")}
        packed = [[part[:, rows] for part in parts] for parts in self.packed]
        return replace(self, **shared, packed=packed, blocks=self.blocks[here], fill=self.fill[here])

    def _width(self, count: int) -> int:
        """Newest positions that there must be room for where so many come at once."""
        most = self.size + max(count, self.margin) - 1 if self.packs else int(self.fill.max())
        return max(self.keys.shape[3], most + count)

    def _widen(self, width: int) -> None:
        if (missing := width - self.keys.shape[3]) > 0:
            super()._grow(missing)

    def _older(self, layer: int, which: int) -> Tensor:
        """Packed keys or values of a layer: (B, heads, positions, head_width)."""
        parts = [part[layer][:, :, : int(self.blocks.max())] for part in self.packed[which]]
        return self.packings[which].unpack(parts).flatten(2, 3)

    def _begin(self, layer: int, which: int, part: Tensor) -> None:
        """Take what rows begin with, (B, heads, P, head_width), left-padded."""
        mask = self.key_mask[:, : part.shape[2]]
        order = (~mask).to(torch.int8).argsort(dim=1, stable=True)
        blocks, rest = part.shape[2] // self.size, mask.sum(1) // self.size * self.size
        index = (rest[:, None] + torch.arange(self.size, device=part.device)).clamp_max(part.shape[2] - 1)
        own, newest = (
            part.gather(2, places[:, None, :, None].expand(-1, part.shape[1], -1, part.shape[3]))
            for places in (order, order.gather(1, index))
        )
        self._layers[layer][which][:, :, : self.size] = newest
        if blocks:
            made = self.packings[which].pack(own[:, :, : blocks * self.size].unflatten(2, (blocks, -1)))
            for into, one in zip(self.packed[which], made, strict=True):
                into[layer][:, :, :blocks] = one

    def _pack(self, rows: Tensor) -> None:
        """Make a block of the oldest of the newest positions of some rows."""
        here, blocks = rows.to(self.keys.device), self.blocks[rows].to(self.keys.device)
        for which, newest in enumerate((self.keys, self.values)):
            mine = newest[:, here]
            made = self.packings[which].pack(mine[:, :, :, : self.size])
            for into, one in zip(self.packed[which], made, strict=True):
                into[:, here, :, blocks] = one.transpose(0, 1).to(into.dtype)
            newest[:, here] = mine.roll(-self.size, dims=3)
        self.blocks[rows] += 1
        self.fill[rows] -= self.size

    def _unpack(self, rows: Tensor) -> None:
        """Take the last block of some rows back, of whose newest positions there are none left; rounding stays."""
        self.blocks[rows] -= 1
        self.fill[rows] += self.size
        here, blocks = rows.to(self.keys.device), self.blocks[rows].to(self.keys.device)
        for which, newest in enumerate((self.keys, self.values)):
            parts = [part[:, here, :, blocks].transpose(0, 1) for part in self.packed[which]]
            newest[:, here, :, : self.size] = self.packings[which].unpack(parts).to(newest.dtype)

    def _move(self, order: Tensor) -> None:
        pass  # rows have no gaps

    def _grow(self, missing: int) -> None:
        more = self.key_mask.shape[1] // self.size - self.packed[0][0].shape[3]
        self.packed = [[F.pad(part, (0, 0) * (part.dim() - 4) + (0, more)) for part in parts] for parts in self.packed]

    def _take(self, rows: Tensor, other: KVCache, start: int) -> None:
        assert isinstance(other, PackedCache)
        self._widen(other.keys.shape[3])
        for mine, theirs in ((self.keys, other.keys), (self.values, other.values)):
            mine[:, rows, :, : theirs.shape[3]] = theirs
        blocks = int(other.blocks.max())
        for into, part in zip(chain(*self.packed), chain(*other.packed), strict=True):
            into[:, rows, :, :blocks] = part[:, :, :, :blocks]
        self.blocks[rows.cpu()], self.fill[rows.cpu()] = other.blocks, other.fill
