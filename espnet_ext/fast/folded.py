"""Codes looked up projected and with their positions, in one table."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from espnet_ext.model.heads.slot_transformer import SlotTransformer


class FoldedRead:
    """What a local transformer's `read` does, with code tables, projection and positions folded into one table.

    Args:
        head: whose `read` it is to be; the weights must not change any more.
        dtype: of the table, that in which the head will run.

    Attributes:
        table: (M * V, width) projected codes with their positions.
    """

    @torch.no_grad()
    def __init__(self, head: SlotTransformer, dtype: torch.dtype) -> None:
        self._head, tables = head, head.embedding.table.weight
        projected = tables if head.has_own_tables else head.input_projection(tables)
        by_slot = projected.view(head.embedding.tables, -1, projected.shape[-1])
        by_slot = by_slot.repeat(head.slots // head.embedding.tables, 1, 1)
        read = len(head.position) - 1  # the code of the last slot is read by a bidirectional one only
        by_slot[:read] += head.position[1:, None]
        self.table = by_slot.flatten(0, 1).to(dtype)
        self._offset = torch.arange(head.slots, device=tables.device) * head.spec.vocab_size

    def __call__(self, hidden: Tensor, codes: Tensor, start: int = 0) -> Tensor:
        """The arguments are those of `SlotTransformer.read`."""
        offset = self._offset.narrow(0, max(start - 1, 0), codes.shape[1])
        x = nn.functional.embedding(codes + offset, self.table)
        if start:
            return x
        first = self._head.input_projection(hidden) + self._head.position[0]
        return torch.cat((first[:, None], x), dim=1)


def fold(head: SlotTransformer, dtype: torch.dtype = torch.float32) -> None:
    """Have a local transformer look codes up folded from now on, for decoding; one with a `read` of its own stays."""
    if type(head).read is SlotTransformer.read:
        head.read = FoldedRead(head, dtype)  # type: ignore[method-assign]
