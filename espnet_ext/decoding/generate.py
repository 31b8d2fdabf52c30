"""The loop over steps; it exists once."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from espnet_ext.decoding.base import DecodingStrategy
from espnet_ext.decoding.batch import Batch
from espnet_ext.decoding.order import CAUSAL, Order, Step, plain_step
from espnet_ext.decoding.rows import Generation, Rows
from espnet_ext.decoding.runaway import Watch
from espnet_ext.decoding.sampling import Sampler
from espnet_ext.errors import UserError
from espnet_ext.model.core_lm import StepConditions, StepModel
from espnet_ext.model.primary import with_unconditional


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

    Returns:
        Codes, lengths and costs.

    Raises:
        UserError: if strategy, order or sampler do not fit this model, the generators are not one per row, the model
            has no such guard, or makes logits that are not finite.
    """
    given = model, conditions, strategy, sampler, max_frames, min_frames, step, names, watch, end_guard, order
    *_, batch = _turns(*given)
    return batch.generation()


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
) -> Iterator[Generation]:
    """What `generate`, which takes the same, has made after every step: frames up to `lengths` are final."""
    if model.layout.max_delay:  # a step would complete frames of earlier ones
        raise UserError(f"delays must be none for streaming, got a model with {list(model.layout.delays)}")
    order.check(model.layout, streaming=True)
    given = model, conditions, strategy, sampler, max_frames, min_frames, step, names, watch, end_guard, order
    for batch in _turns(*given):
        yield batch.generation()


@torch.no_grad()
def _turns(
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
) -> Iterator[Batch]:
    """The batch after every turn: the loop over time. The arguments are those of `generate`."""
    batch = _begin(model, conditions, strategy, sampler, max_frames, min_frames, step, watch, end_guard, order)
    going = True
    while going:
        batch.advance(order)
        if batch.turns == 1:  # weights that cannot be used show at once; a look at every step would cost
            _check_finite(batch.rows.logprobs, names, "the first step")
        yield batch
        going = batch.goes_on()
    # a sum that nothing leaves
    _check_finite(batch.generation().logprobs, names, f"one of the {batch.turns} steps")


def _begin(
    model: StepModel,
    conditions: StepConditions,
    strategy: DecodingStrategy,
    sampler: Sampler,
    max_frames: Tensor | int,
    min_frames: int,
    step: Step,
    watch: Watch | None,
    end_guard: float | None,
    order: Order,
) -> Batch:
    """The batch before its first step; a UserError if the arguments, those of `generate`, do not fit each other."""
    batch, device = len(conditions.given), conditions.given.device
    limit = torch.as_tensor(max_frames, device=device).expand(batch)
    strategy.check(model.heads)
    order.check(model.layout)
    sampler.options.check(model.spec.num_codebooks)
    if len(sampler.generators) != batch and (sampler.generators or not sampler.options.is_greedy):
        raise UserError(f"generators must be one per row = {batch}, got {len(sampler.generators)}")
    if int(limit.min()) < min_frames:
        raise UserError(f"max_frames must be at least min_frames = {min_frames}, got {int(limit.min())}")
    guided = sampler.options.guided
    if guided:
        _warn_of_guidance(model, sampler.options.cfg_scale)
        conditions = with_unconditional(conditions)
    if watch is not None and watch.stops and watch.longest is not None:
        limit = limit.minimum(watch.longest.clamp_min(min_frames))
    max_steps = model.layout.num_steps(limit) + order.width - 1  # the last turn of a row may begin with its last step
    state = model.prefill(conditions, torch.cat((max_steps, max_steps)) if guided else max_steps)
    if end_guard is not None:
        state.guard_ends(math.ceil(end_guard * model.spec.frame_rate_hz / model.layout.stacking))
    rows, own = Rows(model.spec, model.layout, limit, min_frames, watch), order.begin(model, conditions)
    codes = model.first_codes(conditions)[:batch]
    return Batch(model, strategy, step, sampler, rows, state, own, codes, list(range(batch)))


def _warn_of_guidance(model: StepModel, scale: float) -> None:
    """A warning where guidance is by what the model has not learned."""
    if model.conditioning_dropout == 0:
        warnings.warn(
            f"cfg_scale must be 1 for a model trained with conditioning_dropout 0, got {scale}: it has "
            "not learned to speak without what it is given",
            stacklevel=3,
        )


def _check_finite(logprobs: Tensor, names: Sequence[str], where: str) -> None:
    """Refuse what a model made of logits that are not finite: its codes look like any others.

    Args:
        logprobs: (B,) sum over the codes of each row.
        names: of the rows; empty where nobody knows them.
        where: the step, in words.

    Raises:
        UserError: naming the first such row, and the step.
    """
    bad = logprobs.isnan().nonzero()[:, 0].tolist()
    if bad:
        row = f"utterance {names[bad[0]]}" if names else f"row {bad[0]}"
        raise UserError(
            f"logits must be finite, got NaN in {where} of {row}: the weights are damaged, or too large for the "
            "precision they are packed in"
        )
