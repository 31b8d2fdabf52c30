"""One code after the other through the autoregressive local transformer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from espnet_ext.decoding.base import DecodingStrategy, Filled, register_strategy, same_passes
from espnet_ext.decoding.sampling import Sampler
from espnet_ext.model.heads import ARLocalTransformer, Heads


@register_strategy("local_ar")
@dataclass(frozen=True)
class LocalAR(DecodingStrategy):
    """M passes of one slot each, with a cache over the slots of the step."""

    head_types = (ARLocalTransformer,)
    is_static = True
    scores_steps = True

    def decode_step(self, heads: Heads, hidden: Tensor, sampler: Sampler) -> Filled:  # noqa: D102
        local = heads.of(ARLocalTransformer)
        # fixed, so that local_speculative can draw the same codes
        sampler = sampler.with_fixed_noise(local.slots, local.spec.vocab_size, hidden.device)
        inputs, cache = heads.inputs(local, hidden), local.new_cache(len(hidden))
        codes, logprobs = [], []
        last = torch.empty(len(hidden), 0, dtype=torch.int64, device=hidden.device)
        for slot in range(local.slots):
            last, logprob, _ = sampler(local.logits(inputs, last, cache), slot)
            codes.append(last)
            logprobs.append(logprob)
        return Filled(torch.cat(codes, dim=1), torch.cat(logprobs, dim=1), same_passes(hidden, local.slots))

    def scores(self, heads: Heads, hidden: Tensor, codes: Tensor) -> Tensor:  # noqa: D102
        local = heads.of(ARLocalTransformer)
        return local.logits(heads.inputs(local, hidden), codes[:, :-1])

    def complete(  # noqa: D102
        self, heads: Heads, hidden: Tensor, sampler: Sampler, codes: Tensor, known: Tensor
    ) -> Filled:
        local, first = heads.of(ARLocalTransformer), int(known.min())
        inputs, cache, codes = heads.inputs(local, hidden), local.new_cache(len(hidden)), codes.clone()
        logprobs = torch.zeros(codes.shape, dtype=torch.promote_types(hidden.dtype, torch.float32), device=codes.device)
        for slot in range(first, local.slots):
            begun = codes[:, :slot] if slot == first else codes[:, slot - 1 : slot]
            logits = local.logits(inputs, begun, cache)[:, -1:]
            rows = sampler.rows_of(known <= slot)
            drawn, logprob, _ = sampler.for_rows(rows)(logits[rows], slot)
            codes[rows, slot], logprobs[rows, slot] = drawn[:, 0], logprob[:, 0]
        return Filled(codes, logprobs, local.slots - known)
