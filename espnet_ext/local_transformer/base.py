"""How the codes of one step depend on its hidden vector and on each other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from espnet_ext.registry import Registry


class LocalOutput(NamedTuple):
    """Teacher-forced predictions of one head.

    Attributes:
        logits: (P, M, V).
        loss_mask: (P, M) bool, True where a code counts in this head's loss.
    """

    logits: Tensor
    loss_mask: Tensor


class SlotEmbedding(nn.Module):
    """One embedding table per slot, kept as one matrix; a step's embedding is the mean over its slots, or their sum."""

    slot_offset: Tensor

    def __init__(self, slots: int, vocab_size: int, width: int, reduction: Literal["mean", "sum"] = "mean") -> None:
        super().__init__()
        self.table = nn.Embedding(slots * vocab_size, width)
        self.reduction = reduction
        # so that a step's mean has the usual 0.02, and its scaled sum the variance 1
        nn.init.normal_(self.table.weight, std=0.02 * slots**0.5 if reduction == "mean" else (slots * width) ** -0.5)
        self.register_buffer("slot_offset", torch.arange(slots) * vocab_size, persistent=False)

    def forward(self, codes: Tensor, first_slot: int = 0) -> Tensor:
        """Embeddings of single codes: (…, m) int64 ids of slots first_slot … → (…, m, D)."""
        return self.table(codes + self.slot_offset[first_slot : first_slot + codes.shape[-1]])

    def step(self, codes: Tensor) -> Tensor:
        """Embedding of whole steps, the mean over slots, or sqrt(D) times their sum: (…, M) int64 → (…, D).

        Reference: the mean, arXiv:2509.19592, frame stacking of the decoder's input; the sum, arXiv:2406.00976.
        """
        flat = (codes + self.slot_offset).reshape(-1, codes.shape[-1])
        bag = nn.functional.embedding_bag(flat, self.table.weight, mode=self.reduction)
        bag = bag if self.reduction == "mean" else bag * self.table.embedding_dim**0.5
        return bag.view(*codes.shape[:-1], self.table.embedding_dim)


class SlotHeads(nn.Module):
    """One linear classifier per slot, kept as one tensor so that all slots are one matrix product."""

    def __init__(self, slots: int, width: int, vocab_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(slots, width, vocab_size).normal_(std=0.02))
        self.bias = nn.Parameter(torch.zeros(slots, vocab_size))

    def forward(self, x: Tensor, first_slot: int = 0) -> Tensor:
        """Logits (P, m, V) of x (P, m, width), whose slots start at `first_slot`."""
        if x.shape[1] == 1:
            return torch.addmm(self.bias[first_slot], x[:, 0], self.weight[first_slot])[:, None]
        last = first_slot + x.shape[1]
        return torch.einsum("pmd,mdv->pmv", x, self.weight[first_slot:last]) + self.bias[first_slot:last]


class SharedHead(nn.Linear):
    """One linear classifier for all slots."""

    def forward(self, x: Tensor, first_slot: int = 0) -> Tensor:
        """Logits (P, m, V) of x (P, m, width), wherever its slots start."""
        return super().forward(x)


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


HeadT = TypeVar("HeadT", bound=LocalTransformer)
local_transformers: Registry[type[LocalTransformer]] = Registry("local")


class Heads(nn.ModuleDict):
    """The heads of one model by name: the parallel heads, and the local transformers beside them."""

    def of(self, kind: type[HeadT]) -> HeadT:
        """The head of a class.

        Args:
            kind: class of the head that a strategy needs.

        Returns:
            The head.

        Raises:
            ValueError: if the model has none; the message lists those it has.
        """
        for head in self.values():
            if isinstance(head, kind):
                return head
        raise ValueError(f"this model has no {kind.__name__}; its heads are {list(self)}")
