"""What a primary transformer may be able to do besides: base classes, one for each ability."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from espnet_ext.model.ahead import Ahead, Further
from espnet_ext.model.caches import EXACT, CachePolicy
from espnet_ext.model.layers import LayerPass, RowLayers
from espnet_ext.model.primary.base import Primary, PrimaryOutput
from espnet_ext.model.primary.conditions import Conditions
from espnet_ext.model.primary.known_path import Known
from espnet_ext.model.primary.state import PrimaryState


class LooksAhead(Primary):
    """One whose steps may have positions behind them that nobody else sees and no state keeps."""

    @abstractmethod
    def forward_ahead(
        self, conditions: Conditions, steps: Tensor, targets: Tensor, step_lengths: Tensor
    ) -> tuple[PrimaryOutput, Further]:
        """What `forward` gives, bit for bit, and what makes hidden vectors of positions behind its steps."""

    @abstractmethod
    def extend_ahead(self, x: Tensor, state: PrimaryState, ahead: Ahead) -> tuple[Tensor, Tensor]:
        """What `extend` gives, (B, W, D), and hidden vectors of positions behind each of the steps, (B, W, k, D).

        They are as if what stands there were the input of the steps to come; the state does not keep them.

        Args:
            x: (B, W, D) embedding of the step before each.
            state: what `prefill` or the last step left.
            ahead: what stands there.

        Returns:
            The hidden vectors.
        """


class RunsSomeLayers(Primary):
    """One whose passes may run some layers alone, with hidden states that are taken out or put in on the way."""

    @abstractmethod
    def forward(
        self,
        conditions: Conditions,
        steps: Tensor,
        targets: Tensor,
        step_lengths: Tensor,
        layers: LayerPass | None = None,
    ) -> PrimaryOutput:
        """Hidden vectors of teacher-forced steps, and of positions that enter on the way.

        Args:
            conditions: text and prompt.
            steps: as in `Primary.forward`, as are the two that follow.
            targets: embedded frames.
            step_lengths: (B,) int64.
            layers: which run, and what enters and leaves on the way; None for all. What enters or leaves behind prompt
                and text counts as well.

        Returns:
            Hidden vectors and the alignment.
        """

    @abstractmethod
    def prefill(
        self,
        conditions: Conditions,
        max_steps: Tensor,
        cache: CachePolicy = EXACT,
        layers: RowLayers | None = None,
    ) -> PrimaryState:
        """The state before the first step, which keeps the `layers` that each row uses; None for all."""

    @abstractmethod
    def extend(self, x: Tensor, state: PrimaryState, layers: LayerPass | None = None) -> Tensor:
        """Hidden vectors (B, W, D) of the next W steps, and behind them, (B, W + W * K, D), of what enters on the way.

        Args:
            x: (B, W, D) embedding of the step before each.
            state: what `prefill` or the last step left.
            layers: which run, and what enters and leaves on the way; None for all of them.

        Returns:
            The hidden vectors.
        """

    @abstractmethod
    def summary(self, conditions: Conditions) -> Tensor:
        """What text and prompt are on average, before any layer: (B, 2 * D)."""


class FillsSteps(Primary):
    """One that fills masked steps: those of an utterance, each of which sees all others, and those of a window."""

    @abstractmethod
    def forward_masked(
        self, conditions: Conditions, steps: Tensor, targets: Tensor, step_lengths: Tensor
    ) -> PrimaryOutput:
        """What `forward` gives, of steps that all see each other; hidden[:, l] is that of steps[:, l].

        Args:
            conditions: text and prompt.
            steps: (B, L, D) embedded steps some codes of which are masked, right-padded.
            targets: as in `forward`.
            step_lengths: (B,) int64.

        Returns:
            Hidden vectors and the alignment.
        """

    @abstractmethod
    def prefill_masked(
        self, conditions: Conditions, known: Known, max_frames: Tensor, cache: CachePolicy = EXACT
    ) -> PrimaryState:
        """The state that `fill` reads, with the `lengths` of the rows.

        Args:
            conditions: text and prompt.
            known: of the utterances.
            max_frames: (B,) int64, most frames of a row whose length is predicted.
            cache: how keys and values of the prompt are kept.

        Returns:
            The state.
        """

    @abstractmethod
    def fill(self, x: Tensor, step_lengths: Tensor, state: PrimaryState) -> Tensor:
        """Hidden vectors (B, L, D) of embedded steps (B, L, D) that all see each other; the state stays as it is."""

    @abstractmethod
    def forward_window(
        self, conditions: Conditions, steps: Tensor, masked: Tensor, targets: Tensor, step_lengths: Tensor, sees: Tensor
    ) -> PrimaryOutput:
        """What `forward` gives, of masked steps that see known ones; hidden[:, l] is that of masked[:, l].

        Args:
            conditions: text and prompt.
            steps: (B, L, D) embedded steps, all of them known; each sees those in front of it.
            masked: (B, L, D) the same steps, some of which are masked.
            targets: as in `forward`.
            step_lengths: (B,) int64.
            sees: (B, L, 2 L) bool, which of `steps`, and of `masked`, each of `masked` sees.

        Returns:
            Hidden vectors and the alignment.
        """

    @abstractmethod
    def extend_at(self, x: Tensor, steps: Tensor, exists: Tensor, state: PrimaryState) -> Tensor:
        """Hidden vectors (B, W, D) of embedded steps (B, W, D) in any order; see `StepModel.extend_at`."""
