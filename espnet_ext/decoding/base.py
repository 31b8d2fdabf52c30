"""What a decoding strategy is, and the registry a third party adds one to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from torch import Tensor

from espnet_ext.local_transformer import LocalTransformer
from espnet_ext.registry import Registry
from espnet_ext.sampling import Sampler

LocalT = TypeVar("LocalT", bound=LocalTransformer)


class Filled(NamedTuple):
    """The slots of one step, filled.

    Attributes:
        codes: (B, M) int64.
        logprobs: (B, M).
        local_passes: how often the head ran.
    """

    codes: Tensor
    logprobs: Tensor
    local_passes: int


class DecodingStrategy(ABC, Generic[LocalT]):
    """How the M codes of one step are filled; subclasses are frozen dataclasses of their options.

    Attributes:
        local_type: class of the head the strategy needs; it is looked up in the model.
    """

    local_type: ClassVar[type[LocalTransformer]]

    @abstractmethod
    def decode_step(self, local: LocalT, hidden: Tensor, sampler: Sampler) -> Filled:
        """The codes of one step for every row.

        Args:
            local: the model's head of `local_type`.
            hidden: (B, D) primary output of the step.
            sampler: draws codes and bans illegal ones.

        Returns:
            Codes, their log-probabilities and the number of passes.
        """


strategies: Registry[type[DecodingStrategy[Any]]] = Registry("decoding", "espnet_ext.decoding")
register_strategy = strategies.register


def build_strategy(name: str, **options: object) -> DecodingStrategy[Any]:
    """A strategy with its options.

    Args:
        name: registered name.
        **options: fields of the strategy's dataclass.

    Returns:
        The strategy.

    Raises:
        ValueError: if the name or an option is unknown; the message lists those there are.
    """
    strategies.check_options(name, options)
    return strategies[name](**options)
