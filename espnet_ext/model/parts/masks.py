"""Masks behind a step, which predict steps to come by weights of their own: what the drafter `masks` guesses with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from espnet_ext.model.ahead import Ahead
from espnet_ext.model.heads import ParallelHeads, Slots
from espnet_ext.model.parts.base import Part, PartScores, Taught, register_part
from espnet_ext.model.parts.lookahead import MOST_STEPS
from espnet_ext.model.parts.lora import LoRA
from espnet_ext.model.parts.prompts import chosen_places
from espnet_ext.model.transformer import Transformer
from espnet_ext.options import check_number

MOST_RANK = 1024


class StepSampler(nn.Module):
    """h + W2 silu(W1 [h, e]) of what came out at a mask, h, and the step in front of the one it predicts, e.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.inner, self.outer = nn.Linear(2 * width, 2 * width), nn.Linear(2 * width, width)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, hidden: Tensor, step: Tensor) -> Tensor:
        """(…, D) hidden vectors and (…, D) embedded steps → (…, D)."""
        both = torch.cat([norm(one) for norm, one in zip(self.norms, (hidden, step), strict=True)], dim=-1)
        changed: Tensor = self.outer(silu(self.inner(both)))
        return hidden + changed


@register_part("masks")
class Masks(Part):
    """A trained mask for each of some positions behind a step, and low-rank additions that work in these alone.

    A sampler, which is told the step in front of the one that is predicted, makes of it what the parallel heads read.

    Args:
        slots: of a step.
        width: D.
        steps: how many, each of which predicts one step more.
        rank: of the additions to each linear map.
        every: one of so many steps of an utterance has masks behind it in an update.
        weight: of the loss of each.

    Raises:
        UserError: if an option is out of range.

    Reference:
        Samragh et al. 2025, arXiv:2507.11851, without the consistency loss; codes of a step are drawn in parallel.
    """

    needs = ParallelHeads
    looks_ahead = True

    def __init__(
        self, slots: Slots, width: int, *, steps: int = 3, rank: int = 16, every: int = 4, weight: float = 1.0
    ) -> None:
        super().__init__()
        check_number("steps", steps, least=1, most=MOST_STEPS, whole=True)
        check_number("rank", rank, least=1, most=MOST_RANK, whole=True)
        check_number("every", every, least=1, whole=True)
        check_number("weight", weight, least=0)
        self.steps, self.rank, self.every, self.weight = steps, rank, every, weight
        self.vectors = nn.Parameter(torch.empty(steps, width).normal_(std=0.02))  # as embedded steps are
        self.sampler = StepSampler(width)

    def join(self, transformers: Sequence[Transformer]) -> None:  # noqa: D102 (inherited)
        self.lora = LoRA(transformers[0], self.rank)

    def forward(self, taught: Taught) -> PartScores:  # noqa: D102 (inherited)
        assert taught.further is not None
        places = chosen_places(taught.targets.shape[1], self.every, self.training, taught.targets.device)
        hidden = taught.further(self.ahead(self.steps), places)
        number = torch.arange(self.steps, device=places.device)
        # the j-th one predicts step l + j, behind a true step; beyond the end anything may stand
        before = (places[:, None] + number).clamp_max(taught.targets.shape[1] - 1)
        vectors = self.sampler(hidden, taught.embedding.step(taught.targets[:, before]))
        return PartScores(taught.predicted_ahead(vectors, places), weight=self.weight)

    def ahead(self, count: int) -> Ahead:
        """What stands in so many positions behind a step, and what works there."""
        return Ahead(self.vectors[:count], self.lora)
