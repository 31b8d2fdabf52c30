"""All codes of a step at once, as if they did not depend on each other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from espnet_ext.decoding.base import DecodingStrategy, Filled, register_strategy, same_passes
from espnet_ext.decoding.sampling import Sampler
from espnet_ext.model.heads import Heads, ParallelHeads


@register_strategy("parallel")
@dataclass(frozen=True)
class Parallel(DecodingStrategy):
    """One draw from every parallel head: the fast baseline that ignores dependence within a step."""

    head_types = (ParallelHeads,)
    is_static = True
    scores_steps = True

    def decode_step(self, heads: Heads, hidden: Tensor, sampler: Sampler) -> Filled:  # noqa: D102
        codes, logprobs, _ = sampler(heads.of(ParallelHeads).logits(hidden))
        return Filled(codes, logprobs, same_passes(hidden, 1))

    def scores(self, heads: Heads, hidden: Tensor, codes: Tensor) -> Tensor:  # noqa: D102
        return heads.of(ParallelHeads).logits(hidden)

    def complete(  # noqa: D102
        self, heads: Heads, hidden: Tensor, sampler: Sampler, codes: Tensor, known: Tensor
    ) -> Filled:
        logprobs, probs = sampler.distribution(heads.of(ParallelHeads).logits(hidden))
        fixed = (torch.arange(codes.shape[1], device=codes.device) < known[:, None])[..., None]
        probs = torch.where(fixed, nn.functional.one_hot(codes, probs.shape[-1]).to(probs.dtype), probs)
        codes = sampler.categorical(probs)
        return Filled(codes, logprobs.gather(-1, codes[..., None])[..., 0], same_passes(hidden, 1))
