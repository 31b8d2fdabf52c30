"""The drafter `prompts`: steps that come, from trained prompts in the pass that scores the last guesses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from espnet_ext.decoding.draft_heads import check_width
from espnet_ext.decoding.drafters import Draft, Drafter, LastWindow, Seen, from_hidden, register_drafter
from espnet_ext.decoding.order import Turn
from espnet_ext.model.core_lm import StepModel
from espnet_ext.model.parts import Prompts


@dataclass
class Behind(LastWindow):
    """What came out behind the last step that was kept, (R, k, D)."""

    def learn(self, seen: Seen) -> None:
        """Remember that of a turn."""
        assert seen.behind is not None
        last = (seen.kept - 1)[:, None, None, None].expand(-1, 1, *seen.behind.shape[2:])
        self.see(seen.behind.gather(1, last)[:, 0])


@register_drafter("prompts")
@dataclass(frozen=True)
class DraftPrompts(Drafter):
    """What the part `prompts` makes behind the last step that was kept, in the pass that kept it.

    All W steps of a pass have prompts behind them, W * W positions in place of W: which of the steps is the last one
    that is kept nobody knows beforehand. With prompts behind the last step of the window alone, and the last step
    repeated where it is not kept, fewer steps stay per pass (`docs/decoding.md`); the positions cost little in a batch
    of one. The first turn repeats the last step.

    Reference:
        Parallel prompt decoding, Chen et al. 2024, arXiv:2405.18628, with one guess for each step in place of a tree.
    """

    part = "prompts"

    def check(self, model: StepModel, count: int) -> None:  # noqa: D102 (inherited)
        super().check(model, count)
        check_width("prompts", self.part, model.parts.of(Prompts).steps, count)

    def begin(self, model: StepModel, conditions: Any) -> Behind:  # noqa: D102 (inherited)
        return Behind()

    def extend(self, turn: Turn, codes: Tensor) -> tuple[Tensor, Tensor | None]:  # noqa: D102 (inherited)
        prompts = turn.model.parts.of(Prompts)
        return turn.model.extend_ahead(codes, turn.state, prompts.ahead(codes.shape[1] - 1))

    def draft(self, turn: Turn, own: Behind, count: int, draws: bool) -> Draft:  # noqa: D102 (inherited)
        return from_hidden(turn, own, count, draws, lambda hidden: hidden)

    def observe(self, own: Behind, seen: Seen) -> None:  # noqa: D102 (inherited)
        own.learn(seen)
