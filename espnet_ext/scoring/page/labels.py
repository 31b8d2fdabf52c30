"""Where the names of points go, so that none lies upon another or upon a point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

MARKER = 5.0  # half the side of a point
DISTANCES = (6.0, 14.0, 24.0, 38.0, 56.0, 80.0)  # from the point to its name
DIRECTIONS = ((1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1), (0, -1), (1, 0), (-1, 0))
NEAR = 14.0  # a name so near to another point would seem to be that one's
CROSSED, MISTAKEN = 6.0, 20.0  # a bar behind a name, and nearness to another point, are as bad as so much more distance


class Box(NamedTuple):
    """A rectangle, in points."""

    left: float
    bottom: float
    right: float
    top: float

    def overlaps(self, other: Box) -> bool:
        """Whether the two have a point in common that is not on an edge."""
        is_beside = self.right <= other.left or other.right <= self.left
        return not (is_beside or self.top <= other.bottom or other.top <= self.bottom)

    def lies_in(self, area: Box) -> bool:
        """Whether no part of it is outside."""
        is_wide = self.left < area.left or self.right > area.right
        return not (is_wide or self.bottom < area.bottom or self.top > area.top)


def _around(point: tuple[float, float], margin: float) -> Box:
    return Box(point[0] - margin, point[1] - margin, point[0] + margin, point[1] + margin)


def _beside(point: tuple[float, float], size: tuple[float, float], direction: tuple[int, int], distance: float) -> Box:
    left, bottom = (
        at + sign * distance - length * (1 - sign) / 2 for at, length, sign in zip(point, size, direction, strict=True)
    )
    return Box(left, bottom, left + size[0], bottom + size[1])


def place(
    sizes: Mapping[str, tuple[float, float]],
    points: Mapping[str, tuple[float, float]],
    bars: Sequence[Box],
    area: Box,
) -> dict[str, Box]:
    """A place for every name as far as there is room; those that come first have the first choice.

    Args:
        sizes: name → width and height.
        points: name → where it is.
        bars: what a name should not, but may, lie upon.
        area: what no name leaves.

    Returns:
        Name → where it is written; names without room are absent.
    """
    taken = [_around(point, MARKER) for point in points.values()]
    found = {}
    for name, size in sizes.items():
        others = [_around(point, NEAR) for one, point in points.items() if one != name]
        costs: dict[Box, float] = {}
        for distance in DISTANCES:
            for direction in DIRECTIONS:
                box = _beside(points[name], size, direction, distance)
                if box.lies_in(area) and not any(map(box.overlaps, taken)):
                    crossed, near = (sum(map(box.overlaps, boxes)) for boxes in (bars, others))
                    costs.setdefault(box, distance + CROSSED * crossed + MISTAKEN * near)
        if costs:
            found[name] = min(costs, key=costs.__getitem__)
            taken.append(found[name])
    return found
