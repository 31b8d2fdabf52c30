"""The Pareto front against its definition."""

from __future__ import annotations

import random

import pytest

from espnet_ext.scoring.measures.pareto import pareto_front

SIGN = {"lower": 1, "higher": -1}


@pytest.mark.parametrize("better", [("lower", "lower"), ("higher", "lower"), ("lower", "higher"), ("higher", "higher")])
def test_front_is_what_nothing_dominates(better: tuple[str, str]) -> None:
    draw = random.Random(0)
    for _ in range(50):
        points = {str(name): (float(draw.randrange(6)), float(draw.randrange(6))) for name in range(12)}
        front = pareto_front(points, better)
        for name, own in points.items():
            costs = [[SIGN[way] * value for way, value in zip(better, point, strict=True)] for point in points.values()]
            mine = [SIGN[way] * value for way, value in zip(better, own, strict=True)]
            beaten = any(one[0] <= mine[0] and one[1] <= mine[1] and one != mine for one in costs)
            assert (name in front) == (not beaten)


def test_unknown_direction_is_refused_and_nothing_has_no_front() -> None:
    with pytest.raises(ValueError, match="better must be lower or higher, got 'one'"):
        pareto_front({}, ("lower", "one"))
    assert pareto_front({}, ("lower", "lower")) == []
