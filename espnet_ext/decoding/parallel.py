"""All codes of a step at once, as if they did not depend on each other."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from espnet_ext.decoding.base import DecodingStrategy, Filled, register_strategy, same_passes
from espnet_ext.decoding.sampling import Sampler
from espnet_ext.model.heads import Heads, ParallelHeads


@register_strategy("parallel")
@dataclass(frozen=True)
class Parallel(DecodingStrategy):
    """One draw from every parallel head: the fast baseline that ignores dependence within a step."""

    head_types = (ParallelHeads,)
    is_static = True

    def decode_step(self, heads: Heads, hidden: Tensor, sampler: Sampler) -> Filled:  # noqa: D102
        codes, logprobs, _ = sampler(heads.of(ParallelHeads).logits(hidden))
        return Filled(codes, logprobs, same_passes(hidden, 1))
