"""The loop over steps; it exists once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from espnet_ext.codes import CodecSpec, length_mask, unstack_frames
from espnet_ext.core_lm import CoreLM
from espnet_ext.decoding.base import DecodingStrategy
from espnet_ext.local_transformer import LocalTransformer
from espnet_ext.primary import Conditions
from espnet_ext.sampling import Sampler, SamplingOptions


@dataclass(frozen=True)
class Generation:
    """What `generate` made, and what it cost.

    Attributes:
        codes: (B, T, N) int64, 0 behind a row's length.
        lengths: (B,) int64 frames, EOS not counted.
        has_eos: (B,) bool, False where a row ran into its limit.
        logprobs: (B,) sum over the kept codes and the EOS.
        steps: steps of the primary transformer.
        local_passes: passes of the head, over all steps.
    """

    codes: Tensor
    lengths: Tensor
    has_eos: Tensor
    logprobs: Tensor
    steps: int
    local_passes: int


def legal_ids(spec: CodecSpec, stacking: int, first_frame: int, min_frames: int) -> Tensor:
    """Ids each slot of a step may take: (M, V) bool.

    Codes are always legal; EOS only in codebook 0 of a frame, and not in the first `min_frames`.

    Args:
        spec: the codec's facts.
        stacking: S.
        first_frame: number of the step's first frame.
        min_frames: frames an utterance has at least.

    Returns:
        The mask.
    """
    legal = torch.zeros(stacking, spec.num_codebooks, spec.vocab_size, dtype=torch.bool)
    legal[..., : spec.codebook_size] = True
    legal[:, 0, spec.eos_id] = torch.arange(first_frame, first_frame + stacking) >= min_frames
    return legal.flatten(0, 1)


@torch.no_grad()
def generate(
    model: CoreLM,
    conditions: Conditions,
    strategy: DecodingStrategy[LocalTransformer],
    options: SamplingOptions,
    max_frames: Tensor | int,
    generators: Sequence[Generator] = (),
    min_frames: int = 1,
) -> Generation:
    """Codes of a batch of utterances, each row as if it were alone.

    Args:
        model: the core LM, in eval mode.
        conditions: text and prompt of every row, from `CoreLM.conditions`.
        strategy: how the slots of a step are filled.
        options: how distributions are sharpened.
        max_frames: most frames of an utterance, one number or one per row.
        generators: one per row; not needed when sampling greedily.
        min_frames: fewest frames of an utterance.

    Returns:
        Codes, lengths and costs.

    Raises:
        ValueError: if the model lacks the head the strategy needs, or the generators are not one per row.
    """
    spec, stacking = model.spec, model.stacking
    batch, device = conditions.text.shape[0], conditions.text.device
    local = model.head_of(strategy.local_type)
    limit = torch.as_tensor(max_frames, device=device).expand(batch)
    if options.temperature > 0 and len(generators) != batch:
        raise ValueError(f"generators must be one per row = {batch}, got {len(generators)}")
    if int(limit.min()) < min_frames:
        raise ValueError(f"max_frames must be at least min_frames = {min_frames}, got {int(limit.min())}")
    max_steps = -(-int(limit.max()) // stacking)
    sampler = Sampler(options, tuple(generators))
    rows = _Rows(spec, stacking, limit)
    state = model.prefill(conditions, max_steps)
    codes = torch.full((batch, model.slots), spec.bos_id, device=device)
    local_passes = 0
    for step in range(max_steps):
        hidden = model.step(codes, state)
        legal = legal_ids(spec, stacking, step * stacking, min_frames).to(device)
        filled = strategy.decode_step(local, hidden, sampler.for_step(legal))
        local_passes += filled.local_passes
        codes = rows.commit(filled.codes, filled.logprobs)
        if rows.all_ended():
            break
    return rows.finish(local_passes)


class _Rows:
    """The bookkeeping of `generate`: what each row holds and whether it goes on."""

    def __init__(self, spec: CodecSpec, stacking: int, limit: Tensor) -> None:
        self.spec, self.stacking, self.limit = spec, stacking, limit
        self.lengths = torch.zeros_like(limit)
        self.has_eos = torch.zeros_like(limit, dtype=torch.bool)
        self.logprobs = torch.zeros(limit.shape, device=limit.device)
        self.steps: list[Tensor] = []

    def all_ended(self) -> bool:
        return bool((self.has_eos | (self.lengths >= self.limit)).all())

    def commit(self, codes: Tensor, logprobs: Tensor) -> Tensor:
        """Take a step's (B, M) codes up to EOS or the limit; rows that have ended stay frozen at EOS.

        Args:
            codes: (B, M) int64.
            logprobs: (B, M).

        Returns:
            The codes to feed back, (B, M).
        """
        running = ~self.has_eos & (self.lengths < self.limit)
        frames = unstack_frames(codes[:, None], self.stacking)  # (B, S, N)
        is_eos = frames[..., 0] == self.spec.eos_id
        before_eos = is_eos.long().cumsum(1) == 0  # (B, S)
        room = length_mask(self.limit - self.lengths, self.stacking)
        kept = before_eos & room & running[:, None]
        # the EOS frame counts with its codebook 0 alone: its other codes mean nothing
        ends = is_eos & (is_eos.long().cumsum(1) == 1) & room & running[:, None]
        logprob = logprobs.unflatten(1, (self.stacking, -1))
        self.logprobs += (logprob.sum(-1) * kept + logprob[..., 0] * ends).sum(1)
        self.lengths = self.lengths + kept.sum(1)
        self.has_eos |= ends.any(1)
        self.steps.append(codes.masked_fill(~running[:, None], self.spec.eos_id))
        return self.steps[-1]

    def finish(self, local_passes: int) -> Generation:
        codes = unstack_frames(torch.stack(self.steps, dim=1), self.stacking)[:, : int(self.lengths.max())]
        codes = codes.masked_fill(~length_mask(self.lengths, codes.shape[1])[..., None], 0)
        return Generation(codes, self.lengths, self.has_eos, self.logprobs, len(self.steps), local_passes)
