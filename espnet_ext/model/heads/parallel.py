"""Parallel heads: every slot on its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from espnet_ext.model.heads.base import Head, LocalInput, LocalOutput


class ParallelHeads(Head):
    """M independent classifiers on the hidden vector: the baseline, a drafter, and what residual heads add to.

    Args:
        slots: M.
        vocab_size: V.
        width: D.
        tied_frames: frames of a step that share their classifiers, S; the hidden vector is then projected to one
            vector per frame.
    """

    def __init__(self, slots: int, vocab_size: int, width: int, tied_frames: int = 1) -> None:
        super().__init__()
        self.slots, self.vocab_size, self.tied_frames = slots, vocab_size, tied_frames
        self.frames = nn.Linear(width, tied_frames * width) if tied_frames > 1 else None
        self.heads = nn.Linear(width, slots // tied_frames * vocab_size)
        nn.init.normal_(self.heads.weight, std=0.02)
        nn.init.zeros_(self.heads.bias)
        if self.frames is not None:  # every frame begins as the hidden vector itself
            nn.init.normal_(self.frames.weight, std=0.3 * width**-0.5)
            nn.init.zeros_(self.frames.bias)
            self.frames.weight.data += torch.eye(width).repeat(tied_frames, 1)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of all slots: (P, D) → (P, M, V)."""
        if self.frames is not None:
            hidden = self.frames(hidden).unflatten(-1, (self.tied_frames, -1))
        return self.heads(hidden).reshape(len(hidden), self.slots, self.vocab_size)

    def forward(self, inputs: LocalInput, codes: Tensor) -> LocalOutput:  # noqa: D102 (inherited)
        logits = self.logits(inputs.hidden) if inputs.base is None else inputs.base
        return LocalOutput(logits, torch.ones_like(codes, dtype=torch.bool))
