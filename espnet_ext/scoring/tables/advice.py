"""Which strategy, stacking factor and settings to use, computed from a table of measurements."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from espnet_ext.errors import UserError
from espnet_ext.scoring.measures.pareto import pareto_front
from espnet_ext.scoring.scores import Decoding, Interval, Scores, SystemScores
from espnet_ext.scoring.tables.measure import MEASURES, interval_of, measure, shown, value_of

TARGETS = ("latency", "throughput", "quality")
# what decides for a target, in this order: a later one where the earlier do not tell two systems apart
ORDERS = {
    "latency": ("rtf", "wer", "frechet"),
    "throughput": ("frames_per_second", "wer", "frechet"),
    "quality": ("wer", "frechet", "speaker", "rtf"),
}
SPEEDS = ("rtf", "frames_per_second")
UNINTELLIGIBLE = 0.5  # word error rate
SAME_SPEED = 0.05  # relative; timings of one run differ by as much from themselves


@dataclass(frozen=True)
class Limit:
    """A constraint that a user sets.

    Attributes:
        key: measure.
        value: most, or least where higher is better; in the unit of the table (percent for error rates).
    """

    key: str
    value: float

    @property
    def is_least(self) -> bool:
        """Whether the value is the least that is allowed."""
        return measure(self.key).better == "higher"

    def excess(self, value: float) -> float:
        """How far a value is from being allowed; 0 if it is."""
        shown = measure(self.key).factor * value
        return max(self.value - shown if self.is_least else shown - self.value, 0.0)

    def __str__(self) -> str:
        return f"{measure(self.key).label} {'at least' if self.is_least else 'at most'} {self.value:g}"


@dataclass(frozen=True)
class Candidate:
    """A system with its values on all test sets.

    Attributes:
        name: of the system.
        values: measure → worst value over the test sets, absent where one could not be measured.
        intervals: measure → interval of that value, where there is one.
        decoding: how it was decoded, as far as that was written down.
        batch_size: that speeds were measured with.
    """

    name: str
    values: Mapping[str, float]
    intervals: Mapping[str, Interval]
    decoding: Decoding | None
    batch_size: int | None


@dataclass(frozen=True)
class Advice:
    """What to use, and why.

    Attributes:
        chosen: the system; None if nothing is admissible.
        reasons: sentences.
        excluded: system → the constraint that it breaks, or that cannot be judged.
    """

    chosen: Candidate | None
    reasons: list[str]
    excluded: dict[str, str]


def candidate(name: str, rows: Sequence[SystemScores]) -> Candidate:
    """A system with the worst of its values on each test set.

    Args:
        name: of the system.
        rows: its scores, of each test set.

    Returns:
        What can be said of it on all of them.
    """
    values, intervals = {}, {}
    for key in dict.fromkeys([*MEASURES, *(key for row in rows for key in row.measures)]):
        here = [(value, interval_of(row, key)) for row in rows if (value := value_of(row, key)) is not None]
        if len(here) == len(rows):
            worst = (min if measure(key).better == "higher" else max)(here, key=lambda pair: pair[0])
            values[key] = worst[0]
            if worst[1] is not None:
                intervals[key] = worst[1]
    return Candidate(name, values, intervals, rows[0].decoding, rows[0].cost("batch_size"))


def candidates(results: Sequence[Scores]) -> list[Candidate]:
    """Systems that generate and that every test set has; a UserError if there is none."""
    common = [name for name in results[0].systems if all(name in result.systems for result in results)]
    rows = {name: [result.systems[name] for result in results] for name in common}
    found = [candidate(name, mine) for name, mine in rows.items() if mine[0].generates and not mine[0].mode]
    if not found:
        raise UserError("scores must have systems that a language model made, got none")
    return found


def undecided(choice: Sequence[Candidate], key: str) -> list[str]:
    """Names of the best and of all that its interval cannot tell from it.

    Args:
        choice: systems.
        key: measure.

    Returns:
        The names; none where the measure has no better and worse, or neither intervals nor is a speed, or tells nobody
        from the best.
    """
    better = measure(key).better
    known = [one for one in choice if key in one.values and (key in SPEEDS or key in one.intervals)]
    if not known or better not in ("lower", "higher"):
        return []
    top = min(known, key=lambda one: _signed(key, one.values[key]))
    found = [one.name for one in known if one is top or not tells_apart(top, one, key)]
    return found if len(found) < len(known) else []


def _signed(key: str, value: float) -> float:
    return -value if measure(key).better == "higher" else value


def tells_apart(one: Candidate, other: Candidate, key: str) -> bool:
    """Whether a measure says that two systems differ: their intervals do not overlap, or speeds differ by 5 %.

    Without intervals any difference counts.
    """
    first, second = one.values[key], other.values[key]
    if key in SPEEDS:
        return abs(first - second) > SAME_SPEED * min(first, second)
    if key in one.intervals and key in other.intervals:
        (low, high), (other_low, other_high) = one.intervals[key], other.intervals[key]
        return high < other_low or other_high < low
    return first != second


def _best(choice: Sequence[Candidate], keys: Sequence[str]) -> Candidate:
    """The first in the order: all that the best one is not told apart from stay for the next measure."""
    left = list(choice)
    for key in keys:
        known = [one for one in left if key in one.values]
        if not known:
            continue
        top = min(known, key=lambda one: _signed(key, one.values[key]))
        left = [one for one in known if one is top or not tells_apart(top, one, key)]
    last = keys[-1]
    return min(left, key=lambda one: (_signed(last, one.values[last]) if last in one.values else 0.0, one.name))


def _judge(choice: Sequence[Candidate], limits: Sequence[Limit]) -> tuple[list[Candidate], dict[str, str]]:
    admissible, excluded = [], {}
    for one in choice:
        for limit in limits:
            if limit.key not in one.values:
                excluded[one.name] = f"{limit} cannot be judged: it was not measured"
            elif limit.excess(one.values[limit.key]) > 0:
                excluded[one.name] = f"{limit} is not met: {_shown(one, limit.key)}"
            if one.name in excluded:
                break
        else:
            admissible.append(one)
    return admissible, excluded


def _shown(one: Candidate, key: str) -> str:
    return shown(key, one.values[key])


def _nearest_miss(choice: Sequence[Candidate], limits: Sequence[Limit]) -> list[str]:
    """Which constraint stands most in the way, and who comes nearest to meeting it."""
    sentences = []
    for limit in limits:
        known = [one for one in choice if limit.key in one.values]
        if not known:
            sentences.append(f"{limit} cannot be judged: nobody's was measured.")
            continue
        nearest = min(known, key=lambda one: limit.excess(one.values[limit.key]))
        met = sum(limit.excess(one.values[limit.key]) == 0 for one in known)
        sentences.append(
            f"{limit}: met by {met} of {len(choice)}; the nearest is {nearest.name} with {_shown(nearest, limit.key)}."
        )
    return sentences


def _against(chosen: Candidate, other: Candidate, keys: Sequence[str], what: str) -> str:
    parts = []
    for key in keys:
        if key in chosen.values and key in other.values:
            differ = "" if tells_apart(chosen, other, key) else ", which is no difference here"
            if key not in SPEEDS and not differ and key not in chosen.intervals:
                differ = ", without an interval"
            label = measure(key).label
            parts.append(f"{label} {_shown(chosen, key)} against {_shown(other, key)}{differ}")
    return f"{what} {other.name}: {'; '.join(parts)}."


def _front_neighbours(chosen: Candidate, choice: Sequence[Candidate], quality: str) -> list[str]:
    points = {
        one.name: (one.values[quality], one.values["rtf"]) for one in choice if {quality, "rtf"} <= set(one.values)
    }
    if chosen.name not in points:
        return []
    front = sorted(pareto_front(points, ("lower", "lower")), key=lambda name: points[name][1])
    by_name: dict[str, Candidate] = {one.name: one for one in choice}
    sentences = []
    own, label = points[chosen.name], measure(quality).label
    better = [name for name in front if points[name][0] < own[0]]
    faster = [name for name in front if points[name][1] < own[1]]
    for names, choose in ((better, min), (faster, max)):
        if names:
            name = choose(names, key=lambda one: points[one][1])
            value, cost = _shown(by_name[name], quality), f"{points[name][1] / own[1]:.2f} times the RTF"
            told = f"faster one is {name}: {cost}, {label} {value}"
            if names is better:
                told = f"better {label} is {value} ({name}), at {cost}"
            sentences.append(f"The next {told}.")
    return sentences


def advise(results: Sequence[Scores], target: str, limits: Sequence[Limit] = ()) -> Advice:
    """What to use for a target within constraints.

    Args:
        results: with several test sets the worst value of each system counts.
        target: one of `TARGETS`.
        limits: constraints.

    Returns:
        The advice.

    Raises:
        UserError: if the target is unknown, or the files have no systems to choose from.
    """
    if target not in TARGETS:
        raise UserError(f"target must be one of {list(TARGETS)}, got {target!r}")
    choice = candidates(results)
    admissible, excluded = _judge(choice, limits)
    first = ORDERS[target][0]
    measured = [one for one in admissible if first in one.values]
    excluded.update({one.name: f"{measure(first).label} was not measured" for one in admissible if one not in measured})
    if not measured:
        return Advice(None, _nearest_miss(choice, limits) or [f"{measure(first).label} was not measured."], excluded)
    chosen = _best(measured, ORDERS[target])
    return Advice(chosen, _reasons(chosen, choice, measured, target, excluded), excluded)


def _reasons(
    chosen: Candidate,
    choice: Sequence[Candidate],
    admissible: Sequence[Candidate],
    target: str,
    excluded: Mapping[str, str],
) -> list[str]:
    order = ORDERS[target]
    rule = ", then ".join(f"{measure(key).better} {measure(key).label}" for key in order if key in chosen.values)
    sentences = []
    if chosen.values.get("wer", 0) > UNINTELLIGIBLE:
        sentences.append(
            f"WARNING: nobody will understand it: {_shown(chosen, 'wer')} % of its words are wrong. It needs another "
            "model, not another strategy."
        )
    sentences += [f"{len(admissible)} of {len(choice)} systems are admissible; target {target}: {rule}."]
    rest = [one for one in admissible if one is not chosen]
    if rest:
        sentences.append(_against(chosen, _best(rest, order), order, "Against the next best,"))
    baseline = next((one for one in choice if one.name == "s1_parallel"), None)
    if baseline is not None and baseline is not chosen:
        sentences.append(_against(chosen, baseline, order, "Against the baseline"))
    quality: Callable[[str], bool] = lambda key: key in chosen.values  # noqa: E731
    sentences += _front_neighbours(chosen, choice, next(filter(quality, ("wer", "frechet")), "frechet"))
    if target == "latency" and chosen.batch_size not in (None, 1):
        sentences.append(
            f"Speeds were measured with {chosen.batch_size} utterances at once; for latency repeat the sweep with"
            " --batch_size 1."
        )
    return sentences
