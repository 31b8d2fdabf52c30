"""What every primary transformer can do: score all steps at once, or one after the other from a state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from espnet_ext.codes import length_mask
from espnet_ext.model.alignment import Alignment
from espnet_ext.model.caches import EXACT, CachePolicy
from espnet_ext.model.primary.conditions import Conditions
from espnet_ext.model.primary.state import PrimaryState
from espnet_ext.model.transformer import Transformer, causal_mask
from espnet_ext.registry import Registry


class PrimaryOutput(NamedTuple):
    """Hidden vectors of all steps.

    Attributes:
        hidden: (B, L, D), hidden[:, l] predicts step l.
        alignment: of steps and text, for its losses; None for a primary that has none.
    """

    hidden: Tensor
    alignment: Alignment | None


class Primary(nn.Module, ABC):
    """The big transformer over steps; its constructor takes the ids of the text and S, and its options by keyword.

    What it can do besides is said by base classes, see `abilities`.

    Attributes:
        width: D.
    """

    width: int

    @abstractmethod
    def forward(self, conditions: Conditions, steps: Tensor, targets: Tensor, step_lengths: Tensor) -> PrimaryOutput:
        """Hidden vectors of teacher-forced steps.

        Args:
            conditions: text and prompt.
            steps: (B, L, D) embedded input, BOS and then each step's predecessor, right-padded.
            targets: (B, L, S or 1, D) embedded frames, or embedded steps where the model does not tell frames apart.
                They are aligned with the text, and are for nothing else.
            step_lengths: (B,) int64.

        Returns:
            Hidden vectors and the alignment.
        """

    @abstractmethod
    def prefill(self, conditions: Conditions, max_steps: Tensor, cache: CachePolicy = EXACT) -> PrimaryState:
        """The state before the first step.

        Args:
            conditions: text and prompt.
            max_steps: (B,) int64, most steps of each row.
            cache: how keys and values are kept, for `Transformer.new_cache`.

        Returns:
            The state.
        """

    @abstractmethod
    def step(self, x: Tensor, state: PrimaryState) -> Tensor:
        """Hidden vector (B, D) of the next step; the state moves on.

        Args:
            x: (B, D) embedding of the step before, BOS for the first one.
            state: what `prefill` or the last `step` left.

        Returns:
            The hidden vector.
        """

    def extend(self, x: Tensor, state: PrimaryState) -> Tensor:
        """Hidden vectors (B, W, D) of the next W steps, each as `step` makes it, in one pass where that is possible.

        Args:
            x: (B, W, D) embedding of the step before each.
            state: what `prefill` or the last step left.

        Returns:
            The hidden vectors.
        """
        return torch.stack([self.step(x[:, place], state) for place in range(x.shape[1])], dim=1)

    def step_transformers(self) -> list[Transformer]:
        """Those that `step` runs, for `fast`."""
        return []


primaries: Registry[type[Primary]] = Registry("primary", "espnet_ext.primary")
register_primary = primaries.register


def mean_of(embedded: Tensor, lengths: Tensor) -> Tensor:
    """The mean of the first vectors of each row, (B, length, D) and (B,) int64, zeros for none: (B, D)."""
    mask = length_mask(lengths, embedded.shape[1])[..., None]
    return embedded.masked_fill(~mask, 0.0).sum(1) / lengths.clamp_min(1)[:, None]


def summary_of(text: Tensor, conditions: Conditions) -> Tensor:
    """What embedded text (B, U, D) and the prompt are on average, zeros where they are not given: (B, 2 * D)."""
    both = mean_of(text, conditions.text_lengths), mean_of(conditions.prompt, conditions.prompt_lengths)
    return torch.cat(both, dim=1) * conditions.given[:, None]


def close_gaps(x: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """What is kept of each row at the right edge, in its order, and the mask of it: (B, K, …) and (B, K) bool.

    Prefixes are left-padded so that every row writes the same cache index in every step.

    Args:
        x: (B, K, …).
        keep: (B, K) bool.

    Returns:
        The moved rows, with anything left of what is kept, and the mask.

    >>> close_gaps(torch.tensor([[1, 2, 3, 4]]), torch.tensor([[True, False, True, False]]))[0].tolist()
    [[2, 4, 1, 3]]
    """
    order = keep.to(torch.int8).argsort(dim=1, stable=True)
    index = order.view(*order.shape, *(1,) * (x.dim() - 2)).expand_as(x)
    return x.gather(1, index), keep.gather(1, order)


def visible_mask(keys: Tensor) -> Tensor:
    """Causal mask without the padded ones of the keys (B, length): (B, 1, length, length) bool."""
    length = keys.shape[1]
    # a position always sees itself, so that padding has a finite softmax too
    itself = torch.eye(length, dtype=torch.bool, device=keys.device)
    return ((causal_mask(length, keys.device) & keys[:, None]) | itself)[:, None]
