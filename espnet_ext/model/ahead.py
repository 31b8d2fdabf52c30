"""Positions ahead of the steps: they see the step they stand behind, nobody else sees them, and no cache keeps them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from espnet_ext.model.cache import KVCache
from espnet_ext.model.rotary import RotaryEmbedding
from espnet_ext.model.transformer import Adapt


class Ahead(NamedTuple):
    """What stands in the positions behind a step, in place of the steps that would follow it.

    Attributes:
        vectors: (k, D), the input of each.
        change: of a layer, the name of one of its linear maps and what goes into it, what is added there to what it
            gives, in these positions alone; None for nothing.
    """

    vectors: Tensor
    change: Callable[[int, str, Tensor], Tensor] | None = None

    def gated(self, steps: int) -> Adapt | None:
        """The change for a pass that begins with so many steps, in which nothing is added."""
        return None if self.change is None else partial(_add_behind, self.change, steps)


def _add_behind(
    change: Callable[[int, str, Tensor], Tensor], steps: int, layer: int, name: str, x: Tensor, out: Tensor
) -> Tensor:
    behind = out[:, steps:] + change(layer, name, x[:, steps:])
    return torch.cat((out[:, :steps], behind), dim=1) if steps else behind


# of what stands there and the numbers (A,) of steps: hidden vectors (B, A, k, D); the j-th behind step l predicts l + j
Further = Callable[[Ahead, Tensor], Tensor]


@dataclass(kw_only=True)
class Recorded(KVCache):
    """Keys and values of one pass over whole utterances as they were made, gradients included.

    Attributes:
        seen: (B, 1, L, L) bool, what the positions of the pass look at.
    """

    plain: ClassVar[bool] = False

    seen: Tensor

    @classmethod
    def of(cls, seen: Tensor, prefix: int, padding: Tensor | None = None) -> Recorded:
        """An empty one.

        Args:
            seen: (B, 1, L, L) bool, what the positions look at.
            prefix: positions in front of the first step.
            padding: (B,) int64 positions of left padding; None for none.

        Returns:
            The record.
        """
        nothing = seen.new_empty(0)
        return cls(nothing, nothing, seen.new_empty(0, 0), prefix=prefix, padding=padding, seen=seen)

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Those of a layer: the new ones, or where these are none, what was written before."""
        if keys.shape[2]:
            self._layers.append((keys, values))
        return self._layers[layer]

    def visible(self, count: int = 1) -> Tensor:
        """What all positions look at."""
        return self.seen

    def next_positions(self, count: int) -> Tensor:
        """Positions from the first one on: (count,) int64."""
        return torch.arange(count, device=self.seen.device)

    def rotation(self, rotary: RotaryEmbedding, count: int, dtype: torch.dtype) -> Tensor:
        """Their angles: (2, count, head_width)."""
        return rotary.at(0, count, dtype)


@dataclass(kw_only=True)
class AheadCache(KVCache):
    """A cache as a pass reads and writes it in which steps have further positions behind them, all of them at its end.

    Attributes:
        cache: gets the steps.
        steps: W of the pass, which begins with them.
        places: (A,) int64, the steps that have further positions behind them; of a record among all its positions.
        count: k, those of each.
        index: (W + A * k,) int64, what each position is among all that may come.
    """

    plain: ClassVar[bool] = False

    cache: KVCache
    steps: int
    places: Tensor
    count: int
    index: Tensor

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """What the cache gives where the steps are written to it, and behind it what it never gets."""
        size = self.steps
        kept = self.cache.write(layer, keys[:, :, :size], values[:, :, :size])
        return torch.cat((kept[0], keys[:, :, size:]), dim=2), torch.cat((kept[1], values[:, :, size:]), dim=2)

    def advance(self, count: int) -> None:
        """Count the steps alone."""
        self.cache.advance(self.steps)

    def visible(self, count: int = 1) -> Tensor:
        """What every position may look at: (1 or B, 1, W + A * k, keys) bool."""
        seen, further = self.cache.visible(self.steps), len(self.places) * self.count
        if seen is None:
            seen = torch.ones(1, 1, 1, self.cache.length + 1, dtype=torch.bool, device=self.index.device)
        rows = torch.cat((seen[:, :, : self.steps], seen[:, :, self.places].repeat_interleave(self.count, 2)), dim=2)
        number = torch.arange(further, device=seen.device)
        group = number // self.count
        own = (group[:, None] == group) & (number <= number[:, None])
        own = torch.cat((own.new_zeros(self.steps, further), own))
        return torch.cat((rows, own.expand(*rows.shape[:2], -1, -1)), dim=3)

    @property
    def _reach(self) -> int:
        """How many positions may come: the last step's further ones are the last."""
        return (self.steps or self.cache.length) + self.count

    def next_positions(self, count: int) -> Tensor:
        """Positions of all: (W + A * k,) int64, or (B, W + A * k) where rows differ."""
        return self.cache.next_positions(self._reach)[..., self.index]

    def rotation(self, rotary: RotaryEmbedding, count: int, dtype: torch.dtype) -> Tensor:
        """Their angles."""
        return self.cache.rotation(rotary, self._reach, dtype)[..., self.index, :]


def apart(hidden: Tensor, steps: int, ahead: Ahead) -> tuple[Tensor, Tensor]:
    """Hidden vectors (B, W + A * k, D) of the W steps, (B, W, D), and of what is behind them, (B, A, k, D)."""
    return hidden[:, :steps], hidden[:, steps:].unflatten(1, (-1, len(ahead.vectors)))


def put_behind(
    cache: KVCache, ahead: Ahead, x: Tensor | None = None, places: Tensor | None = None
) -> tuple[AheadCache, Tensor]:
    """The cache and the input of a pass with further positions behind steps.

    Args:
        cache: what the steps go to; a `Recorded` where they have been in a pass of their own.
        ahead: what stands behind each of them.
        x: (B, W, D) input of the steps, which all have something behind them; None for recorded ones.
        places: (A,) int64, numbers of those recorded steps that have.

    Returns:
        Both; the input is (B, W + A * k, D).
    """
    count, device, steps = len(ahead.vectors), ahead.vectors.device, 0 if x is None else x.shape[1]
    places = torch.arange(steps, device=device) if places is None else cache.prefix + places
    behind = (places[:, None] + torch.arange(1, count + 1, device=device)).flatten()
    further = ahead.vectors.repeat(len(places), 1)[None]
    if x is None:
        further = further.expand(len(cache.visible(0) if isinstance(cache, Recorded) else cache.key_mask), -1, -1)
    else:
        further = torch.cat((x, further.to(x.dtype).expand(len(x), -1, -1)), dim=1)
    same = cache.keys, cache.values, cache.key_mask, cache.length, cache.padding, cache.prefix, cache.lag
    index = torch.cat((torch.arange(steps, device=device), behind))
    return AheadCache(*same, cache=cache, steps=steps, places=places, count=count, index=index), further
