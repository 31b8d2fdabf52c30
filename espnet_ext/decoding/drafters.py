"""Who guesses the steps that come: the registry of drafters, and those that need no training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from espnet_ext.decoding.order import Own, Turn
from espnet_ext.errors import UserError
from espnet_ext.model.core_lm import StepModel
from espnet_ext.model.heads import ParallelHeads
from espnet_ext.registry import Registry


class Draft(NamedTuple):
    """Guesses of the steps that come.

    Attributes:
        codes: (R, count, M) int64.
        probs: (R, count, M, V), what each code was drawn from; None where nothing was drawn.
        layers: (R,) int64, layers of the primary transformer that were run for them; None for none.
    """

    codes: Tensor
    probs: Tensor | None = None
    layers: Tensor | None = None


class Seen(NamedTuple):
    """What a turn has shown.

    Attributes:
        hidden: (R, W, D), what the primary transformer makes of the last step and of each draft.
        codes: (R, W, M) int64, the steps of the turn.
        kept: (R,) int64, leading ones that are final.
        behind: (R, W, k, D), what came out in further positions behind each step; None where there were none.
    """

    hidden: Tensor
    codes: Tensor
    kept: Tensor
    behind: Tensor | None = None


class Drafter(ABC):
    """Guesses steps; a frozen dataclass of its options. Rows are independent.

    Attributes:
        part: name of the trained part of a model that it guesses with; empty for none.
        goes_through: whether it needs a model whose passes may run some layers alone.
    """

    part: ClassVar[str] = ""
    goes_through: ClassVar[bool] = False

    def check(self, model: StepModel, count: int) -> None:
        """Refuse a model without what the drafter needs.

        Args:
            model: what is decoded.
            count: steps that are to be guessed in a turn.

        Raises:
            UserError: naming what there is.
        """
        there = {one: drafters[one] for one in drafters if drafters[one].part in ("", *model.parts)}
        mine = next((one for one in drafters if drafters[one] is type(self)), type(self).__name__)
        if self.part and self.part not in model.parts:
            able = list(there)
            raise UserError(f"drafter must be one of {able} with a model without part {self.part}, got {mine!r}")
        if self.goes_through and not model.goes_through:
            able = [one for one, kind in there.items() if not kind.goes_through]
            raise UserError(f"drafter must be one of {able} with a model that runs all layers, got {mine!r}")

    def begin(self, model: StepModel, conditions: Any) -> Own | None:
        """What it is to remember of rows at their beginning, as `Order.begin`; None for nothing."""
        return None

    @abstractmethod
    def draft(self, turn: Turn, own: Any, count: int, draws: bool) -> Draft:
        """Guesses of the next steps of every row.

        Args:
            turn: what they are made from.
            own: what `begin` made.
            count: of the steps.
            draws: whether codes may be drawn, by the turn's sampler; otherwise nothing may be random.

        Returns:
            The guesses.
        """

    def extend(self, turn: Turn, codes: Tensor) -> tuple[Tensor, Tensor | None]:
        """Hidden vectors of the last step and of each draft, and of whatever positions the drafter puts behind them.

        Args:
            turn: whose state moves on.
            codes: (R, W, M) of the last step and of the drafts.

        Returns:
            (R, W, D), and (R, W, k, D) or None for no such positions.
        """
        return turn.model.extend(codes, turn.state), None

    def observe(self, own: Any, seen: Seen) -> None:
        """Take note of what became of them.

        Args:
            own: what `begin` made.
            seen: what the turn has shown.
        """
        return


drafters: Registry[type[Drafter]] = Registry("drafter", "espnet_ext.drafter")
register_drafter = drafters.register


@register_drafter("repeat")
@dataclass(frozen=True)
class Repeat(Drafter):
    """The last step again and again: right where the speech stands still."""

    def draft(self, turn: Turn, own: Any, count: int, draws: bool) -> Draft:  # noqa: D102 (inherited)
        return Draft(turn.codes[:, None].expand(-1, count, -1))


@dataclass
class LastWindow:
    """Hidden vectors of the last turn, (R, …, D), which the next steps are guessed from, and which rows had one."""

    hidden: Tensor | None = None
    there: Tensor | None = None

    def see(self, hidden: Tensor) -> None:
        """Remember those of every row."""
        self.hidden, self.there = hidden, torch.ones(len(hidden), dtype=torch.bool, device=hidden.device)

    def keep(self, rows: Tensor) -> None:
        """Go on with some rows."""
        if self.hidden is not None and self.there is not None:
            self.hidden, self.there = self.hidden[rows], self.there[rows]

    def put(self, rows: Tensor, other: LastWindow) -> None:
        """Begin some rows anew: they have seen nothing."""
        if self.there is not None:
            self.there = self.there.index_fill(0, rows, False)


def from_hidden(turn: Turn, own: LastWindow, count: int, draws: bool, vectors: Callable[[Tensor], Tensor]) -> Draft:
    """What the parallel heads make of the last turn's hidden vectors; where there are none yet, the last step again.

    Args:
        turn: what guesses are made from.
        own: those hidden vectors.
        count: of the steps.
        draws: whether codes may be drawn.
        vectors: what the heads are given in their place, (R', …, D) → (R', count, D).

    Returns:
        The guesses.
    """
    repeated = turn.codes[:, None].expand(-1, count, -1)
    if own.hidden is None or own.there is None:
        return Draft(repeated)
    # a row that has just begun draws nothing, whoever is there
    rows = own.there.nonzero()[:, 0]
    if not len(rows):
        return Draft(repeated)
    sampler = turn.sampler(()).for_rows(rows)
    logits = turn.model.heads.of(ParallelHeads).logits(vectors(own.hidden[rows]).flatten(0, 1))
    _, of_rows = sampler.repeated(count).distribution(logits)
    of_rows = of_rows.unflatten(0, (-1, count))
    drawn = sampler.categorical(of_rows.flatten(1, 2)).unflatten(1, (count, -1)) if draws else of_rows.argmax(-1)
    codes = repeated.index_copy(0, rows, drawn)
    if not draws:
        return Draft(codes)
    point = nn.functional.one_hot(codes, of_rows.shape[-1]).to(of_rows.dtype)
    return Draft(codes, point.index_copy(0, rows, of_rows))


@register_drafter("jacobi")
@dataclass(frozen=True)
class Jacobi(Drafter):
    """What the parallel heads make of the last turn's window: drafts behind a rejected one are guessed anew from it.

    The first turn repeats the last step.

    Reference:
        Speculative Jacobi decoding, Teng et al. 2024, arXiv:2410.01699. There the next drafts are drawn from the
        distributions that have verified the last ones; here by the parallel heads, in one product for all slots.
    """

    def check(self, model: StepModel, count: int) -> None:  # noqa: D102 (inherited)
        super().check(model, count)
        model.heads.of(ParallelHeads)

    def begin(self, model: StepModel, conditions: Any) -> LastWindow:  # noqa: D102 (inherited)
        return LastWindow()

    def draft(self, turn: Turn, own: LastWindow, count: int, draws: bool) -> Draft:  # noqa: D102 (inherited)
        return from_hidden(turn, own, count, draws, lambda hidden: hidden)

    def observe(self, own: LastWindow, seen: Seen) -> None:  # noqa: D102 (inherited)
        width = seen.hidden.shape[1]
        place = (seen.kept[:, None] + torch.arange(width - 1, device=seen.kept.device)).clamp_max(width - 1)
        own.see(seen.hidden.gather(1, place[..., None].expand(-1, -1, seen.hidden.shape[2])))


Coarse = tuple[int, ...]  # codes of codebook 0 of a step
Step = list[int]


@dataclass
class History:
    """What followed what in one row: coarse codes of one or two steps, and the step behind them."""

    last: list[Coarse] = field(default_factory=list)
    followed: dict[tuple[Coarse, ...], Step] = field(default_factory=dict)

    def learn(self, step: Step, books: int) -> None:
        """Take note of one more step."""
        for size in range(1, len(self.last) + 1):
            self.followed[tuple(self.last[-size:])] = step
        self.last = [*self.last, tuple(step[::books])][-2:]

    def guess(self, count: int, step: Step, books: int) -> list[Step]:
        """The next steps, each what followed the longest history that was seen; else the step in front of it."""
        last, guesses = list(self.last), []
        for _ in range(count):
            keys = (tuple(last[-size:]) for size in range(len(last), 0, -1))
            step = next((self.followed[key] for key in keys if key in self.followed), step)
            last = [*last, tuple(step[::books])][-2:]
            guesses.append(step)
        return guesses


@dataclass
class Histories:
    """That of every row."""

    rows: list[History]
    books: int

    def keep(self, rows: Tensor) -> None:
        """Go on with some rows."""
        self.rows = [self.rows[row] for row in rows.tolist()]

    def put(self, rows: Tensor, other: Histories) -> None:
        """Begin some rows anew."""
        for row, history in zip(rows.tolist(), other.rows, strict=True):
            self.rows[row] = history


@register_drafter("ngram")
@dataclass(frozen=True)
class NGram(Drafter):
    """The step that last followed the coarse codes of the last two steps in this utterance, or of the last one.

    Reference:
        Adaptive draft verification, Liu et al. 2024, arXiv:2407.12021: trigrams that are learned while decoding.
    """

    def begin(self, model: StepModel, conditions: Any) -> Histories:  # noqa: D102 (inherited)
        return Histories([History() for _ in range(len(conditions.given))], model.spec.num_codebooks)

    def draft(self, turn: Turn, own: Histories, count: int, draws: bool) -> Draft:  # noqa: D102 (inherited)
        rows: Sequence[Step] = turn.codes.tolist()
        guesses = [history.guess(count, step, own.books) for history, step in zip(own.rows, rows, strict=True)]
        return Draft(torch.tensor(guesses, device=turn.codes.device))

    def observe(self, own: Histories, seen: Seen) -> None:  # noqa: D102 (inherited)
        for history, steps, kept in zip(own.rows, seen.codes.tolist(), seen.kept.tolist(), strict=True):
            for step in steps[:kept]:
                history.learn(step, own.books)
