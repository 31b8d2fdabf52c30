"""The Pareto front: what nothing else beats in one respect without losing in the other."""

from __future__ import annotations

from collections.abc import Mapping

from espnet_ext.errors import UserError


def pareto_front(points: Mapping[str, tuple[float, float]], better: tuple[str, str]) -> list[str]:
    """Names of the points that no other point dominates, in the given order; equal points are on it together.

    A point dominates another if it is at least as good in both respects and better in one.

    Args:
        points: name → value in both respects.
        better: for both respects, "lower" or "higher".

    Returns:
        The names.

    Raises:
        UserError: if a direction is neither.

    >>> pareto_front({"a": (10.0, 0.5), "b": (20.0, 0.2), "c": (20.0, 0.6)}, ("lower", "lower"))
    ['a', 'b']
    """
    for direction in better:
        if direction not in ("lower", "higher"):
            raise UserError(f"better must be lower or higher, got {direction!r}")
    signs = [1.0 if direction == "lower" else -1.0 for direction in better]
    costs = {name: (signs[0] * first, signs[1] * second) for name, (first, second) in points.items()}

    def is_dominated(own: tuple[float, float]) -> bool:
        return any(one[0] <= own[0] and one[1] <= own[1] and one != own for one in costs.values())

    return [name for name, own in costs.items() if not is_dominated(own)]
