"""What the AR and the MaskGIT local transformer share: the hidden vector and the codes of a step as one sequence."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from espnet_ext.model.heads.base import Head, SharedClassifier, SlotClassifiers, SlotEmbedding, Slots
from espnet_ext.model.transformer import Transformer
from espnet_ext.options import check_flag, check_number


class SlotTransformer(Head):
    """A transformer over the projected hidden vector and the embeddings of the step's codes; positions are learned.

    Args:
        embedding: the primary transformer's code tables, which are projected like the hidden vector; None for tables
            of its own, which are not.
        slots: of a step.
        primary_width: D of the hidden vectors and of the primary transformer's tables.
        shared_head: whether one classifier serves all slots; otherwise every slot has its own.
        width: width of the local transformer.
        layers: number of its blocks.
        heads: number of its attention heads.
        dropout: probability of dropping, in training.
        residual: whether it adds its logits to those of the parallel heads. It then begins with nothing to add, and has
            to learn only what they cannot know: how the codes of a step depend on each other.

    Attributes:
        width, layers, num_heads, dropout, residual: likewise.
        bidirectional: whether slots see those behind them, so that the last slot's code is read as well.

    Reference:
        arXiv:2509.19592 §2, with shared tables and a head per slot; arXiv:2406.00976, with tables of its own and a
        shared head. Systems with the same structure call it depth transformer.
    """

    bidirectional: ClassVar[bool]

    def __init__(
        self,
        embedding: SlotEmbedding | None,
        slots: Slots,
        primary_width: int,
        shared_head: bool,
        *,
        width: int = 256,
        layers: int = 1,
        heads: int = 4,
        dropout: float = 0.0,
        residual: bool = False,
    ) -> None:
        super().__init__()
        check_number("width", width, least=1, whole=True)
        check_flag("residual", residual)
        self.slots, self.spec, self.residual = slots.count, slots.spec, residual
        self.width, self.layers, self.num_heads, self.dropout = width, layers, heads, dropout
        self.has_own_tables = embedding is None
        self.embedding = SlotEmbedding(slots, width, steps=False) if embedding is None else embedding
        self.input_projection = nn.Linear(primary_width, width)
        self.position = nn.Parameter(torch.empty(slots.count + self.bidirectional, width).normal_(std=0.02))
        self.transformer = Transformer(width, layers, heads, dropout, position="learned")
        self.heads = SharedClassifier(width, slots.spec.vocab_size) if shared_head else SlotClassifiers(slots, width)
        if residual:
            nn.init.zeros_(self.heads.weight)
            nn.init.zeros_(self.heads.bias)
            # weights tell that they were trained so: with the same shapes they would load silently as anything
            self.register_buffer("adds_to_parallel", torch.ones(()))

    def read(self, hidden: Tensor, codes: Tensor, start: int = 0) -> Tensor:
        """The transformer's input from position `start` on; position 0 is the hidden vector.

        Args:
            hidden: (P, D).
            codes: (P, m) int64 of slots max(start - 1, 0) …
            start: the first position.

        Returns:
            (P, m + 1, width) from position 0, (P, m, width) from a later one.
        """
        x = self.embedding(codes, max(start - 1, 0))
        if self.has_own_tables:
            x = torch.cat((self.input_projection(hidden)[:, None], x), dim=1) if start == 0 else x
        else:
            x = self.input_projection(torch.cat((hidden[:, None], x), dim=1) if start == 0 else x)
        return x + self.position[start : start + x.shape[1]]

    def add_to(self, base: Tensor | None, own: Tensor, first_slot: int = 0) -> Tensor:
        """The logits of slots first_slot …: its own (P, m, V), on top of those of the parallel heads if it is residual.

        Args:
            base: (P, M, V), of the parallel heads.
            own: (P, m, V).
            first_slot: the slot of own[:, 0].

        Returns:
            (P, m, V).
        """
        if not self.residual:
            return own
        assert base is not None, "Heads.inputs gives a residual local transformer the parallel heads' logits"
        return own + base[:, first_slot : first_slot + own.shape[1]]
