"""What drafters share that guess from positions behind the steps of the pass that scores the last guesses."""

from __future__ import annotations

from typing import Any, ClassVar

from espnet_ext.decoding.draft_heads import check_width
from espnet_ext.decoding.drafters import Draft, Drafter, LastWindow, Seen, from_hidden
from espnet_ext.decoding.order import Turn
from espnet_ext.model.core_lm import StepModel
from espnet_ext.model.parts import Part


class DraftBehind(Drafter):
    """Guesses from what came out behind the last step that was kept, (R, k, D); the first turn repeats the last step.

    A drafter has the name of its part.

    Attributes:
        kind: class of the part, which has `steps`.
    """

    kind: ClassVar[type[Part]]

    def check(self, model: StepModel, count: int) -> None:  # noqa: D102 (inherited)
        super().check(model, count)
        part: Any = model.parts.of(self.kind)
        check_width(self.part, self.part, part.steps, count)

    def begin(self, model: StepModel, conditions: Any) -> LastWindow:  # noqa: D102 (inherited)
        return LastWindow()

    def draft(self, turn: Turn, own: Any, count: int, draws: bool) -> Draft:  # noqa: D102 (inherited)
        return from_hidden(turn, own, count, draws, lambda hidden: hidden)

    def observe(self, own: LastWindow, seen: Seen) -> None:  # noqa: D102 (inherited)
        assert seen.behind is not None
        # behind what has predicted the step that the next turn begins with
        last = (seen.kept - 1)[:, None, None, None].expand(-1, 1, *seen.behind.shape[2:])
        own.see(seen.behind.gather(1, last)[:, 0])
