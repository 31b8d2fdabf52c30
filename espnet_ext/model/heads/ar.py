"""The autoregressive local transformer: one code after the other."""

from __future__ import annotations

import torch
from torch import Tensor

from espnet_ext.model.cache import KVCache
from espnet_ext.model.heads.base import LocalInput, LocalOutput, register_head
from espnet_ext.model.heads.slot_transformer import SlotTransformer
from espnet_ext.model.transformer import causal_mask


@register_head("ar")
class ARLocalTransformer(SlotTransformer):
    """One code after the other: slot m sees the hidden vector and slots before m."""

    bidirectional = False

    def new_cache(self, batch: int) -> KVCache:
        """An empty cache for the slots of one step."""
        return self.transformer.new_cache(batch, self.slots)

    def logits(self, inputs: LocalInput, codes: Tensor, cache: KVCache | None = None) -> Tensor:
        """Logits of the slots that follow what the cache holds.

        Without a cache, or with an empty one, the input is the hidden vector and the first codes, and the
        output has one slot more than `codes`. With m positions in the cache (the hidden vector and m - 1 codes),
        `codes` are those of slots m - 1 … and each of them gives the logits of the next slot.

        Args:
            inputs: of the steps.
            codes: (P, m) int64.
            cache: positions already computed; it grows.

        Returns:
            (P, m + 1 or m, V).
        """
        start = cache.length if cache is not None else 0
        x = self.read(inputs.hidden, codes, start)
        mask = causal_mask(x.shape[1], x.device, start) if x.shape[1] > 1 else None
        x = self.transformer(x, mask, cache=cache)
        return self.add_to(inputs.base, self.heads(x, start), start)

    def forward(self, inputs: LocalInput, codes: Tensor) -> LocalOutput:  # noqa: D102 (inherited)
        return LocalOutput(self.logits(inputs, codes[:, :-1]), torch.ones_like(codes, dtype=torch.bool))
