"""Where to leave a transformer, and how many steps to guess there, so that a layer that is run gives most steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from espnet_ext.decoding.row_tensors import RowTensors


@dataclass
class Held(RowTensors):
    """How guesses of every row have fared, by the layer in front of which it has left.

    Attributes:
        tested: (R, exits), guesses that a pass has looked at, older ones counting less.
        held: (R, exits), those of them that were kept.
        exit: (R,) int64, of the turn, a number among the exits.
        length: (R,) int64, steps that are guessed in the turn.
    """

    tested: Tensor
    held: Tensor
    exit: Tensor
    length: Tensor

    def choose(self, cost: Tensor, full: Tensor, count: int) -> None:
        """Take the exit and the length that give most steps for each layer that is run.

        Nobody has tested what is new: it counts as good until it is known to be bad, which is forgotten in time.

        Args:
            cost: (R, exits), layers of a guess.
            full: (R,), layers of a pass.
            count: most guesses.
        """
        chance = ((self.held + 1) / (self.tested + 1))[..., None]
        length = torch.arange(count + 1, device=chance.device)
        steps = (chance**length).cumsum(-1)  # 1 + chance + chance^2 …
        rate = steps / (full[:, None, None] + cost[..., None] * length)
        # of equal ones the first, which draws least
        best = (rate - 1e-9 * torch.arange(rate[0].numel(), device=rate.device).view_as(rate[0])).flatten(1).argmax(1)
        self.exit, self.length = best // (count + 1), best % (count + 1)

    def learn(self, kept: Tensor, memory: int) -> None:
        """Take note of how many steps were kept, (R,) int64."""
        index = self.exit[:, None]
        self.tested, self.held = (
            (part * (1 - 1 / memory)).scatter_add(1, index, new.minimum(self.length)[:, None].to(part.dtype))
            for part, new in ((self.tested, kept), (self.held, kept - 1))
        )
