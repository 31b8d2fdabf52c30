"""Which codes of an utterance a masked model does not see in training, and which of these it learns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import NamedTuple, Self

import torch
from torch import Generator, Tensor

from espnet_ext.codes import length_mask
from espnet_ext.errors import UserError
from espnet_ext.model.heads.maskgit import masked_counts
from espnet_ext.options import check_choice, check_number

UNITS = ("steps", "codes", "levels")


class MaskedCodes(NamedTuple):
    """The masks of a batch.

    Attributes:
        hidden: (B, L, M) bool, codes that the model does not see.
        learned: (B, L, M) bool, those of them that it predicts.
    """

    hidden: Tensor
    learned: Tensor


class Blocks(NamedTuple):
    """What of an utterance is masked, block by block.

    Attributes:
        hidden: (B, L) bool, steps that are masked.
        block: (B, L) int64, number of each step's block.
    """

    hidden: Tensor
    block: Tensor


@dataclass(frozen=True)
class Masking:
    """How an utterance is masked; its length is known, and so is the frame that ends it.

    How much of an utterance is masked is drawn for each, ceil(n cos(pi / 2 * u)) of n with u uniform in [0, 1), as
    rounds of decoding leave it.

    Attributes:
        unit: what is masked: "steps" as a whole; single "codes"; or "levels", for which a codebook is drawn: those in
            front of it are known everywhere, those behind it nowhere, and its own codes are masked step by step.
        span: steps in a row that are masked together; with `objective: window`, steps of a block.
        stretch: share of the utterances in which all that is masked lies in one stretch, as in an edited recording.

    Raises:
        UserError: naming the option that is unknown or out of range.

    Reference:
        Cosine schedule: Chang et al. 2022, arXiv:2202.04200. Spans and levels: MAGNeT, arXiv:2401.04577; levels also
        MaskGCT, arXiv:2409.00750.
    """

    unit: str = "steps"
    span: int = 1
    stretch: float = 0.0

    def __post_init__(self) -> None:
        check_choice("mask_conf.unit", self.unit, UNITS)
        check_number("mask_conf.span", self.span, least=1, whole=True)
        check_number("mask_conf.stretch", self.stretch, least=0, most=1)

    @classmethod
    def of(cls, conf: object) -> Self:
        """The masking of an option: names and values, or None for the defaults."""
        if conf is not None and not isinstance(conf, Mapping):
            raise UserError(f"mask_conf must be names and values, got {conf!r}")
        known, given = [field.name for field in fields(cls)], dict(conf or {})
        if unknown := sorted(set(given) - set(known), key=str):
            raise UserError(f"mask_conf must be among {known}, got {unknown}")
        return cls(**given)

    def draw(self, exists: Tensor, codebooks: int, training: bool) -> MaskedCodes:
        """Masks of a batch.

        Args:
            exists: (B, L, M) bool, codes of frames, in the first steps of each row.
            codebooks: N.
            training: outside of training the masks are always the same, so that losses can be compared.

        Returns:
            The masks; at least one code of every row that has any is masked.
        """
        generator = None if training else Generator(exists.device).manual_seed(0)
        wide = exists if self.unit == "codes" else exists.any(-1, keepdim=True)
        masked = self._along_time(wide, generator) & exists
        if self.unit != "levels":
            return MaskedCodes(masked, masked)
        device = exists.device
        level = torch.randint(codebooks, (len(exists), 1, 1), generator=generator, device=device)
        codebook = torch.arange(exists.shape[2], device=device) % codebooks
        learned = masked & (codebook == level)
        return MaskedCodes(learned | (exists & (codebook > level)), learned)

    def draw_blocks(self, step_lengths: Tensor, steps: int, training: bool) -> Blocks:
        """Masks of a model of `objective: window`: utterances cut into blocks of `span` steps, some of each masked.

        Args:
            step_lengths: (B,) int64.
            steps: L.
            training: as for `draw`.

        Returns:
            The masks; at least one step of every block is masked.
        """
        device, rows = step_lengths.device, len(step_lengths)
        generator = None if training else Generator(device).manual_seed(0)
        place = torch.arange(steps, device=device)
        first = (torch.rand(rows, 1, generator=generator, device=device) * self.span).long()
        block = (place + first) // self.span
        order = torch.rand(rows, steps, generator=generator, device=device) + 2 * block
        exists = length_mask(step_lengths, steps)
        order = order.masked_fill(~exists, torch.inf)
        rank = order.argsort(dim=1).argsort(dim=1)  # blocks follow each other, the steps of each lie in random order
        begin = (block * self.span - first).clamp_min(0)
        size = ((block + 1) * self.span - first).minimum(step_lengths[:, None]) - begin
        share = torch.rand(rows, steps, generator=generator, device=device).gather(1, block)
        return Blocks((rank - begin < (share * size).long() + 1) & exists, block)

    def _along_time(self, exists: Tensor, generator: Generator | None) -> Tensor:
        """Units to mask, of those there are, (B, L, K) bool: spans in random order, or one stretch."""
        (rows, steps, width), device = exists.shape, exists.device

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, device=device)

        total = exists.sum((1, 2))
        counts = masked_counts(uniform(rows), total)[:, None]
        first = (uniform(rows, 1, 1) * self.span).long()  # where spans begin
        span = (torch.arange(steps, device=device)[:, None] + first) // self.span  # (B, L, 1)
        spans = (steps - 1) // self.span + 2
        priority = uniform(rows, spans, width).gather(1, span.expand(-1, -1, width))
        flat = exists.flatten(1)
        order = priority.flatten(1).masked_fill(~flat, torch.inf)
        place = order.argsort(dim=1, stable=True).argsort(dim=1)
        index = flat.long().cumsum(1) - 1
        begin = (uniform(rows, 1) * (total[:, None] - counts + 1)).long()
        in_stretch = uniform(rows, 1) < self.stretch
        place = torch.where(in_stretch, index - begin, place)
        return ((place >= 0) & (place < counts) & flat).view(exists.shape)


def codes_of_frames(lengths: Tensor, steps: int, stacking: int, codebooks: int) -> Tensor:
    """True where a step has a code of a frame: (B, L, M) bool.

    Args:
        lengths: (B,) int64 frames.
        steps: L.
        stacking: S.
        codebooks: N.

    Returns:
        The mask.
    """
    frames = length_mask(lengths, steps * stacking).view(len(lengths), steps, stacking)
    return frames.repeat_interleave(codebooks, dim=2)
