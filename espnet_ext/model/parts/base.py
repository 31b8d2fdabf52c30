"""What is trained beside a core LM, alone or with it: the registry of parts, and what they learn from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from espnet_ext.errors import UserError
from espnet_ext.model.ahead import Further
from espnet_ext.model.heads import Head, Heads, HeadScores, ParallelHeads, SlotEmbedding, Slots
from espnet_ext.model.layers import LayerPass
from espnet_ext.model.transformer import Transformer
from espnet_ext.registry import Registry


class Again(NamedTuple):
    """The same batch through the primary transformer once more, for parts that learn between its layers.

    Attributes:
        run: hidden vectors (B, L, D) of the steps, those (B, L, K, D) of positions that enter on the way, K = 0 for
            none, and those (B, L, D) that are taken out, by the layer.
        summary: what text and prompt are on average, (B, 2 * D).
    """

    run: Callable[[LayerPass], tuple[Tensor, Tensor, dict[int, Tensor]]]
    summary: Callable[[], Tensor]


class Taught(NamedTuple):
    """Teacher-forced steps of a batch, which a part learns from.

    Attributes:
        hidden: (B, L, D), of which each predicts the step of its place.
        targets: (B, L, M) int64, the steps.
        exists: (B, L) bool, False for padding.
        counted: (B, L, M) bool, which codes belong to a frame.
        true: (B, L) bool, steps whose hidden vector has read true codes and no random ones.
        heads: of the model.
        embedding: of steps.
        further: makes hidden vectors of positions behind steps; None unless a part of the model looks ahead.
        again: another pass over the same steps; None where a model has none.
    """

    hidden: Tensor
    targets: Tensor
    exists: Tensor
    counted: Tensor
    true: Tensor
    heads: Heads
    embedding: SlotEmbedding
    further: Further | None = None
    again: Again | None = None

    def predicted(self, hidden: Tensor, head: Head, ahead: int = 0, places: Tensor | None = None) -> HeadScores:
        """What a head makes of hidden vectors that each predict the step so many behind its own.

        Args:
            hidden: (B, A, D).
            head: of the model.
            ahead: how many steps behind.
            places: (A,) int64, rising, the steps that these vectors are of; None for all.

        Returns:
            The scores of those that there are.
        """
        steps = self.targets.shape[1]
        places = torch.arange(steps, device=hidden.device) if places is None else places
        at = places[places + ahead < steps]
        exists = self.exists[:, at + ahead]
        targets = self.targets[:, at + ahead][exists]
        logits, mask = head(self.heads.inputs(head, hidden[:, : len(at)][exists]), targets)
        counts = (self.counted[:, at + ahead] & self.true[:, at, None])[exists] & mask
        weights = counts.to(torch.promote_types(logits.dtype, torch.float32))
        return HeadScores(logits, targets, weights, weights.sum())

    def predicted_ahead(self, vectors: Tensor, places: Tensor | None = None) -> dict[str, HeadScores]:
        """What the parallel heads make of steps to come, by how far they are.

        Args:
            vectors: (B, A, k, D), of which the j-th one behind step l predicts step l + j.
            places: (A,) int64, rising, those steps; None for all.

        Returns:
            The scores.
        """
        head = self.heads.of(ParallelHeads)
        return {
            str(ahead): self.predicted(one, head, ahead, places) for ahead, one in enumerate(vectors.unbind(2), start=1)
        }


class PartScores(NamedTuple):
    """What a part makes of a batch; the training statistics have each entry as `loss_{part}_{entry}`.

    Attributes:
        predictions: teacher-forced predictions, whose cross-entropies are learned.
        losses: other losses, scalars.
        weight: what each of them counts.
    """

    predictions: Mapping[str, HeadScores] = {}
    losses: Mapping[str, Tensor] = {}
    weight: float = 1.0


class Part(nn.Module, ABC):
    """Weights beside a core LM that leave what it says as it is, with a loss of their own.

    The constructor takes the `Slots` of a step and the width D of hidden vectors; keywords are its options.

    Attributes:
        needs: class of a head that the model must have; None for none.
        looks_ahead: whether it puts positions of its own behind steps, which the primary transformer must allow.
        objectives: those of models that it is for; what looks ahead or works between layers is for causal ones alone.
    """

    needs: ClassVar[type[nn.Module] | None] = None
    looks_ahead: ClassVar[bool] = False
    objectives: ClassVar[tuple[str, ...]] = ("causal",)

    def join(self, transformers: Sequence[Transformer]) -> None:
        """Make what depends on the model that the part goes beside.

        Args:
            transformers: those that run once per step; they are not the part's.
        """
        return

    @abstractmethod
    def forward(self, taught: Taught) -> PartScores:
        """Teacher-forced predictions or losses.

        Args:
            taught: steps of a batch.

        Returns:
            What is learned.
        """


class LayerPart(Part):
    """A part that works between the layers of the primary transformer, whose number it is built with.

    The constructor takes `Slots`, D and the number of layers; `taught.again` is there.
    """


PartT = TypeVar("PartT", bound=Part)
parts: Registry[type[Part]] = Registry("parts", "espnet_ext.part")
register_part = parts.register


class Parts(nn.ModuleDict):
    """The parts of one model by name."""

    def of(self, kind: type[PartT]) -> PartT:
        """The part of the class that somebody needs; a model without one is refused."""
        for part in self.values():
            if isinstance(part, kind):
                return part
        raise UserError(f"this model has no part {kind.__name__}; its parts are {list(self)}")


def build_parts(
    conf: Mapping[str, Mapping[str, object]],
    slots: Slots,
    width: int,
    heads: Heads,
    looks_ahead: bool = False,
    layers: int = 0,
    objective: str = "causal",
) -> Parts:
    """The parts of a model.

    Args:
        conf: name → options.
        slots: of a step.
        width: D.
        heads: of the model.
        looks_ahead: whether positions can be put behind its steps.
        layers: of a primary transformer that parts can work in; 0 for none.
        objective: of the model.

    Returns:
        The parts.

    Raises:
        UserError: if a name or an option is unknown, or a part needs what is not there.
    """
    built: dict[str, nn.Module] = {}
    for name, own in complete_parts(conf).items():
        kind = parts[name]
        if objective not in kind.objectives:
            able = " or ".join(kind.objectives)
            raise UserError(f"parts must be without {name}, which is for objective {able}, with objective {objective}")
        if kind.needs is not None and not any(isinstance(head, kind.needs) for head in heads.values()):
            raise UserError(
                f"parts must be without {name}, which needs {kind.needs.__name__}, with heads {list(heads)}"
            )
        if kind.looks_ahead and not looks_ahead:
            raise UserError(
                f"parts must be without {name}, which looks ahead, with a primary transformer that does not"
            )
        if issubclass(kind, LayerPart) and not layers:
            raise UserError(f"parts must be without {name}, which works between layers that this model does not show")
        built[name] = kind(slots, width, *([layers] if issubclass(kind, LayerPart) else []), **own)
    return Parts(built)


def complete_parts(conf: object) -> dict[str, dict[str, object]]:
    """The options of every part with all defaults.

    Args:
        conf: name → options.

    Returns:
        The options.

    Raises:
        UserError: if a name or an option is unknown.
    """
    if not isinstance(conf, Mapping):
        raise UserError(f"parts must be names and their options, got {conf!r}")
    complete = {}
    for name, own in conf.items():
        if name not in parts:
            raise UserError(f"parts must be among {list(parts)}, got {name!r}")
        if not isinstance(own, Mapping):
            raise UserError(f"parts must hold options by name, got {name}: {own!r}")
        complete[str(name)] = parts.complete(name, own)
    return complete
