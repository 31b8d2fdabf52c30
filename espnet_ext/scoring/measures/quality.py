"""Numbers of every utterance, MOS predictions and distances to its recording, as means with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from espnet_ext.scoring.measures.bootstrap import Resamples, percentiles

Result = dict[str, Any]
Numbers = Mapping[str, float | None]  # measure → value of one utterance


def summarise(utterances: Sequence[str], runs: Sequence[Mapping[str, Numbers]], resamples: Resamples) -> Result:
    """Mean and interval of every measure.

    Args:
        utterances: of the test set, in its order.
        runs: for every repeat, utterance → its numbers; an utterance without numbers is left out of the means.
        resamples: draws of utterances and repeats.

    Returns:
        Measure → "value", "interval", and "utterances", how many numbers the mean is of.
    """
    names = dict.fromkeys(name for run in runs for numbers in run.values() for name in numbers)
    found = {}
    for name in names:
        rows = [[run.get(one, {}).get(name) for one in utterances] for run in runs]
        values = np.array(rows, dtype=np.float64)  # None becomes NaN
        value, draws = resamples.mean(values)
        count = int(np.isfinite(values).sum())
        found[name] = {"value": value, "interval": percentiles(draws), "utterances": count}
    return found


def means(run: Mapping[str, Numbers]) -> dict[str, float | None]:
    """Mean of every measure over the utterances of one output."""
    names = dict.fromkeys(name for numbers in run.values() for name in numbers)
    result: dict[str, float | None] = {}
    for name in names:
        values = [value for numbers in run.values() if (value := numbers.get(name)) is not None]
        result[name] = float(np.mean(values)) if values else None
    return result
