"""Further steps from the hidden vector of one: what the drafter `heads` guesses with."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from espnet_ext.model.heads import ParallelHeads, Slots
from espnet_ext.model.parts.base import Part, PartScores, Taught, register_part
from espnet_ext.options import check_number

MOST_STEPS = 63  # one less than the widest window of speculation


class ResidualBlock(nn.Module):
    """h + W2 silu(W1 h), which begins as h itself.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """(…, D) → (…, D)."""
        changed: Tensor = self.outer(silu(self.inner(hidden)))
        return hidden + changed


@register_part("lookahead")
class Lookahead(Part):
    """A residual block for each of some further steps; the parallel heads make their codes from what it gives.

    Args:
        slots: of a step.
        width: D.
        steps: further steps, besides the one that a hidden vector predicts anyway.
        weight: of the loss of each.

    Raises:
        UserError: if an option is out of range.

    Reference:
        Medusa, Cai et al. 2024, arXiv:2401.10774, whose blocks have classifiers of their own; here all share the
        model's, so that a step may be as large as it likes.
    """

    needs = ParallelHeads

    def __init__(self, slots: Slots, width: int, *, steps: int = 3, weight: float = 1.0) -> None:
        super().__init__()
        check_number("steps", steps, least=1, most=MOST_STEPS, whole=True)
        check_number("weight", weight, least=0)
        self.steps, self.weight = steps, weight
        self.blocks = nn.ModuleList(ResidualBlock(width) for _ in range(steps))

    def forward(self, taught: Taught) -> PartScores:  # noqa: D102 (inherited)
        vectors = torch.stack([block(taught.hidden) for block in self.blocks], dim=2)
        return PartScores(taught.predicted_ahead(vectors), weight=self.weight)

    def ahead(self, hidden: Tensor, count: int) -> Tensor:
        """Vectors for the parallel heads, of the steps behind the one that is predicted: (R, D) → (R, count, D)."""
        return torch.stack([block(hidden) for block in list(self.blocks)[:count]], dim=1)
