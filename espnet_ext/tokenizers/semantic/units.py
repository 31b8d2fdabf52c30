"""Sequences of semantic units: numpy only, used by training, inference and the commands."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from espnet_ext.errors import UserError

MAX_FRAMES_APART = 2
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


def lengths_agree(num_units: int, unit_rate_hz: float, num_frames: int, frame_rate_hz: float) -> bool:
    """Whether units and codec frames can be of the same sound: durations at most 2 frames of the slower rate apart.

    Args:
        num_units: T1, not de-duplicated.
        unit_rate_hz: units per second.
        num_frames: T2.
        frame_rate_hz: codec frames per second.

    Returns:
        The answer.

    >>> lengths_agree(54, 50.0, 25, 25.0), lengths_agree(55, 50.0, 25, 25.0)
    (True, False)
    """
    apart = abs(num_units / unit_rate_hz - num_frames / frame_rate_hz) * min(unit_rate_hz, frame_rate_hz)
    return apart <= MAX_FRAMES_APART + 1e-6  # durations such as 1 / 75 s are no exact floats
