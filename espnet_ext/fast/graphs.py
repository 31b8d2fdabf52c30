"""A whole step as one CUDA graph: the primary transformer and the loop over the slots, or all rounds, in one launch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from espnet_ext.decoding import DecodingStrategy, Filled, Round
from espnet_ext.decoding.sampling import Sampler
from espnet_ext.fast.static_state import StaticState, rounded_shape
from espnet_ext.model.core_lm import StepModel
from espnet_ext.model.heads import Heads
from espnet_ext.model.primary import PrimaryState

Shape = tuple[int, ...]
WARM_UPS = 3  # runs in front of the capture, in which libraries allocate what they need
KEPT = 8  # steps of different shapes that stay; each has a cache of its own


@dataclass(frozen=True)
class NotingSampler(Sampler):
    """A sampler that notes the shape of every request for uniform numbers."""

    noted: list[Shape] = field(default_factory=list)
    is_static = True

    def for_rows(self, rows: Tensor) -> Sampler:
        """All rows take part in everything."""
        return self

    def _uniform(self, shape: Shape, device: torch.device) -> Tensor:
        self.noted.append(shape)
        return super()._uniform(shape, device)


@dataclass(frozen=True)
class TapeSampler(Sampler):
    """A sampler whose uniform numbers were drawn before, in the order of the requests."""

    tape: tuple[Tensor, ...] = ()
    at: list[int] = field(default_factory=lambda: [0])
    is_static = True

    def for_rows(self, rows: Tensor) -> Sampler:
        """All rows take part in everything."""
        return self

    def _uniform(self, shape: Shape, device: torch.device) -> Tensor:
        drawn = self.tape[self.at[0]]
        self.at[0] += 1
        return drawn.clone()  # what is drawn is changed in place


class StaticStep:
    """A step for one shape of its inputs, from buffers that stay where they are.

    Args:
        strategy: one with `is_static`.
        heads: of the model.
        hidden: makes the primary output (R, D) of what the buffers hold.
        rows: R.
        sampler: of the step, without history.
        capture: whether CUDA graphs are captured; otherwise every call runs the same operations one by one.
    """

    def __init__(
        self,
        strategy: DecodingStrategy,
        heads: Heads,
        hidden: Callable[[], Tensor],
        rows: int,
        sampler: Sampler,
        capture: bool,
    ) -> None:
        assert sampler.legal is not None
        self._strategy, self._heads, self._hidden, self._rows = strategy, heads, hidden, rows
        self._legal, self._copied = sampler.legal.clone(), sampler.legal
        self._tapes = self._make_tapes(sampler)
        self._graphs: list[torch.cuda.CUDAGraph] = []
        if capture:
            self._capture(sampler)

    def _make_tapes(self, sampler: Sampler) -> list[list[Tensor]]:
        """Room for the random numbers of every round, as many as a run in front asks for."""
        state = [generator.get_state() for generator in sampler.generators]
        noting = NotingSampler(sampler.options, sampler.generators, self._legal)
        ends = [0]
        for _ in self._strategy.rounds(self._heads, self._hidden(), noting):
            ends.append(len(noting.noted))
        for generator, before in zip(sampler.generators, state, strict=True):
            generator.set_state(before)
        once, device = self._rows // 2 if sampler.options.guided else self._rows, self._legal.device
        rooms: dict[tuple[int, Shape], Tensor] = {}  # rounds follow each other, so they share theirs

        def room(place: int, shape: Shape) -> Tensor:
            numbers = torch.zeros((once, *shape), dtype=torch.float64, device=device)
            return rooms.setdefault((place, shape), numbers)

        return [
            [room(place, shape) for place, shape in enumerate(noting.noted[begin:end])] for begin, end in pairwise(ends)
        ]

    def _run(self, sampler: Sampler) -> Iterator[Round]:
        tape = tuple(numbers for numbers_of_round in self._tapes for numbers in numbers_of_round)
        tape_sampler = TapeSampler(sampler.options, (), self._legal, tape=tape)
        yield from self._strategy.rounds(self._heads, self._hidden(), tape_sampler)

    def _capture(self, sampler: Sampler) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                list(self._run(sampler))
        torch.cuda.current_stream().wait_stream(side)
        pool, rounds = torch.cuda.graph_pool_handle(), self._run(sampler)
        graphs, self._captured = [], []
        for _ in self._tapes:  # one per round
            graphs.append(torch.cuda.CUDAGraph())
            with torch.cuda.graph(graphs[-1], pool=pool):
                self._captured.append(next(rounds))
        self._graphs = graphs

    def __call__(self, sampler: Sampler) -> Filled:
        """The step of what the buffers hold; it is overwritten by the next one.

        Args:
            sampler: of this step.

        Returns:
            As `decode_step`.
        """
        assert sampler.legal is not None
        if sampler.legal is not self._copied:
            self._legal.copy_(sampler.legal)
            self._copied = sampler.legal
        rounds = iter(()) if self._graphs else self._run(sampler)
        for numbers in self._tapes[0]:
            numbers.copy_(sampler.draw_uniform(tuple(numbers.shape[1:]), numbers.device))
        made = self._round(0, rounds)
        for number, tape in enumerate(self._tapes[1:], start=1):
            rows = [row for row, goes_on in enumerate(made.going.tolist()) if goes_on]
            if not rows:
                break
            _draw(tape, sampler, torch.tensor(rows))
            made = self._round(number, rounds)
        return made.filled

    def _round(self, number: int, rounds: Iterator[Round]) -> Round:
        if not self._graphs:
            return next(rounds)
        self._graphs[number].replay()
        return self._captured[number]


def _draw(tape: list[Tensor], sampler: Sampler, rows: Tensor) -> None:
    """The random numbers of a later round, of the rows that take part in it."""
    if not tape:
        return
    of_rows = sampler.for_rows(rows)
    rows = rows[: len(rows) // 2] if sampler.options.guided else rows
    for numbers in tape:
        numbers[rows] = of_rows.draw_uniform(tuple(numbers.shape[1:]), numbers.device)


class StaticModelStep:
    """A step of model and strategy for one shape of its inputs.

    Args:
        strategy: one with `is_static`.
        model: what is decoded.
        codes: (R, M), an example.
        state: an example.
        sampler: of the step, without history.
        capture: as for `StaticStep`.
    """

    def __init__(
        self,
        strategy: DecodingStrategy,
        model: StepModel,
        codes: Tensor,
        state: PrimaryState,
        sampler: Sampler,
        capture: bool,
    ) -> None:
        held, static = codes.clone(), StaticState(state)
        buffers = static.buffers  # no reference to this object in the step, or its memory would be free late
        self._codes, self._state = held, static
        self._step = StaticStep(strategy, model.heads, lambda: model.step(held, buffers), len(codes), sampler, capture)

    def __call__(self, codes: Tensor, state: PrimaryState, sampler: Sampler) -> Filled:
        """The step; the arguments are those of `DecodingStrategy.step`."""
        state.cache.check_room(1)
        self._state.load(state)
        self._codes.copy_(codes)
        self._state.buffers.cache.length = state.cache.length
        filled = self._step(sampler)
        state.cache.length += 1  # the device has counted for itself
        return filled


@dataclass
class Graphs:
    """The captured steps of a model's strategies, which serve later requests as well; those used last stay.

    Attributes:
        capture: whether graphs are captured, or the same operations run one by one, for tests without a GPU.
        steps: by strategy and shape.
        failed: why a capture failed; nothing is captured after that.
    """

    capture: bool = True
    steps: dict[object, StaticModelStep] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    def of(self, strategy: DecodingStrategy, device: torch.device | str) -> DecodingStrategy:
        """The strategy with its steps as CUDA graphs, where there are any and it can.

        Args:
            strategy: the strategy.
            device: of the model.

        Returns:
            The strategy.
        """
        return Graphed(strategy, self) if torch.device(device).type == "cuda" and strategy.is_static else strategy

    def step(self, key: object, make: Callable[[bool], StaticModelStep]) -> StaticModelStep | None:
        """A step that was made before, or a new one; None where a capture failed, once with a warning.

        Args:
            key: what its buffers depend on.
            make: makes it, with graphs or without.

        Returns:
            The step.

        Raises:
            torch.OutOfMemoryError: if there is no memory for it; all others are let go of.
        """
        if self.failed:
            return None
        step = self.steps.pop(key, None)
        try:
            step = make(self.capture) if step is None else step
        except torch.OutOfMemoryError:
            self.clear()
            raise
        except RuntimeError as error:
            self.clear()
            self.failed.append(str(error))
            logging.warning("graphs: going on without: %s", str(error).strip().partition("\n")[0])
            return None
        self.steps[key] = step
        if len(self.steps) > KEPT:
            del self.steps[next(iter(self.steps))]
        return step

    def clear(self) -> None:
        """Let go of the memory of all steps."""
        self.steps.clear()


@dataclass(frozen=True)
class Graphed(DecodingStrategy):
    """Another strategy, its steps as CUDA graphs, one per shape of their inputs and round.

    The random numbers of a step are drawn before it, from the same generators in the same order, so the codes are those
    of the strategy. Sampling that looks back (`repetition_window`) runs as it is, and so does everything where a
    capture fails.

    Attributes:
        inner: the strategy.
        graphs: the steps that are there.
    """

    inner: DecodingStrategy
    graphs: Graphs = field(default_factory=Graphs)

    head_types = ()

    @cached_property
    def _name(self) -> str:
        return repr(self.inner)  # once, not in every step

    def check(self, heads: Heads) -> None:  # noqa: D102 (inherited)
        self.inner.check(heads)

    def decode_step(self, heads: Heads, hidden: Tensor, sampler: Sampler) -> Filled:  # noqa: D102 (inherited)
        return self.inner.decode_step(heads, hidden, sampler)

    def step(  # noqa: D102 (inherited)
        self, model: StepModel, codes: Tensor, state: PrimaryState, sampler: Sampler
    ) -> Filled:
        static = None
        if self.inner.is_static and not sampler.options.repetition_window and sampler.legal is not None:
            shapes = (tuple(codes.shape), rounded_shape(state), tuple(sampler.legal.shape))
            static = self.graphs.step(
                (self._name, model, *shapes, sampler.options),
                lambda capture: StaticModelStep(self.inner, model, codes, state, sampler, capture),
            )
        return self.inner.step(model, codes, state, sampler) if static is None else static(codes, state, sampler)
