"""A strategy's whole step as one CUDA graph: the loop over the slots, or all rounds, in one launch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from espnet_ext.decoding import DecodingStrategy, Filled
from espnet_ext.local_transformer import Heads
from espnet_ext.sampling import Sampler

Shape = tuple[int, ...]
WARM_UPS = 3  # runs in front of the capture, in which libraries allocate what they need


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
    """`decode_step` for one shape of its inputs, from buffers that stay where they are.

    Args:
        strategy: one with `is_static`.
        heads: of the model.
        hidden: (R, D), an example.
        sampler: of the step, without history.
        capture: whether a CUDA graph is captured; otherwise every call runs the same operations one by one.
    """

    def __init__(
        self, strategy: DecodingStrategy, heads: Heads, hidden: Tensor, sampler: Sampler, capture: bool
    ) -> None:
        assert sampler.legal is not None
        self._hidden, self._legal = hidden.clone(), sampler.legal.clone()
        state = [generator.get_state() for generator in sampler.generators]
        noting = NotingSampler(sampler.options, sampler.generators, self._legal)
        strategy.decode_step(heads, self._hidden, noting)
        for generator, before in zip(sampler.generators, state, strict=True):
            generator.set_state(before)
        once = len(hidden) // 2 if sampler.options.guided else len(hidden)
        self._tape = tuple(
            torch.zeros((once, *shape), dtype=torch.float64, device=hidden.device) for shape in noting.noted
        )
        self._run: Callable[[], Filled] = lambda: strategy.decode_step(
            heads, self._hidden, TapeSampler(sampler.options, (), self._legal, tape=self._tape)
        )
        self._graph: torch.cuda.CUDAGraph | None = None
        if capture:
            self._capture()

    def _capture(self) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                self._run()
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._filled = self._run()

    def __call__(self, hidden: Tensor, sampler: Sampler) -> Filled:
        """The step of these inputs; the arguments are those of `decode_step`."""
        assert sampler.legal is not None
        self._hidden.copy_(hidden)
        self._legal.copy_(sampler.legal)
        for numbers in self._tape:
            numbers.copy_(sampler.draw_uniform(tuple(numbers.shape[1:]), numbers.device))
        if self._graph is None:
            return self._run()
        self._graph.replay()
        return Filled(*(part.clone() for part in self._filled))


@dataclass(frozen=True)
class Graphed(DecodingStrategy):
    """Another strategy, its steps as CUDA graphs, one per shape of its inputs.

    The random numbers of a step are drawn before it, from the same generators in the same order, so the codes are those
    of the strategy. Sampling that looks back (`repetition_window`) runs as it is, and so does everything where a
    capture fails, after one warning.

    Attributes:
        inner: the strategy.
        capture: whether graphs are captured, or the same operations run one by one, for tests without a GPU.
        steps: by shape.
        failed: whether a capture has failed.
    """

    inner: DecodingStrategy
    capture: bool = True
    steps: dict[object, StaticStep] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    head_types = ()

    def check(self, heads: Heads) -> None:  # noqa: D102 (inherited)
        self.inner.check(heads)

    def decode_step(self, heads: Heads, hidden: Tensor, sampler: Sampler) -> Filled:  # noqa: D102 (inherited)
        if self.failed or not self.inner.is_static or sampler.history is not None or sampler.legal is None:
            return self.inner.decode_step(heads, hidden, sampler)
        key = (id(heads), tuple(hidden.shape), hidden.dtype, tuple(sampler.legal.shape), sampler.options)
        if key not in self.steps:
            try:
                self.steps[key] = StaticStep(self.inner, heads, hidden, sampler, self.capture)
            except RuntimeError as error:
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                self.failed.append(str(error))
                logging.warning("graphs: going on without: %s", str(error).strip().splitlines()[0])
                return self.inner.decode_step(heads, hidden, sampler)
        return self.steps[key](hidden, sampler)


def graphed(strategy: DecodingStrategy, device: torch.device) -> DecodingStrategy:
    """The strategy with its steps as CUDA graphs, where there are any and it can.

    Args:
        strategy: the strategy.
        device: of the model.

    Returns:
        The strategy.
    """
    return Graphed(strategy) if device.type == "cuda" and strategy.is_static else strategy
