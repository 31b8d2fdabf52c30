"""The loop over steps; it exists once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from espnet_ext.decoding.base import DecodingStrategy
from espnet_ext.decoding.batch import Batch
from espnet_ext.decoding.depth import FULL, Depth
from espnet_ext.decoding.order import CAUSAL, Order, Step, plain_step
from espnet_ext.decoding.request import Decoding, Waiting
from espnet_ext.decoding.rows import Generation
from espnet_ext.decoding.runaway import Watch
from espnet_ext.decoding.sampling import Sampler
from espnet_ext.errors import UserError
from espnet_ext.model.caches import EXACT, CachePolicy
from espnet_ext.model.core_lm import StepConditions, StepModel
from espnet_ext.options import check_number


def generate(
    model: StepModel,
    conditions: StepConditions,
    strategy: DecodingStrategy,
    sampler: Sampler,
    max_frames: Tensor | int,
    min_frames: int = 1,
    step: Step = plain_step,
    names: Sequence[str] = (),
    watch: Watch | None = None,
    end_guard: float | None = None,
    order: Order = CAUSAL,
    cache: CachePolicy = EXACT,
    most_rows: int | None = None,
    depth: Depth = FULL,
) -> Generation:
    """Codes of a batch of utterances, each row as if it were alone.

    Args:
        model: a core LM, or the semantic stage of one, in eval mode.
        conditions: text and prompt of every row, from the model's `conditions`.
        strategy: how the slots of a step are filled.
        sampler: how codes are drawn; its generators are one per row, and not needed when it is greedy.
        max_frames: most frames of an utterance, one number or one per row.
        min_frames: fewest frames of an utterance.
        step: how a step is run; `fast.Acceleration` has the one for an accelerated model.
        names: of the rows, for errors.
        watch: what counts as run away; None for nothing but a limit that was reached.
        end_guard: seconds after the end of the text from which on a row must end, and it cannot before; 0 for no guard,
            None for what the model says.
        order: how steps follow each other.
        cache: how keys and values of earlier positions are kept.
        most_rows: how many rows are generated at once, at most; the others join when one is finished. None for all.
        depth: which layers of the primary transformer each row uses.

    Returns:
        Codes, lengths and costs.

    Raises:
        UserError: if strategy, order or sampler do not fit this model, the generators are not one per row, the model
            has no such guard, or makes logits that are not finite.
    """
    given = model, conditions, strategy, sampler, max_frames, min_frames, step, names, watch, end_guard, order
    asked = Decoding(*given, cache, most_rows, depth)
    asked.check()
    *_, batch = _turns(*_beginning(asked))
    return batch.generation()


def _beginning(asked: Decoding) -> tuple[list[int], Decoding, Waiting]:
    """The rows that begin, with their numbers, and those that wait: the longest first, to end together."""
    rows = len(asked.conditions.given)
    if asked.most_rows is None or asked.most_rows >= rows:
        return list(range(rows)), asked, Waiting(iter(()))
    longest_first = asked.limits.argsort(descending=True, stable=True).tolist()
    waiting = Waiting((row, asked.rows([row])) for row in longest_first)
    return *waiting.take(asked.most_rows), waiting


def generate_joining(requests: Iterable[Decoding], most_rows: int) -> Iterator[tuple[list[int], Generation]]:
    """Rows as they are finished, with their numbers; what a row becomes does not depend on when it joined or with whom.

    Args:
        requests: what `generate` is given for one row each; they differ in nothing else. The next one is asked for when
            there is a place for it.
        most_rows: how many rows are generated at once, at most.

    Yields:
        Numbers of some requests, from 0, and their codes.

    Raises:
        UserError: as `generate`, or if a request is not of one row, or differs in more than its row.
    """
    check_number("most_rows", most_rows, least=1, whole=True)
    waiting = Waiting(_checked(requests))
    if waiting:
        for batch in _turns(*waiting.take(most_rows), waiting):
            yield from batch.hand_out()
        yield batch.ids, batch.rows.generation()


def _checked(requests: Iterable[Decoding]) -> Iterator[tuple[int, Decoding]]:
    for number, asked in enumerate(requests):
        asked.check()
        if len(asked.conditions.given) != 1:
            raise UserError(f"request {number} must be of one row, got {len(asked.conditions.given)}")
        yield number, asked


def generate_stream(
    model: StepModel,
    conditions: StepConditions,
    strategy: DecodingStrategy,
    sampler: Sampler,
    max_frames: Tensor | int,
    min_frames: int = 1,
    step: Step = plain_step,
    names: Sequence[str] = (),
    watch: Watch | None = None,
    end_guard: float | None = None,
    order: Order = CAUSAL,
    cache: CachePolicy = EXACT,
    depth: Depth = FULL,
) -> Iterator[Generation]:
    """What `generate`, which takes the same, has made after every step: frames up to `lengths` are final."""
    if model.layout.max_delay:  # a step would complete frames of earlier ones
        raise UserError(f"delays must be none for streaming, got a model with {list(model.layout.delays)}")
    order.check(model.layout, streaming=True)
    given = model, conditions, strategy, sampler, max_frames, min_frames, step, names, watch, end_guard, order
    asked = Decoding(*given, cache, depth=depth)
    asked.check()
    for batch in _turns(*_beginning(asked)):
        yield batch.generation()


@torch.no_grad()
def _turns(ids: list[int], asked: Decoding, waiting: Waiting) -> Iterator[Batch]:
    """The batch after every turn: the loop over time.

    Args:
        ids: numbers of the rows that begin.
        asked: what is asked for of them.
        waiting: rows that join later.

    Yields:
        The batch.
    """
    asked.warn()
    batch = Batch.begin(ids, asked)
    going = True
    while going:
        batch.advance()
        if batch.turns == 1:  # weights that cannot be used show at once; a look at every step would cost
            batch.check_finite("the first step")
        yield batch
        going = batch.goes_on(waiting)
    batch.check_finite(f"one of the {batch.turns} steps")  # a sum that nothing leaves
