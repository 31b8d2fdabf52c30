"""How the codes of one step depend on its hidden vector and on each other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from espnet_ext.registry import Registry
from espnet_ext.transformer import KVCache, Transformer, causal_mask


class LocalOutput(NamedTuple):
    """Teacher-forced predictions of one head.

    Attributes:
        logits: (P, M, V).
        loss_mask: (P, M) bool, True where a code counts in this head's loss.
    """

    logits: Tensor
    loss_mask: Tensor


class SlotEmbedding(nn.Module):
    """One embedding table per slot, kept as one matrix; a step's embedding is the mean over its slots."""

    slot_offset: Tensor

    def __init__(self, slots: int, vocab_size: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(slots * vocab_size, width)
        nn.init.normal_(self.table.weight, std=0.02 * slots**0.5)  # so that a step's mean has the usual 0.02
        self.register_buffer("slot_offset", torch.arange(slots) * vocab_size, persistent=False)

    def forward(self, codes: Tensor, first_slot: int = 0) -> Tensor:
        """Embeddings of single codes: (…, m) int64 ids of slots first_slot … → (…, m, D)."""
        return self.table(codes + self.slot_offset[first_slot : first_slot + codes.shape[-1]])

    def step(self, codes: Tensor) -> Tensor:
        """Embedding of whole steps, the mean over slots: (…, M) int64 → (…, D).

        Reference: arXiv:2509.19592, frame stacking of the decoder's input.
        """
        flat = (codes + self.slot_offset).reshape(-1, codes.shape[-1])
        mean = nn.functional.embedding_bag(flat, self.table.weight, mode="mean")
        return mean.view(*codes.shape[:-1], self.table.embedding_dim)


class SlotHeads(nn.Module):
    """One linear classifier per slot, kept as one tensor so that all slots are one matrix product."""

    def __init__(self, slots: int, width: int, vocab_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(slots, width, vocab_size).normal_(std=0.02))
        self.bias = nn.Parameter(torch.zeros(slots, vocab_size))

    def forward(self, x: Tensor, first_slot: int = 0) -> Tensor:
        """Logits (P, m, V) of x (P, m, width), whose slots start at `first_slot`."""
        last = first_slot + x.shape[1]
        return torch.einsum("pmd,mdv->pmv", x, self.weight[first_slot:last]) + self.bias[first_slot:last]


class LocalTransformer(nn.Module, ABC):
    """p(codes of a step | hidden vector of the step).

    Attributes:
        slots: M.
    """

    slots: int

    @abstractmethod
    def forward(self, hidden: Tensor, codes: Tensor) -> LocalOutput:
        """Teacher-forced predictions of every slot.

        Args:
            hidden: (P, D) primary output of the steps.
            codes: (P, M) int64, the steps' true codes.

        Returns:
            Logits and the mask of the codes that count.
        """


local_transformers: Registry[type[LocalTransformer]] = Registry("local")


class ParallelHeads(LocalTransformer):
    """M independent classifiers on the hidden vector: the baseline, and a drafter for others."""

    def __init__(self, slots: int, vocab_size: int, width: int) -> None:
        super().__init__()
        self.slots = slots
        self.heads = nn.Linear(width, slots * vocab_size)
        nn.init.normal_(self.heads.weight, std=0.02)
        nn.init.zeros_(self.heads.bias)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of all slots: (P, D) → (P, M, V)."""
        return self.heads(hidden).unflatten(-1, (self.slots, -1))

    def forward(self, hidden: Tensor, codes: Tensor) -> LocalOutput:  # noqa: D102 (inherited)
        return LocalOutput(self.logits(hidden), torch.ones_like(codes, dtype=torch.bool))


@local_transformers.register("ar")
class ARLocalTransformer(LocalTransformer):
    """One code after the other: slot m sees the hidden vector and slots before m.

    The input is the projected hidden vector followed by the projected embeddings of the codes; the tables are
    the primary transformer's (arXiv:2509.19592 §2; systems with the same structure call it depth transformer).

    Args:
        embedding: the code tables, shared with the primary transformer.
        slots: M.
        vocab_size: V.
        primary_width: D of the hidden vectors and of the tables.
        width: width of the local transformer.
        layers: number of its blocks.
        heads: number of its attention heads.
        dropout: probability of dropping, in training.
        hidden_at: where the hidden vector enters: "first" in front of the codes, as in the paper, or "every",
            added to each code as well, which a small model learns from sooner.

    Raises:
        ValueError: if `hidden_at` is something else.
    """

    def __init__(
        self,
        embedding: SlotEmbedding,
        slots: int,
        vocab_size: int,
        primary_width: int,
        width: int = 256,
        layers: int = 1,
        heads: int = 4,
        dropout: float = 0.0,
        hidden_at: str = "first",
    ) -> None:
        super().__init__()
        if hidden_at not in ("first", "every"):
            raise ValueError(f"hidden_at must be first or every, got {hidden_at!r}")
        self.slots = slots
        self.embedding = embedding
        self.hidden_projection = nn.Linear(primary_width, width) if hidden_at == "every" else None
        self.input_projection = nn.Linear(primary_width, width)
        self.position = nn.Parameter(torch.empty(slots, width).normal_(std=0.02))
        self.transformer = Transformer(width, layers, heads, dropout, position="learned")
        self.heads = SlotHeads(slots, width, vocab_size)

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
        if self.hidden_projection is not None:
            x = x + self.hidden_projection(hidden)[:, None]
        mask = causal_mask(x.shape[1], x.device, start) if x.shape[1] > 1 else None
        x = self.transformer(x, mask, cache=cache)
        return self.heads(x, start)

    def forward(self, hidden: Tensor, codes: Tensor) -> LocalOutput:  # noqa: D102 (inherited)
        return LocalOutput(self.logits(hidden, codes[:, :-1]), torch.ones_like(codes, dtype=torch.bool))
