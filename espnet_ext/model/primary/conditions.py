"""What a batch is generated from: cut into rows, put together from rows, and a second time without conditions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

ConditionsT = TypeVar("ConditionsT")


class Conditions(NamedTuple):
    """What a batch of utterances is generated from.

    Attributes:
        text: (B, U) int64 token ids, right-padded with any id.
        text_lengths: (B,) int64.
        prompt: (B, K, D) embedded steps of the speaker prompt, right-padded.
        prompt_lengths: (B,) int64 steps; 0 for a row without prompt.
        given: (B,) bool, False for a row whose text and prompt the model must not see.
        known: (B, T, N) int64 codes of utterances that a masked model is to complete, MASK where there is to be
            something new, right-padded with any id; None where nothing is known.
        known_lengths: (B,) int64 frames; 0 for a row of which nothing is known, not even its length.
    """

    text: Tensor
    text_lengths: Tensor
    prompt: Tensor
    prompt_lengths: Tensor
    given: Tensor
    known: Tensor | None = None
    known_lengths: Tensor | None = None


def with_unconditional(conditions: ConditionsT) -> ConditionsT:
    """Every row a second time without its conditions, for classifier-free guidance: 2B rows.

    Args:
        conditions: a named tuple of tensors (B, …), one of them `given`.

    Returns:
        The same kind.
    """
    fields: Any = conditions
    given = torch.cat((fields.given, torch.zeros_like(fields.given)))
    twice = (part if part is None else torch.cat((part, part)) for part in fields)
    return fields._make(twice)._replace(given=given)


def rows_of(conditions: ConditionsT, rows: Sequence[int]) -> ConditionsT:
    """Some rows of what a batch is generated from, no wider than they need.

    Args:
        conditions: a named tuple of tensors (B, …).
        rows: their numbers.

    Returns:
        The same kind.
    """
    fields: Any = conditions
    index = torch.tensor(rows, device=fields.given.device)
    parts: dict[str, Any] = {name: part if part is None else part[index] for name, part in fields._asdict().items()}
    for name in (name for name in fields._fields if parts[name] is not None):
        lengths = parts.get(f"{name}_lengths", parts.get(f"{name.removesuffix('s')}_lengths"))
        if lengths is not None:
            parts[name] = parts[name][:, : int(lengths.max())]
    return fields._make(parts.values())


def rows_together(several: Sequence[ConditionsT]) -> ConditionsT:
    """What several batches are generated from as one batch: named tuples of tensors (B, …), right-padded with zeros."""
    batches: list[Any] = list(several)
    parts: list[Tensor | None] = []
    for tensors in zip(*batches, strict=True):
        if tensors[0] is None:
            parts.append(None)
            continue
        if tensors[0].dim() > 1:
            behind, width = (0, 0) * (tensors[0].dim() - 2), max(part.shape[1] for part in tensors)
            tensors = tuple(nn.functional.pad(part, (*behind, 0, width - part.shape[1])) for part in tensors)
        parts.append(torch.cat(tensors))
    return batches[0]._make(parts)
