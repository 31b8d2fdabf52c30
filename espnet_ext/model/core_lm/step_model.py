"""What the loop over steps runs: whatever predicts one step from those in front of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from espnet_ext.codes import CodecSpec, StepLayout
from espnet_ext.model.ahead import Ahead
from espnet_ext.model.caches import EXACT, CachePolicy
from espnet_ext.model.heads import CodeVectors, Heads
from espnet_ext.model.layers import LayerPass, RowLayers
from espnet_ext.model.parts import Parts
from espnet_ext.model.primary import PrimaryState
from espnet_ext.model.transformer import Transformer


class StepConditions(Protocol):
    """What rows are generated from, as far as the loop over steps has to know.

    Attributes:
        given: (B,) bool, False for a row whose conditions the model must not see.
    """

    @property
    def given(self) -> Tensor:
        """(B,) bool."""


class StepModel(ABC):
    """What `generate` runs: a core LM, or the semantic stage of one.

    Attributes:
        spec: the codec's facts.
        layout: of frames in steps.
        heads: by name.
        parts: what is trained beside it, by name.
        conditioning_dropout: probability that an utterance was trained without its conditions.
        objective: "causal" for a model that predicts each step from those in front of it, "masked" for one that fills
            masked steps from all others, see `fill`, "window" for one that fills those of a window, see `extend_at`.
        mask_unit: what of an utterance a masked model was trained to fill at once, see `Masking`.
        mask_span: steps of the blocks that it was trained with, likewise.
        goes_through: whether `prefill` and `extend` take `layers`, and `summary` exists.
    """

    spec: CodecSpec
    layout: StepLayout
    heads: Heads
    parts: Parts
    conditioning_dropout: float
    objective: str = "causal"
    mask_unit: str = "steps"
    mask_span: int = 1
    goes_through: bool = False

    def step_transformers(self) -> list[Transformer]:
        """Those that run once per step, besides the heads; what runs once per utterance is not worth `fast`'s work."""
        return []

    @abstractmethod
    def first_codes(self, conditions: Any) -> Tensor:
        """Input of the first step: (B, M) int64."""

    @abstractmethod
    def prefill(
        self,
        conditions: Any,
        max_steps: Tensor | int,
        cache: CachePolicy = EXACT,
        layers: RowLayers | None = None,
    ) -> PrimaryState:
        """The state before the first step; `max_steps` is one number or one per row, see `Primary.prefill`."""

    @abstractmethod
    def step(self, codes: Tensor, state: PrimaryState) -> Tensor:
        """Hidden vector (B, D) that predicts the next step, given the codes (B, M) of the last one."""

    @property
    def code_vectors(self) -> Mapping[str, CodeVectors]:
        """Where similar codes are near each other, by whose vectors these are; none of a model without code tables."""
        return self.heads.code_vectors

    def extend(self, codes: Tensor, state: PrimaryState, layers: LayerPass | None = None) -> Tensor:
        """Hidden vectors (B, W, D), each of which predicts a step, given the codes (B, W, M) of those in front.

        A model that can make them in one pass does so: it is what speculation over steps gains from. `layers` as in
        `Primary.extend`.
        """
        if layers is not None:
            raise NotImplementedError(f"{type(self).__name__} runs all layers")
        return torch.stack([self.step(codes[:, place], state) for place in range(codes.shape[1])], dim=1)

    def extend_ahead(self, codes: Tensor, state: PrimaryState, ahead: Ahead) -> tuple[Tensor, Tensor]:
        """What `extend` gives, and hidden vectors (B, W, k, D) of positions behind each of the steps."""
        raise NotImplementedError(f"{type(self).__name__} does not look ahead")

    def fill(self, codes: Tensor, step_lengths: Tensor, state: PrimaryState) -> Tensor:
        """Hidden vectors of all steps of whole utterances, for a model whose `objective` is masked.

        Args:
            codes: (B, L, M) int64, MASK where a code is not known, and EOS behind the last frame.
            step_lengths: (B,) int64 steps.
            state: from `prefill`, which has the predicted `lengths`; it stays as it is.

        Returns:
            (B, L, D), of which hidden[:, l] predicts the masked codes of step l.
        """
        raise NotImplementedError

    def extend_at(self, codes: Tensor, steps: Tensor, exists: Tensor, state: PrimaryState) -> Tensor:
        """Hidden vectors of steps in any order, for a model whose `objective` is window.

        Each sees what the state holds, and those in front of it that exist; the state then holds all of them.

        Args:
            codes: (B, W, M) int64, all MASK where a step is to be predicted.
            steps: (B, W) int64, which steps of the utterance they are.
            exists: (B, W) bool, False where a row has nothing.
            state: from `prefill`.

        Returns:
            (B, W, D), each of which predicts its own step.
        """
        raise NotImplementedError

    @property
    def layers(self) -> int:
        """Layers of the primary transformer; where `goes_through`."""
        raise NotImplementedError

    def summary(self, conditions: Any) -> Tensor:
        """What text and prompt are on average, (B, 2 * D); where `goes_through`."""
        raise NotImplementedError
