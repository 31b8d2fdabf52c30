"""The wrong-text gain: how many nats per code the text is worth to each head, from a second pass with other texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from espnet_ext.codes import length_mask, num_steps
from espnet_ext.errors import UserError
from espnet_ext.model.core_lm import CoreLM, CoreLMOutput, HeadScores
from espnet_ext.model.loss import code_nats


class TextNats(NamedTuple):
    """What the codes of one head cost, summed by the frame of a step: (S,) float64 each.

    Attributes:
        right: negative log-likelihood with the text.
        wrong: the same with the text of another utterance.
        codes: how many codes these are, the same ones in both.
    """

    right: Tensor
    wrong: Tensor
    codes: Tensor

    def plus(self, other: TextNats) -> TextNats:
        """The sums over both."""
        return TextNats(*(one + two for one, two in zip(self, other, strict=True)))

    @property
    def gain(self) -> Tensor:
        """Mean negative log-likelihood with the wrong text minus that with the right one, nats per code, a scalar."""
        return (self.wrong.sum() - self.right.sum()) / self.codes.sum()

    @property
    def frame_gains(self) -> Tensor:
        """The gain of every frame of a step: (S,)."""
        return (self.wrong - self.right) / self.codes


@torch.no_grad()
def text_nats(model: CoreLM, batch: Mapping[str, Tensor], right: CoreLMOutput) -> dict[str, TextNats]:
    """What the codes of a batch cost each head with their own text and with another one.

    Codes, prompts and MaskGIT's masks are the same in both passes. A row for which the batch has no other text does not
    count.

    Args:
        model: in eval mode, where nothing is drawn.
        batch: arguments of the model.
        right: its scores of them.

    Returns:
        Sums by the name of the head; no heads if the model reads no text.

    Raises:
        UserError: if the model is in training mode.
    """
    if model.training:
        raise UserError("model must be in eval mode to compare texts, got one in training mode")
    if model.reads not in batch:
        return {}
    text, lengths = batch[model.reads], batch[f"{model.reads}_lengths"]
    steps = model.layout.num_steps(batch["codes_lengths"] + 1)
    others = steps
    if "prompt_lengths" in batch:
        others = steps + num_steps(batch["prompt_lengths"], model.stacking)
    # learned positions suffice for the longest row, but perhaps not for this speech with that text
    room = (others + lengths).max() - others
    text, lengths, differs = exchanged(text, lengths, room)
    wrong = right
    if bool(differs.any()):
        wrong = model(**{**batch, model.reads: text, f"{model.reads}_lengths": lengths})
    counted = differs.repeat_interleave(steps)[:, None]  # (P, 1)

    def by_frame(head: HeadScores, values: Tensor) -> Tensor:
        return (values.double() * head.weights * counted).unflatten(1, (model.stacking, -1)).sum((0, 2))

    return {
        name: TextNats(
            by_frame(head, code_nats(head)),
            by_frame(head, code_nats(wrong.heads[name])),
            by_frame(head, torch.ones_like(head.weights)),
        )
        for name, head in right.heads.items()
    }


def exchanged(text: Tensor, lengths: Tensor, room: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For every row the text of the next row that has another one, counted around the batch.

    Args:
        text: (B, U) int64, right-padded with any id.
        lengths: (B,) int64.
        room: (B,) int64, the longest text that a row may get; what is longer is cut.

    Returns:
        Texts (B, U), their lengths (B,), and the rows whose text is another one now, (B,) bool.

    >>> text, ones = torch.tensor([[4], [4], [7]]), torch.ones(3, dtype=torch.int64)
    >>> [part.flatten().tolist() for part in exchanged(text, ones, ones)]
    [[7, 7, 4], [1, 1, 1], [True, True, True]]
    """
    rows, width = text.shape
    ids = text.masked_fill(~length_mask(lengths, width), -1)
    offsets = torch.arange(rows, device=text.device)
    following = (offsets[:, None] + offsets) % rows  # (B, B), row i holds i, i + 1, …
    others = (ids[:, None] != ids).any(-1).gather(1, following)
    partner = following.gather(1, others.long().argmax(1, keepdim=True))[:, 0]  # itself where there is no other
    found = lengths[partner].minimum(room)
    differs = (ids[partner].masked_fill(~length_mask(found, width), -1) != ids).any(-1)
    return text[partner], found, differs


def gain_statistics(nats: Mapping[str, TextNats]) -> dict[str, Tensor]:
    """The gains as statistics: `gain_{head}`, and `gain_{head}_frame{s}` of every frame of a step if it has several.

    They are NaN where no row of the batch had another text: the reporter of ESPnet leaves such values out of its means,
    and several processes must report the same names.

    Args:
        nats: from `text_nats`.

    Returns:
        Scalars.
    """
    stats = {f"gain_{name}": sums.gain for name, sums in nats.items()}
    for name, sums in nats.items():
        if len(sums.codes) > 1:
            stats.update({f"gain_{name}_frame{frame}": gain for frame, gain in enumerate(sums.frame_gains)})
    return stats
