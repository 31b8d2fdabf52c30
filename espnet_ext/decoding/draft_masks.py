"""The drafter `masks`: steps that come, from masks in the pass that scores the last guesses, one after the other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from espnet_ext.decoding.draft_behind import DraftBehind
from espnet_ext.decoding.drafters import Draft, LastWindow, from_hidden, register_drafter
from espnet_ext.decoding.order import Turn
from espnet_ext.model.core_lm.base import CoreLM
from espnet_ext.model.parts import Masks


@register_drafter("masks")
@dataclass(frozen=True)
class DraftMasks(DraftBehind):
    """What the part `masks` makes behind the last step that was kept, of each guess given the one in front of it.

    All W steps of a pass have masks behind them, W * W positions in place of W. The first turn repeats the last step.

    Reference:
        Samragh et al. 2025, arXiv:2507.11851, whose quadratic decoding has masks behind every step, too.
    """

    part = "masks"
    kind = Masks

    def extend(self, turn: Turn, codes: Tensor) -> tuple[Tensor, Tensor | None]:  # noqa: D102 (inherited)
        masks = turn.model.parts.of(Masks)
        return turn.model.extend_ahead(codes, turn.state, masks.ahead(codes.shape[1] - 1))

    def draft(self, turn: Turn, own: LastWindow, count: int, draws: bool) -> Draft:  # noqa: D102 (inherited)
        model, made = turn.model, []
        assert isinstance(model, CoreLM)
        sampler, before = model.parts.of(Masks).sampler, turn.codes
        for place in range(count):
            step = model.embedding.step(before)
            both = None if own.hidden is None else torch.stack((own.hidden[:, place], step), dim=1)
            made.append(from_hidden(turn, LastWindow(both, own.there), 1, draws, lambda x: sampler(x[:, :1], x[:, 1:])))
            before = made[-1].codes[:, 0]
        probs = [one.probs for one in made if one.probs is not None]
        return Draft(torch.cat([one.codes for one in made], dim=1), torch.cat(probs, dim=1) if probs else None)
