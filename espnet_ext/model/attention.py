"""Attention of positions to each other and to the text: the only attention code of the package."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from espnet_ext.errors import UserError
from espnet_ext.model.cache import KVCache, Memory  # noqa: F401 (Memory was defined here)
from espnet_ext.model.rotary import RotaryEmbedding, rotate  # noqa: F401 (both were defined here)

SHORT = 64  # keys up to which attention on a CPU is faster as plain matrix products
SHORT_IN_TRAINING = 512  # likewise with gradients: the fused kernel's backward pass is several times slower


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


# of the name of a linear map of one layer, and what goes into it and comes out: what is to come out
AdaptLayer = Callable[[str, Tensor, Tensor], Tensor]


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
        self,
        x: Tensor,
        mask: Tensor | None,
        rotation: Tensor | None,
        cache: KVCache | None = None,
        layer: int = 0,
        adapt: AdaptLayer | None = None,
        kept: int | None = None,
    ) -> Tensor:
        """Attended values of x, (B, length, D).

        Args:
            x: (B, length, D).
            mask: bool, broadcastable to (B, heads, length, keys), True where a query may look; None for all.
            rotation: angles of these positions, or None.
            cache: earlier keys and values; the new ones are written into it.
            layer: this layer's index in the cache.
            adapt: changes what `qkv` and `out` give; None for not.
            kept: how many leading positions the cache keeps; None for all.

        Returns:
            The values.
        """
        if cache is not None and x.shape[1] == 1 and adapt is None:
            return self.step(x, mask, rotation, cache, layer)
        batch, length, width = x.shape
        qkv = self.qkv(x)
        qkv = qkv if adapt is None else adapt("qkv", x, qkv)
        qkv = qkv.view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = (qkv if rotation is None else rotate(qkv[:2], rotation))[:2]
        v = qkv[2]
        if cache is not None and kept is not None and kept < length:
            written = cache.write(layer, k[:, :, :kept], v[:, :, :kept])
            k, v = (torch.cat((old, new[:, :, kept:]), 2) for old, new in zip(written, (k, v), strict=True))
        elif cache is not None:
            k, v = cache.write(layer, k, v)
        dropout = self.dropout if self.training else 0.0
        attended = attend(q, k, v, mask, dropout)
        attended = attended.transpose(1, 2).reshape(batch, length, width)
        out: Tensor = self.out(attended)
        return out if adapt is None else adapt("out", attended, out)

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
