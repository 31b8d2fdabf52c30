"""Which sampling to try on a development set, and which to take: word errors first, then the distance of the codes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from espnet_ext.scoring.measures.bootstrap import Array, percentiles
from espnet_ext.scoring.scores import ErrorRate, FrameDistance
from espnet_ext.scoring.tables.markdown import interval, percent

if TYPE_CHECKING:
    from espnet_ext.decoding.options import DecodeOptions
    from espnet_ext.decoding.sampling import SamplingOptions

LABELS = {"temperature": "temperature", "top_k": "top-k", "cfg_scale": "guidance"}  # what is tuned, in words
PER_CODEBOOK = "temperature of codebook 0"  # the last stage, where it is asked for


@dataclass(frozen=True)
class Grid:
    """The values to try.

    Attributes:
        temperature: of the sampler.
        cfg_scale: of the guidance.
        top_k: of the sampler.
        per_codebook: whether codebook 0 gets a temperature of its own at last.
    """

    temperature: tuple[float, ...] = (0, 0.3, 0.5, 0.7)
    cfg_scale: tuple[float, ...] = (1, 1.5, 2)
    top_k: tuple[int, ...] = (0, 80)
    per_codebook: bool = False

    def __post_init__(self) -> None:
        from espnet_ext.decoding.sampling import SamplingOptions  # here: the help of the command tells the values

        for name in ("temperature", "cfg_scale", "top_k"):
            for value in getattr(self, name):
                SamplingOptions(**{name: value})  # which refuses it

    @property
    def cells(self) -> int:
        """The most settings that are tried for one strategy."""
        return (
            1
            + sum(map(len, (self.temperature, self.cfg_scale, self.top_k)))
            + 2 * self.per_codebook * (len(self.temperature))
        )


@dataclass(frozen=True)
class Tried:
    """One setting and what came of it.

    Attributes:
        options: how the development set was decoded.
        wer: word error rate.
        draws: (resamples,) word error rates, on the same resamples for all settings.
        frechet: of its codes.
    """

    options: DecodeOptions
    wer: ErrorRate
    draws: Array
    frechet: FrameDistance

    @property
    def rate(self) -> float:
        """Its word error rate."""
        return float("nan") if self.wer.rate is None else self.wer.rate

    @property
    def distance(self) -> float:
        """Its Fréchet distance without bias; infinite where there is none."""
        return float("inf") if self.frechet.corrected is None else self.frechet.corrected


@dataclass(frozen=True)
class Choice:
    """The setting to take.

    Attributes:
        chosen: that setting.
        best: the one with the fewest word errors.
        equal: all whose word errors cannot be told from the best one's.
        differences: of each that was tried, the interval of its word error rate minus that of the best one.
    """

    chosen: Tried
    best: Tried
    equal: tuple[Tried, ...]
    differences: tuple[tuple[float, float] | None, ...]


Measure = Callable[[Sequence["DecodeOptions"]], Sequence[Tried]]


def choose(tried: Sequence[Tried]) -> Choice:
    """The setting to take of those that were tried.

    Args:
        tried: at least one.

    Returns:
        Of all whose word error rate cannot be told from the lowest one, by the paired bootstrap, the one with the
        lowest Fréchet distance.
    """
    best = min(tried, key=lambda one: (one.rate, one.distance))
    differences = tuple(percentiles(one.draws - best.draws) for one in tried)
    equal = tuple(
        one for one, ends in zip(tried, differences, strict=True) if one is best or (ends is not None and ends[0] <= 0)
    )
    return Choice(min(equal, key=lambda one: one.distance), best, equal, differences)


def search(base: DecodeOptions, grid: Grid, measure: Measure, codebooks: int, guided: bool) -> list[Tried]:
    """Try temperatures, then guidance, then top-k, each with what was chosen before it.

    Args:
        base: strategy and sampling to begin with, which is tried as well.
        grid: the values.
        measure: decodes and scores; it is called once for each stage.
        codebooks: N of the model.
        guided: whether the model has learned to be guided; otherwise it is not.

    Returns:
        All that was tried, in order.
    """
    here = base if guided else with_sampling(base, cfg_scale=1.0)
    tried: dict[object, Tried] = {}
    for stage in ("temperature", "cfg_scale", "top_k", PER_CODEBOOK):
        if stage == "cfg_scale" and not guided:
            continue
        wanted = {_effect(one): one for one in [here, *_candidates(here, grid, stage, codebooks)]}
        fresh = {effect: one for effect, one in wanted.items() if effect not in tried}
        if fresh:
            tried |= zip(fresh, measure(list(fresh.values())), strict=True)
        here = choose(list(tried.values())).chosen.options
    return list(tried.values())


def _candidates(here: DecodeOptions, grid: Grid, stage: str, codebooks: int) -> Iterable[DecodeOptions]:
    if stage != PER_CODEBOOK:
        return [with_sampling(here, **{stage: value}) for value in getattr(grid, stage)]
    temperature = here.sampler.temperature
    if not grid.per_codebook or codebooks == 1 or not isinstance(temperature, (int, float)):
        return []
    others = [value for value in grid.temperature if value != temperature]
    pairs = [pair for other in others for pair in ((other, temperature), (temperature, other))]
    return [with_sampling(here, temperature=[first] + [rest] * (codebooks - 1)) for first, rest in pairs]


def with_sampling(options: DecodeOptions, **values: object) -> DecodeOptions:
    """The same options with others of the sampler; where the most likely code is taken, nothing is drawn again."""
    sampling: dict[str, Any] = {**options.sampling, **values}
    temperature = sampling.get("temperature", 1.0)
    if 0 in (temperature if isinstance(temperature, (list, tuple)) else [temperature]):
        sampling.pop("repetition_window", None)
    return replace(options, sampling=sampling)


def _effect(options: DecodeOptions) -> SamplingOptions:
    """Equal for options that make the same codes: where the most likely code is taken, no truncation changes it."""
    sampling = options.sampler
    return replace(sampling, top_k=0, top_p=1.0) if sampling.is_greedy else sampling


def short(temperature: float | Sequence[float]) -> str:
    """A temperature as a part of a name.

    >>> short(0.7), short([0.3, 0.7, 0.7])
    ('0.7', '0.3+2x0.7')
    """
    if isinstance(temperature, (int, float)):
        return f"{temperature:g}"
    runs = [(value, len(list(group))) for value, group in groupby(temperature)]
    return "+".join(f"{value:g}" if count == 1 else f"{count}x{value:g}" for value, count in runs)


def name_of(options: DecodeOptions) -> str:
    """What is special about the sampling of options, for a directory.

    >>> from espnet_ext.decoding.options import DecodeOptions
    >>> name_of(DecodeOptions("parallel", sampling={"temperature": 0.7, "top_k": 80}))
    'temperature-0.7_top_k-80_cfg_scale-1'
    """
    sampling = options.sampler
    return f"temperature-{short(sampling.temperature)}_top_k-{sampling.top_k}_cfg_scale-{sampling.cfg_scale:g}"


def in_words(options: DecodeOptions) -> str:
    """The sampling of options in a sentence.

    >>> from espnet_ext.decoding.options import DecodeOptions
    >>> in_words(DecodeOptions("parallel", sampling={"temperature": 0.7, "top_k": 80}))
    'temperature 0.7, top-k 80, guidance 1'
    """
    sampling = options.sampler
    values = {item.name: getattr(sampling, item.name) for item in fields(sampling) if item.name in LABELS}
    return ", ".join(f"{LABELS[name]} {short(value)}" for name, value in values.items())


def reason(choice: Choice, tried: Sequence[Tried]) -> str:
    """Why a setting was chosen, in one sentence.

    Args:
        choice: the setting.
        tried: all of them.

    Returns:
        The sentence.
    """
    chosen, best = choice.chosen, choice.best
    told = f"{in_words(chosen.options)}: {_percent(chosen)} word errors"
    if len(tried) == 1:
        return f"{told}; nothing else was tried."
    if len(choice.equal) == 1:
        return f"{told}, fewer than each of the {len(tried) - 1} others beyond what chance explains."
    among = f"{len(choice.equal)} of {len(tried)} settings cannot be told apart by word errors"
    if chosen is best:
        return (
            f"{told}, the fewest; {among}, and its codec Fréchet distance, {_distance(chosen)}, is the lowest of them."
        )
    fewest = f"the fewest, {_percent(best)}, has {in_words(best.options)}"
    return f"{told}; {fewest}, but {among}, and its codec Fréchet distance, {_distance(chosen)}, is the lowest of them."


def _percent(one: Tried) -> str:
    return f"{percent(one.rate)} %" + ("" if one.wer.interval is None else f" ({interval(one.wer.interval, 1, 100)})")


def _distance(one: Tried) -> str:
    ends = one.frechet.interval
    return f"{one.distance:.3f}" + ("" if ends is None else f" ({interval(ends, 3)})")
