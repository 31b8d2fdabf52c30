"""Vectors of the codec's codes, whoever has some: similar codes are near each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

MODEL, CODEC = "model", "codec"  # whose they are


class CodeVectors(Protocol):
    """Where similar codes are near each other."""

    def vectors(self) -> Tensor:
        """(tables, codebook_size, D); code m of a step has table m % tables."""

    def version(self) -> object:
        """Something that changes when the vectors do."""


class Codebooks:
    """Those of a codec, which are asked for when somebody needs them, once.

    Args:
        find: makes them, (N, codebook_size, D).
    """

    def __init__(self, find: Callable[[], Tensor]) -> None:
        self._find = find
        self._found: Tensor | None = None

    def vectors(self) -> Tensor:
        """(N, codebook_size, D)."""
        if self._found is None:
            self._found = self._find().float()
        return self._found

    def version(self) -> object:
        """A codec stays as it is."""
        return None
