"""The semantic stage of GPST, in the form in which the loop over steps runs any model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from espnet_ext.codes import CodecSpec, StepLayout, length_mask
from espnet_ext.model.caches import EXACT, CachePolicy
from espnet_ext.model.core_lm.step_model import StepModel
from espnet_ext.model.heads import Heads
from espnet_ext.model.layers import LayerPass, RowLayers
from espnet_ext.model.parts import Parts
from espnet_ext.model.primary import PrefixPrimary, PrimaryState, close_gaps
from espnet_ext.model.transformer import Transformer


class UnitConditions(NamedTuple):
    """What units are generated from.

    Attributes:
        units: (B, U) int64 that the speech begins with, right-padded with any id.
        unit_lengths: (B,) int64.
        language: (B,) int64; 0 for a language that is not told.
        given: (B,) bool, False for a row whose first units the model must not see.
    """

    units: Tensor
    unit_lengths: Tensor
    language: Tensor
    given: Tensor


@dataclass(frozen=True)
class UnitStage(StepModel):
    """p(semantic units): a model of one codebook that shares transformer and cache with the codes behind the units.

    Attributes:
        spec: facts of the semantic tokenizer.
        primary: the transformer.
        heads: one parallel head of one slot.
        languages: embedding of the language position; None for a model without one.
        layout: of units in steps.
        conditioning_dropout: as of every `StepModel`.
        parts: none.
    """

    spec: CodecSpec
    primary: PrefixPrimary
    heads: Heads
    languages: nn.Embedding | None
    layout: StepLayout = StepLayout(codebooks=1)
    conditioning_dropout: float = 0.0
    parts: Parts = field(default_factory=Parts, compare=False)  # or no two would be equal

    def embed(self, units: Tensor, lengths: Tensor, language: Tensor | None) -> tuple[Tensor, Tensor]:
        """The sequence's part before the codes: language position if there is one, EOS, units; and its mask.

        Args:
            units: (B, U) int64, right-padded.
            lengths: (B,) int64.
            language: (B,) int64; None for languages that are not told.

        Returns:
            (B, P, D) embedded, right-padded, and (B, P) bool.
        """
        ids = nn.functional.pad(units, (1, 0), value=self.spec.eos_id)
        # padding may hold anything, ids of another vocabulary included
        ids = ids.masked_fill(~length_mask(lengths + 1, ids.shape[1]), self.spec.eos_id)
        x, positions = self.primary.embed_text(ids), lengths + 1
        if self.languages is not None:
            language = torch.zeros_like(lengths) if language is None else language
            x, positions = torch.cat((self.languages(language)[:, None], x), dim=1), positions + 1
        return x, length_mask(positions, x.shape[1])

    def targets(self, units: Tensor, lengths: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """What each position of `embed` predicts, and which of them count: (B, width) int64 and bool."""
        following = nn.functional.pad(units, (width - units.shape[1] - 1, 1), value=self.spec.eos_id)
        before = width - units.shape[1] - 1  # the language position predicts nothing
        index = torch.arange(width, device=units.device) - before
        following = following.masked_fill(index == lengths[:, None], self.spec.eos_id)
        return following, (index >= 0) & (index <= lengths[:, None])

    def conditions(self, units: Tensor, lengths: Tensor, language: Tensor | None = None) -> UnitConditions:
        """What units are generated from; the arguments are those of `embed`."""
        language = torch.zeros_like(lengths) if language is None else language
        return UnitConditions(units, lengths, language, torch.ones_like(lengths, dtype=torch.bool))

    def step_transformers(self) -> list[Transformer]:
        """Those of the transformer that it shares with the codes."""
        return self.primary.step_transformers()

    def first_codes(self, conditions: UnitConditions) -> Tensor:
        """The last unit there is, or the EOS that stands before all: (B, 1) int64."""
        ids = nn.functional.pad(conditions.units, (1, 0), value=self.spec.eos_id)
        return ids.gather(1, (conditions.unit_lengths * conditions.given)[:, None])

    def prefill(
        self,
        conditions: UnitConditions,
        max_steps: Tensor | int,
        cache: CachePolicy = EXACT,
        layers: RowLayers | None = None,
    ) -> PrimaryState:
        """The state before the first step, see `Primary.prefill`."""
        x, mask = self.embed(conditions.units, conditions.unit_lengths * conditions.given, conditions.language)
        # the last position is the first step's input
        before = mask & (mask.long().cumsum(dim=1) < mask.sum(dim=1, keepdim=True))
        prefix, mask = close_gaps(x, before)
        max_steps = torch.as_tensor(max_steps).expand(len(x))
        return self.primary.start(prefix, mask, max_steps, policy=cache, layers=layers)

    def step(self, codes: Tensor, state: PrimaryState) -> Tensor:
        """Hidden vector (B, D) that predicts the next unit, given the last one (B, 1)."""
        return self.extend(codes[:, None], state)[:, 0]

    def extend(self, codes: Tensor, state: PrimaryState, layers: LayerPass | None = None) -> Tensor:
        """Hidden vectors (B, W, D) that predict the next units, given the last ones (B, W, 1)."""
        return self.primary.advance(self.primary.embed_text(codes[..., 0]), state, layers=layers)
