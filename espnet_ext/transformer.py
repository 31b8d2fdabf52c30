"""Pre-norm transformer blocks and their cache: the only attention code of the package."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from espnet_ext.options import check_number

POSITIONS = ("rope", "learned", "none")
SHORT = 64  # keys up to which attention on a CPU is faster as plain matrix products


@dataclass
class KVCache:
    """Keys and values of all layers, allocated once and filled from index 0.

    Attributes:
        keys: (layers, B, heads, C, D / heads).
        values: like `keys`.
        key_mask: (B, C) bool, False where a row's left padding lies.
        length: filled positions, the same for every row.
    """

    keys: Tensor
    values: Tensor
    key_mask: Tensor
    length: int = 0

    @property
    def capacity(self) -> int:
        """C, positions the cache can hold."""
        return self.keys.shape[3]

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer up to and including the new positions, which start at `length`.

        Args:
            layer: index of the layer.
            keys: (B, heads, new, D / heads).
            values: like `keys`.

        Returns:
            Two views (B, heads, length + new, D / heads).

        Raises:
            ValueError: if the new positions do not fit.
        """
        end = self.length + keys.shape[2]
        if end > self.capacity:
            raise ValueError(f"cache capacity must be at least {end}, got {self.capacity}")
        self.keys[layer, :, :, self.length : end] = keys
        self.values[layer, :, :, self.length : end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def truncate(self, length: int) -> None:
        """Forget every position from `length` on.

        Args:
            length: positions to keep.

        Raises:
            ValueError: if more positions should be kept than there are.
        """
        if not 0 <= length <= self.length:
            raise ValueError(f"length must be in [0, {self.length}], got {length}")
        self.length = length

    def gather(self, rows: Tensor) -> KVCache:
        """A cache with only the given rows, in their order.

        Args:
            rows: (B',) int64 indices.

        Returns:
            The new cache; this one is unchanged.
        """
        return KVCache(
            self.keys.index_select(1, rows), self.values.index_select(1, rows), self.key_mask[rows], self.length
        )


class RotaryEmbedding(nn.Module):
    """Rotation angles of positions (Su et al. 2021, arXiv:2104.09864); only differences of positions matter."""

    inverse_period: Tensor

    def __init__(self, head_width: int, base: float = 10000.0) -> None:
        super().__init__()
        if head_width % 2:
            raise ValueError(f"width / heads must be even for rope, got {head_width}")
        exponent = torch.arange(0, head_width, 2, dtype=torch.float64) / head_width
        self.register_buffer("inverse_period", base**-exponent, persistent=False)

    def forward(self, positions: Tensor, dtype: torch.dtype) -> Tensor:
        """Cosines and sines of positions (length,) or (B, length): (2, length or B, 1, length, head_width / 2)."""
        angles = positions.to(self.inverse_period.dtype)[..., None] * self.inverse_period
        angles = angles if positions.dim() == 1 else angles[:, None]  # the same for all heads
        return torch.stack((angles.cos(), angles.sin())).to(dtype)


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Queries or keys turned by their positions' angles, same shape.

    Args:
        x: (B, heads, length, head_width).
        rotation: (2, …, length, head_width / 2) from `RotaryEmbedding`.

    Returns:
        The rotated tensor.
    """
    cos, sin = rotation
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Values averaged by softmax(q k / sqrt(head_width)): (B, heads, length, head_width).

    Args:
        q: (B, heads, length, head_width).
        k: (B, heads, keys, head_width).
        v: like `k`.
        mask: bool, broadcastable to (B, heads, length, keys), True where a query may look; None for all.
        dropout: probability of dropping an attention weight.

    Returns:
        The averages.
    """
    if q.device.type != "cpu" or k.shape[2] > SHORT:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    # the fused kernel works row by row: over the few slots of many steps it is several times slower than this
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return F.dropout(scores.softmax(dim=-1), dropout) @ v


class SelfAttention(nn.Module):
    """Multi-head self-attention with one fused projection for queries, keys and values."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width must be a multiple of heads = {heads}, got {width}")
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
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        if cache is not None:
            k, v = cache.write(layer, k, v)
        dropout = self.dropout if self.training else 0.0
        attended = attend(q, k, v, mask, dropout)
        return self.out(attended.transpose(1, 2).reshape(batch, length, width))


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
            scores: the logits (B, heads, length, U), prior included, are appended to it.

        Returns:
            The attended values.
        """
        query = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        bias = bias.expand(-1, self.heads, x.shape[1], -1)
        if scores is None:
            read = F.scaled_dot_product_attention(query, keys, values, attn_mask=bias)
        else:
            scores.append((query * query.shape[-1] ** -0.5) @ keys.transpose(-1, -2) + bias)
            read = scores[-1].softmax(dim=-1) @ values
        return self.out(read.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two linear maps around a GELU; the first is a convolution over time where `kernel_size` is above 1."""

    def __init__(self, width: int, dropout: float, kernel_size: int = 1) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        inner = 4 * width
        self.conv = nn.Conv1d(width, inner, kernel_size, padding=kernel_size // 2) if kernel_size > 1 else None
        self.up = nn.Linear(width, inner) if kernel_size == 1 else None
        self.down = nn.Linear(inner, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """Transformed positions, (B, length, D); `valid` (B, length) keeps padding out of the convolution."""
        if self.conv is not None:
            if valid is not None:
                x = x * valid[..., None]
            inner = self.conv(x.transpose(1, 2)).transpose(1, 2)
        else:
            assert self.up is not None
            inner = self.up(x)
        return self.dropout(self.down(F.gelu(inner, approximate="tanh")))


class Block(nn.Module):
    """Self-attention, cross-attention where there is a text to read, feed-forward; each after a norm, added."""

    def __init__(self, width: int, heads: int, dropout: float, kernel_size: int, cross_heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, bias=False)
        self.attention = SelfAttention(width, heads, dropout)
        self.cross_norm = nn.LayerNorm(width, bias=False) if cross_heads else None
        self.cross = CrossAttention(width, cross_heads, max(128 // cross_heads, 32)) if cross_heads else None
        self.feed_forward_norm = nn.LayerNorm(width, bias=False)
        self.feed_forward = FeedForward(width, dropout, kernel_size)
        self.dropout = nn.Dropout(dropout)


class Transformer(nn.Module):
    """A stack of blocks with a final norm; causal or bidirectional is a matter of the mask it is given.

    Args:
        width: D.
        layers: number of blocks.
        heads: self-attention heads.
        dropout: probability of dropping, in training.
        position: "rope" turns queries and keys; "learned" and "none" leave positions to the caller.
        kernel_size: width of the feed-forward's convolution; 1 for a causal stack.
        cross_heads: heads of the cross-attention; 0 for none.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        dropout: float = 0.0,
        position: str = "rope",
        kernel_size: int = 1,
        cross_heads: int = 0,
    ) -> None:
        super().__init__()
        check_number("layers", layers, least=0, whole=True)
        check_number("heads", heads, least=1, whole=True)
        check_number("width", width, least=1, whole=True)
        check_number("dropout", dropout, least=0, most=1)
        if position not in POSITIONS:
            raise ValueError(f"position must be one of {list(POSITIONS)}, got {position!r}")
        self.heads, self.width = heads, width
        self.blocks = nn.ModuleList(Block(width, heads, dropout, kernel_size, cross_heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width, bias=False)
        self.rotary = RotaryEmbedding(width // heads) if position == "rope" else None
        self._init_weights(layers)

    def _init_weights(self, layers: int) -> None:
        """Weights that keep the variance of their input, those that end a residual branch smaller with depth."""
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                fan_in = parameter[0].numel()
                ends_branch = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(parameter, std=(fan_in * 2 * layers) ** -0.5 if ends_branch else fan_in**-0.5)

    def new_cache(self, batch: int, capacity: int) -> KVCache:
        """An empty cache for so many rows and positions, every position visible."""
        weight = self.norm.weight
        shape = (len(self.blocks), batch, self.heads, capacity, self.width // self.heads)
        return KVCache(
            keys=weight.new_zeros(shape),
            values=weight.new_zeros(shape),
            key_mask=torch.ones(batch, capacity, dtype=torch.bool, device=weight.device),
        )

    def read(self, memory: Tensor, mask: Tensor) -> Memory:
        """The encoded text (B, U, D) projected to every layer's keys and values."""
        pairs = [block.cross.project(memory) for block in self._typed_blocks() if block.cross is not None]
        keys, values = torch.stack(pairs, dim=1)
        return Memory(keys, values, mask)

    def _typed_blocks(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        valid: Tensor | None = None,
        cache: KVCache | None = None,
        memory: Memory | None = None,
        prior: Tensor | None = None,
        scores: list[Tensor] | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Normed hidden states, (B, length, D).

        Args:
            x: (B, length, D).
            mask: bool, broadcastable to (B, 1, length, keys), True where a query may look.
            valid: (B, length) bool, needed by convolutions.
            cache: earlier positions; its length grows by `length`.
            memory: projected text, for blocks with cross-attention.
            prior: (B, 1 or cross heads, 1 or length, U) log prior added to the cross-attention logits.
            scores: gets those logits, (B, cross heads, length, U) of every layer.
            positions: (B, length) for rotary positions; None for those that follow the cache, one after the other.

        Returns:
            The hidden states.
        """
        if positions is None:
            start = cache.length if cache is not None else 0
            positions = torch.arange(start, start + x.shape[1], device=x.device)
        rotation = self.rotary(positions, x.dtype) if self.rotary is not None else None
        bias = None
        if memory is not None:
            bias = torch.zeros_like(memory.mask, dtype=x.dtype).masked_fill(~memory.mask, -torch.inf)[:, None, None]
            bias = bias if prior is None else bias + prior
        for layer, block in enumerate(self._typed_blocks()):
            x = x + block.dropout(block.attention(block.attention_norm(x), mask, rotation, cache, layer))
            if block.cross is not None and block.cross_norm is not None and memory is not None and bias is not None:
                read = block.cross(block.cross_norm(x), memory.keys[layer], memory.values[layer], bias, scores)
                x = x + block.dropout(read)
            x = x + block.feed_forward(block.feed_forward_norm(x), valid)
        if cache is not None:
            cache.length += x.shape[1]
        return self.norm(x)


def causal_mask(length: int, device: torch.device, start: int = 0) -> Tensor:
    """True where query i (at position start + i) may see a key: (length, start + length) bool."""
    return torch.ones(length, start + length, dtype=torch.bool, device=device).tril(start)
