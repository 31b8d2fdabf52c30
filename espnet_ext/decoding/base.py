"""What a decoding strategy is, and the registry a third party adds one to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from espnet_ext.decoding.sampling import Sampler, SamplingOptions
from espnet_ext.model.heads import Head, Heads
from espnet_ext.registries import strategies


class Filled(NamedTuple):
    """The slots of one step, filled.

    Attributes:
        codes: (R, M) int64.
        logprobs: (R, M).
        local_passes: (R,) int64, passes of the local head that each row took part in; the one matrix product of the
            parallel heads counts where they are that head, and not where they draft for another.
    """

    codes: Tensor
    logprobs: Tensor
    local_passes: Tensor


class Round(NamedTuple):
    """A step after some of its passes; whoever asks for rounds stops where no row goes on.

    Attributes:
        filled: the step so far.
        going: (R,) bool, rows that need more passes.
    """

    filled: Filled
    going: Tensor


def last_round(rounds: Iterable[Round]) -> Filled:
    """The step after the first round behind which no row goes on."""
    for made in rounds:
        if not bool(made.going.any()):
            break
    return made.filled


def same_passes(rows: Tensor, passes: int) -> Tensor:
    """The number of passes where every row takes part in all: (R,) int64, R as in `rows`."""
    return torch.full((len(rows),), passes, device=rows.device)


class DecodingStrategy(ABC):
    """How the M codes of one step are filled; subclasses are frozen dataclasses of their options.

    Attributes:
        head_types: classes of the heads the strategy needs; a model without one of them is refused.
        is_static: whether a step may run as a CUDA graph: each of `rounds` runs the same operations on the same shapes
            whatever the values are, where `sampler.rows_of` gives all rows, and the options can be hashed.
        scores_steps: whether codes are drawn one after the other, so that `scores` and `complete` exist.
    """

    head_types: ClassVar[tuple[type[Head], ...]]
    scores_steps: ClassVar[bool] = False
    is_static: ClassVar[bool] = False

    def check(self, heads: Heads) -> None:
        """Refuse a model that the strategy, with its options, cannot run on.

        Args:
            heads: the model's heads.

        Raises:
            UserError: if a head is missing, or an option does not fit the model's slots.
        """
        for kind in self.head_types:
            heads.of(kind)

    def doubt(self, heads: Heads, sampling: SamplingOptions) -> str | None:
        """What a user is warned of: something that works, but not as it was meant to; None for nothing.

        Args:
            heads: the model's heads.
            sampling: how distributions are sharpened.

        Returns:
            The warning, in one line.
        """
        return None

    @abstractmethod
    def decode_step(self, heads: Heads, hidden: Tensor, sampler: Sampler) -> Filled:
        """The codes of one step for every row.

        Rows are independent: a row's codes and the random numbers drawn for it must not depend on the others.

        Args:
            heads: the model's heads; `heads.of(kind)` finds one.
            hidden: (R, D) primary output of the step.
            sampler: draws codes and bans illegal ones.

        Returns:
            Codes, their log-probabilities and the number of passes.
        """

    def rounds(self, heads: Heads, hidden: Tensor, sampler: Sampler) -> Iterator[Round]:
        """`decode_step` piece by piece, where codes tell when a row is done: it draws for those pieces only."""
        filled = self.decode_step(heads, hidden, sampler)
        yield Round(filled, torch.zeros_like(filled.local_passes, dtype=torch.bool))

    def scores(self, heads: Heads, hidden: Tensor, codes: Tensor) -> Tensor:
        """Logits (P, M, V) of every code of steps given those in front of it, where `scores_steps`.

        Args:
            heads: the model's heads.
            hidden: (P, D) primary output of the steps.
            codes: (P, M) int64.

        Returns:
            The logits.
        """
        raise NotImplementedError

    def complete(self, heads: Heads, hidden: Tensor, sampler: Sampler, codes: Tensor, known: Tensor) -> Filled:
        """The codes of one step whose first ones are known, where `scores_steps`; as `decode_step`.

        Args:
            heads: the model's heads.
            hidden: (R, D) primary output of the step.
            sampler: draws codes and bans illegal ones.
            codes: (R, M) int64.
            known: (R,) int64, how many leading ones stay.

        Returns:
            Codes, their log-probabilities, where they are new, and the number of passes.
        """
        raise NotImplementedError


register_strategy = strategies.register
build_strategy = strategies.build
