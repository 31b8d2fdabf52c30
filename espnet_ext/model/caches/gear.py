"""GEAR: keys and values in 4 or 2 bits, with a low-rank remainder and outliers, behind a buffer of the newest ones."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from espnet_ext.errors import UserError
from espnet_ext.model.cache import KVCache
from espnet_ext.model.caches.base import CachePolicy, Shape, register_cache
from espnet_ext.model.caches.packed import PackedCache
from espnet_ext.model.caches.packing import Packing, share
from espnet_ext.options import check_number

BITS = (2, 4)


@register_cache("gear")
@dataclass(frozen=True)
class Gear(CachePolicy):
    """Keys rounded per channel, values per position, in blocks of so many positions as the buffer holds.

    Attributes:
        bits: of a number, 2 or 4.
        group: most numbers that share a scale: positions of a channel for keys, channels of a position for values.
        rank: of the remainder of each block and head.
        sparse: percent of the numbers, those furthest from the mean of their group, that are kept as they are.
        buffer: newest positions of each row that are kept as they are until there are so many of them; a multiple of 4.

    Raises:
        UserError: if an option is out of range.

    Reference:
        Kang et al. 2024, arXiv:2403.05527. There a prompt is one block; outliers are counted in every vector by
        themselves; here a block is always `buffer` positions of one row, by its own clock, and outliers are counted in
        the block, so that what a row holds does not depend on other rows.
    """

    bits: int = 4
    group: int = 64
    rank: int = 1
    sparse: float = 1.0
    buffer: int = 16

    plain = False

    def __post_init__(self) -> None:
        check_number("bits", self.bits, whole=True)
        if self.bits not in BITS:
            raise UserError(f"bits must be one of {list(BITS)}, got {self.bits}")
        check_number("group", self.group, least=1, whole=True)
        check_number("rank", self.rank, least=0, whole=True)
        check_number("sparse", self.sparse, least=0, most=50)
        check_number("buffer", self.buffer, least=4, most=1024, whole=True)
        if self.buffer % 4:
            raise UserError(f"buffer must be a multiple of 4, got {self.buffer}")

    def check(self, head_width: int) -> None:  # noqa: D102 (inherited)
        most = min(head_width, self.buffer)
        if self.rank > most:
            where = f"with heads {head_width} wide and a buffer of {self.buffer}"
            raise UserError(f"rank must be in [0, {most}] {where}, got {self.rank}")

    def new(self, shape: Shape, dtype: torch.dtype, device: torch.device) -> KVCache:  # noqa: D102 (inherited)
        layers, batch, heads, capacity, width = shape
        self.check(width)
        size, outliers = self.buffer, share(self.sparse, self.buffer * width)
        of_keys = Packing(size, width, self.bits, -2, math.gcd(self.group, size), self.rank, outliers)
        packings = of_keys, replace(of_keys, dim=-1, group=math.gcd(self.group, width))
        newest = torch.zeros(layers, batch, heads, size + 1, width, dtype=dtype, device=device)
        outer = layers, batch, heads, capacity // size
        return PackedCache(
            newest,
            torch.zeros_like(newest),
            torch.ones(batch, capacity, dtype=torch.bool, device=device),
            packings=packings,
            packed=[packing.empty(outer, dtype, device) for packing in packings],
            blocks=torch.zeros(batch, dtype=torch.int64),
            fill=torch.zeros(batch, dtype=torch.int64),
        )
