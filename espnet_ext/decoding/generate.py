"""The loop over steps; it exists once."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from espnet_ext.codes import CodecSpec
from espnet_ext.decoding.base import DecodingStrategy, Filled
from espnet_ext.decoding.rows import Generation, Rows
from espnet_ext.decoding.runaway import Watch
from espnet_ext.decoding.sampling import Sampler
from espnet_ext.errors import UserError
from espnet_ext.model.core_lm import StepConditions, StepModel
from espnet_ext.model.primary import Ending, PrimaryState, with_unconditional

COMPACT_BELOW = 0.8  # share of rows that go on, from which on the others leave the batch
STEPS_AT_ONCE = 8  # on a GPU, which would stand still while its host looks whether all rows are finished


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

    Returns:
        Codes, lengths and costs.

    Raises:
        UserError: if strategy or sampler do not fit this model, the generators are not one per row, the model has no
            such guard, or makes logits that are not finite.
    """
    *_, rows = _steps(model, conditions, strategy, sampler, max_frames, min_frames, step, names, watch, end_guard)
    return rows.generation()


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
) -> Iterator[Generation]:
    """What `generate`, which takes the same, has made after every step: frames up to `lengths` are final."""
    if model.layout.max_delay:  # a step would complete frames of earlier ones
        raise UserError(f"delays must be none for streaming, got a model with {list(model.layout.delays)}")
    for rows in _steps(model, conditions, strategy, sampler, max_frames, min_frames, step, names, watch, end_guard):
        yield rows.generation()


@torch.no_grad()
def _steps(
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
) -> Iterator[Rows]:
    """The rows after every step: the loop over time. The arguments are those of `generate`."""
    batch, device = len(conditions.given), conditions.given.device
    limit = torch.as_tensor(max_frames, device=device).expand(batch)
    strategy.check(model.heads)
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
    max_steps = model.layout.num_steps(limit)
    rows = Rows(model.spec, model.layout, limit, int(max_steps.max()), min_frames, watch)
    state = model.prefill(conditions, torch.cat((max_steps, max_steps)) if guided else max_steps)
    if end_guard is not None:
        state.guard_ends(math.ceil(end_guard * model.spec.frame_rate_hz / model.layout.stacking))
    codes, alive = model.first_codes(conditions), torch.arange(batch, device=device)
    for _ in range(rows.codes.shape[1]):
        legal, history = rows.legal(), rows.history(sampler.options.repetition_window)
        legal = legal if len(legal) == 1 else legal[alive]
        if (ending := state.ending()) is not None:
            legal = guard_ends(model.spec, legal, Ending(*(part[: len(alive)] for part in ending)))
        history = None if history is None else history[alive]
        filled = step(model, strategy, codes, state, sampler.for_step(legal, history))
        codes = rows.commit(Filled(*(part[: len(alive)] for part in filled)), alive)
        if rows.steps == 1:  # weights that cannot be used show at once; a look at every step would cost
            _check_finite(rows.logprobs, names, "the first step")
        yield rows
        if not is_gpu(device) or rows.steps % STEPS_AT_ONCE == 0:
            finished = rows.finished[alive]
            left = len(alive) - int(finished.sum())
            if left == 0:
                break
            size = rows_that_stay(len(alive), left, is_gpu(device))
            if size < len(alive):
                kept = finished.long().argsort(stable=True)[:size].sort().values
                pairs = torch.cat((kept, kept + len(alive))) if guided else kept
                state.keep(pairs)
                sampler, alive, codes = sampler.for_rows(pairs), alive[kept], codes[kept]
        codes = torch.cat((codes, codes)) if guided else codes
    _check_finite(rows.logprobs, names, f"one of the {rows.steps} steps")  # a sum that nothing leaves


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
