"""The rows that are generated together, from their first step until they are finished and leave."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from espnet_ext.codes import CodecSpec
from espnet_ext.decoding.base import DecodingStrategy
from espnet_ext.decoding.order import Advance, Order, Own, Step, Turn
from espnet_ext.decoding.request import Decoding, Waiting
from espnet_ext.decoding.rows import Generation, Rows
from espnet_ext.decoding.sampling import Sampler
from espnet_ext.errors import UserError
from espnet_ext.model.core_lm import StepModel
from espnet_ext.model.primary import Ending, PrimaryState, with_unconditional

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
        order: how steps follow each other.
        sampler: with the generators of the rows.
        rows: what each holds.
        state: of the primary transformer; with guidance the unconditional rows are behind the others.
        own: what the order remembers.
        codes: (R, M) of the last step.
        ids: numbers of the rows among all that were asked for.
        names: of the rows; empty where nobody knows them.
        left: numbers and codes of those that are no longer there.
        turns: how often steps were made.
    """

    model: StepModel
    strategy: DecodingStrategy
    step: Step
    order: Order
    sampler: Sampler
    rows: Rows
    state: PrimaryState
    own: Own | None
    codes: Tensor
    ids: list[int]
    names: list[str]
    left: list[tuple[list[int], Generation]] = field(default_factory=list)
    turns: int = 0

    @classmethod
    def begin(cls, ids: list[int], asked: Decoding) -> Self:
        """The batch before its first step.

        Args:
            ids: numbers of its rows.
            asked: what is asked for of them.

        Returns:
            The batch.
        """
        model, order, limits, conditions = asked.model, asked.order, asked.limits, asked.conditions
        guided = asked.sampler.options.guided
        if guided:
            conditions = with_unconditional(conditions)
        max_steps = model.layout.num_steps(limits) + order.width - 1  # the last turn may begin with the last step
        max_steps = torch.cat((max_steps, max_steps)) if guided else max_steps
        layers = asked.depth.of_rows(model, asked.conditions, guided)
        state = model.prefill(conditions, max_steps, asked.cache, **({} if layers is None else {"layers": layers}))
        state.cache.may_go_back(order.width)
        if asked.end_guard is not None:
            state.guard_ends(math.ceil(asked.end_guard * model.spec.frame_rate_hz / model.layout.stacking))
        rows, own = (
            Rows(model.spec, model.layout, limits, asked.min_frames, asked.watch),
            order.begin(model, conditions),
        )
        rows.depth = state.layers_run()[: len(ids)]
        codes, how = model.first_codes(conditions)[: len(ids)], (asked.strategy, asked.step, order, asked.sampler)
        return cls(model, *how, rows, state, own, codes, ids, list(asked.names))

    def advance(self) -> None:
        """Make the next steps of every row, and take those that are kept."""
        self.state.make_room(self.order.width)  # rows that join or keep different numbers of steps leave holes
        samplers = self.sampler_behind, self.samplers_behind
        what = self.model, self.strategy, self._pairs(self.codes), self.state, *samplers, self.step
        limits = self._pairs(self.rows.limit) if self.order.whole else None
        turn = Turn(*what, limits, self.rows.min_frames)
        made = self.order.advance(turn, self.own)
        if self.sampler.options.guided:
            parts = {name: part[: len(self.ids)] for name, part in made._asdict().items() if part is not None}
            made = Advance(**parts)
        self.codes = self.rows.commit(made)
        self.turns += 1

    def sampler_behind(self, made: Sequence[Tensor]) -> Sampler:
        """The sampler of the step behind those that a turn has made, each (R, M)."""
        return self._sampler(self.rows.behind([codes[: len(self.ids)] for codes in made]))

    def samplers_behind(self, made: Sequence[Tensor]) -> Iterator[Sampler]:
        """The sampler of the coming step, and those of the steps behind each of these, (R, M)."""
        rows = self.rows
        yield self._sampler(rows)
        for codes in made:
            rows = rows.behind([codes[: len(self.ids)]])
            yield self._sampler(rows)

    def _sampler(self, rows: Rows) -> Sampler:
        """That of the coming step of these rows, which are the batch's with some steps more."""
        size = len(self.ids)
        legal, history = rows.legal(), rows.history(self.sampler.options.repetition_window)
        if self.state.end_guard is not None:
            ending = self.state.ending(self._pairs(rows.done))
            assert ending is not None
            legal = guard_ends(self.model.spec, legal, Ending(*(part[:size] for part in ending)))
        return self.sampler.for_step(legal, history)

    def check_finite(self, where: str) -> None:
        """Refuse what the model made of logits that are not finite: its codes look like any others.

        Args:
            where: the step, in words.

        Raises:
            UserError: naming the first such row, and the step.
        """
        bad = self.rows.logprobs.isnan().nonzero()[:, 0].tolist()
        if bad:
            row = f"utterance {self.names[bad[0]]}" if self.names else f"row {self.ids[bad[0]]}"
            raise UserError(
                f"logits must be finite, got NaN in {where} of {row}: the weights are damaged, or too large for the "
                "precision they are packed in"
            )

    def goes_on(self, waiting: Waiting) -> bool:
        """Whether rows are not finished, as far as that is known; others join in their place, or the batch shrinks.

        Args:
            waiting: rows that may join.

        Returns:
            False if there is nothing left to do.
        """
        finished = self.rows.finished
        is_full = not self.state.cache.has_room(self.order.width)
        must_look = self.order.whole or self.rows.may_be_full or is_full
        if is_gpu(finished.device) and self.turns % TURNS_AT_ONCE and not must_look:
            return True
        size, left = len(finished), len(finished) - int(finished.sum())
        if waiting:
            if left < size:
                self._let_in(finished.nonzero()[:, 0], waiting)
            return True
        if left == 0:
            return False
        # what finished rows hold is no reason to have a larger cache
        stay = left if is_full else rows_that_stay(size, left, is_gpu(finished.device))
        if stay < size:
            order = finished.long().argsort(stable=True)
            self._keep(order[:stay].sort().values, order[stay:])
        return True

    def _pairs(self, x: Tensor, behind: int = 0) -> Tensor:
        """With guidance also what goes with the unconditional rows, `behind` being added to it."""
        return torch.cat((x, x + behind)) if self.sampler.options.guided else x

    def _lay_aside(self, rows: Tensor) -> None:
        self.check_finite(f"one of the {self.turns} steps")
        self.left.append(([self.ids[row] for row in rows.tolist()], self.rows.generation(rows)))

    def _let_in(self, rows: Tensor, waiting: Waiting) -> None:
        """Begin as many of the given rows anew as there are some that wait."""
        ids, asked = waiting.take(len(rows))
        rows, other = rows[: len(ids)], Batch.begin(ids, asked)
        self._lay_aside(rows)
        self.rows.put(rows, other.rows)
        pairs = self._pairs(rows, len(self.ids))
        self.state.put(pairs, other.state)
        if self.own is not None:
            self.own.put(pairs, other.own)
        self.codes = self.codes.index_copy(0, rows, other.codes)
        generators = list(self.sampler.generators)
        for place, row in enumerate(rows.tolist()):
            self.ids[row] = ids[place]
            if self.names:
                self.names[row] = other.names[place]
            if generators:
                generators[row] = other.sampler.generators[place]
        self.sampler = replace(self.sampler, generators=tuple(generators))

    def _keep(self, kept: Tensor, others: Tensor) -> None:
        """Go on with some of the rows; what the others hold is laid aside."""
        self._lay_aside(others)
        pairs = self._pairs(kept, len(self.ids))
        self.state.keep(pairs)
        if self.own is not None:
            self.own.keep(pairs)
        self.rows.keep(kept)
        self.sampler, self.codes = self.sampler.for_rows(pairs), self.codes[kept]
        self.ids, names = [self.ids[row] for row in kept.tolist()], self.names
        self.names = [names[row] for row in kept.tolist()] if names else []

    def hand_out(self) -> list[tuple[list[int], Generation]]:
        """Numbers and codes of the rows that have left since the last time."""
        out, self.left = self.left, []
        return out

    def generation(self) -> Generation:
        """What there is by now, of all rows that were asked for, in their order."""
        parts = [*self.left, (self.ids, self.rows.generation())]
        if len(parts) == 1 and self.ids == sorted(self.ids):
            return parts[0][1]
        return joined([ids for ids, _ in parts], [made for _, made in parts])


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
