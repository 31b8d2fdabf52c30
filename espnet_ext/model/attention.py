"""Attention and its cache: the only attention code of the package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from espnet_ext.errors import UserError

SHORT = 64  # keys up to which attention on a CPU is faster as plain matrix products
SHORT_IN_TRAINING = 512  # likewise with gradients: the fused kernel's backward pass is several times slower


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
        """Refuse so many more positions if they do not fit.

        Args:
            count: positions.

        Raises:
            UserError: if they do not.
        """
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
        """Note which of the first positions exist.

        Args:
            mask: (B, P) bool, False where a row has left padding.
        """
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
        """Forget every position from `length` on.

        Args:
            length: positions to keep.

        Raises:
            UserError: if more positions should be kept than there are.
        """
        if not 0 <= length <= self.length:
            raise UserError(f"length must be in [0, {self.length}], got {length}")
        self.length = length

    def keep(self, rows: Tensor) -> None:
        """Go on with some rows, in place: nothing but one layer is copied at a time.

        Args:
            rows: (B',) int64 indices, rising.
        """
        kept = len(rows)
        for keys, values in self._layers:
            for part in (keys, values):
                part[:kept, :, : self.length] = part[rows, :, : self.length]
        self.keys, self.values, self.key_mask = self.keys[:, :kept], self.values[:, :kept], self.key_mask[rows]
        self.padding = None if self.padding is None else self.padding[rows]
        self.__post_init__()

    def gather(self, rows: Tensor) -> KVCache:
        """A cache with only the given rows, in their order.

        Args:
            rows: (B',) int64 indices.

        Returns:
            The new cache; this one is unchanged.
        """
        padding = None if self.padding is None else self.padding[rows]
        keys, values = self.keys.index_select(1, rows), self.values.index_select(1, rows)
        return KVCache(keys, values, self.key_mask[rows], self.length, padding, self.prefix)


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
    """Queries or keys turned by their positions' angles, same shape.

    Args:
        x: (…, heads, length, head_width).
        rotation: (2, …, length, head_width) from `RotaryEmbedding`.

    Returns:
        The rotated tensor.
    """
    first, second = x.chunk(2, dim=-1)
    return torch.addcmul(x * rotation[0], torch.cat((second, first), dim=-1), rotation[1])


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Values averaged by softmax(q k / sqrt(head_width)): (B, heads, length, head_width).

    Args:
        q: (B, heads, length, head_width).
        k: (B, heads, keys, head_width).
        v: like `k`.
        mask: broadcastable to (B, heads, length, keys): bool, True where a query may look, or numbers that are added to
            the scores; None for all.
        dropout: probability of dropping an attention weight.

    Returns:
        The averages.
    """
    if q.device.type != "cpu" or k.shape[2] > (SHORT_IN_TRAINING if needs_gradient(q) else SHORT):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    # the fused kernel works row by row: over the few slots of many steps it is several times slower than this
    scores = scores_of(q, k)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    weights = scores.softmax(dim=-1).to(v.dtype)  # autocast has made it float32
    return (F.dropout(weights, dropout) if dropout else weights) @ v


def needs_gradient(x: Tensor) -> bool:
    """Whether a backward pass will come back to it."""
    return torch.is_grad_enabled() and x.requires_grad


def scores_of(q: Tensor, k: Tensor) -> Tensor:
    """Logits of an attention, q k / sqrt(head_width): (B, heads, length, keys)."""
    return (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)


class SelfAttention(nn.Module):
    """Multi-head self-attention with one fused projection for queries, keys and values."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise UserError(f"width must be a multiple of heads = {heads}, got {width}")
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(
        self, x: Tensor, mask: Tensor | None, rotation: Tensor | None, cache: KVCache | None = None, layer: int = 0
    ) -> Tensor:
        """Attended values, (B, length, D).

        Args:
            x: (B, length, D).
            mask: bool, broadcastable to (B, heads, length, keys), True where a query may look; None for all.
            rotation: angles of these positions, or None.
            cache: earlier keys and values; the new ones are written into it.
            layer: this layer's index in the cache.

        Returns:
            The attended values.
        """
        if cache is not None and x.shape[1] == 1:
            return self.step(x, mask, rotation, cache, layer)
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = (qkv if rotation is None else rotate(qkv[:2], rotation))[:2]
        v = qkv[2]
        if cache is not None:
            k, v = cache.write(layer, k, v)
        dropout = self.dropout if self.training else 0.0
        attended = attend(q, k, v, mask, dropout)
        return self.out(attended.transpose(1, 2).reshape(batch, length, width))

    def step(self, x: Tensor, mask: Tensor | None, rotation: Tensor | None, cache: KVCache, layer: int) -> Tensor:
        """Attended values of one more position, (B, 1, D): `forward` in fewer operations; the same arguments.

        It saves a tenth of a local transformer's step on a CPU.
        """
        batch, _, width = x.shape
        qkv = self.qkv(x).view(batch, 3, self.heads, -1)
        q, k = (qkv if rotation is None else rotate(qkv.narrow(1, 0, 2), rotation)).unbind(1)[:2]
        keys, values = cache.write(layer, k.unsqueeze(2), qkv.select(1, 2).unsqueeze(2))
        read = F.scaled_dot_product_attention(q.unsqueeze(2), keys, values, attn_mask=mask)
        out: Tensor = self.out(read.reshape(batch, 1, width))
        return out


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


class CrossAttention(nn.Module):
    """Attention to the text with few heads, so that a prior can guide each of them."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, bias=False)
        self.query = nn.Linear(width, heads * head_width, bias=False)
        self.key_value = nn.Linear(width, 2 * heads * head_width, bias=False)
        self.out = nn.Linear(heads * head_width, width, bias=False)

    def project(self, memory: Tensor) -> Tensor:
        """Keys and values of the encoded text (B, U, D), stacked: (2, B, heads, U, head_width)."""
        projected = self.key_value(self.norm(memory))
        return projected.unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)

    def forward(
        self, x: Tensor, keys: Tensor, values: Tensor, bias: Tensor, scores: list[Tensor] | None = None
    ) -> Tensor:
        """Attended values, (B, length, D).

        Args:
            x: (B, length, D).
            keys: (B, heads, U, head_width).
            values: (B, heads, U, head_width).
            bias: (B, 1 or heads, 1 or length, U), the log prior; -inf where no token is.
            scores: the logits (B, heads, length, U), without the bias, are appended to it.

        Returns:
            The attended values.
        """
        query = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        bias = bias.expand(-1, self.heads, x.shape[1], -1)
        if scores is None:
            read = (
                attend(query, keys, values, bias, 0.0)
                if needs_gradient(query)
                else F.scaled_dot_product_attention(query, keys, values, attn_mask=bias)
            )
        else:
            scores.append(scores_of(query, keys))
            read = (scores[-1] + bias).softmax(dim=-1) @ values
        return self.out(read.transpose(1, 2).flatten(2))
