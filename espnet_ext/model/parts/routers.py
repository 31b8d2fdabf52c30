"""Routers over layers: which of the primary transformer's an utterance needs, from its text and speaker prompt."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from espnet_ext.model.heads import Head, Slots
from espnet_ext.model.layers import LayerPass
from espnet_ext.model.parts.base import LayerPart, PartScores, Taught, register_part
from espnet_ext.options import check_number


@register_part("routers")
class Routers(LayerPart):
    """A router for each layer, which says how probably an utterance uses it.

    In training layers are drawn, and the gradient goes to their probabilities as if these were what a layer counts
    (straight-through). What is learned is the cross-entropy of all heads with these layers, and that layers cost.

    Args:
        slots: of a step.
        width: D.
        layers: of the primary transformer.
        cost: nats per code that all layers together cost, so that each is used where it spares more than its share.
        weight: of the losses.

    Raises:
        UserError: if an option is out of range.

    Reference:
        FiRST, Jain et al. 2024, arXiv:2410.12513. There the layers themselves are adapted to what is skipped (LoRA);
        here they stay as they are.
    """

    def __init__(self, slots: Slots, width: int, layers: int, *, cost: float = 0.5, weight: float = 1.0) -> None:
        super().__init__()
        check_number("cost", cost, least=0)
        check_number("weight", weight, least=0)
        self.cost, self.weight = cost, weight
        self.norm = nn.LayerNorm(2 * width)
        self.router = nn.Linear(2 * width, layers)
        nn.init.zeros_(self.router.weight)
        nn.init.constant_(self.router.bias, 2.0)  # nearly all layers, so that training begins with the model as it is

    def probabilities(self, summary: Tensor) -> Tensor:
        """How probably each layer is used, (B, layers), given text and prompt on average (B, 2 * D)."""
        out: Tensor = self.router(self.norm(summary)).sigmoid()
        return out

    def forward(self, taught: Taught) -> PartScores:  # noqa: D102 (inherited)
        assert taught.again is not None, "layer parts are refused where layers are not shown"
        chance = self.probabilities(taught.again.summary())
        drawn = torch.rand_like(chance) if self.training else torch.full_like(chance, 0.5)
        gates = (drawn <= chance).to(chance.dtype) + chance - chance.detach()
        hidden, _, _ = taught.again.run(LayerPass(gates=gates))
        predictions = {name: taught.predicted(hidden, cast(Head, head)) for name, head in taught.heads.items()}
        return PartScores(predictions, {"layers": self.cost * gates.mean()}, self.weight)
