"""The MaskGIT local transformer: any codes of a step from any others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from espnet_ext.errors import UserError
from espnet_ext.model.heads.ar import ARLocalTransformer
from espnet_ext.model.heads.base import Heads, LocalInput, LocalOutput, register_head
from espnet_ext.model.heads.parallel import ParallelHeads
from espnet_ext.model.heads.slot_transformer import SlotTransformer
from espnet_ext.options import check_choice

MASKS = ("slots", "frames", "left_to_right")
WEIGHTS = ("own", "ar")
SHARED = ("embedding", "input_projection", "transformer", "heads")  # modules; positions are its own
# options that both must have alike, and the attributes that hold them
ALIKE = {"width": "width", "layers": "layers", "heads": "num_heads", "dropout": "dropout", "residual": "residual"}


def masked_counts(ratio: Tensor, slots: int | Tensor) -> Tensor:
    """Slots that are masked at a share of the way through the cosine schedule: ceil(M cos(pi / 2 * ratio)), int64.

    In float32, as the published implementation computes it: float64 would round cos(pi / 3) up and mask one slot more.

    Args:
        ratio: numbers in [0, 1).
        slots: M, one number or one for each ratio.

    Returns:
        Counts in 1 … M, of the shape of `ratio`.

    Reference:
        Chang et al. 2022, arXiv:2202.04200, masking design; arXiv:2509.19592 uses the same schedule.

    >>> masked_counts(torch.arange(3) / 3, 8).tolist()
    [8, 7, 4]
    """
    return torch.ceil(torch.cos(ratio.float() * (math.pi / 2)) * slots).long()


@register_head("maskgit")
class MaskGITLocalTransformer(SlotTransformer):
    """Bidirectional over the slots of a step; slots that are not known yet are given as MASK.

    The output behind slot m predicts slot m, or the one behind slot m - 1 where the weights are those of the AR local
    transformer, which predicts so.

    In training the number of masked slots is drawn per step, over all M slots, so that the step of which nothing is
    known, where decoding begins, is seen often at every stacking factor: a share of 2 / pi * acos((M - 1) / M) of the
    steps, 32.2, 22.6 and 16.0 % for 8, 16 and 32 slots, wherever the masks lie. (The published implementation draws
    it per frame, and at S = 4 hardly ever masks a whole step.)

    Args:
        *given: as for `SlotTransformer`.
        mask: where the masks of a step lie in training. "slots": anywhere. "frames": at the end, as decoding frame
            after frame sees a step: frames in front of the current one are known, some slots of it, and none behind
            it; with one frame per step these are the same. "left_to_right": the last slots. Several names: one of
            them, drawn per step ("mixed" is an old name of the first two). From steps whose first slots are known
            dependence is learned much sooner, also for masks anywhere.
        weights: "own", or "ar": those of the AR local transformer of the same model, of the same sizes and dropout,
            which is trained on both tasks at once. What it learns from the codes in front serves masks anywhere, which
            take many times as long to teach it.
        **options: as for `SlotTransformer`.
    """

    bidirectional = True

    def __init__(self, *given: Any, mask: str | Sequence[str] = "slots", weights: str = "own", **options: Any) -> None:
        super().__init__(*given, **options)
        check_choice("weights", weights, WEIGHTS)
        self.weights = weights
        several = ["slots", "frames"] if mask == "mixed" else mask
        self.masks = tuple(several) if isinstance(several, list | tuple) else (several,)
        if not self.masks:
            raise UserError(f"mask must be one of {list(MASKS)}, or several, got {mask!r}")
        for name in self.masks:
            check_choice("mask", name, MASKS)

    def share(self, heads: Heads) -> None:  # noqa: D102 (inherited)
        if self.weights == "own":
            return
        others = [head for head in heads.values() if isinstance(head, ARLocalTransformer)]
        if not others:
            local = [name for name, head in heads.items() if not isinstance(head, ParallelHeads)]
            raise UserError(f"local must contain ar for maskgit with weights ar, got {local}")
        for name, attribute in ALIKE.items():
            mine, theirs = getattr(self, attribute), getattr(others[0], attribute)
            if mine != theirs:
                raise UserError(
                    f"local_conf must have the same sizes for maskgit with weights ar as for ar, got {name} {mine!r} "
                    f"and {theirs!r}"
                )
        for name in SHARED:
            delattr(self, name)
        # in a tuple it is no submodule of this one: a checkpoint has the weights once, under the name of their owner
        self._owner = (others[0],)

    def __getattr__(self, name: str) -> Any:  # of what nn.Module does not find otherwise
        owner = self.__dict__.get("_owner")
        return getattr(owner[0], name) if owner and name in SHARED else super().__getattr__(name)

    def logits(self, inputs: LocalInput, codes: Tensor) -> Tensor:
        """Logits of all slots: (P, M, V).

        Args:
            inputs: of the steps.
            codes: (P, M) int64, MASK where a code is not known.

        Returns:
            The logits; those of known slots mean nothing.
        """
        x = self.transformer(self.read(inputs.hidden, codes), mask=None)
        return self.add_to(inputs.base, self.heads(x[:, 1:] if self.weights == "own" else x[:, :-1]))

    def forward(self, inputs: LocalInput, codes: Tensor) -> LocalOutput:  # noqa: D102 (inherited)
        masked = self.draw_mask(len(codes), codes.device)
        return LocalOutput(self.logits(inputs, codes.masked_fill(masked, self.spec.mask_id)), masked)

    def draw_mask(self, steps: int, device: torch.device) -> Tensor:
        """Slots to mask in P steps: (P, M) bool, at least one per step; outside of training always the same ones."""
        # the masks of two validations are the same, so that their losses can be compared
        generator = None if self.training else Generator(device).manual_seed(0)
        counts = masked_counts(torch.rand(steps, generator=generator, device=device), self.slots)
        place = torch.rand(steps, self.slots, generator=generator, device=device).argsort(dim=1).argsort(dim=1)
        if self.masks != ("slots",):
            slot = torch.arange(self.slots, device=device)
            orders = {
                "slots": place,
                "frames": place - slot // self.spec.num_codebooks * self.slots,
                "left_to_right": -slot.expand(steps, -1),
            }
            chosen = torch.stack([orders[name] for name in self.masks])  # (kinds, P, M)
            kind = torch.zeros(steps, dtype=torch.int64, device=device)
            if len(chosen) > 1:
                kind = torch.randint(len(chosen), (steps,), generator=generator, device=device)
            place = chosen[kind, torch.arange(steps, device=device)].argsort(dim=1).argsort(dim=1)
        return place < counts[:, None]
