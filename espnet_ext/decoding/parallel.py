"""All codes of a step at once, as if they did not depend on each other."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from espnet_ext.decoding.base import DecodingStrategy, Filled, register_strategy
from espnet_ext.local_transformer import ParallelHeads
from espnet_ext.sampling import Sampler


@register_strategy("parallel")
@dataclass(frozen=True)
class Parallel(DecodingStrategy[ParallelHeads]):
    """One draw from every parallel head: the fast baseline that ignores dependence within a step."""

    local_type = ParallelHeads

    def decode_step(self, local: ParallelHeads, hidden: Tensor, sampler: Sampler) -> Filled:  # noqa: D102
        codes, logprobs = sampler(local.logits(hidden))
        return Filled(codes, logprobs, local_passes=1)
