"""Pre-norm transformer blocks, causal or not as their mask says."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from espnet_ext.errors import UserError
from espnet_ext.model.attention import AdaptLayer, CrossAttention, SelfAttention
from espnet_ext.model.cache import KVCache, Memory
from espnet_ext.model.caches import EXACT, CachePolicy
from espnet_ext.model.layers import Entry, LayerPass
from espnet_ext.model.rotary import RotaryEmbedding
from espnet_ext.options import check_number

POSITIONS = ("rope", "learned", "none")
MOST_LAYERS = 1024


# of a layer, the name of one of its linear maps, and what goes into it and comes out: what is to come out
Adapt = Callable[[int, str, Tensor, Tensor], Tensor]


class BlockInputs(NamedTuple):
    """What the blocks are given besides hidden states, ready to be used; most of it as `Transformer.forward` has it.

    Attributes:
        mask: bool, broadcastable to (B, 1, length, keys).
        valid: (B, length) bool.
        rotation: angles of the positions, (2, length, head_width) or (2, B, length, head_width).
        cache: earlier positions.
        memory: projected text.
        bias: added to the cross-attention logits, (B, 1 or cross heads, 1 or length, U).
        scores: gets those logits without the prior.
        adapt: changes what linear maps give.
    """

    mask: Tensor | None
    valid: Tensor | None = None
    rotation: Tensor | None = None
    cache: KVCache | None = None
    memory: Memory | None = None
    bias: Tensor | None = None
    scores: list[Tensor] | None = None
    adapt: Adapt | None = None


class FeedForward(nn.Module):
    """Two linear maps around a GELU; the first is a convolution over time where `kernel_size` is above 1."""

    approximate: str = "tanh"  # of the GELU; "none" for the exact one, which other people's weights may want

    def __init__(self, width: int, dropout: float, kernel_size: int = 1) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise UserError(f"kernel_size must be odd, got {kernel_size}")
        inner = 4 * width
        self.conv = nn.Conv1d(width, inner, kernel_size, padding=kernel_size // 2) if kernel_size > 1 else None
        self.up = nn.Linear(width, inner) if kernel_size == 1 else None
        self.down = nn.Linear(inner, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, valid: Tensor | None, adapt: AdaptLayer | None = None) -> Tensor:
        """Transformed positions, (B, length, D); `valid` (B, length) keeps padding out of the convolution."""
        if self.conv is not None:
            if valid is not None:
                x = x * valid[..., None]
            inner = self.conv(x.transpose(1, 2)).transpose(1, 2)
        else:
            assert self.up is not None
            inner = self.up(x)
            inner = inner if adapt is None else adapt("up", x, inner)
        inner = F.gelu(inner, approximate=self.approximate)
        out: Tensor = self.down(inner)
        out = out if adapt is None else adapt("down", inner, out)
        return self.dropout(out) if self.training else out


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

    def forward(self, x: Tensor, inputs: BlockInputs, layer: int, kept: int | None = None) -> Tensor:
        """What the block number `layer` makes of x (B, length, D); the cache keeps `kept` positions, None for all."""
        adapt = None if inputs.adapt is None else partial(inputs.adapt, layer)
        attended = self.attention(
            self.attention_norm(x), inputs.mask, inputs.rotation, inputs.cache, layer, adapt, kept
        )
        x = x + (self.dropout(attended) if self.training else attended)
        if self.cross is not None and self.cross_norm is not None and inputs.memory is not None:
            keys, values = inputs.memory.keys[layer], inputs.memory.values[layer]
            assert inputs.bias is not None
            read = self.cross(self.cross_norm(x), keys, values, inputs.bias, inputs.scores)
            x = x + (self.dropout(read) if self.training else read)
        changed: Tensor = x + self.feed_forward(self.feed_forward_norm(x), inputs.valid, adapt)
        return changed


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
        check_number("layers", layers, least=0, most=MOST_LAYERS, whole=True)
        check_number("heads", heads, least=1, whole=True)
        check_number("width", width, least=1, whole=True)
        check_number("dropout", dropout, least=0, most=1)
        if position not in POSITIONS:
            raise UserError(f"position must be one of {list(POSITIONS)}, got {position!r}")
        self.heads, self.width = heads, width
        self.blocks = nn.ModuleList(Block(width, heads, dropout, kernel_size, cross_heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width, bias=False)
        self.cache_dtype: torch.dtype | None = None  # None for that of the weights
        self.rotary = RotaryEmbedding(width // heads) if position == "rope" else None
        self._init_weights(layers)

    def _init_weights(self, layers: int) -> None:
        """Weights that keep the variance of their input, those that end a residual branch smaller with depth."""
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                fan_in = parameter[0].numel()
                ends_branch = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(parameter, std=(fan_in * 2 * layers) ** -0.5 if ends_branch else fan_in**-0.5)

    def new_cache(self, batch: int, capacity: int, policy: CachePolicy = EXACT) -> KVCache:
        """An empty cache for so many rows and positions, every position visible; a policy says how it keeps them."""
        weight = self.norm.weight
        shape = (len(self.blocks), batch, self.heads, capacity, self.width // self.heads)
        return policy.new(shape, self.cache_dtype or weight.dtype, weight.device)

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
        adapt: Adapt | None = None,
        layers: LayerPass | None = None,
    ) -> Tensor:
        """Normed hidden states, (B, length, D); behind them those of positions that enter on the way.

        Args:
            x: (B, length, D).
            mask: bool, broadcastable to (B, 1, length, keys), True where a query may look.
            valid: (B, length) bool, needed by convolutions.
            cache: earlier positions; its length grows by `length`.
            memory: projected text, for blocks with cross-attention.
            prior: (B, 1 or cross heads, 1 or length, U) log prior added to the cross-attention logits.
            scores: gets those logits without the prior, (B, cross heads, length, U) of every layer.
            positions: (B, length) for rotary positions; None for those that follow the cache, one after the other.
            adapt: changes what linear maps give, `qkv` and `out` of the self-attention, `up` and `down`; None for not.
            layers: which run, and what enters and leaves on the way; None for all of them. `prior` and `positions` of
                several positions then go on behind the last one by `layers.ahead`.

        Returns:
            The hidden states.
        """
        rotation, length = None, x.shape[1] + (0 if layers is None else layers.ahead)
        if self.rotary is not None and positions is not None:
            rotation = self.rotary(positions, x.dtype)
        elif self.rotary is not None and cache is not None:
            rotation = cache.rotation(self.rotary, length, x.dtype)
        elif self.rotary is not None:
            rotation = self.rotary.at(0, length, x.dtype)
        bias = None
        if memory is not None:
            bias = torch.zeros_like(memory.mask, dtype=x.dtype).masked_fill(~memory.mask, -torch.inf)[:, None, None]
            bias = bias if prior is None else bias + prior
        inputs = BlockInputs(mask, valid, rotation, cache, memory, bias, scores, adapt)
        return self.norm(self.run(x, inputs) if layers is None else self.run_some(x, inputs, layers))

    def run(self, x: Tensor, inputs: BlockInputs) -> Tensor:
        """What the blocks make of x (B, length, D), before the norm."""
        for layer, block in enumerate(self.blocks):
            x = block(x, inputs, layer)
        if inputs.cache is not None:
            inputs.cache.advance(x.shape[1])
        return x

    def run_some(self, x: Tensor, inputs: BlockInputs, layers: LayerPass) -> Tensor:
        """The same of some layers, with what `layers` says; rotation and bias go on by `layers.ahead`."""
        length, entry, going_on = x.shape[1], layers.entry, inputs
        inputs = inputs._replace(rotation=_first(inputs.rotation, length), bias=_first(inputs.bias, length))
        for layer, block in enumerate(list(self.blocks)[: layers.until]):
            if layer in layers.taps:
                layers.tap(layer, self.norm(x[:, :length]))
            if entry is not None and layer == entry.layer:
                inputs = _entered(going_on, entry, length, layers.same_prior, x.device)
                x = torch.cat((x, entry.states(x).flatten(1, 2)), dim=1)
            if layers.uses(layer):
                told: list[Tensor] | None = None if inputs.scores is None else []
                behind = block(x, inputs._replace(scores=told), layer, length)
                x = layers.change(layer, x, behind)
                if inputs.scores is not None and told:
                    inputs.scores.append(told[0][:, :, :length])
        if layers.until is not None and layers.until in layers.taps:
            layers.tap(layers.until, self.norm(x[:, :length]))
        if inputs.cache is not None:
            inputs.cache.advance(length)
        return x


def _entered(inputs: BlockInputs, entry: Entry, length: int, same_prior: bool, device: torch.device) -> BlockInputs:
    """What blocks are given once positions have entered behind each of `length` ones."""
    keys = length if inputs.cache is None else inputs.cache.length + length
    places = entry.places(length).to(device)
    return inputs._replace(
        mask=entry.mask(inputs.mask, length, keys).to(device),
        rotation=_at(inputs.rotation, places),
        bias=_at(inputs.bias, entry.steps(length).to(device) if same_prior else places),
    )


def _first(part: Tensor | None, length: int) -> Tensor | None:
    """The first positions, the second last dimension, of what may be one for all."""
    return part if part is None or part.shape[-2] == 1 else part[..., :length, :]


def _at(part: Tensor | None, places: Tensor) -> Tensor | None:
    """The given positions of what may be one for all."""
    return part if part is None or part.shape[-2] == 1 else part[..., places, :]


def causal_mask(length: int, device: torch.device, start: int = 0) -> Tensor:
    """True where query i (at position start + i) may see a key: (length, start + length) bool."""
    return torch.ones(length, start + length, dtype=torch.bool, device=device).tril(start)
