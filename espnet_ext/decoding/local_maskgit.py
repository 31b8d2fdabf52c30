"""Rounds of iterative unmasking through the MaskGIT local transformer."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor

from espnet_ext.decoding.base import DecodingStrategy, Filled, register_strategy
from espnet_ext.decoding.masked_step import MaskedStep, rank
from espnet_ext.decoding.sampling import Sampler
from espnet_ext.errors import UserError
from espnet_ext.model.heads import Heads, MaskGITLocalTransformer, masked_counts
from espnet_ext.options import check_choice, check_number

ORDERS = ("confidence", "purity", "frames", "left_to_right")


def unmask_schedule(slots: int, n_rounds: int, order: str) -> list[int]:
    """Codes that are known after each round, strictly increasing up to M.

    Confidence and purity: M - ceil(M cos(pi / 2 * i / R)) after round i, and at least one more than after the round
    before, since a round that reveals nothing is a wasted pass. Frames and from left to right: equal shares.

    Args:
        slots: M.
        n_rounds: R; values above M are treated as M.
        order: one of `ORDERS`.

    Returns:
        The counts, min(R, M) or fewer of them.

    Reference:
        Chang et al. 2022, arXiv:2202.04200, masking design; the least of one code per round is ours. The published
        implementation of arXiv:2509.19592 has equal shares where it opens frames one after the other.

    >>> unmask_schedule(8, 3, "purity"), unmask_schedule(8, 8, "purity")
    ([1, 4, 8], [1, 2, 3, 4, 5, 6, 7, 8])
    """
    rounds = min(n_rounds, slots)
    if order in ("frames", "left_to_right"):
        return [slots * (i + 1) // rounds for i in range(rounds)]
    masked = [*masked_counts(torch.arange(rounds) / rounds, slots).tolist(), 0]
    known, counts = 0, []
    for left in masked[1:]:
        known = max(slots - left, known + 1)
        counts.append(known)
        if known >= slots:
            break
    return counts


@cache  # one command builds its strategy several times
def warn_of_old_name() -> None:
    """A warning, the first time in a process, that an order is called something else now."""
    warnings.warn("order causal is now called left_to_right, and means the same", stacklevel=4)


def noise_share(number: int, rounds: int) -> float:
    """Share of the noise that is left in a round: 1 - (i + 2) / R in round i, and nothing from the last but one on.

    Args:
        number: i, from 0.
        rounds: R.

    Returns:
        The share, in [0, 1).

    Reference:
        The published implementation of arXiv:2509.19592. The last round reveals whatever is left, so that noise would
        change nothing in it.

    >>> [noise_share(number, 4) for number in range(4)]
    [0.5, 0.25, 0.0, 0.0]
    """
    return max(1 - (number + 2) / rounds, 0.0)


def rank_by_frame(priority: Tensor, known: Tensor, num_codebooks: int) -> Tensor:
    """Place of each slot when known ones come first, then frame after frame, each by falling priority: (R, M) int64.

    Args:
        priority: (R, M).
        known: (R, M) bool.
        num_codebooks: N.

    Returns:
        The places.

    >>> rank_by_frame(torch.tensor([[0.1, 0.2, 0.8, 0.9]]), torch.tensor([[False, False, False, False]]), 2).tolist()
    [[1, 0, 3, 2]]
    """
    slots = priority.shape[1]
    frame = torch.arange(slots, device=priority.device) // num_codebooks
    return rank(-(rank(priority) + frame * slots).masked_fill(known, -1))


@register_strategy("local_maskgit")
@dataclass(frozen=True)
class LocalMaskGIT(DecodingStrategy):
    """A fixed number of rounds; each predicts all masked slots and reveals some.

    One round draws all codes from the step without known codes: parallel sampling through the local transformer.

    Attributes:
        n_rounds: rounds per step, R; never more than there are slots.
        order: which slots a round reveals. "confidence": those whose drawn codes are most probable, "purity": those
            whose most likely codes are, "frames": all of a frame before any of the next one, by confidence inside of
            the frame, "left_to_right": slot after slot. "causal" is the old name of the last one.
        noise: width of the uniform noise around 0 that the probabilities are changed by before slots are ordered; see
            `noise_share` for how it fades. It needs three rounds to do anything.
        fixed_schedule: codes known after each round, instead of the cosine; the last number must be M.

    Reference:
        Chang et al. 2022, arXiv:2202.04200; for the codes of a step: arXiv:2509.19592. What its published
        implementation calls causal lets a frame begin before the one in front of it is complete; "frames" does not.
    """

    n_rounds: int = 3
    order: str = "purity"
    noise: float = 0.0
    fixed_schedule: Sequence[int] = ()

    head_types = (MaskGITLocalTransformer,)
    is_static = True

    def __post_init__(self) -> None:
        check_number("n_rounds", self.n_rounds, least=1, whole=True)
        if self.order == "causal":
            warn_of_old_name()
            object.__setattr__(self, "order", "left_to_right")
        check_choice("order", self.order, ORDERS)
        check_number("noise", self.noise, least=0)
        if not isinstance(self.fixed_schedule, (list, tuple)):
            raise UserError(f"fixed_schedule must be a list of integers, got {self.fixed_schedule!r}")
        object.__setattr__(self, "fixed_schedule", tuple(self.fixed_schedule))  # to be a key, as the rest is
        for count in self.fixed_schedule:
            check_number("fixed_schedule", count, least=1, whole=True)
        if any(later <= earlier for earlier, later in pairwise(self.fixed_schedule)):
            raise UserError(f"fixed_schedule must increase, got {list(self.fixed_schedule)}")
        if self.noise and self.order == "left_to_right":
            raise UserError(f"noise must be 0 with order left_to_right, got {self.noise}")
        if self.fixed_schedule and len(self.fixed_schedule) != self.n_rounds:
            raise UserError(f"n_rounds must be {len(self.fixed_schedule)} as fixed_schedule has, got {self.n_rounds}")

    def schedule(self, slots: int) -> list[int]:
        """Codes known after each round.

        Args:
            slots: M.

        Returns:
            The counts.

        Raises:
            UserError: if a fixed schedule does not end with M.
        """
        if not self.fixed_schedule:
            return unmask_schedule(slots, self.n_rounds, self.order)
        if self.fixed_schedule[-1] != slots:
            raise UserError(
                f"fixed_schedule must end with {slots}, the slots of this model, got {list(self.fixed_schedule)}"
            )
        return list(self.fixed_schedule)

    def check(self, heads: Heads) -> None:  # noqa: D102 (inherited)
        super().check(heads)
        self.schedule(heads.of(MaskGITLocalTransformer).slots)

    def decode_step(self, heads: Heads, hidden: Tensor, sampler: Sampler) -> Filled:  # noqa: D102
        local = heads.of(MaskGITLocalTransformer)
        step, counts = MaskedStep(local, heads.inputs(local, hidden), sampler), self.schedule(local.slots)
        for number, count in enumerate(counts):
            of_round = step.begin_round()
            drawn = sampler.uniform((local.slots,), hidden.device) if self.noise else None
            rows = step.rows_below(count)
            if not len(rows):  # a frame that ends the utterance may have made more known
                continue
            draw = step.predict(rows, of_round)
            if self.order == "left_to_right":
                # codebook 0 of a frame is never behind its other codebooks, so the end needs no care
                step.reveal(rows, draw, (torch.arange(local.slots, device=hidden.device) < count).expand(len(rows), -1))
                continue
            if number == 0:
                step.decide_end(draw, shown=self.order != "frames")
            known = step.known[rows]
            priority = step.confidence(draw, purity=self.order == "purity")
            if drawn is not None:
                priority = priority + self.noise * noise_share(number, len(counts)) * (drawn[rows] - 0.5)
            if self.order == "frames":
                place = rank_by_frame(priority, known, local.spec.num_codebooks)
            else:
                place = rank(priority.masked_fill(known, torch.inf))
            step.reveal(rows, draw, place < count)
        return step.filled()
