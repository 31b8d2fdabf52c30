"""The rows of a batch while they are generated: what each holds, whether it goes on, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from espnet_ext.codes import CodecSpec, StepLayout, length_mask, unstack_frames
from espnet_ext.decoding.order import Advance
from espnet_ext.decoding.row_tensors import RowTensors
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
        primary_passes: (B,) int64 passes of the primary transformer; None for one for each step.
        primary_layers: (B,) int64 layers of it that were run, in these passes and to guess; None where nobody counts.
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
    primary_passes: Tensor | None = None
    primary_layers: Tensor | None = None


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


class Rows(RowTensors):
    """The bookkeeping of `generate`: what each row of the batch holds and whether it goes on.

    A row has *ended* when its length is known, and is *finished* when all its codes are out, which with delays takes
    some steps more. Every row counts its own steps.

    Args:
        spec: the codec's facts.
        layout: of frames in steps.
        limit: (R,) int64, most frames of each row.
        min_frames: fewest frames.
        watch: what counts as run away.

    Attributes:
        depth: (R,) int64, layers that a pass of each row runs.
    """

    shared = ("_frames",)

    def __init__(
        self, spec: CodecSpec, layout: StepLayout, limit: Tensor, min_frames: int, watch: Watch | None = None
    ) -> None:
        self.spec, self.layout, self.limit, self.min_frames = spec, layout, limit, min_frames
        self.lengths = torch.zeros_like(limit)
        self.has_eos = torch.zeros_like(limit, dtype=torch.bool)
        self.finished = torch.zeros_like(self.has_eos)
        self.logprobs = torch.zeros(limit.shape, device=limit.device)
        self.row_steps, self.local_passes = torch.zeros_like(limit), torch.zeros_like(limit)
        self.primary_passes = torch.zeros_like(limit)
        self.depth, self.draft_layers = torch.zeros_like(limit), torch.zeros_like(limit)
        self.done = torch.zeros_like(limit)  # steps
        self.clock = [0] * len(limit)  # the same on the host, which a GPU need not be asked for
        most = int(layout.num_steps(limit).max())
        self.codes = torch.zeros(len(limit), most, layout.slots, dtype=torch.int64, device=limit.device)
        self._legal: dict[tuple[int, ...], Tensor] = {}  # by what there is and may end, a few cases
        self._frames = layout.frames(0, limit.device)  # (M,)
        self.reasons = torch.zeros_like(limit)  # numbers in `REASONS`
        self.stops = watch is not None and watch.stops
        self.longest = None if watch is None else watch.longest
        self.repetitions: Repetitions | None = None
        if watch is not None and (watch.limits.repeated is not None or watch.limits.pause is not None):
            self.repetitions = Repetitions(watch.limits, spec, layout, len(limit), most, limit.device)

    @property
    def step(self) -> int | None:
        """Steps done, where all rows have done as many."""
        return self.clock[0] if self.clock.count(self.clock[0]) == len(self.clock) else None

    @property
    def may_be_full(self) -> bool:
        """Whether a row may have done all its steps and still count on."""
        return max(self.clock) >= self.codes.shape[1]

    def _ended(self) -> Tensor:
        return self.has_eos | (self.lengths >= self.limit)

    def frames(self) -> Tensor:
        """Frame of every slot of the coming step: (M,) or (R, M) int64, as `StepLayout.frames`."""
        if (step := self.step) is not None:
            return self._frames + step * self.layout.stacking
        return self._frames + (self.done * self.layout.stacking)[:, None]

    def legal(self) -> Tensor:
        """Ids that the slots of the coming step may take: (1 or R, M, V) bool."""
        steps = set(self.clock)
        masks = {step: self._legal_at(step) for step in steps}
        first = masks[self.clock[0]]
        alike = all(mask is first for mask in masks.values())
        legal = first if alike else torch.cat([masks[step] for step in self.clock])
        if self.layout.max_delay == 0:
            return legal
        # behind the end of a row that waits for its late codebooks there is nothing but EOS
        frames = self.frames()
        behind = self._ended()[:, None] & (frames >= self.lengths[:, None])
        only_eos = torch.arange(self.spec.vocab_size, device=frames.device) == self.spec.eos_id
        return torch.where(behind[..., None], only_eos, legal)

    def _legal_at(self, step: int) -> Tensor:
        """The same for rows that have done so many steps and have not ended: (1, M, V)."""
        case: tuple[int, ...] = ()
        if step < self.layout.max_delay or step * self.layout.stacking < self.min_frames:
            case = tuple((frame >= 0) + (frame >= self.min_frames) for frame in self.layout.frames(step).tolist())
        if case not in self._legal:
            self._legal[case] = legal_ids(self.spec, self.layout, step, self.min_frames)[None].to(self.limit.device)
        return self._legal[case]

    def history(self, frames: int) -> Tensor | None:
        """The last codes of every codebook before this step, (R, up to `frames`, N); those of late ones are older."""
        most = max(self.clock)
        if frames == 0 or most == 0:
            return None
        size = min(-(-frames // self.layout.stacking), most)
        if (step := self.step) is not None:
            last = self.codes[:, step - size : step]
        else:
            place = self.done[:, None] - size + torch.arange(size, device=self.done.device)
            inside = place.clamp(0, self.codes.shape[1] - 1)  # rows that are finished go on counting
            last = self.codes.gather(1, inside[..., None].expand(-1, -1, self.layout.slots))
            # an id that nobody draws, in front of a row's first step
            last = last.masked_fill(place[..., None] < 0, self.spec.mask_id)
        return unstack_frames(last, self.layout.stacking)[:, -frames:]

    def behind(self, made: Sequence[Tensor]) -> Rows:
        """The rows if these steps, each (R, M), were final: what they say of the step behind them."""
        if not made:
            return self
        rows = copy(self)
        nothing = torch.zeros_like(made[0], dtype=self.logprobs.dtype)
        for codes in made:
            rows._take(codes, nothing)
        return rows

    def commit(self, made: Advance) -> Tensor:
        """Take the steps that are kept up to EOS or the limit; rows that are finished stay frozen at EOS.

        Args:
            made: of these rows.

        Returns:
            The codes to feed back, (R, M).
        """
        running = ~self.finished
        self.local_passes = self.local_passes + made.local_passes * running
        self.primary_passes = self.primary_passes + made.primary_passes * running
        if made.draft_layers is not None:
            self.draft_layers = self.draft_layers + made.draft_layers * running
        window = made.codes.shape[1]
        if window == 1:
            codes = self._take(made.codes[:, 0], made.logprobs[:, 0])
            self._look()
            return codes
        codes, kept = made.codes[:, 0], made.kept.tolist()
        for number in range(window):
            going = [number < count for count in kept]
            taken = self._take(made.codes[:, number], made.logprobs[:, number], going)
            codes = torch.where(torch.tensor(going, device=codes.device)[:, None], taken, codes)
            self._look(going)
        return codes

    def _take(self, codes: Tensor, logprobs: Tensor, going: Sequence[bool] = ()) -> Tensor:
        """One more step (R, M) of all rows, or of those that go on; its codes, EOS where a row is finished."""
        books, running = self.spec.num_codebooks, ~self.finished
        if going:
            running = running & torch.tensor(going, device=running.device)
        frames = self.frames()
        first_book = frames[..., ::books]
        is_eos = codes[:, ::books] == self.spec.eos_id  # (R, S)
        eos_so_far = is_eos.long().cumsum(dim=1)
        open_ = (first_book < self.limit[:, None]) & ~self._ended()[:, None]
        if going:
            open_ = open_ & running[:, None]
        ends = is_eos & (eos_so_far == 1) & open_
        self.lengths = self.lengths + ((eos_so_far == 0) & open_).sum(dim=1)
        self.has_eos = self.has_eos | ends.any(dim=1)
        # the EOS frame counts with its codebook 0 alone: its other codes mean nothing
        kept = (frames >= 0) & (frames < self.lengths[:, None]) & running[:, None]
        # of steps that are not kept anything may be said, -inf too
        said = logprobs.where(kept, 0.0).sum(dim=1) + logprobs[:, ::books].where(ends, 0.0).sum(dim=1)
        self.logprobs = (self.logprobs + said).to(self.logprobs.dtype)
        self.row_steps = self.row_steps + running
        codes = codes.masked_fill(~running[:, None], self.spec.eos_id)
        self._write(codes, going)
        self.finished = self.finished | (self._ended() & (self.done >= self.layout.num_steps(self.lengths)))
        return codes

    def _write(self, codes: Tensor, going: Sequence[bool]) -> None:
        """Keep a step, and count it."""
        step = self.step
        if step is not None and not going:
            if step < self.codes.shape[1]:
                self.codes[:, step] = codes
            self.done, self.clock = self.done + 1, [count + 1 for count in self.clock]
            return
        most = self.codes.shape[1]  # rows that are finished go on counting
        rows = [row for row, count in enumerate(self.clock) if count < most and (not going or going[row])]
        at = [self.clock[row] for row in rows]
        self.codes[rows, at] = codes[rows]
        self.clock = [count + (not going or going[row]) for row, count in enumerate(self.clock)]
        self.done = torch.tensor(self.clock, device=self.done.device)

    def _look(self, going: Sequence[bool] = ()) -> None:
        """Keep why rows that go on have run away by now, and end them, where they are, if they are to stop."""
        if self.repetitions is None:
            return
        every = self.repetitions.every
        rows = [row for row, step in enumerate(self.clock) if step % every == 0 and (not going or going[row])]
        if not rows:
            return
        index = torch.tensor(rows, device=self.limit.device)
        first = self.done[index] - every
        place = first[:, None] + torch.arange(every, device=first.device)
        coarse = self.codes[index[:, None], place.clamp_max(self.codes.shape[1] - 1), :: self.spec.num_codebooks]
        found = self.repetitions.reasons(index, first * self.layout.stacking, coarse.flatten(1))
        if found is None:
            return
        reasons = torch.zeros_like(self.reasons).index_copy(0, index, found)
        fresh = (reasons > 0) & (self.reasons == 0) & ~self._ended()
        self.reasons = torch.where(fresh, reasons, self.reasons)
        if self.stops:
            self.limit = torch.where(fresh, self.lengths, self.limit)
            self.finished = self.finished | (self._ended() & (self.done >= self.layout.num_steps(self.lengths)))

    def _why(self) -> tuple[Runaway | None, ...]:
        """Why rows have run away, as far as it is known by now."""
        reasons = self.reasons
        if self.longest is not None:
            too_long = self.lengths >= self.longest + self.has_eos.long()
            reasons = torch.where((reasons == 0) & too_long, REASONS.index(Runaway.LENGTH), reasons)
        endless = (reasons == 0) & ~self.has_eos & (self.lengths >= self.limit)
        reasons = torch.where(endless, REASONS.index(Runaway.NO_END), reasons)
        return tuple(REASONS[reason] for reason in reasons.tolist())

    def put(self, rows: Tensor, other: Self) -> None:
        """Begin some rows, (K,) int64, anew with what as many others hold."""
        super().put(rows, other)
        for row, count in zip(rows.tolist(), other.clock, strict=True):
            self.clock[row] = count
        if self.repetitions is not None and other.repetitions is not None:
            self.repetitions.put(rows, other.repetitions)

    def keep(self, rows: Tensor) -> None:
        """Go on with the given rows only, (R',) int64 indices."""
        super().keep(rows)
        self.clock = [self.clock[row] for row in rows.tolist()]
        if self.repetitions is not None:
            self.repetitions.keep(rows)

    def generation(self, rows: Tensor | None = None) -> Generation:
        """What there is by now, of all rows or the given ones, (R',) int64 indices."""
        chosen = torch.arange(len(self.clock), device=self.done.device) if rows is None else rows
        every, lengths = self._why(), self.lengths[chosen]
        why = tuple(every[row] for row in chosen.tolist())
        codes = self.layout.to_frames(self.codes[chosen, : max(self.clock)])[:, : int(lengths.max())]
        return Generation(
            codes.masked_fill(~length_mask(lengths, codes.shape[1])[..., None], 0),
            lengths,
            self.has_eos[chosen],
            self.logprobs[chosen],
            self.row_steps[chosen],
            self.local_passes[chosen],
            why,
            (0,) * len(why),
            tuple(reason for reason in why if reason),
            self.primary_passes[chosen],
            (self.primary_passes * self.depth + self.draft_layers)[chosen],
        )
