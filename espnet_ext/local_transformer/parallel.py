"""Parallel heads: every slot on its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from espnet_ext.local_transformer.base import LocalOutput, LocalTransformer


class ParallelHeads(LocalTransformer):
    """M independent classifiers on the hidden vector: the baseline, and a drafter for others."""

    def __init__(self, slots: int, vocab_size: int, width: int) -> None:
        super().__init__()
        self.slots = slots
        self.heads = nn.Linear(width, slots * vocab_size)
        nn.init.normal_(self.heads.weight, std=0.02)
        nn.init.zeros_(self.heads.bias)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of all slots: (P, D) → (P, M, V)."""
        return self.heads(hidden).unflatten(-1, (self.slots, -1))

    def forward(self, hidden: Tensor, codes: Tensor) -> LocalOutput:  # noqa: D102 (inherited)
        return LocalOutput(self.logits(hidden), torch.ones_like(codes, dtype=torch.bool))
