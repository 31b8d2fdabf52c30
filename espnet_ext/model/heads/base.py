"""How the codes of one step depend on its hidden vector and on each other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from espnet_ext.codes import CodecSpec
from espnet_ext.errors import UserError
from espnet_ext.model.heads.code_vectors import CodeVectors
from espnet_ext.registry import Registry


class LocalInput(NamedTuple):
    """What a head is given of steps; `Heads.inputs` makes it, once per step.

    Attributes:
        hidden: (P, D) primary output of the steps.
        base: (P, M, V) logits of the parallel heads, which a residual local transformer adds its own to; None where
            nobody needs them.
    """

    hidden: Tensor
    base: Tensor | None = None

    def rows(self, rows: Tensor) -> LocalInput:
        """The input of some steps: indices (P',) int64, or a mask (P,) bool."""
        return LocalInput(self.hidden[rows], None if self.base is None else self.base[rows])


class LocalOutput(NamedTuple):
    """Teacher-forced predictions of one head.

    Attributes:
        logits: (P, M, V).
        loss_mask: (P, M) bool, True where a code counts in this head's loss.
    """

    logits: Tensor
    loss_mask: Tensor


class HeadScores(NamedTuple):
    """Teacher-forced predictions of one head, for the steps it was asked about.

    Attributes:
        logits: (P, M, V).
        targets: (P, M) int64.
        weights: (P, M), what each code counts in this head's loss; 0 for nothing.
        total: what the weighted sum is to be divided by, so that it is the mean over all codes that the head would
            predict if it were asked about every step; a scalar.
    """

    logits: Tensor
    targets: Tensor
    weights: Tensor
    total: Tensor

    @property
    def loss_mask(self) -> Tensor:
        """True where a code counts: (P, M) bool."""
        return self.weights > 0


@dataclass(frozen=True)
class Slots:
    """The slots of a step, and the tables and classifiers behind them.

    Attributes:
        spec: the codec's facts.
        count: M.
        tied_frames: frames of a step that share tables and classifiers, S; 1 where every slot has its own.
    """

    spec: CodecSpec
    count: int
    tied_frames: int = 1

    @property
    def tables(self) -> int:
        """Tables, or classifiers: one per slot, or one per codebook. Slot m has number m modulo this."""
        return self.count // self.tied_frames


class SlotEmbedding(nn.Module):
    """Embedding tables of the slots, kept as one matrix; a step's embedding is the mean over its slots, or their sum.

    Where the frames of a step share their tables, each frame has an embedding of its own, and one matrix mixes them.

    Args:
        slots: of a step.
        width: D.
        reduction: of a step.
        steps: whether steps are embedded; single codes always can be.
    """

    slot_offset: Tensor

    def __init__(
        self, slots: Slots, width: int, reduction: Literal["mean", "sum"] = "mean", steps: bool = True
    ) -> None:
        super().__init__()
        tables, vocab_size = slots.tables, slots.spec.vocab_size
        self.table = nn.Embedding(tables * vocab_size, width)
        self.reduction, self.tables, self.spec = reduction, tables, slots.spec
        # so that a step's mean has the usual 0.02, and its scaled sum the variance 1
        nn.init.normal_(self.table.weight, std=0.02 * tables**0.5 if reduction == "mean" else (tables * width) ** -0.5)
        offsets = torch.arange(slots.count) % tables * vocab_size
        self.register_buffer("slot_offset", offsets, persistent=False)
        self.mix = frames_as_one(slots.tied_frames, width) if steps and slots.tied_frames > 1 else None

    def forward(self, codes: Tensor, first_slot: int = 0) -> Tensor:
        """Embeddings of single codes: (…, m) int64 ids of slots first_slot … → (…, m, D)."""
        return self.table(codes + self.slot_offset[first_slot : first_slot + codes.shape[-1]])

    @torch.no_grad()
    def vectors(self) -> Tensor:
        """Those of the codec's codes, (tables, codebook_size, D); code m of a step has table m % tables."""
        return self.table.weight.unflatten(0, (self.tables, -1))[:, : self.spec.codebook_size].float()

    def version(self) -> object:
        """Something that changes when the tables do."""
        return self.table.weight._version, self.table.weight.device

    def step(self, codes: Tensor) -> Tensor:
        """Embedding of whole steps, the mean over slots, or sqrt(D) times their sum: (…, M) int64 → (…, D).

        Reference: the mean, arXiv:2509.19592, frame stacking of the decoder's input; the sum, arXiv:2406.00976.
        """
        frames = self.frames(codes)
        return frames[..., 0, :] if self.mix is None else self.mix(frames.flatten(-2))

    def frames(self, codes: Tensor) -> Tensor:
        """Embedding of every frame, or of the whole step where tables are not tied: (…, M) int64 → (…, S or 1, D)."""
        flat = (codes + self.slot_offset).reshape(-1, self.tables)
        bag = nn.functional.embedding_bag(flat, self.table.weight, mode=self.reduction)
        bag = bag if self.reduction == "mean" else bag * self.table.embedding_dim**0.5
        return bag.view(*codes.shape[:-1], codes.shape[-1] // self.tables, self.table.embedding_dim)


def frames_as_one(frames: int, width: int) -> nn.Linear:
    """A map (frames * D) → (D) that begins as their scaled sum: what is random is little."""
    mix = nn.Linear(frames * width, width, bias=False)
    with torch.no_grad():
        mix.weight.normal_(std=0.3 * (frames * width) ** -0.5)
        mix.weight += torch.eye(width).repeat(1, frames) * frames**-0.5
    return mix


class SlotClassifiers(nn.Module):
    """One linear classifier per slot, or per codebook, kept as one tensor: all slots are one matrix product."""

    def __init__(self, slots: Slots, width: int) -> None:
        super().__init__()
        vocab_size = slots.spec.vocab_size
        self.weight = nn.Parameter(torch.empty(slots.tables, width, vocab_size).normal_(std=0.02))
        self.bias = nn.Parameter(torch.zeros(slots.tables, vocab_size))

    def forward(self, x: Tensor, first_slot: int = 0) -> Tensor:
        """Logits (P, m, V) of x (P, m, width), whose slots start at `first_slot`."""
        tables, first = len(self.weight), first_slot % len(self.weight)
        if x.shape[1] == 1:
            return torch.addmm(self.bias[first], x[:, 0], self.weight[first])[:, None]
        last = first + x.shape[1]
        if last <= tables:
            return torch.einsum("pmd,mdv->pmv", x, self.weight[first:last]) + self.bias[first:last]
        if first == 0 and last % tables == 0:
            logits = torch.einsum("psnd,ndv->psnv", x.unflatten(1, (-1, tables)), self.weight) + self.bias
            return logits.flatten(1, 2)
        table = torch.arange(first, last, device=x.device) % tables
        return torch.einsum("pmd,mdv->pmv", x, self.weight[table]) + self.bias[table]


class SharedClassifier(nn.Linear):
    """One linear classifier for all slots."""

    def forward(self, x: Tensor, first_slot: int = 0) -> Tensor:
        """Logits (P, m, V) of x (P, m, width), wherever its slots start."""
        return super().forward(x)


class Head(nn.Module, ABC):
    """p(codes of a step | hidden vector of the step): the parallel heads, or a local transformer.

    A local transformer's constructor takes the code tables of the primary transformer (None for tables of its own), the
    `Slots`, the width D of the hidden vectors and whether one classifier serves all slots; keywords are its options.

    Attributes:
        slots: M.
        residual: whether its logits are those of the parallel heads and what it adds to them.
    """

    slots: int
    residual: bool = False

    @abstractmethod
    def forward(self, inputs: LocalInput, codes: Tensor) -> LocalOutput:
        """Teacher-forced predictions of every slot.

        Args:
            inputs: of the steps.
            codes: (P, M) int64, the steps' true codes.

        Returns:
            Logits and the mask of the codes that count.
        """

    def share(self, heads: Heads) -> None:
        """Take over what it shares with other heads of its model, once all of them are there; mostly nothing.

        Args:
            heads: of the model, this one too.

        Raises:
            UserError: if the head that it shares with is not there, or is another one.
        """
        return


HeadT = TypeVar("HeadT", bound=Head)
local_transformers: Registry[type[Head]] = Registry("local", "espnet_ext.head")
register_head = local_transformers.register


class Heads(nn.ModuleDict):
    """The heads of one model by name: the parallel heads, and the local transformers beside them.

    Args:
        heads: name → head.

    Attributes:
        code_vectors: by whose they are, where similar codes are near each other, besides the tables of a model.
        beside: parts of the model by name, which a strategy may need. They are the model's children and not these.
    """

    beside: nn.ModuleDict

    def __init__(self, heads: Mapping[str, nn.Module] | None = None) -> None:
        super().__init__(heads)
        self.code_vectors: dict[str, CodeVectors] = {}
        self.know(nn.ModuleDict())

    def know(self, parts: nn.ModuleDict) -> None:
        """Have strategies find the parts of the model."""
        vars(self)["beside"] = parts  # as an attribute of a module it would be one of the heads

    def of(self, kind: type[HeadT]) -> HeadT:
        """The head of the class that a strategy needs; a model without one is refused."""
        for head in self.values():
            if isinstance(head, kind):
                return head
        raise UserError(f"this model has no {kind.__name__}; its heads are {list(self)}")

    def inputs(self, head: Head, hidden: Tensor) -> LocalInput:
        """What one of these heads is given of steps with primary output `hidden`, (P, D)."""
        return LocalInput(hidden, self.base(hidden) if head.residual else None)

    def base(self, hidden: Tensor) -> Tensor:
        """What residual local transformers add to, the logits of the parallel heads: (P, D) → (P, M, V)."""
        parallel: Any = self["parallel"]
        logits: Tensor = parallel.logits(hidden)
        return logits
