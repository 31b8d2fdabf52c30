"""The rows that are generated together, from their first step until they are finished and leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from espnet_ext.codes import CodecSpec
from espnet_ext.decoding.base import DecodingStrategy
from espnet_ext.decoding.order import Advance, Order, Own, Step, Turn
from espnet_ext.decoding.rows import Generation, Rows
from espnet_ext.decoding.sampling import Sampler
from espnet_ext.model.core_lm import StepModel
from espnet_ext.model.primary import Ending, PrimaryState

COMPACT_BELOW = 0.8  # share of rows that go on, from which on the others leave the batch
TURNS_AT_ONCE = 8  # on a GPU, which would stand still while its host looks whether all rows are finished


def guard_ends(spec: CodecSpec, legal: Tensor, ending: Ending) -> Tensor:
    """Legal ids of rows some of which may not end yet, or have to: (B, M, V) bool.

    Args:
        spec: the codec's facts.
        legal: (1 or B, M, V) bool, what is legal otherwise; where EOS is not, no row has to end, and where nothing
            else is, none goes on.
        ending: of the rows.

    Returns:
        The mask.
    """
    is_eos = torch.arange(spec.vocab_size, device=legal.device) == spec.eos_id
    open_ = legal & ~is_eos
    too_early = ~ending.possible[:, None, None] & open_.any(-1, keepdim=True)
    due = ending.due[:, None, None] & legal[..., spec.eos_id, None]
    return torch.where(due, is_eos, torch.where(too_early, open_, legal))


def is_gpu(device: torch.device) -> bool:
    """Whether steps run on something else than the host's processor."""
    return device.type != "cpu"


def rows_that_stay(rows: int, left: int, on_gpu: bool) -> int:
    """How many rows of a batch go on in it.

    On a GPU the batch is halved or stays as it is, so that the shapes of its steps are few; then finished rows may be
    among those that stay.

    Args:
        rows: of the batch.
        left: that are not finished, at least one.
        on_gpu: where it is.

    Returns:
        The number.

    >>> rows_that_stay(8, 7, False), rows_that_stay(8, 6, False), rows_that_stay(8, 5, True), rows_that_stay(8, 2, True)
    (8, 6, 8, 2)
    """
    if not on_gpu:
        return left if left <= COMPACT_BELOW * rows else rows
    while rows // 2 >= left:
        rows //= 2
    return rows


@dataclass
class Batch:
    """Rows in the middle of their generation.

    Attributes:
        model: what is decoded.
        strategy: how the slots of a step are filled.
        step: how a step is run.
        sampler: with the generators of the rows.
        rows: what each holds.
        state: of the primary transformer; with guidance the unconditional rows are behind the others.
        own: what the order remembers.
        codes: (R, M) of the last step.
        ids: numbers of the rows among all that were asked for.
        left: numbers and codes of those that are no longer there.
        turns: how often steps were made.
    """

    model: StepModel
    strategy: DecodingStrategy
    step: Step
    sampler: Sampler
    rows: Rows
    state: PrimaryState
    own: Own | None
    codes: Tensor
    ids: list[int]
    left: list[tuple[list[int], Generation]] = field(default_factory=list)
    turns: int = 0

    def advance(self, order: Order) -> None:
        """Make the next steps of every row, and take those that are kept."""
        codes = torch.cat((self.codes, self.codes)) if self.sampler.options.guided else self.codes
        turn = Turn(self.model, self.strategy, codes, self.state, self.sampler_behind, self.step)
        made = order.advance(turn, self.own)
        if self.sampler.options.guided:
            made = Advance(*(part[: len(self.ids)] for part in made))
        self.codes = self.rows.commit(made)
        self.turns += 1

    def sampler_behind(self, made: Sequence[Tensor]) -> Sampler:
        """The sampler of the step behind those that a turn has made, each (R, M)."""
        rows, size = self.rows.behind([codes[: len(self.ids)] for codes in made]), len(self.ids)
        legal, history = rows.legal(), rows.history(self.sampler.options.repetition_window)
        if (ending := self.state.ending()) is not None:
            legal = guard_ends(self.model.spec, legal, Ending(*(part[:size] for part in ending)))
        return self.sampler.for_step(legal, history)

    def goes_on(self) -> bool:
        """Whether rows are not finished, as far as that is known; where it is faster, the others leave."""
        finished = self.rows.finished
        if is_gpu(finished.device) and self.turns % TURNS_AT_ONCE and not self.rows.may_be_full:
            return True
        size, left = len(finished), len(finished) - int(finished.sum())
        if left == 0:
            return False
        stay = rows_that_stay(size, left, is_gpu(finished.device))
        if stay < size:
            order = finished.long().argsort(stable=True)
            self._keep(order[:stay].sort().values, order[stay:])
        return True

    def _keep(self, kept: Tensor, others: Tensor) -> None:
        """Go on with some of the rows; what the others hold is laid aside."""
        self.left.append(([self.ids[row] for row in others.tolist()], self.rows.generation(others)))
        pairs = torch.cat((kept, kept + len(self.ids))) if self.sampler.options.guided else kept
        self.state.keep(pairs)
        if self.own is not None:
            self.own.keep(pairs)
        self.rows.keep(kept)
        self.sampler, self.codes = self.sampler.for_rows(pairs), self.codes[kept]
        self.ids = [self.ids[row] for row in kept.tolist()]

    def generation(self) -> Generation:
        """What there is by now, of all rows that were asked for, in their order."""
        parts = [*self.left, (self.ids, self.rows.generation())]
        return joined([ids for ids, _ in parts], [made for _, made in parts]) if self.left else parts[0][1]


def joined(ids: Sequence[Sequence[int]], parts: Sequence[Generation]) -> Generation:
    """The rows of several generations, in the order of their numbers.

    Args:
        ids: numbers of the rows of each.
        parts: the generations.

    Returns:
        One of all rows.
    """
    numbers = [number for some in ids for number in some]
    order = sorted(range(len(numbers)), key=numbers.__getitem__)
    frames = max(part.codes.shape[1] for part in parts)
    index = torch.tensor(order, device=parts[0].lengths.device)
    values: dict[str, Any] = {}
    for name in (one.name for one in fields(Generation) if one.name != "failed"):
        several = [getattr(part, name) for part in parts]
        if name == "codes":
            several = [nn.functional.pad(codes, (0, 0, 0, frames - codes.shape[1])) for codes in several]
        if isinstance(several[0], Tensor):
            values[name] = torch.cat(several)[index]
        else:
            flat = [one for some in several for one in some]
            values[name] = tuple(flat[place] for place in order)
    return Generation(**values, failed=tuple(reason for reason in values["runaway"] if reason))
