"""What is held of the rows of a batch, in tensors whose first dimension they are."""

from __future__ import annotations

from typing import ClassVar, Self

from torch import Tensor

from espnet_ext.model.cache import with_rows


class RowTensors:
    """All tensors among its attributes, (R, …), leave together and begin anew together.

    Attributes:
        shared: names of tensors that are no rows'.
    """

    shared: ClassVar[tuple[str, ...]] = ()

    def keep(self, rows: Tensor) -> None:
        """Go on with the given rows only, (R',) int64 indices."""
        for name, part in self._parts().items():
            setattr(self, name, part[rows])

    def put(self, rows: Tensor, other: Self) -> None:
        """Begin some rows, (K,) int64, anew with what as many others hold."""
        for name, part in self._parts().items():
            setattr(self, name, with_rows(part, getattr(other, name), rows))

    def _parts(self) -> dict[str, Tensor]:
        return {name: part for name, part in vars(self).items() if isinstance(part, Tensor) and name not in self.shared}
