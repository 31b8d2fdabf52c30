"""Blocks of numbers in few bits: quantised in groups, with a low-rank remainder and some outliers as they are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

ITERATIONS = 2  # of the power method; more do not tell


@dataclass(frozen=True)
class Packing:
    """How blocks (…, rows, columns) become few bytes, and numbers again; blocks do not know of each other.

    Attributes:
        rows: of a block, positions.
        columns: of a block, channels.
        bits: of a number, 2 or 4.
        dim: along which numbers share their scale: -2 for those of a channel, -1 for those of a position.
        group: how many do.
        rank: of what is added to the rounded numbers.
        outliers: how many numbers of a block, those furthest from the mean of their group, are kept as they are.
    """

    rows: int
    columns: int
    bits: int
    dim: int
    group: int
    rank: int
    outliers: int

    @property
    def per_byte(self) -> int:
        """Rounded numbers in a byte."""
        return 8 // self.bits

    @property
    def _index(self) -> torch.dtype:
        """Of places in a block."""
        return torch.int16 if self.rows * self.columns <= 2**15 else torch.int32

    @cached_property
    def start(self) -> Tensor:
        """Where the power method begins: (columns, rank) float32, always the same."""
        return torch.randn(self.columns, self.rank, generator=torch.Generator().manual_seed(0))

    def empty(self, outer: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        """What `pack` gives of zeros (*outer, rows, columns)."""
        size = self.rows * self.columns
        scales = [self.rows, self.columns]
        scales[self.dim] //= self.group
        shapes: list[tuple[tuple[int, ...], torch.dtype]] = [
            ((size // self.per_byte,), torch.uint8),
            (tuple(scales), torch.bfloat16),
            (tuple(scales), torch.bfloat16),
            ((self.rows, self.rank), torch.bfloat16),
            ((self.rank, self.columns), torch.bfloat16),
            ((self.outliers,), self._index),
            ((self.outliers,), dtype),
        ]
        return [torch.zeros(*outer, *shape, dtype=kind, device=device) for shape, kind in shapes]

    def pack(self, block: Tensor) -> list[Tensor]:
        """Packed numbers, least and step of each group, two factors, places and values of the outliers.

        Args:
            block: (…, rows, columns).

        Returns:
            The parts, (…, *).
        """
        x = block.float()
        index = (x - self._mean(x, torch.ones_like(x))).abs().flatten(-2).topk(self.outliers).indices
        exact = block.flatten(-2).gather(-1, index)
        # an outlier is not to widen its group
        others = torch.ones_like(x).flatten(-2).scatter(-1, index, 0).view_as(x)
        x = torch.where(others > 0, x, self._mean(x, others))
        grouped, most = self._groups(x), 2**self.bits - 1
        low = grouped.amin(self.dim, keepdim=True).bfloat16()
        step = ((grouped.amax(self.dim, keepdim=True) - low.float()).clamp_min(0) / most).bfloat16()
        codes = ((grouped - low.float()) / step.float().clamp_min(1e-30)).round().clamp(0, most)
        left, right = self._factors(x - (low.float() + codes * step.float()).reshape(x.shape))
        codes = codes.reshape(x.shape).flatten(-2).to(torch.uint8).unflatten(-1, (self.per_byte, -1))
        packed = codes[..., 0, :].clone()
        for number in range(1, self.per_byte):
            packed |= codes[..., number, :] << (self.bits * number)
        return [packed, low.squeeze(self.dim), step.squeeze(self.dim), left, right, index.to(self._index), exact]

    def unpack(self, parts: list[Tensor]) -> Tensor:
        """The numbers, about: (…, rows, columns) float32.

        Args:
            parts: from `pack`.

        Returns:
            The blocks.
        """
        packed, low, step, left, right, index, exact = parts
        mask = 2**self.bits - 1
        codes = torch.stack([(packed >> (self.bits * number)) & mask for number in range(self.per_byte)], dim=-2)
        grouped = self._groups(codes.flatten(-2).unflatten(-1, (self.rows, self.columns)).float())
        x = torch.addcmul(low.float().unsqueeze(self.dim), grouped, step.float().unsqueeze(self.dim))
        x = x.reshape(*packed.shape[:-1], self.rows, self.columns)
        if self.rank:
            x = x + left.float() @ right.float()
        return x.flatten(-2).scatter(-1, index.long(), exact.float()).view_as(x) if self.outliers else x

    def _groups(self, x: Tensor) -> Tensor:
        """With one more dimension, `dim`, along which the numbers of a group lie."""
        return x.unflatten(self.dim, (-1, self.group))

    def _mean(self, x: Tensor, counted: Tensor) -> Tensor:
        """Mean of those of its group that are counted (1 or 0), in the place of every number."""
        total, count = (self._groups(part).sum(self.dim, keepdim=True) for part in (x * counted, counted))
        return (total / count.clamp_min(1)).expand_as(self._groups(x)).reshape(x.shape)

    def _factors(self, rest: Tensor) -> tuple[Tensor, Tensor]:
        """Two matrices, (…, rows, rank) and (…, rank, columns), whose product is nearest to the rest, about."""
        right = self.start.to(rest.device)
        for _ in range(ITERATIONS if self.rank else 0):
            right = torch.linalg.qr(rest.mT @ (rest @ right)).Q
        return (rest @ right).bfloat16(), right.mT.expand(*rest.shape[:-2], -1, -1).bfloat16()


def share(percent: float, size: int) -> int:
    """So many percent of a number of things, rounded."""
    return min(size, math.floor(size * percent / 100 + 0.5))
