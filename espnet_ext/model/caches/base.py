"""What a cache policy is, the registry a third party adds one to, and the policy that keeps everything."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch

from espnet_ext.model.cache import KVCache
from espnet_ext.registries import caches

Shape = tuple[int, int, int, int, int]  # layers, B, heads, capacity, head_width


class CachePolicy(ABC):
    """How keys and values of earlier positions are kept; subclasses are frozen dataclasses of their options.

    Attributes:
        plain: whether what attention reads lies in the caches place by place, as their `plain` says too; models of
            masked steps need that.
    """

    plain: ClassVar[bool] = True

    def check(self, head_width: int) -> None:  # noqa: B027 (most have nothing to refuse)
        """Refuse heads that the policy, with its options, cannot serve.

        Args:
            head_width: numbers of a key.

        Raises:
            UserError: naming the option that does not fit.
        """

    @abstractmethod
    def new(self, shape: Shape, dtype: torch.dtype, device: torch.device) -> KVCache:
        """An empty cache: told what is written, it gives what attention reads, and moves with the rows.

        Args:
            shape: layers, rows, heads, places, and numbers of a key.
            dtype: of keys and values.
            device: where they are.

        Returns:
            The cache, every place of which is visible.
        """


register_cache = caches.register
build_cache = caches.build


@register_cache("exact")
@dataclass(frozen=True)
class Exact(CachePolicy):
    """Every key and value as it is."""

    def new(self, shape: Shape, dtype: torch.dtype, device: torch.device) -> KVCache:  # noqa: D102 (inherited)
        keys = torch.zeros(shape, dtype=dtype, device=device)
        key_mask = torch.ones(shape[1], shape[3], dtype=torch.bool, device=device)
        return KVCache(keys, torch.zeros_like(keys), key_mask)


EXACT = Exact()
