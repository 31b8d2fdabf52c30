"""The autoregressive local transformer: one code after the other."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from espnet_ext.codes import CodecSpec
from espnet_ext.local_transformer.base import (
    LocalOutput,
    LocalTransformer,
    SlotEmbedding,
    SlotHeads,
    local_transformers,
)
from espnet_ext.options import check_number
from espnet_ext.transformer import KVCache, Transformer, causal_mask


@local_transformers.register("ar")
class ARLocalTransformer(LocalTransformer):
    """One code after the other: slot m sees the hidden vector and slots before m.

    The input is the projected hidden vector followed by the projected embeddings of the codes; the tables are
    the primary transformer's (arXiv:2509.19592 §2; systems with the same structure call it depth transformer).

    Args:
        embedding: the code tables, shared with the primary transformer.
        spec: the codec's facts.
        slots: M.
        primary_width: D of the hidden vectors and of the tables.
        width: width of the local transformer.
        layers: number of its blocks.
        heads: number of its attention heads.
        dropout: probability of dropping, in training.
    """

    def __init__(
        self,
        embedding: SlotEmbedding,
        spec: CodecSpec,
        slots: int,
        primary_width: int,
        width: int = 256,
        layers: int = 1,
        heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_number("width", width, least=1, whole=True)
        self.slots, self.spec = slots, spec
        self.embedding = embedding
        self.input_projection = nn.Linear(primary_width, width)
        self.position = nn.Parameter(torch.empty(slots, width).normal_(std=0.02))
        self.transformer = Transformer(width, layers, heads, dropout, position="learned")
        self.heads = SlotHeads(slots, width, spec.vocab_size)

    def new_cache(self, batch: int) -> KVCache:
        """An empty cache for the slots of one step."""
        return self.transformer.new_cache(batch, self.slots)

    def logits(self, hidden: Tensor, codes: Tensor, cache: KVCache | None = None) -> Tensor:
        """Logits of the slots that follow what the cache holds.

        Without a cache, or with an empty one, the input is the hidden vector and the first codes, and the
        output has one slot more than `codes`. With m positions in the cache (the hidden vector and m - 1 codes),
        `codes` are those of slots m - 1 … and each of them gives the logits of the next slot.

        Args:
            hidden: (P, D).
            codes: (P, m) int64.
            cache: positions already computed; it grows.

        Returns:
            (P, m + 1 or m, V).
        """
        start = cache.length if cache is not None else 0
        first_code = max(start - 1, 0)
        x = self.embedding(codes, first_code)
        if start == 0:
            x = torch.cat((hidden[:, None], x), dim=1)
        x = self.input_projection(x) + self.position[start : start + x.shape[1]]
        mask = causal_mask(x.shape[1], x.device, start) if x.shape[1] > 1 else None
        x = self.transformer(x, mask, cache=cache)
        return self.heads(x, start)

    def forward(self, hidden: Tensor, codes: Tensor) -> LocalOutput:  # noqa: D102 (inherited)
        return LocalOutput(self.logits(hidden, codes[:, :-1]), torch.ones_like(codes, dtype=torch.bool))
