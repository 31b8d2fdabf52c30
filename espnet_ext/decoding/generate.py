"""The loop over steps; it exists once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from espnet_ext.codes import CodecSpec, StepLayout, length_mask, unstack_frames
from espnet_ext.decoding.base import DecodingStrategy, Filled
from espnet_ext.decoding.sampling import Sampler
from espnet_ext.errors import UserError
from espnet_ext.model.core_lm import StepConditions, StepModel
from espnet_ext.model.primary import Ending, PrimaryState, with_unconditional

COMPACT_BELOW = 0.8  # share of rows that go on, from which on the others leave the batch
STEPS_AT_ONCE = 8  # on a GPU, which would stand still while its host looks whether all rows are finished


@dataclass(frozen=True)
class Generation:
    """What `generate` made, and what it cost.

    Attributes:
        codes: (B, T, N) int64, 0 behind a row's length.
        lengths: (B,) int64 frames, EOS not counted.
        has_eos: (B,) bool, False where a row ran into its limit.
        logprobs: (B,) sum over the kept codes and the EOS.
        steps: (B,) int64 steps of the primary transformer.
        local_passes: (B,) int64 passes of the local head, over all steps of a row.
    """

    codes: Tensor
    lengths: Tensor
    has_eos: Tensor
    logprobs: Tensor
    steps: Tensor
    local_passes: Tensor


def legal_ids(spec: CodecSpec, layout: StepLayout, step: int, min_frames: int) -> Tensor:
    """Ids each slot of a step may take: (M, V) bool.

    Codes are legal where there is a frame, BOS in front of a late codebook's first one. EOS is legal in codebook 0
    alone, and not in the first `min_frames` frames.

    Args:
        spec: the codec's facts.
        layout: of frames in steps.
        step: number of the step.
        min_frames: frames an utterance has at least.

    Returns:
        The mask.
    """
    frames = layout.frames(step)
    legal = torch.zeros(layout.slots, spec.vocab_size, dtype=torch.bool)
    legal[frames >= 0, : spec.codebook_size] = True
    legal[:, spec.bos_id] = frames < 0
    legal[:: spec.num_codebooks, spec.eos_id] = frames[:: spec.num_codebooks] >= min_frames
    return legal


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

    Returns:
        Codes, lengths and costs.

    Raises:
        UserError: if strategy or sampler do not fit this model, the generators are not one per row, or the model makes
            logits that are not finite.
    """
    *_, rows = _steps(model, conditions, strategy, sampler, max_frames, min_frames, step, names)
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
) -> Iterator[Generation]:
    """What `generate`, which takes the same, has made after every step: frames up to `lengths` are final."""
    if model.layout.max_delay:  # a step would complete frames of earlier ones
        raise UserError(f"delays must be none for streaming, got a model with {list(model.layout.delays)}")
    for rows in _steps(model, conditions, strategy, sampler, max_frames, min_frames, step, names):
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
) -> Iterator[_Rows]:
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
        if model.conditioning_dropout == 0:
            scale = sampler.options.cfg_scale
            warnings.warn(
                f"cfg_scale must be 1 for a model trained with conditioning_dropout 0, got {scale}: it has "
                "not learned to speak without what it is given",
                stacklevel=2,
            )
        conditions = with_unconditional(conditions)
    max_steps = model.layout.num_steps(limit)
    rows = _Rows(model.spec, model.layout, limit, int(max_steps.max()), min_frames)
    state = model.prefill(conditions, torch.cat((max_steps, max_steps)) if guided else max_steps)
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


class _Rows:
    """The bookkeeping of `generate`: what each row holds and whether it goes on.

    A row has *ended* when its length is known, and is *finished* when all its codes are out, which with delays takes
    some steps more.
    """

    def __init__(self, spec: CodecSpec, layout: StepLayout, limit: Tensor, max_steps: int, min_frames: int) -> None:
        self.spec, self.layout, self.limit, self.min_frames = spec, layout, limit, min_frames
        self.lengths = torch.zeros_like(limit)
        self.has_eos = torch.zeros_like(limit, dtype=torch.bool)
        self.finished = torch.zeros_like(self.has_eos)
        self.logprobs = torch.zeros(limit.shape, device=limit.device)
        self.row_steps, self.local_passes = torch.zeros_like(limit), torch.zeros_like(limit)
        self.codes = torch.zeros(len(limit), max_steps, layout.slots, dtype=torch.int64, device=limit.device)
        self.steps = 0  # that are done
        self._legal: dict[tuple[int, ...], Tensor] = {}  # by what there is and may end, a few cases

    def _ended(self) -> Tensor:
        return self.has_eos | (self.lengths >= self.limit)

    def legal(self) -> Tensor:
        """Ids that the slots of the coming step may take: (1 or B, M, V) bool."""
        step, case = self.steps, ()
        if step < self.layout.max_delay or step * self.layout.stacking < self.min_frames:
            case = tuple((frame >= 0) + (frame >= self.min_frames) for frame in self.layout.frames(step).tolist())
        if case not in self._legal:
            self._legal[case] = legal_ids(self.spec, self.layout, step, self.min_frames)[None].to(self.limit.device)
        legal = self._legal[case]
        if self.layout.max_delay == 0:
            return legal
        # behind the end of a row that waits for its late codebooks there is nothing but EOS
        frames = self.layout.frames(step, self.limit.device)
        behind = self._ended()[:, None] & (frames >= self.lengths[:, None])
        only_eos = torch.arange(self.spec.vocab_size, device=frames.device) == self.spec.eos_id
        return torch.where(behind[..., None], only_eos, legal)

    def history(self, frames: int) -> Tensor | None:
        """The last codes of every codebook before this step, (B, up to `frames`, N); those of late ones are older."""
        if frames == 0 or self.steps == 0:
            return None
        first = max(self.steps - -(-frames // self.layout.stacking), 0)
        return unstack_frames(self.codes[:, first : self.steps], self.layout.stacking)[:, -frames:]

    def commit(self, some: Filled, alive: Tensor) -> Tensor:
        """Take a step's codes up to EOS or the limit; rows that are finished stay frozen at EOS.

        Args:
            some: codes, log-probabilities and passes of the rows that are still in the batch.
            alive: (R,) int64, which ones of the B rows these are.

        Returns:
            The codes to feed back, (R, M).
        """
        filled = some if len(alive) == len(self.limit) else self._spread(some, alive)
        running, books = ~self.finished, self.spec.num_codebooks
        frames = self.layout.frames(self.steps, self.limit.device)  # (M,)
        first_book = frames[::books]
        is_eos = filled.codes[:, ::books] == self.spec.eos_id  # (B, S)
        eos_so_far = is_eos.long().cumsum(dim=1)
        open_ = (first_book < self.limit[:, None]) & ~self._ended()[:, None]
        ends = is_eos & (eos_so_far == 1) & open_
        self.lengths = self.lengths + ((eos_so_far == 0) & open_).sum(dim=1)
        self.has_eos |= ends.any(dim=1)
        # the EOS frame counts with its codebook 0 alone: its other codes mean nothing
        kept = (frames >= 0) & (frames < self.lengths[:, None]) & running[:, None]
        self.logprobs += (filled.logprobs * kept).sum(dim=1) + (filled.logprobs[:, ::books] * ends).sum(dim=1)
        self.row_steps += running
        self.local_passes += filled.local_passes * running
        codes = filled.codes.masked_fill(~running[:, None], self.spec.eos_id)
        self.codes[:, self.steps] = codes
        self.steps += 1
        self.finished |= self._ended() & (self.steps >= self.layout.num_steps(self.lengths))
        return codes if filled is some else codes[alive]

    def _spread(self, some: Filled, alive: Tensor) -> Filled:
        """The rows that are still in the batch among all; the others have EOS and no passes."""
        codes = torch.full((len(self.limit), self.layout.slots), self.spec.eos_id, device=alive.device)
        codes[alive] = some.codes
        logprobs = torch.zeros(codes.shape, dtype=some.logprobs.dtype, device=alive.device)
        logprobs[alive] = some.logprobs
        passes = torch.zeros_like(self.local_passes)
        passes[alive] = some.local_passes
        return Filled(codes, logprobs, passes)

    def generation(self) -> Generation:
        codes = self.layout.to_frames(self.codes[:, : self.steps])[:, : int(self.lengths.max())]
        codes = codes.masked_fill(~length_mask(self.lengths, codes.shape[1])[..., None], 0)
        return Generation(codes, self.lengths, self.has_eos, self.logprobs, self.row_steps, self.local_passes)
