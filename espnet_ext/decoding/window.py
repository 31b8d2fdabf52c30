"""A window of masked steps that slides behind a causal cache: what is sure is kept wherever it lies in the window."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from espnet_ext.decoding.base import DecodingStrategy
from espnet_ext.decoding.order import Advance, Order, Turn, register_order
from espnet_ext.decoding.row_tensors import RowTensors
from espnet_ext.decoding.sampling import window_of
from espnet_ext.decoding.speculative import MOST_WIDTH
from espnet_ext.errors import UserError
from espnet_ext.model.core_lm import StepModel
from espnet_ext.options import check_number


@dataclass
class Observed(RowTensors):
    """What a row has observed of its window, which begins at its first step that is not known.

    Attributes:
        first: (R,) int64, that step.
        codes: (R, W, M) int64 of the window.
        logprobs: (R, W, M).
        known: (R, W) bool, steps of the window that are known.
        fresh: (R, W, M) int64, codes that are known since the last turn, the first `count` of each row.
        steps: (R, W) int64, which steps they are.
        count: (R,) int64.
    """

    first: Tensor
    codes: Tensor
    logprobs: Tensor
    known: Tensor
    fresh: Tensor
    steps: Tensor
    count: Tensor

    def move_on(self, new: Tensor) -> Tensor:
        """Take the steps that are known since this turn, (R, W) bool; slide behind the leading ones: how many, (R,)."""
        width = self.known.shape[1]
        place = torch.arange(width, device=new.device)
        self.known = self.known | new
        order = new.to(torch.int8).argsort(dim=1, descending=True, stable=True)
        self.fresh, self.steps = rows_at(self.codes, order), self.first[:, None] + order
        self.count = new.sum(1)
        kept = self.known.long().cumprod(1).sum(1)
        source = place + kept[:, None]
        inside = source.clamp_max(width - 1)
        self.codes, self.logprobs = rows_at(self.codes, inside), rows_at(self.logprobs, inside)
        self.known = self.known.gather(1, inside) & (source < width)
        self.first = self.first + kept
        return kept


def rows_at(x: Tensor, index: Tensor) -> Tensor:
    """X (R, W, M) at the places (R, W') of each row."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[2]))


@register_order("window")
@dataclass(frozen=True)
class Window(Order):
    """In a turn all masked steps of a window are predicted; the first one is kept, and others that are sure enough.

    Steps are put into the cache in the order in which they become known, each with the position that it has in the
    utterance; a masked step sees all of them. Those in front of the first one that is not known are final.

    Attributes:
        width: steps of the window.
        threshold: geometric mean of the probabilities of a step's codes, before warping, from which on it is sure.

    Reference:
        WeDLM, arXiv:2512.22737, over whole steps of codes, with the first step kept in any case.
    """

    width: int = 4
    threshold: float = 0.5

    delays = False
    objective = "window"

    def __post_init__(self) -> None:
        check_number("width", self.width, least=2, most=MOST_WIDTH, whole=True)
        check_number("threshold", self.threshold, least=0)

    def check_model(self, strategy: DecodingStrategy, model: StepModel) -> None:  # noqa: D102 (inherited)
        if self.width > model.mask_span:
            raise UserError(
                f"width must be at most {model.mask_span}, the steps of a block that this model was trained with "
                f"(mask_conf span), got {self.width}"
            )

    def begin(self, model: StepModel, conditions: Any) -> Observed:  # noqa: D102 (inherited)
        rows, device = len(conditions.given), conditions.given.device
        none = torch.zeros(rows, dtype=torch.int64, device=device)
        codes = torch.full((rows, self.width, model.layout.slots), model.spec.mask_id, device=device)
        known = torch.zeros(rows, self.width, dtype=torch.bool, device=device)
        return Observed(none, codes, codes.double() * 0, known, codes, known.long(), none)

    def advance(self, turn: Turn, own: Observed) -> Advance:  # noqa: D102 (inherited)
        rows, mask_id = len(own.first), turn.model.spec.mask_id
        place, fresh = torch.arange(self.width, device=own.first.device), int(own.count.max())
        masks = torch.full_like(own.codes, mask_id)
        hidden = turn.model.extend_at(
            torch.cat((own.fresh[:, :fresh], masks), dim=1),
            torch.cat((own.steps[:, :fresh], own.first[:, None] + place), dim=1),
            torch.cat((place[:fresh] < own.count[:, None], ~own.known), dim=1),
            turn.state,
        )[:, fresh:]
        turn.state.accept(own.count, fresh + self.width)

        so_far = own.codes.masked_fill(~own.known[..., None], mask_id)
        samplers = list(turn.samplers(so_far[:, :-1].unbind(1)))
        utterances = rows // 2 if samplers[0].options.guided else rows
        places = (~own.known).flatten().nonzero()[:, 0]
        sampler = window_of(samplers, utterances, mask_id).for_rows(places)
        filled = turn.strategy.decode_step(turn.model.heads, hidden.flatten(0, 1)[places], sampler)
        codes, logprobs = own.codes.flatten(0, 1).clone(), own.logprobs.flatten(0, 1).clone()
        codes[places], logprobs[places] = filled.codes, filled.logprobs.double()
        own.codes, own.logprobs = codes.view(own.codes.shape), logprobs.view(own.logprobs.shape)

        sure = own.logprobs.mean(-1) >= (math.log(self.threshold) if self.threshold else -math.inf)
        made = own.codes, own.logprobs
        kept = own.move_on(~own.known & (sure | (place == 0)))
        passes = torch.zeros_like(kept).scatter_reduce(0, places // self.width, filled.local_passes, "amax")
        return Advance(*made, kept, passes, torch.ones_like(kept))
