"""The MaskGIT local transformer: any codes of a step from any others."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from espnet_ext.local_transformer.base import LocalInput, LocalOutput, local_transformers
from espnet_ext.local_transformer.slot_transformer import SlotTransformer


def masked_counts(ratio: Tensor, slots: int) -> Tensor:
    """Slots that are masked at a share of the way through the cosine schedule: ceil(M cos(pi / 2 * ratio)), int64.

    In float32, as the published implementation computes it: float64 would round cos(pi / 3) up and mask one slot more.

    Args:
        ratio: numbers in [0, 1).
        slots: M.

    Returns:
        Counts in 1 … M, of the shape of `ratio`.

    Reference:
        Chang et al. 2022, arXiv:2202.04200, masking design; arXiv:2509.19592 uses the same schedule.

    >>> masked_counts(torch.arange(3) / 3, 8).tolist()
    [8, 7, 4]
    """
    return torch.ceil(torch.cos(ratio.float() * (math.pi / 2)) * slots).long()


@local_transformers.register("maskgit")
class MaskGITLocalTransformer(SlotTransformer):
    """Bidirectional over the slots of a step; slots that are not known yet are given as MASK.

    The output behind slot m predicts slot m.

    In training the share of masked slots is drawn per step, over all M slots, so that the step of which nothing is
    known, where decoding begins, is seen often at every stacking factor. (The published implementation draws it per
    frame, and at S = 4 hardly ever masks a whole step.)
    """

    bidirectional = True

    def logits(self, inputs: LocalInput, codes: Tensor) -> Tensor:
        """Logits of all slots: (P, M, V).

        Args:
            inputs: of the steps.
            codes: (P, M) int64, MASK where a code is not known.

        Returns:
            The logits; those of known slots mean nothing.
        """
        x = self.transformer(self.read(inputs.hidden, codes), mask=None)
        return self.add_to(inputs.base, self.heads(x[:, 1:]))

    def forward(self, inputs: LocalInput, codes: Tensor) -> LocalOutput:  # noqa: D102 (inherited)
        masked = self.draw_mask(len(codes), codes.device)
        return LocalOutput(self.logits(inputs, codes.masked_fill(masked, self.spec.mask_id)), masked)

    def draw_mask(self, steps: int, device: torch.device) -> Tensor:
        """Slots to mask: (P, M) bool, at least one per step; outside of training always the same ones.

        Args:
            steps: P.
            device: where the mask is needed.

        Returns:
            The mask.
        """
        # the masks of two validations are the same, so that their losses can be compared
        generator = None if self.training else Generator(device).manual_seed(0)
        counts = masked_counts(torch.rand(steps, generator=generator, device=device), self.slots)
        order = torch.rand(steps, self.slots, generator=generator, device=device).argsort(dim=1)
        return order.argsort(dim=1) < counts[:, None]
