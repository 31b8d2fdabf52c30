"""What `generate` is given, as one value: cut into rows, put together from rows, checked."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from espnet_ext.decoding.base import DecodingStrategy
from espnet_ext.decoding.depth import FULL, Depth
from espnet_ext.decoding.order import CAUSAL, Order, Step, plain_step
from espnet_ext.decoding.runaway import Watch
from espnet_ext.decoding.sampling import Sampler, SamplingOptions, row_generators
from espnet_ext.errors import UserError
from espnet_ext.model.caches import EXACT, CachePolicy, caches
from espnet_ext.model.core_lm import StepModel
from espnet_ext.model.primary import rows_of, rows_together
from espnet_ext.options import check_number

RETRY_TEMPERATURE = 0.4  # where the first attempt drew nothing: without draws every attempt would be the same
OF_ROWS = ("conditions", "sampler", "max_frames", "names", "watch")


def check_fits(
    model: StepModel,
    strategy: DecodingStrategy,
    order: Order,
    sampling: SamplingOptions,
    cache: CachePolicy,
    depth: Depth = FULL,
) -> None:
    """Refuse what cannot decode a model, or does not go together: the only place that asks.

    Args:
        model: what is decoded.
        strategy: how the slots of a step are filled.
        order: how steps follow each other.
        sampling: how distributions are sharpened.
        cache: how keys and values are kept.
        depth: which layers are used.

    Raises:
        UserError: naming what does not fit, and what would.
    """
    strategy.check(model.heads)
    order.check(model.layout)
    order.check_objective(model)
    order.check_model(strategy, model)
    depth.check_model(model)
    sampling.check(model.spec.num_codebooks)
    if model.objective != "causal" and not cache.plain:
        able = [one for one in caches if caches[one].plain]
        raise UserError(f"cache must be one of {able} with a model of objective {model.objective}, got {cache}")
    for transformer in model.step_transformers():
        cache.check(transformer.width // transformer.heads)


class Decoding(NamedTuple):
    """What `generate` is given."""

    model: StepModel
    conditions: Any
    strategy: DecodingStrategy
    sampler: Sampler
    max_frames: Tensor | int
    min_frames: int = 1
    step: Step = plain_step
    names: Sequence[str] = ()
    watch: Watch | None = None
    end_guard: float | None = None
    order: Order = CAUSAL
    cache: CachePolicy = EXACT
    most_rows: int | None = None
    depth: Depth = FULL

    @property
    def limits(self) -> Tensor:
        """Most frames of each row: (B,) int64."""
        given = self.conditions.given
        limit = torch.as_tensor(self.max_frames, device=given.device).expand(len(given))
        if self.watch is not None and self.watch.stops and self.watch.longest is not None:
            limit = limit.minimum(self.watch.longest.clamp_min(self.min_frames))
        return limit

    def check(self) -> None:
        """Refuse what does not fit together, with a UserError that names it."""
        rows, sampler, limit = len(self.conditions.given), self.sampler, torch.as_tensor(self.max_frames)
        check_fits(self.model, self.strategy, self.order, sampler.options, self.cache, self.depth)
        self.order.check_guard(self.end_guard)
        if len(sampler.generators) != rows and (sampler.generators or not sampler.options.is_greedy):
            raise UserError(f"generators must be one per row = {rows}, got {len(sampler.generators)}")
        if int(limit.min()) < self.min_frames:
            raise UserError(f"max_frames must be at least min_frames = {self.min_frames}, got {int(limit.min())}")
        if self.most_rows is not None:
            check_number("most_rows", self.most_rows, least=1, whole=True)

    def warn(self) -> None:
        """A warning where guidance is by what the model has not learned, and of what the strategy doubts."""
        if doubt := self.strategy.doubt(self.model.heads, self.sampler.options):
            warnings.warn(doubt, stacklevel=3)
        scale = self.sampler.options.cfg_scale
        if scale != 1 and self.model.conditioning_dropout == 0:
            warnings.warn(
                f"cfg_scale must be 1 for a model trained with conditioning_dropout 0, got {scale}: it has "
                "not learned to speak without what it is given",
                stacklevel=3,
            )

    def rows(self, rows: Sequence[int]) -> Decoding:
        """The same of some rows."""
        index = torch.tensor(rows, device=self.conditions.given.device)
        generators, watch, limit = self.sampler.generators, self.watch, self.max_frames
        if watch is not None and watch.longest is not None:
            watch = replace(watch, longest=watch.longest[index])
        return self._replace(
            conditions=rows_of(self.conditions, rows),
            sampler=replace(self.sampler, generators=tuple(generators[row] for row in rows) if generators else ()),
            max_frames=limit[index] if isinstance(limit, Tensor) and limit.dim() else limit,
            names=[self.names[row] for row in rows] if self.names else (),
            watch=watch,
        )

    def again(self, rows: Sequence[int], seed: int, attempt: int) -> Decoding:
        """The same of some rows with the draws of another attempt, which the seed, a row's name and its number give."""
        some = self.rows(rows)
        options = self.sampler.options
        if options.is_greedy:
            options = replace(options, temperature=RETRY_TEMPERATURE)
        draws = [f"{name} attempt {attempt}" for name in some.names]  # no utterance id has a space
        device = str(self.conditions.given.device)
        return some._replace(sampler=Sampler(options, row_generators(seed, draws, device)))


def together(several: Sequence[Decoding]) -> Decoding:
    """Several decodings as one of all their rows.

    Args:
        several: that differ in nothing but their rows.

    Returns:
        The one.

    Raises:
        UserError: if they differ in something else.
    """
    first = several[0]
    if len(several) == 1:
        return first
    for other in several:
        for name in Decoding._fields:
            if name not in OF_ROWS and getattr(other, name) != getattr(first, name):
                raise UserError(f"{name} must be the same for all rows, got {getattr(other, name)!r}")
        if other.sampler.options != first.sampler.options:
            raise UserError(f"sampling must be the same for all rows, got {other.sampler.options!r}")
    generators = tuple(one for some in several for one in some.sampler.generators)
    watches = [some.watch for some in several if some.watch is not None]
    watch = first.watch
    if watch is not None and watch.longest is not None:
        longest = [one.longest for one in watches if one.longest is not None]
        watch = replace(watch, longest=torch.cat(longest))
    limits = [
        torch.as_tensor(some.max_frames, device=some.conditions.given.device).expand(len(some.conditions.given))
        for some in several
    ]
    return first._replace(
        conditions=rows_together([some.conditions for some in several]),
        sampler=replace(first.sampler, generators=generators),
        max_frames=torch.cat(limits),
        names=[name for some in several for name in some.names],
        watch=watch,
    )


class Waiting:
    """Rows that wait for their turn.

    Args:
        requests: one row each.
    """

    def __init__(self, requests: Iterator[tuple[int, Decoding]]) -> None:
        self._requests = requests
        self._next = next(requests, None)

    def __bool__(self) -> bool:
        return self._next is not None

    def take(self, count: int) -> tuple[list[int], Decoding]:
        """Up to so many rows, at least one, with their numbers."""
        taken: list[tuple[int, Decoding]] = []
        while self._next is not None and len(taken) < count:
            taken.append(self._next)
            self._next = next(self._requests, None)
        return [number for number, _ in taken], together([one for _, one in taken])
