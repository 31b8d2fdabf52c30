"""The drafter `heads`: further steps from the hidden vector of one, by a part that was trained beside the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from espnet_ext.decoding.drafters import Draft, Drafter, LastWindow, Seen, from_hidden, register_drafter
from espnet_ext.decoding.order import Turn
from espnet_ext.errors import UserError
from espnet_ext.model.core_lm import StepModel
from espnet_ext.model.parts import Lookahead


def check_width(drafter: str, part: str, most: int, count: int) -> None:
    """Refuse more guesses than a part was trained for.

    Args:
        drafter: name of who guesses.
        part: name of what it guesses with.
        most: steps that the part looks ahead.
        count: guesses that are asked for.

    Raises:
        UserError: naming the widest window there is.
    """
    if count > most:
        told = f"at most {most + 1} with drafter {drafter} and {most} steps of part {part}"
        raise UserError(f"width must be {told}, got {count + 1}")


@register_drafter("heads")
@dataclass(frozen=True)
class DraftHeads(Drafter):
    """What the part `lookahead` makes of the hidden vector of the last step that was kept.

    The first turn repeats the last step.

    Reference:
        Medusa, Cai et al. 2024, arXiv:2401.10774, with one guess for each step in place of a tree of them.
    """

    part = "lookahead"

    def check(self, model: StepModel, count: int) -> None:  # noqa: D102 (inherited)
        super().check(model, count)
        check_width("heads", self.part, model.parts.of(Lookahead).steps, count)

    def begin(self, model: StepModel, conditions: Any) -> LastWindow:  # noqa: D102 (inherited)
        return LastWindow()

    def draft(self, turn: Turn, own: LastWindow, count: int, draws: bool) -> Draft:  # noqa: D102 (inherited)
        lookahead = turn.model.parts.of(Lookahead)
        return from_hidden(turn, own, count, draws, lambda hidden: lookahead.ahead(hidden, count))

    def observe(self, own: LastWindow, seen: Seen) -> None:  # noqa: D102 (inherited)
        # what has predicted the step that the next turn begins with
        last = (seen.kept - 1)[:, None, None].expand(-1, 1, seen.hidden.shape[2])
        own.see(seen.hidden.gather(1, last)[:, 0])
