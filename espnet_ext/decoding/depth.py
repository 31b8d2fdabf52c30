"""Which layers of the primary transformer an utterance uses: the registry of depths, and the two there are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch

from espnet_ext.errors import UserError
from espnet_ext.model.core_lm import StepModel
from espnet_ext.model.layers import RowLayers
from espnet_ext.model.parts import Routers
from espnet_ext.options import check_number
from espnet_ext.registries import depths


class Depth(ABC):
    """Chooses layers before the first step; a frozen dataclass of its options. Rows are independent."""

    def check_model(self, model: StepModel) -> None:
        """Refuse a model without what it chooses with, with a UserError that names what there is.

        Args:
            model: what is decoded.
        """
        return

    @abstractmethod
    def choose(self, model: StepModel, conditions: Any) -> RowLayers | None:
        """The layers that each row uses, for prompt and text as for all steps; None for all.

        Args:
            model: what is decoded.
            conditions: of the rows.

        Returns:
            The layers.
        """

    def of_rows(self, model: StepModel, conditions: Any, guided: bool) -> RowLayers | None:
        """The same with guidance: unconditional rows, which are behind the others, use the layers of their twins."""
        chosen = self.choose(model, conditions)
        return RowLayers(torch.cat((chosen.used, chosen.used))) if guided and chosen is not None else chosen


register_depth = depths.register
build_depth = depths.build


@register_depth("full")
@dataclass(frozen=True)
class Full(Depth):
    """All layers."""

    def choose(self, model: StepModel, conditions: Any) -> None:  # noqa: D102 (inherited)
        return None


@register_depth("routed")
@dataclass(frozen=True)
class Routed(Depth):
    """What the model's part `routers` chooses from text and speaker prompt.

    Attributes:
        threshold: probability from which on a layer is used; 0 for all layers.

    Reference:
        FiRST, Jain et al. 2024, arXiv:2410.12513. There a router reads what its layer is given; here all read the mean
        of text and prompt, so that a layer that is skipped is not run for the prompt either.
    """

    threshold: float = 0.5

    def __post_init__(self) -> None:
        check_number("threshold", self.threshold, least=0, most=1)

    def check_model(self, model: StepModel) -> None:  # noqa: D102 (inherited)
        if not any(isinstance(part, Routers) for part in model.parts.values()):
            raise UserError(f"depth must be 'full' with a model whose parts are {list(model.parts)}, got 'routed'")

    def choose(self, model: StepModel, conditions: Any) -> RowLayers:  # noqa: D102 (inherited)
        return RowLayers(model.parts.of(Routers).probabilities(model.summary(conditions)) >= self.threshold)


FULL = Full()
