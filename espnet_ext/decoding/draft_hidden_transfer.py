"""The drafter `hidden_transfer`: steps that come, from states that enter half way through the pass that verifies."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from espnet_ext.decoding.draft_behind import DraftBehind
from espnet_ext.decoding.drafters import register_drafter
from espnet_ext.decoding.order import Turn
from espnet_ext.model.layers import LayerPass
from espnet_ext.model.parts import HiddenTransfer


@register_drafter("hidden_transfer")
@dataclass(frozen=True)
class DraftHiddenTransfer(DraftBehind):
    """What comes out behind the last step that was kept, of the states that the part `hidden_transfer` makes.

    There is one pass for a turn: W steps through all layers, and through those from the part's layer on W - 1 further
    positions behind each of them, as nobody knows beforehand which of the steps is the last one that is kept. The
    first turn repeats the last step.

    Reference:
        Hidden transfer, Wu et al. 2024, arXiv:2404.12022, with one guess for each step in place of a tree of them.
    """

    part = "hidden_transfer"
    kind = HiddenTransfer

    def extend(self, turn: Turn, codes: Tensor) -> tuple[Tensor, Tensor | None]:  # noqa: D102 (inherited)
        width = codes.shape[1]
        entry = turn.model.parts.of(HiddenTransfer).entry(width - 1)
        made = turn.model.extend(codes, turn.state, LayerPass(entry=entry))
        return made[:, :width], made[:, width:].unflatten(1, (width, width - 1))
