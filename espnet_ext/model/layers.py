"""Which layers a pass runs and for which rows, and hidden states that are taken out or put in on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class RowLayers:
    """The layers that each row uses.

    Attributes:
        used: (B, layers) bool.
    """

    used: Tensor

    @cached_property
    def some(self) -> list[bool]:
        """Layers that a row at least uses."""
        return [bool(one) for one in self.used.any(0).tolist()]

    @cached_property
    def every(self) -> list[bool]:
        """Layers that all rows use."""
        return [bool(one) for one in self.used.all(0).tolist()]

    def count(self, until: int | None = None) -> Tensor:
        """How many each row uses, of the first `until` ones: (B,) int64."""
        return self.used[:, :until].sum(1)


@dataclass(frozen=True)
class Entry:
    """Positions that enter at a layer, behind each position of a pass so many; the cache keeps none of them.

    Each sees what its position sees, that position, and those that entered in front of it.

    Attributes:
        layer: in front of which they enter.
        count: K, of them behind each position.
        states: makes them, (B, W, D) in front of that layer → (B, W, K, D).
    """

    layer: int
    count: int
    states: Callable[[Tensor], Tensor]

    def places(self, width: int) -> Tensor:
        """Which place each of W positions, and then of those that enter, has among W + K: (W + W * K,) int64."""
        place = torch.arange(width)
        return torch.cat((place, (place[:, None] + torch.arange(1, self.count + 1)).flatten()))

    def steps(self, width: int) -> Tensor:
        """Which of W positions each of them is, or stands behind, in the same order: (W + W * K,) int64."""
        place = torch.arange(width)
        return torch.cat((place, place.repeat_interleave(self.count)))

    def mask(self, mask: Tensor | None, width: int, keys: int) -> Tensor:
        """What all of them may look at, (1 or B, 1, W + W * K, keys + W * K) bool.

        Args:
            mask: of W positions; None for all keys.
            width: W.
            keys: how many there are, where there is no mask.

        Returns:
            The mask.
        """
        seen = torch.ones(1, 1, 1, keys, dtype=torch.bool) if mask is None else mask
        seen = seen.expand(-1, -1, width, -1)
        rows = torch.cat((seen, seen.repeat_interleave(self.count, dim=2)), dim=2)
        in_front = torch.ones(self.count, self.count, device=rows.device).tril()
        own = torch.eye(width, device=rows.device).kron(in_front).bool()
        own = torch.cat((own.new_zeros(width, width * self.count), own))
        return torch.cat((rows, own.expand(len(rows), 1, -1, -1)), dim=3)


@dataclass(frozen=True)
class LayerPass:
    """How a pass goes through the layers; what is taken out lies in `taken`.

    Attributes:
        until: first layer that does not run; None for none.
        rows: the layers that each row uses; None for all.
        gates: (B, layers), what each layer's change of a row counts, in training; None for 1.
        taps: layers in front of which hidden states are taken out, through the norm that is behind the last layer.
        entry: positions that enter on the way.
        same_prior: whether these have the prior of the position that they stand behind, not that of their own place.
        taken: layer → hidden states (B, W, D), of every call that the pass took.
    """

    until: int | None = None
    rows: RowLayers | None = None
    gates: Tensor | None = None
    taps: tuple[int, ...] = ()
    entry: Entry | None = None
    same_prior: bool = False
    taken: dict[int, list[Tensor]] = field(default_factory=dict)

    @property
    def ahead(self) -> int:
        """Places behind the last position that positions which enter have."""
        return 0 if self.entry is None else self.entry.count

    def uses(self, layer: int) -> bool:
        """Whether any row uses a layer."""
        return self.rows is None or self.rows.some[layer]

    def change(self, layer: int, before: Tensor, behind: Tensor) -> Tensor:
        """What is behind a layer, (B, length, D), where it counts fully; else what was in front of it, or between."""
        if self.gates is not None:
            return torch.lerp(before, behind, self.gates[:, layer, None, None].to(before.dtype))
        if self.rows is None or self.rows.every[layer]:
            return behind
        return torch.where(self.rows.used[:, layer, None, None], behind, before)

    def mean(self, told: list[Tensor]) -> Tensor:
        """Mean of what the layers that ran have told, each (B, …), for a row of those that it uses; 0 for none."""
        if self.rows is None:
            return torch.stack(told).mean(0)
        ran = [layer for layer, runs in enumerate(self.rows.some) if runs][: len(told)]
        counts = self.rows.used[:, ran].T.to(told[0].dtype)
        share = counts / counts.sum(0).clamp_min(1)
        return (torch.stack(told) * share.view(*share.shape, *[1] * (told[0].dim() - 1))).sum(0)

    def tap(self, layer: int, x: Tensor) -> None:
        """Take hidden states out."""
        self.taken.setdefault(layer, []).append(x)

    def hidden(self, layer: int) -> Tensor:
        """What was taken out in front of a layer, of all calls one after the other: (B, W, D)."""
        return torch.cat(self.taken[layer], dim=1)
