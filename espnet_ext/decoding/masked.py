"""Whole utterances in rounds: all that is masked is predicted, and what is surest is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from espnet_ext.decoding.base import DecodingStrategy
from espnet_ext.decoding.local_maskgit import unmask_schedule
from espnet_ext.decoding.masked_step import rank
from espnet_ext.decoding.masked_utterance import MaskedUtterances
from espnet_ext.decoding.order import Advance, Order, Turn, register_order
from espnet_ext.decoding.row_tensors import RowTensors
from espnet_ext.decoding.sampling import Sampler
from espnet_ext.errors import UserError
from espnet_ext.model.core_lm import StepModel
from espnet_ext.options import check_choice, check_number

CHOICES = ("confidence", "random")
MOST_ROUNDS, MOST_TEMPERATURE = 1000, 100


@dataclass
class Given(RowTensors):
    """What is known of every row at its beginning.

    Attributes:
        codes: (R, T, N) int64, MASK where there is to be something new.
        lengths: (R,) int64 frames; 0 where nothing is known.
    """

    codes: Tensor
    lengths: Tensor


@register_order("masked")
@dataclass(frozen=True)
class Masked(Order):
    """A masked model fills all of an utterance in rounds, each with one pass of the primary transformer.

    A round fills every step that has masked codes, as the strategy does it, and keeps the share of a cosine schedule;
    what is kept is whole steps, single codes, or a codebook after the other, as the model was trained. An utterance is
    as long as its text is expected to take, or as what is known of it.

    Attributes:
        rounds: most rounds of an utterance; of a model of `levels` for each codebook, or a list with one for each.
        choice: what a round keeps: the codes of the largest "confidence", the mean log-probability of a step's new
            codes, or "random" ones.
        temperature: of the Gumbel noise that is added to the confidence; it falls to 0 in the last round.

    Raises:
        UserError: if an option is out of range, or `temperature` is given with `choice` "random".

    Reference:
        Chang et al. 2022, arXiv:2202.04200, over the time of an utterance; MaskGCT, arXiv:2409.00750; MAGNeT,
        arXiv:2401.04577.
    """

    rounds: int | Sequence[int] = 8
    choice: str = "confidence"
    temperature: float = 0.0

    streams = False
    delays = False
    objective = "masked"
    whole = True

    def __post_init__(self) -> None:
        if isinstance(self.rounds, (list, tuple)):
            object.__setattr__(self, "rounds", tuple(self.rounds))  # to be a key, as the rest is
        if self.rounds == ():
            raise UserError("rounds must be a number or a list of them, one for each codebook, got []")
        for count in self.rounds if isinstance(self.rounds, tuple) else (self.rounds,):
            check_number("rounds", count, least=1, most=MOST_ROUNDS, whole=True)
        check_choice("choice", self.choice, CHOICES)
        check_number("temperature", self.temperature, least=0, most=MOST_TEMPERATURE)
        if self.choice == "random" and self.temperature:
            raise UserError(f"temperature must be 0 with choice random, which is all noise, got {self.temperature}")

    def check_model(self, strategy: DecodingStrategy, model: StepModel) -> None:  # noqa: D102 (inherited)
        levels = self._levels(model)
        if isinstance(self.rounds, tuple) and len(self.rounds) != len(levels):
            one = "one number" if len(levels) == 1 else f"a number or {len(levels)} of them, one for each codebook"
            raise UserError(f"rounds must be {one} with this model, got {list(self.rounds)}")

    def begin(self, model: StepModel, conditions: Any) -> Given:  # noqa: D102 (inherited)
        return Given(conditions.known, conditions.known_lengths)

    def advance(self, turn: Turn, own: Given) -> Advance:  # noqa: D102 (inherited)
        made, levels = MaskedUtterances(turn, own.codes, own.lengths), self._levels(turn.model)
        rounds = self.rounds if isinstance(self.rounds, tuple) else (self.rounds,) * len(levels)
        for level, most in zip(levels, rounds, strict=True):
            self._fill(made, level.to(made.codes.device), most, single=turn.model.mask_unit == "codes")
        steps = made.step_lengths
        return Advance(made.codes, made.logprobs, steps, made.local_passes, made.primary_passes)

    def _levels(self, model: StepModel) -> list[Tensor]:
        """Slots (M,) bool that are filled together, one after the other."""
        books = model.spec.num_codebooks
        slot = torch.arange(model.layout.slots)
        if model.mask_unit != "levels":
            return [torch.ones_like(slot, dtype=torch.bool)]
        return [slot % books == book for book in range(books)]

    def _fill(self, made: MaskedUtterances, level: Tensor, most: int, single: bool) -> None:
        """Make all codes of a level known, in rounds."""
        wanted = made.unknown & level
        units = wanted.flatten(1) if single else wanted.any(-1)  # (R, K), what is kept or not
        for number, count in enumerate(shares_of_rounds(units.sum(1), most)):
            left = made.unknown & level
            filled, places, sampler = made.predict(left)
            priority = torch.full_like(made.logprobs, -torch.inf).flatten(0, 1)
            noise = max(1 - (number + 1) / most, 0.0)
            priority[places] = self._priority(filled.logprobs, left.flatten(0, 1)[places], single, noise, sampler)
            priority = priority.view(left.shape).masked_fill(~left, -torch.inf)
            chosen = rank(priority.flatten(1) if single else priority.amax(-1)) < count[:, None]
            made.reveal(filled, places, left & (chosen.view(left.shape) if single else chosen[..., None]))

    def _priority(self, logprobs: Tensor, new: Tensor, single: bool, noise: float, sampler: Sampler) -> Tensor:
        """What is kept first, (P, M), the same for all new codes of a step unless they are kept one by one."""
        sure = logprobs
        if not single:
            sure = ((logprobs * new).sum(1) / new.sum(1))[:, None].expand_as(logprobs)
        sure = sure.double()
        if self.choice == "confidence" and not (self.temperature and noise):
            return sure
        drawn = sampler.uniform((new.shape[1] if single else 1,), new.device)
        gumbel = -(-drawn.clamp_min(torch.finfo(drawn.dtype).tiny).log()).log()
        return (gumbel if self.choice == "random" else sure + self.temperature * noise * gumbel).expand_as(sure)


def shares_of_rounds(units: Tensor, most: int) -> list[Tensor]:
    """How many units of every row each round keeps: (R,) int64, of as many rounds as the row with most units needs.

    Args:
        units: (R,) int64, what a row has to be filled.
        most: most rounds.

    Returns:
        The numbers; rows with fewer units need fewer rounds, and rows without any none.

    >>> [share.tolist() for share in shares_of_rounds(torch.tensor([8, 2, 0]), 3)]
    [[1, 1, 0], [3, 1, 0], [4, 0, 0]]
    """
    known = [[0, *unmask_schedule(count, most, "confidence")] if count else [0] for count in units.tolist()]
    rounds = max(map(len, known)) - 1
    shares = [[later - now for now, later in pairwise(counts)] for counts in known]
    return [
        torch.tensor([one[number] if number < len(one) else 0 for one in shares], device=units.device)
        for number in range(rounds)
    ]
