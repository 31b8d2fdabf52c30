"""Means of the numbers that utterances have, such as opinion scores and distances to their recordings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from espnet_ext.scoring.measures.bootstrap import Resamples, percentiles
from espnet_ext.scoring.scores import Mean

Numbers = Mapping[str, float | None]  # measure → value of one utterance


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of those values that there are; None without any."""
    finite = [value for value in values if value is not None and np.isfinite(value)]
    return float(np.mean(finite)) if finite else None


def means(run: Mapping[str, Numbers]) -> dict[str, float | None]:
    """Mean of every measure over the utterances of one output."""
    names = dict.fromkeys(name for numbers in run.values() for name in numbers)
    return {name: mean(numbers.get(name) for numbers in run.values()) for name in names}


def summarise(
    utterances: Sequence[str], runs: Sequence[Mapping[str, Numbers]], resamples: Resamples
) -> dict[str, Mean]:
    """Mean and interval of every measure.

    Args:
        utterances: of the test set, in its order.
        runs: for every repeat, utterance → its numbers; an utterance without numbers is left out of the means.
        resamples: draws of utterances and repeats.

    Returns:
        Measure → mean.
    """
    found = {}
    for name in dict.fromkeys(name for run in runs for numbers in run.values() for name in numbers):
        rows = [[run.get(one, {}).get(name) for one in utterances] for run in runs]
        values = np.array(rows, dtype=np.float64)  # None becomes NaN
        value, draws = resamples.mean(values)
        found[name] = Mean(value, percentiles(draws), int(np.isfinite(values).sum()))
    return found
