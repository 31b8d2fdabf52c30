"""What the AR and the MaskGIT local transformer share: the hidden vector and the codes of a step as one sequence."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from espnet_ext.codes import CodecSpec
from espnet_ext.local_transformer.base import LocalTransformer, SharedHead, SlotEmbedding, SlotHeads
from espnet_ext.options import check_number
from espnet_ext.transformer import Transformer


class SlotTransformer(LocalTransformer):
    """A transformer over the projected hidden vector and the embeddings of the step's codes; positions are learned.

    Args:
        embedding: the primary transformer's code tables, which are projected like the hidden vector; None for tables
            of its own, which are not.
        spec: the codec's facts.
        slots: M.
        primary_width: D of the hidden vectors and of the primary transformer's tables.
        shared_head: whether one classifier serves all slots; otherwise every slot has its own.
        width: width of the local transformer.
        layers: number of its blocks.
        heads: number of its attention heads.
        dropout: probability of dropping, in training.

    Attributes:
        bidirectional: whether slots see those behind them, so that the last slot's code is read as well.
        folded: (M * V, width) projected codes with their positions, see `fold`; None before.

    Reference:
        arXiv:2509.19592 §2, with shared tables and a head per slot; arXiv:2406.00976, with tables of its own and a
        shared head. Systems with the same structure call it depth transformer.
    """

    bidirectional: ClassVar[bool]
    folded: Tensor | None

    def __init__(
        self,
        embedding: SlotEmbedding | None,
        spec: CodecSpec,
        slots: int,
        primary_width: int,
        shared_head: bool,
        width: int = 256,
        layers: int = 1,
        heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_number("width", width, least=1, whole=True)
        self.slots, self.spec = slots, spec
        self.has_own_tables = embedding is None
        self.embedding = SlotEmbedding(slots, spec.vocab_size, width) if embedding is None else embedding
        self.input_projection = nn.Linear(primary_width, width)
        self.register_buffer("folded", None, persistent=False)
        self.position = nn.Parameter(torch.empty(slots + self.bidirectional, width).normal_(std=0.02))
        self.transformer = Transformer(width, layers, heads, dropout, position="learned")
        self.heads = SharedHead(width, spec.vocab_size) if shared_head else SlotHeads(slots, width, spec.vocab_size)

    def read(self, hidden: Tensor, codes: Tensor, start: int = 0) -> Tensor:
        """The transformer's input from position `start` on; position 0 is the hidden vector.

        Args:
            hidden: (P, D).
            codes: (P, m) int64 of slots max(start - 1, 0) …
            start: the first position.

        Returns:
            (P, m + 1, width) from position 0, (P, m, width) from a later one.
        """
        if self.folded is not None:
            first = max(start - 1, 0)
            x = nn.functional.embedding(
                codes + self.embedding.slot_offset.narrow(0, first, codes.shape[1]), self.folded
            )
            return x if start else torch.cat(((self.input_projection(hidden) + self.position[0])[:, None], x), dim=1)
        x = self.embedding(codes, max(start - 1, 0))
        if self.has_own_tables:
            x = torch.cat((self.input_projection(hidden)[:, None], x), dim=1) if start == 0 else x
        else:
            x = self.input_projection(torch.cat((hidden[:, None], x), dim=1) if start == 0 else x)
        return x + self.position[start : start + x.shape[1]]

    @torch.no_grad()
    def fold(self) -> None:
        """Look codes up projected and with their positions from now on, for decoding: weights must not change."""
        table = self.embedding.table.weight
        projected = table.clone() if self.has_own_tables else self.input_projection(table)
        read = len(self.position) - 1  # the code of the last slot is read by a bidirectional one only
        projected.view(self.slots, -1, projected.shape[-1])[:read] += self.position[1:, None]
        self.folded = projected
