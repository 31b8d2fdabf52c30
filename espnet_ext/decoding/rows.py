"""The rows of a batch while they are generated: what each holds, whether it goes on, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from espnet_ext.codes import CodecSpec, StepLayout, length_mask, unstack_frames
from espnet_ext.decoding.base import Filled
from espnet_ext.decoding.runaway import REASONS, Repetitions, Runaway, Watch


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
        runaway: why each row has run away; None for one that has not.
        retries: how often each row was decoded again; costs are those of all attempts.
        failed: why attempts ran away, of all rows.
    """

    codes: Tensor
    lengths: Tensor
    has_eos: Tensor
    logprobs: Tensor
    steps: Tensor
    local_passes: Tensor
    runaway: tuple[Runaway | None, ...] = ()
    retries: tuple[int, ...] = ()
    failed: tuple[Runaway, ...] = ()


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


class Rows:
    """The bookkeeping of `generate`: what each row holds and whether it goes on.

    A row has *ended* when its length is known, and is *finished* when all its codes are out, which with delays takes
    some steps more.
    """

    def __init__(
        self,
        spec: CodecSpec,
        layout: StepLayout,
        limit: Tensor,
        max_steps: int,
        min_frames: int,
        watch: Watch | None = None,
    ) -> None:
        self.spec, self.layout, self.limit, self.min_frames = spec, layout, limit, min_frames
        self.lengths = torch.zeros_like(limit)
        self.has_eos = torch.zeros_like(limit, dtype=torch.bool)
        self.finished = torch.zeros_like(self.has_eos)
        self.logprobs = torch.zeros(limit.shape, device=limit.device)
        self.row_steps, self.local_passes = torch.zeros_like(limit), torch.zeros_like(limit)
        self.codes = torch.zeros(len(limit), max_steps, layout.slots, dtype=torch.int64, device=limit.device)
        self.steps = 0  # that are done
        self._legal: dict[tuple[int, ...], Tensor] = {}  # by what there is and may end, a few cases
        self.watch, self.reasons = watch, torch.zeros_like(limit)  # numbers in `REASONS`
        self.repetitions: Repetitions | None = None
        if watch is not None and (watch.limits.repeated is not None or watch.limits.pause is not None):
            self.repetitions = Repetitions(watch.limits, spec, layout, len(limit), max_steps, limit.device)

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
        self._look()
        self.finished |= self._ended() & (self.steps >= self.layout.num_steps(self.lengths))
        return codes if filled is some else codes[alive]

    def _look(self) -> None:
        """Keep why rows that go on have run away by now, and end them, where they are, if they are to stop."""
        if self.repetitions is None or self.watch is None or self.steps % self.repetitions.every:
            return
        first = self.steps - self.repetitions.every
        coarse = self.codes[:, first : self.steps, :: self.spec.num_codebooks].flatten(1)
        reasons = self.repetitions.reasons(first * self.layout.stacking, coarse)
        if reasons is None:
            return
        fresh = (reasons > 0) & (self.reasons == 0) & ~self._ended()
        self.reasons = torch.where(fresh, reasons, self.reasons)
        if self.watch.stops:
            self.limit = torch.where(fresh, self.lengths, self.limit)

    def _why(self) -> tuple[Runaway | None, ...]:
        """Why rows have run away, as far as it is known by now."""
        reasons = self.reasons
        if self.watch is not None and self.watch.longest is not None:
            too_long = self.lengths >= self.watch.longest + self.has_eos.long()
            reasons = torch.where((reasons == 0) & too_long, REASONS.index(Runaway.LENGTH), reasons)
        endless = (reasons == 0) & ~self.has_eos & (self.lengths >= self.limit)
        reasons = torch.where(endless, REASONS.index(Runaway.NO_END), reasons)
        return tuple(REASONS[reason] for reason in reasons.tolist())

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
        """What there is by now."""
        codes = self.layout.to_frames(self.codes[:, : self.steps])[:, : int(self.lengths.max())]
        codes = codes.masked_fill(~length_mask(self.lengths, codes.shape[1])[..., None], 0)
        costs, why = (self.row_steps, self.local_passes), self._why()
        failed = tuple(filter(None, why))
        return Generation(codes, self.lengths, self.has_eos, self.logprobs, *costs, why, (0,) * len(why), failed)
