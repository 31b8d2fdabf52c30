"""One code after the other through the autoregressive local transformer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from espnet_ext.decoding.base import DecodingStrategy, Filled, register_strategy
from espnet_ext.local_transformer import ARLocalTransformer
from espnet_ext.sampling import Sampler


@register_strategy("local_ar")
@dataclass(frozen=True)
class LocalAR(DecodingStrategy[ARLocalTransformer]):
    """M passes of one slot each, with a cache over the slots of the step."""

    local_type = ARLocalTransformer

    def decode_step(self, local: ARLocalTransformer, hidden: Tensor, sampler: Sampler) -> Filled:  # noqa: D102
        cache = local.new_cache(hidden.shape[0])
        codes, logprobs = [], []
        last = torch.empty(hidden.shape[0], 0, dtype=torch.int64, device=hidden.device)
        for slot in range(local.slots):
            last, logprob = sampler(local.logits(hidden, last, cache), slot)
            codes.append(last)
            logprobs.append(logprob)
        return Filled(torch.cat(codes, dim=1), torch.cat(logprobs, dim=1), local_passes=local.slots)
