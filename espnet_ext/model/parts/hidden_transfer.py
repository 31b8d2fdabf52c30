"""Hidden states of steps that come, from that of one: what the drafter `hidden_transfer` guesses with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from espnet_ext.model.heads import ParallelHeads, Slots
from espnet_ext.model.layers import Entry, LayerPass
from espnet_ext.model.parts.base import LayerPart, PartScores, Taught, register_part
from espnet_ext.model.parts.lookahead import MOST_STEPS
from espnet_ext.options import check_number


@register_part("hidden_transfer")
class HiddenTransfer(LayerPart):
    """Linear maps of the hidden state of a step, in front of a layer, to those of the steps behind it.

    They enter there as positions of their own, see what the step sees and each other, and go through the layers that
    are left; the model's parallel heads make codes of what comes out. Each map begins as the hidden state itself.

    Args:
        slots: of a step.
        width: D.
        layers: of the primary transformer.
        steps: further steps.
        layer: in front of which they enter; None for the middle.
        weight: of the loss of each.

    Raises:
        UserError: if an option is out of range.

    Reference:
        Hidden transfer, Wu et al. 2024, arXiv:2404.12022. There the maps learn from the model's own distributions, here
        from the steps that come.
    """

    needs = ParallelHeads

    def __init__(
        self,
        slots: Slots,
        width: int,
        layers: int,
        *,
        steps: int = 3,
        layer: int | None = None,
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        check_number("steps", steps, least=1, most=MOST_STEPS, whole=True)
        check_number("weight", weight, least=0)
        if layer is not None:
            check_number("layer", layer, least=0, most=layers - 1, whole=True)
        self.steps, self.weight = steps, weight
        self.layer = layers // 2 if layer is None else layer
        self.maps = nn.ModuleList(nn.Linear(width, width) for _ in range(steps))
        for one in self.maps:
            assert isinstance(one, nn.Linear)
            nn.init.eye_(one.weight)
            nn.init.zeros_(one.bias)

    def entry(self, count: int) -> Entry:
        """Positions for so many further steps behind each."""
        maps = list(self.maps)[:count]

        def states(hidden: Tensor) -> Tensor:
            return torch.stack([one(hidden) for one in maps], dim=2)

        return Entry(self.layer, count, states)

    def forward(self, taught: Taught) -> PartScores:  # noqa: D102 (inherited)
        assert taught.again is not None, "layer parts are refused where layers are not shown"
        _, entered, _ = taught.again.run(LayerPass(entry=self.entry(self.steps)))
        return PartScores(taught.predicted_ahead(entered), weight=self.weight)
