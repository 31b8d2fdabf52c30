"""What the heads are given of a layer that is not the last: the drafter `early_exit` guesses better with it."""

from __future__ import annotations

from torch import Tensor, nn

from espnet_ext.model.heads import ParallelHeads, Slots
from espnet_ext.model.layers import LayerPass
from espnet_ext.model.parts.base import LayerPart, PartScores, Taught, register_part
from espnet_ext.model.parts.lookahead import ResidualBlock
from espnet_ext.options import check_number


def exits_of(layers: int) -> range:
    """Layers in front of which one may leave, the first one only where there is no other.

    >>> list(exits_of(4)), list(exits_of(1))
    ([1, 2, 3], [0])
    """
    return range(min(1, layers - 1), layers)


@register_part("early_exit")
class EarlyExit(LayerPart):
    """A residual block for each layer in front of which the primary transformer may be left, behind its last norm.

    The model's parallel heads make codes of what it gives, and from them it learns. It begins as the hidden vector
    itself. Trained with the rest of the model it is an early-exit loss, from which the layers learn as well.

    Args:
        slots: of a step.
        width: D.
        layers: of the primary transformer.
        weight: of the loss of each.

    Raises:
        UserError: if an option is out of range.

    Reference:
        LayerSkip, Elhoushi et al. 2024, arXiv:2404.16710, which DEL builds on, has the loss and no block; here the
        layers may stay as they are.
    """

    needs = ParallelHeads

    def __init__(self, slots: Slots, width: int, layers: int, *, weight: float = 1.0) -> None:
        super().__init__()
        check_number("weight", weight, least=0)
        self.weight, self.exits = weight, exits_of(layers)
        self.blocks = nn.ModuleList(ResidualBlock(width) for _ in self.exits)

    def leave(self, layer: int, hidden: Tensor) -> Tensor:
        """What the heads are given of hidden vectors (…, D) in front of a layer, behind the last norm."""
        out: Tensor = self.blocks[layer - self.exits.start](hidden)
        return out

    def forward(self, taught: Taught) -> PartScores:  # noqa: D102 (inherited)
        assert taught.again is not None, "layer parts are refused where layers are not shown"
        _, _, taken = taught.again.run(LayerPass(until=self.exits[-1], taps=tuple(self.exits)))
        head = taught.heads.of(ParallelHeads)
        predictions = {str(layer): taught.predicted(self.leave(layer, taken[layer]), head) for layer in self.exits}
        return PartScores(predictions, weight=self.weight)
