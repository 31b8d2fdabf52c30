"""Sequences of semantic units: numpy only, used by training, inference and the commands."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from espnet_ext.errors import UserError

Integer = TypeVar("Integer", bound=np.integer)


def deduplicate(units: NDArray[Integer]) -> NDArray[Integer]:
    """The units without those that repeat the one before them: (U,), U <= T, of the same type.

    Args:
        units: (T,) integers.

    Returns:
        What is left.

    Raises:
        UserError: if there is more than one axis.

    >>> deduplicate(np.array([3, 3, 1, 1, 1, 3])).tolist()
    [3, 1, 3]
    """
    if units.ndim != 1:
        raise UserError(f"units must be (T,), got shape {units.shape}")
    return units[np.diff(units, prepend=units[:1] - 1) != 0] if len(units) else units
