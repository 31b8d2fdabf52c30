"""Rotary positions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from espnet_ext.errors import UserError


class RotaryEmbedding(nn.Module):
    """Rotation angles of positions (Su et al. 2021, arXiv:2104.09864); only differences of positions matter."""

    inverse_period: Tensor

    def __init__(self, head_width: int, base: float = 10000.0) -> None:
        super().__init__()
        if head_width % 2:
            raise UserError(f"width / heads must be even for rope, got {head_width}")
        self._head_width, self._base = head_width, base
        self.register_buffer("inverse_period", self._exact(), persistent=False)
        self._table: Tensor | None = None

    def _exact(self) -> Tensor:
        exponent = torch.arange(0, self._head_width, 2, dtype=torch.float64) / self._head_width
        return self._base**-exponent

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> RotaryEmbedding:
        before = self.inverse_period
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # a model in bfloat16 still has to tell position 1,000 from 1,001; a graph goes on reading it where it is
        device = self.inverse_period.device
        self.inverse_period = before if device == before.device else self._exact().to(device)
        return self

    def forward(self, positions: Tensor, dtype: torch.dtype) -> Tensor:
        """Cosines and signed sines of positions (length,) or (B, length): (2, [B, 1,] length, head_width)."""
        angles = positions.to(self.inverse_period.dtype)[..., None] * self.inverse_period
        angles = angles if positions.dim() == 1 else angles[:, None]  # the same for all heads
        cos, sin = angles.cos(), angles.sin()
        return torch.stack((torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1))).to(dtype)

    def at(self, start: int, length: int, dtype: torch.dtype) -> Tensor:
        """The same for positions that follow each other: (2, length, head_width), from a table that grows with them."""
        table, end = self._table, start + length
        device = self.inverse_period.device
        if table is None or table.shape[1] < end or table.dtype != dtype or table.device != device:
            with torch.inference_mode(False):
                table = self(torch.arange(max(256, 1 << (end - 1).bit_length()), device=device), dtype)
            self._table = table
        return table.narrow(1, start, length)


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Queries or keys x (…, heads, length, head_width) turned by `rotation` (2, …, length, head_width), same shape."""
    first, second = x.chunk(2, dim=-1)
    return torch.addcmul(x * rotation[0], torch.cat((second, first), dim=-1), rotation[1])
