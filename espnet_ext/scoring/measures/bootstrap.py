"""Utterances drawn again with replacement, the same draws for every system, and intervals from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def resample_weights(groups: Sequence[str], resamples: int, seed: int) -> Array:
    """How often each utterance occurs in each resample: (resamples, utterances), rows sum to the size of the test set.

    Utterances are drawn within their group: the voices of a test set were chosen, its sentences are a sample. Drawn
    across voices, some resamples would lack a voice, and all distances would mostly tell which. A group of one cannot
    vary, so where there is one all utterances form a single group.

    Args:
        groups: group (speaker) of every utterance.
        resamples: number of draws.
        seed: the same seed gives the same draws.

    Returns:
        The counts, as float64 because they are factors of sums.
    """
    generator = np.random.default_rng(seed)
    if min(Counter(groups).values(), default=0) < 2:
        groups = ["all"] * len(groups)
    weights = np.zeros((resamples, len(groups)))
    for name in sorted(set(groups)):
        members = [index for index, group in enumerate(groups) if group == name]
        share = np.full(len(members), 1 / len(members))
        weights[:, members] = generator.multinomial(len(members), share, size=resamples)
    return weights


def percentiles(draws: Array, level: float = 0.95) -> tuple[float, float] | None:
    """Central percentiles of a statistic's resampled values.

    Args:
        draws: (resamples,) values; NaN where the statistic does not exist.
        level: share of the draws inside.

    Returns:
        Lower and upper end; None if it does not exist in most resamples.
    """
    kept = draws[np.isfinite(draws)]
    if 2 * len(kept) <= len(draws):
        return None
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def corrected(estimate: float, draws: Array) -> tuple[float, tuple[float, float]] | None:
    """A biased statistic without its bias, and its pivotal 95 % interval.

    What resampling adds to the estimate is what sampling has added to the truth, so both are mirrored at the estimate.
    For a distance this matters: two sets of few utterances lie apart even where their distributions do not, and plain
    percentiles count that twice (in simulations with 48 utterances they never held the truth, these in 95 %).

    Args:
        estimate: value on the utterances as they are.
        draws: (resamples,) values; NaN where the statistic does not exist.

    Returns:
        Corrected estimate and interval; None if there are too few draws.
    """
    ends = percentiles(draws)
    if ends is None or not np.isfinite(estimate):
        return None
    return 2 * estimate - float(np.nanmean(draws)), (2 * estimate - ends[1], 2 * estimate - ends[0])


@dataclass(frozen=True)
class Resamples:
    """Draws of utterances and of repeats, the same for all systems, so that draws of two systems can be subtracted.

    Every resample draws utterances as `resample_weights` does, and for a system with several outputs, one for each
    seed, as many of those with replacement: an interval then tells how far another test set of the same voices and
    other seeds could move a figure.

    Attributes:
        utterances: (resamples, utterances) occurrences of every utterance.
        seed: of the draws of repeats.
    """

    utterances: Array
    seed: int = 0

    @classmethod
    def draw(cls, groups: Sequence[str], resamples: int, seed: int) -> Resamples:
        """Draws for the utterances of a test set; the arguments are those of `resample_weights`."""
        return cls(resample_weights(groups, resamples, seed), seed)

    def repeats(self, count: int) -> Array:
        """How often each of so many outputs of a system occurs in each resample: (resamples, count), rows sum to it."""
        if count == 1:
            return np.ones((len(self.utterances), 1))
        generator = np.random.default_rng((self.seed, count))
        return generator.multinomial(count, [1 / count] * count, size=len(self.utterances)).astype(np.float64)

    def ratio(self, numerators: Array, denominators: Array) -> Array:
        """A ratio of sums over utterances and repeats, such as errors per word, in every resample: (resamples,).

        Args:
            numerators: (repeats, utterances).
            denominators: (repeats, utterances).

        Returns:
            The ratios; NaN where the denominator is zero.
        """
        chosen = self.repeats(len(numerators))
        above = ((self.utterances @ numerators.T) * chosen).sum(axis=1)
        below = ((self.utterances @ denominators.T) * chosen).sum(axis=1)
        return np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)

    def mean(self, values: Array) -> tuple[float | None, Array]:
        """The mean over utterances and repeats, and its value in every resample.

        Args:
            values: (repeats, utterances); NaN where there is none.

        Returns:
            The mean, None without any value, and (resamples,) means.
        """
        present = np.isfinite(values)
        draws = self.ratio(np.where(present, values, 0.0), present.astype(np.float64))
        return (float(values[present].mean()) if present.any() else None), draws

    def pool(self, draws: Sequence[Array]) -> Array:
        """The mean over repeats of a statistic that is no sum over utterances, in every resample.

        Args:
            draws: for every repeat (resamples,) values; NaN where the statistic does not exist.

        Returns:
            (resamples,) means; NaN where one of the repeats drawn has none.
        """
        stacked, chosen = np.stack(draws, axis=1), self.repeats(len(draws))
        parts = np.where(chosen > 0, stacked * chosen, 0.0)  # a repeat that was not drawn does not matter
        pooled: Array = parts.sum(axis=1) / len(draws)
        return pooled
