"""A whole step as one CUDA graph: the primary transformer and the loop over the slots, or all rounds, in one launch."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from espnet_ext.decoding import DecodingStrategy, Filled, Round, plain_step
from espnet_ext.decoding.sampling import Sampler
from espnet_ext.fast.fallback import can_read, can_run
from espnet_ext.fast.static_state import StaticState, rounded_shape
from espnet_ext.model.core_lm import StepModel
from espnet_ext.model.primary import PrimaryState

Shape = tuple[int, ...]
WARM_UPS = 3  # runs in front of the capture, in which libraries allocate what they need
KEPT = 8  # steps of different shapes that stay for a thread; each has a cache of its own


@dataclass(frozen=True)
class TapedSampler(Sampler):
    """A sampler for which all rows take part in everything, and whose random numbers lie where they always are.

    Attributes:
        numbers: (B, *shape) float64 by place of the request in its round and shape; rounds follow each other, so they
            share theirs.
        asked: those of the requests of the current round.
    """

    numbers: dict[tuple[int, Shape], Tensor] = field(default_factory=dict)
    asked: list[Tensor] = field(default_factory=list)

    def for_rows(self, rows: Tensor) -> Sampler:
        """All rows take part in everything."""
        return self

    def rows_of(self, mask: Tensor) -> Tensor:
        """All rows: (R,) int64."""
        return torch.arange(len(mask), device=mask.device)

    def draw_uniform(self, shape: Shape, device: torch.device) -> Tensor:
        """What lies there."""
        if not self.generators:
            return super().draw_uniform(shape, device)  # which refuses
        place = len(self.asked), shape
        if place not in self.numbers:
            zeros = torch.zeros((len(self.generators), *shape), dtype=torch.float64, device=device)
            self.numbers[place] = zeros
        self.asked.append(self.numbers[place])
        return self.numbers[place].clone()  # what is drawn is changed in place


class StaticStep:
    """A function that makes a step from tensors that stay where they are, each of its rounds as a graph.

    Args:
        rounds: the function: from a sampler to the step after each round.
        sampler: of such a step, without history.
        capture: whether CUDA graphs are captured; otherwise every call runs the same operations one by one.
    """

    def __init__(self, rounds: Callable[[Sampler], Iterator[Round]], sampler: Sampler, capture: bool) -> None:
        assert sampler.legal is not None
        self._rounds, self._legal, self._copied = rounds, sampler.legal.clone(), sampler.legal
        self._sampler = TapedSampler(sampler.options, sampler.generators, self._legal)
        self._tapes = [list(self._sampler.asked) for _ in self._run()]  # numbers that each round asks for
        self._graphs: list[torch.cuda.CUDAGraph] = []
        if capture:
            self._capture()

    def _run(self) -> Iterator[Round]:
        self._sampler.asked.clear()
        for made in self._rounds(self._sampler):
            yield made
            self._sampler.asked.clear()

    def _capture(self) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                list(self._run())
        torch.cuda.current_stream().wait_stream(side)
        pool, rounds = torch.cuda.graph_pool_handle(), self._run()
        graphs, self._captured = [], []
        for _ in self._tapes:  # one per round
            graphs.append(torch.cuda.CUDAGraph())
            # what other threads do meanwhile is none of this capture's business
            with torch.cuda.graph(graphs[-1], pool=pool, capture_error_mode="thread_local"):
                self._captured.append(next(rounds))
        self._graphs = graphs

    def __call__(self, sampler: Sampler) -> Filled:
        """The step of what the tensors hold; it is overwritten by the next one.

        Args:
            sampler: of this step.

        Returns:
            As `DecodingStrategy.decode_step`.
        """
        assert sampler.legal is not None
        if sampler.legal is not self._copied:
            self._legal.copy_(sampler.legal)
            self._copied = sampler.legal
        rounds = iter(()) if self._graphs else self._run()
        made = self._round(0, rounds, sampler)
        for number in range(1, len(self._tapes)):
            # a row draws for a later round only if it goes on, as without a graph
            rows = [row for row, goes_on in enumerate(made.going.tolist()) if goes_on]
            if not rows:
                break
            made = self._round(number, rounds, sampler, torch.tensor(rows))
        return made.filled

    def _round(self, number: int, rounds: Iterator[Round], sampler: Sampler, rows: Tensor | None = None) -> Round:
        _draw(self._tapes[number], sampler, rows)
        if not self._graphs:
            return next(rounds)
        self._graphs[number].replay()
        return self._captured[number]


def _draw(tape: list[Tensor], sampler: Sampler, rows: Tensor | None) -> None:
    """The random numbers of a round, of all rows or of those that take part in it."""
    if rows is not None and tape:
        sampler = sampler.for_rows(rows)
        rows = rows[: len(rows) // 2] if sampler.options.guided else rows
    for numbers in tape:
        numbers[slice(None) if rows is None else rows] = sampler.draw_uniform(tuple(numbers.shape[1:]), numbers.device)


class StaticModelStep:
    """A step of model and strategy for one shape of its inputs; those that it is made from are examples.

    Args:
        model: what is decoded.
        strategy: one with `is_static`.
        codes: (R, M).
        state: of that shape; it stays as it is.
        sampler: of the step, without history.
        capture: whether CUDA graphs are captured.
    """

    def __init__(
        self,
        model: StepModel,
        strategy: DecodingStrategy,
        codes: Tensor,
        state: PrimaryState,
        sampler: Sampler,
        capture: bool,
    ) -> None:
        held, static = codes.clone(), StaticState(state)
        buffers = static.buffers  # no reference to this object in the step, or its memory would be free late

        def rounds(sampler: Sampler) -> Iterator[Round]:
            yield from strategy.rounds(model.heads, model.step(held, buffers), sampler)

        self._codes, self._state, self._step = held, static, StaticStep(rounds, sampler, capture)

    def __call__(self, codes: Tensor, state: PrimaryState, sampler: Sampler) -> Filled:
        """The step; the arguments are those of `plain_step`."""
        state.cache.check_room(1)
        self._state.load(state)
        self._codes.copy_(codes)
        self._state.buffers.cache.length = state.cache.length
        filled = self._step(sampler)
        state.cache.length += 1  # the device has counted for itself
        return filled


@dataclass
class Graphs:
    """What `generate` is handed in place of `plain_step`: the same step as CUDA graphs, one per shape of its inputs.

    The random numbers of a step are drawn before it, from the same generators in the same order, so the codes are those
    of the plain step. What is not static runs as it is: sampling that looks back (`repetition_window`), a strategy
    without `is_static`, and everything after a capture that failed. Every thread has steps of its own, whose buffers
    nobody else writes to; one at a time prepares or launches one.

    Attributes:
        capture: whether graphs are captured, or the same operations run one by one, for tests without a GPU.
        steps: by model, strategy, shape and thread; they serve later requests as well, and those used last stay.
        failed: why a capture failed; nothing is captured after that.
    """

    capture: bool = True
    steps: dict[tuple[Any, ...], StaticModelStep] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    _turn: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def __call__(
        self, model: StepModel, strategy: DecodingStrategy, codes: Tensor, state: PrimaryState, sampler: Sampler
    ) -> Filled:
        """What `plain_step` makes of the same; where there is no memory for a new graph all others are let go of."""
        if self.failed or not strategy.is_static or sampler.options.repetition_window or sampler.legal is None:
            return plain_step(model, strategy, codes, state, sampler)
        if not can_read("graphs", state.cache) or not can_run("graphs", state.layer_pass()):
            return plain_step(model, strategy, codes, state, sampler)
        with self._turn:
            return self._static(model, strategy, codes, state, sampler, sampler.legal)

    def _static(
        self,
        model: StepModel,
        strategy: DecodingStrategy,
        codes: Tensor,
        state: PrimaryState,
        sampler: Sampler,
        legal: Tensor,
    ) -> Filled:
        thread = threading.current_thread()
        shapes = tuple(codes.shape), rounded_shape(state), tuple(legal.shape)
        key = (strategy, model, *shapes, sampler.options, thread)
        before = self.steps.pop(key, None)
        try:
            static = before or StaticModelStep(model, strategy, codes, state, sampler, self.capture)
        except torch.OutOfMemoryError:
            self.clear()
            raise
        except RuntimeError as error:
            self.clear()
            self.failed.append(str(error))
            logging.warning("graphs: going on without: %s", str(error).strip().partition("\n")[0])
            return plain_step(model, strategy, codes, state, sampler)
        self.steps[key] = static
        if before is None:
            mine = [one for one in self.steps if one[-1] is thread]
            for old in [*mine[:-KEPT], *(one for one in self.steps if not one[-1].is_alive())]:
                del self.steps[old]
        return static(codes, state, sampler)

    def clear(self) -> None:
        """Let go of the memory of all steps."""
        with self._turn:
            self.steps.clear()
