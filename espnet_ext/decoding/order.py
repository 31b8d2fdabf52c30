"""How steps follow each other: what an order is, the registry a third party adds one to, and the order of today."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, NoReturn, Protocol

from torch import Tensor

from espnet_ext.codes import StepLayout
from espnet_ext.decoding.base import DecodingStrategy, Filled, same_passes
from espnet_ext.decoding.sampling import Sampler
from espnet_ext.errors import UserError
from espnet_ext.model.core_lm import StepModel
from espnet_ext.model.primary import PrimaryState
from espnet_ext.registries import orders


def plain_step(
    model: StepModel, strategy: DecodingStrategy, codes: Tensor, state: PrimaryState, sampler: Sampler
) -> Filled:
    """The next step of every row: the primary transformer's, and then its codes.

    Args:
        model: what is decoded.
        strategy: how the slots of a step are filled.
        codes: (R, M) of the step before.
        state: of the primary transformer; it moves on.
        sampler: of this step.

    Returns:
        As `DecodingStrategy.decode_step`.
    """
    return strategy.decode_step(model.heads, model.step(codes, state), sampler)


# how `generate` runs a step: `plain_step`, or what makes the same codes sooner; the next step may overwrite its tensors
Step = Callable[[StepModel, DecodingStrategy, Tensor, PrimaryState, Sampler], Filled]


class Advance(NamedTuple):
    """What one turn of the loop made: the next steps of every row.

    Attributes:
        codes: (R, W, M) int64.
        logprobs: (R, W, M).
        kept: (R,) int64, leading steps that are final, 1 … W; the others do not count.
        local_passes: (R,) int64, passes of the local head that each row took part in.
        primary_passes: (R,) int64, likewise of the primary transformer.
        draft_layers: (R,) int64, layers of it that were run besides these passes, to guess; None for none.
    """

    codes: Tensor
    logprobs: Tensor
    kept: Tensor
    local_passes: Tensor
    primary_passes: Tensor
    draft_layers: Tensor | None = None


@dataclass(frozen=True)
class Turn:
    """What an order makes the next steps from.

    Attributes:
        model: what is decoded.
        strategy: how the slots of a step are filled.
        codes: (R, M) of the last step of every row.
        state: of the primary transformer. Whoever makes a step moves it on; behind the turn it has to hold the steps
            that are kept, but for the last one of each row, which the next turn begins with.
        sampler: of the step behind steps that this turn has made, each (R, M), none or several.
        samplers: of the first step and of those behind each of such steps; what is asked for later is made from what
            was asked for before.
        step: how a step is run.
        limits: (R,) int64, most frames of every row, for an order that makes whole utterances; None for others.
        min_frames: fewest frames of a row.
    """

    model: StepModel
    strategy: DecodingStrategy
    codes: Tensor
    state: PrimaryState
    sampler: Callable[[Sequence[Tensor]], Sampler]
    samplers: Callable[[Sequence[Tensor]], Iterator[Sampler]]
    step: Step = plain_step
    limits: Tensor | None = None
    min_frames: int = 1

    def fill(self, codes: Tensor, sampler: Sampler) -> Filled:
        """The step behind the one of these codes (R, M)."""
        return self.step(self.model, self.strategy, codes, self.state, sampler)


class Own(Protocol):
    """What an order remembers of the rows from turn to turn."""

    def keep(self, rows: Tensor) -> None:
        """Go on with the given rows only, (R',) int64 rising indices of the turn's rows."""

    def put(self, rows: Tensor, other: Any) -> None:
        """Begin some rows, (K,) int64, anew with the memory of as many others."""


class Order(ABC):
    """How the steps of a row follow each other; subclasses are frozen dataclasses of their options.

    Attributes:
        width: most steps of a turn.
        streams: whether steps are final as soon as they are kept, from the first to the last.
        delays: whether it can go with codebooks that come late, whose codes of a frame lie in several steps.
        objective: of the models that it goes with.
        whole: whether a turn makes whole utterances.
    """

    width: int = 1
    streams: ClassVar[bool] = True
    delays: ClassVar[bool] = True
    objective: ClassVar[str] = "causal"
    whole: ClassVar[bool] = False

    def check(self, layout: StepLayout, streaming: bool = False) -> None:
        """Refuse what the order cannot do.

        Args:
            layout: of frames in steps.
            streaming: whether speech is to be handed out while it is made.

        Raises:
            UserError: naming the orders that can.
        """
        delayed = layout.max_delay > 0
        for asked, name, what in (
            (streaming, "streams", "for streaming"),
            (delayed, "delays", f"with delays {list(layout.delays)}"),
        ):
            if asked and not getattr(self, name):
                self._refuse([one for one in orders if getattr(orders[one], name)], what)

    def check_objective(self, model: StepModel) -> None:
        """Refuse a model that was trained for other orders, with a UserError that names these."""
        if model.objective != self.objective:
            able = [one for one in orders if orders[one].objective == model.objective]
            self._refuse(able, f"with a model of objective {model.objective}")

    def check_guard(self, end_guard: float | None) -> None:
        """Refuse seconds behind the text's end after which speech must end, where its length is known beforehand."""
        if end_guard and self.whole:
            raise UserError(f"end_guard must be 0 with order {self._name}, which decides no ends, got {end_guard}")

    def _refuse(self, able: list[str], what: str) -> NoReturn:
        raise UserError(f"order must be one of {able} {what}, got {self._name!r}")

    @property
    def _name(self) -> str:
        return next((one for one in orders if orders[one] is type(self)), type(self).__name__)

    def check_model(self, strategy: DecodingStrategy, model: StepModel) -> None:
        """Refuse a strategy or a model that the order cannot go with, with a UserError that names those that can.

        Args:
            strategy: how the slots of a step are filled.
            model: what is decoded.
        """
        return

    def begin(self, model: StepModel, conditions: Any) -> Own | None:
        """What the order is to remember of rows at their beginning; None for nothing.

        Args:
            model: what is decoded.
            conditions: of the rows, with guidance of the unconditional ones behind them.

        Returns:
            The memory, which `advance` is handed.
        """
        return None

    @abstractmethod
    def advance(self, turn: Turn, own: Any) -> Advance:
        """The next steps of every row, at least one.

        Rows are independent: a row's codes and the random numbers drawn for it must not depend on the others.

        Args:
            turn: what they are made from.
            own: what `begin` made.

        Returns:
            The steps.
        """


register_order = orders.register
build_order = orders.build


@register_order("causal")
@dataclass(frozen=True)
class Causal(Order):
    """One step after the other, each with one pass of the primary transformer."""

    def advance(self, turn: Turn, own: Any) -> Advance:  # noqa: D102 (inherited)
        codes, logprobs, passes = turn.fill(turn.codes, turn.sampler(()))
        once = same_passes(codes, 1)
        return Advance(codes[:, None], logprobs[:, None], once, passes, once)


CAUSAL = Causal()
