"""Trained prompts behind a step, which predict the steps to come: what the drafter `prompts` guesses with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from espnet_ext.model.ahead import Ahead
from espnet_ext.model.heads import ParallelHeads, Slots
from espnet_ext.model.parts.base import Part, PartScores, Taught, register_part
from espnet_ext.model.parts.lookahead import MOST_STEPS
from espnet_ext.options import check_number


def chosen_places(steps: int, every: int, training: bool, device: torch.device) -> Tensor:
    """Steps that something is put behind, one of so many: (A,) int64; in training others each time."""
    first = int(torch.randint(min(every, steps), ())) if training else 0
    return torch.arange(first, steps, every, device=device)


@register_part("prompts")
class Prompts(Part):
    """A trained input for each of some positions behind a step; the parallel heads make codes of what comes out there.

    Args:
        slots: of a step.
        width: D.
        steps: how many, each of which predicts one step more.
        every: one of so many steps of an utterance has prompts behind it in an update.
        weight: of the loss of each.

    Raises:
        UserError: if an option is out of range.

    Reference:
        Parallel prompt decoding, Chen et al. 2024, arXiv:2405.18628, with one prompt for each position; steps * D
        numbers are all that is trained.
    """

    needs = ParallelHeads
    looks_ahead = True

    def __init__(self, slots: Slots, width: int, *, steps: int = 3, every: int = 4, weight: float = 1.0) -> None:
        super().__init__()
        check_number("steps", steps, least=1, most=MOST_STEPS, whole=True)
        check_number("every", every, least=1, whole=True)
        check_number("weight", weight, least=0)
        self.steps, self.every, self.weight = steps, every, weight
        self.vectors = nn.Parameter(torch.empty(steps, width).normal_(std=0.02))  # as embedded steps are

    def forward(self, taught: Taught) -> PartScores:  # noqa: D102 (inherited)
        assert taught.further is not None
        places = chosen_places(taught.targets.shape[1], self.every, self.training, taught.targets.device)
        vectors = taught.further(self.ahead(self.steps), places)
        return PartScores(taught.predicted_ahead(vectors, places), weight=self.weight)

    def ahead(self, count: int) -> Ahead:
        """What stands in so many positions behind a step."""
        return Ahead(self.vectors[:count])
