"""The drafter `prompts`: steps that come, from trained prompts in the pass that scores the last guesses."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from espnet_ext.decoding.draft_behind import DraftBehind
from espnet_ext.decoding.drafters import register_drafter
from espnet_ext.decoding.order import Turn
from espnet_ext.model.parts import Prompts


@register_drafter("prompts")
@dataclass(frozen=True)
class DraftPrompts(DraftBehind):
    """What the part `prompts` makes behind the last step that was kept, in the pass that kept it.

    All W steps of a pass have prompts behind them, W * W positions in place of W: which of the steps is the last one
    that is kept nobody knows beforehand. With prompts behind the last step of the window alone, and the last step
    repeated where it is not kept, fewer steps stay per pass (`docs/speculation.md`); the positions cost little in
    a batch of one. The first turn repeats the last step.

    Reference:
        Parallel prompt decoding, Chen et al. 2024, arXiv:2405.18628, with one guess for each step in place of a tree.
    """

    part = "prompts"
    kind = Prompts

    def extend(self, turn: Turn, codes: Tensor) -> tuple[Tensor, Tensor | None]:  # noqa: D102 (inherited)
        prompts = turn.model.parts.of(Prompts)
        return turn.model.extend_ahead(codes, turn.state, prompts.ahead(codes.shape[1] - 1))
