"""The drafter `hidden_transfer`: steps that come, from states that enter half way through the pass that verifies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from espnet_ext.decoding.drafters import Draft, Drafter, LastWindow, Seen, from_hidden, register_drafter
from espnet_ext.decoding.order import Turn
from espnet_ext.errors import UserError
from espnet_ext.model.core_lm import StepModel
from espnet_ext.model.layers import LayerPass
from espnet_ext.model.parts import HiddenTransfer


@register_drafter("hidden_transfer")
@dataclass(frozen=True)
class DraftHiddenTransfer(Drafter):
    """What comes out behind the last step that was kept, of the states that the part `hidden_transfer` makes.

    There is one pass for a turn: W steps through all layers, and through those from the part's layer on W - 1 further
    positions behind each of them, as nobody knows beforehand which of the steps is the last one that is kept. The
    first turn repeats the last step.

    Reference:
        Hidden transfer, Wu et al. 2024, arXiv:2404.12022, with one guess for each step in place of a tree of them.
    """

    part = "hidden_transfer"

    def check(self, model: StepModel, count: int) -> None:  # noqa: D102 (inherited)
        super().check(model, count)
        most = model.parts.of(HiddenTransfer).steps
        if count > most:
            told = f"at most {most + 1} with drafter hidden_transfer and {most} steps of part hidden_transfer"
            raise UserError(f"width must be {told}, got {count + 1}")

    def begin(self, model: StepModel, conditions: Any) -> LastWindow:  # noqa: D102 (inherited)
        return LastWindow()

    def extend(self, turn: Turn, codes: Tensor) -> tuple[Tensor, Tensor | None]:  # noqa: D102 (inherited)
        width = codes.shape[1]
        entry = turn.model.parts.of(HiddenTransfer).entry(width - 1)
        made = turn.model.extend(codes, turn.state, LayerPass(entry=entry))
        return made[:, :width], made[:, width:].unflatten(1, (width, width - 1))

    def draft(self, turn: Turn, own: LastWindow, count: int, draws: bool) -> Draft:  # noqa: D102 (inherited)
        return from_hidden(turn, own, count, draws, lambda hidden: hidden)

    def observe(self, own: LastWindow, seen: Seen) -> None:  # noqa: D102 (inherited)
        assert seen.behind is not None
        # behind what has predicted the step that the next turn begins with
        last = (seen.kept - 1)[:, None, None, None].expand(-1, 1, *seen.behind.shape[2:])
        own.see(seen.behind.gather(1, last)[:, 0])
