"""What an evaluation finds: the contents of scores.json, with the function that reads it and the one that writes it.

The order of the fields is that of the keys in the file. What an older file lacks has the field's default.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from espnet_ext.errors import UserError
from espnet_ext.storage.atomic import atomic_path

Interval = tuple[float, float]
REQUIRED = {"title", "environment", "systems", "reference", "figures", "unavailable"}


class Timed:
    """What a system's timing.json says.

    Attributes:
        timing: contents of the file; None if there is none.
    """

    timing: dict[str, Any] | None

    def cost(self, name: str) -> Any:
        """An entry of the file; None where there is none."""
        return (self.timing or {}).get(name)

    @property
    def generates(self) -> bool:
        """Whether a language model took part."""
        return bool(self.cost("steps"))

    @property
    def strategy(self) -> str | None:
        """Name of the decoding strategy; None where nobody wrote it down."""
        return self.cost("decoding")

    @property
    def mode(self) -> str | None:
        """Name of the inference mode; None for systems that have but one."""
        return self.cost("mode")


@dataclass(frozen=True)
class ErrorRate:
    """`ErrorCounts` over all outputs of a system, and errors per unit of the reference; None without any unit."""

    sentences: int = 0
    wrong_sentences: int = 0
    correct: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    reference: int = 0
    rate: float | None = None
    interval: Interval | None = None


@dataclass(frozen=True)
class Distance:
    """Fréchet distance to the reference of a system that says other utterances; None without two frames of either."""

    distance: float | None = None
    missing: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FrameDistance:
    """Fréchet distance to the reference on the same utterances, mean over the outputs of a system.

    Attributes:
        distance: None where an output has none.
        corrected: without its bias; the interval is of this one.
        missing: utterance of the first output → why it has no codes.
        frames: of all outputs.
        dimensions: F of a frame vector.
        repeats: distance of each output.
    """

    distance: float | None = None
    corrected: float | None = None
    interval: Interval | None = None
    missing: dict[str, str] = field(default_factory=dict)
    frames: int = 0
    dimensions: int = 0
    repeats: list[float | None] = field(default_factory=list)


@dataclass(frozen=True)
class Mean:
    """Mean of a number of every utterance, with how many utterances have one; None without any."""

    value: float | None = None
    interval: Interval | None = None
    utterances: int = 0


@dataclass(frozen=True)
class SpeakerMean:
    """Mean cosine similarities of several utterances.

    Attributes:
        utterances: how many.
        own: to the target speaker.
        other: to the other speakers of the test set.
        nearest: share of utterances whose target speaker is the nearest of all.
    """

    utterances: int = 0
    own: float | None = None
    other: float | None = None
    nearest: float | None = None


@dataclass(frozen=True)
class SpeakerScores(SpeakerMean):
    """Whose voice a system has.

    Attributes:
        interval: of "own".
        by_speaker: target speaker → means.
        source: similarity to the recording's speaker of utterances whose prompt had another.
        prompt: similarity to the recording of the prompt itself.
        repeats: "own" of each output.
    """

    interval: Interval | None = None
    by_speaker: dict[str, SpeakerMean] = field(default_factory=dict)
    source: float | None = None
    prompt: Mean = Mean()
    repeats: list[float | None] = field(default_factory=list)


@dataclass(frozen=True)
class Decoding:
    """How a system was decoded: strategy, its options, those of the sampler, frames per step, seeds, limits."""

    name: str
    conf: dict[str, Any]
    sampling: dict[str, Any]
    stacking: int | None
    seeds: list[int | None] = field(default_factory=list)
    maxlenratio: float | None = None
    min_frames: int | None = None


@dataclass(frozen=True)
class OutputScores:
    """Figures of one output alone; the fields are those of `SystemScores`."""

    directory: str
    seed: int | None
    wer: float | None
    cer: float | None
    frechet: float | None
    speaker: float | None
    rtf: float | None
    measures: dict[str, float | None]


@dataclass(frozen=True)
class Spoken(Timed):
    """The speech of a system.

    Attributes:
        directory: of its first output.
        utterances: readable ones.
        missing: utterance → why there is no audio.
    """

    directory: str = ""
    utterances: int = 0
    missing: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SystemScores(Spoken):
    """All measures of a system, over its outputs.

    Attributes:
        duration_ratio: length over that of the recordings.
        eos_rate: share of utterances that ended; None for a system that generates nothing.
        rtf: seconds of work per second of speech.
        timing: costs of the first output; speeds are medians.
        other_prompt_speaker: prompts of another speaker than the recording's.
        wer, cer: over words and over characters; None without a recogniser.
        frechet, frechet_heard: of the frames that it says, and of those that the codec makes of its audio.
        measures: opinion scores and distances to the recordings by name.
        problems: what is wrong → utterances.
        unheard: utterance → why an evaluator could say nothing.
        hypotheses: utterance → words heard in the first output.
        repeats: figures of each output.
        same_codes_as: name of a system with the very same codes.
    """

    duration_ratio: float | None = None
    eos_rate: float | None = None
    rtf: float | None = None
    timing: dict[str, Any] | None = None
    decoding: Decoding | None = None
    other_prompt_speaker: int = 0
    wer: ErrorRate | None = None
    cer: ErrorRate | None = None
    frechet: FrameDistance = FrameDistance()
    frechet_heard: FrameDistance | None = None
    speaker: SpeakerScores | None = None
    measures: dict[str, Mean] = field(default_factory=dict)
    problems: dict[str, list[str]] = field(default_factory=dict)
    unheard: dict[str, str] = field(default_factory=dict)
    hypotheses: dict[str, str] = field(default_factory=dict)
    repeats: list[OutputScores] = field(default_factory=list)
    same_codes_as: str | None = None


@dataclass(frozen=True)
class UntranscribedScores(Spoken):
    """What can be said of a system that was not told what to say; what is not explained here is as in `SystemScores`.

    Attributes:
        words: heard; None without a recogniser.
        wordless: utterances without a word.
        eos_failures: utterances that did not end; None where nobody wrote it down.
        nearest_voice: mean similarity to the speaker of the test set who is most similar.
        measures: means of opinion scores by name.
    """

    seconds: float = 0.0
    words: int | None = None
    words_per_second: float | None = None
    wordless: int | None = None
    silent: int = 0
    clipped: int = 0
    eos_failures: int | None = None
    nearest_voice: float | None = None
    measures: dict[str, float | None] = field(default_factory=dict)
    unheard: dict[str, str] = field(default_factory=dict)
    rtf: float | None = None
    timing: dict[str, Any] | None = None
    hypotheses: dict[str, str] = field(default_factory=dict)
    frechet: Distance = Distance()


@dataclass(frozen=True)
class Difference:
    """A measure of one system minus that of another, as it is and without its bias, and the interval of the latter."""

    difference: float
    corrected: float
    interval: Interval


@dataclass(frozen=True)
class Comparison:
    """Two systems, by name, and how much they differ."""

    first: str
    second: str
    frechet: Difference | None = None
    wer: Difference | None = None


@dataclass(frozen=True)
class ReferenceFacts:
    """The test set.

    Attributes:
        directory: of its codes.
        frechet_reference: directory of the codes that distances are measured to.
        missing: utterance → why it has no recording.
        skipped: utterance that was left out → why.
        vocabulary: words that the recogniser chooses among; None for one that is not given its words.
        vocabulary_of: files of texts that they are taken from besides the test set's own.
        unknown_words: word that it cannot hear → how often it occurs.
        other_prompt_speaker: prompts of another speaker than the recording's.
    """

    directory: str = ""
    frechet_reference: str = ""
    utterances: int = 0
    seconds: float = 0.0
    speakers: int = 0
    transcripts: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    recogniser: str | None = None
    vocabulary: int | None = None
    vocabulary_of: list[str] = field(default_factory=list)
    unknown_words: dict[str, int] = field(default_factory=dict)
    other_prompt_speaker: int = 0


@dataclass(frozen=True)
class Scores:
    """Everything of one test set.

    Attributes:
        environment: date, versions and commit.
        systems, untranscribed: name → measures.
        unavailable: measure, or beginning of the names of several → why nobody has it.
        settings: "resamples" and "seed".
        figures: caption → path.
        seconds: that the evaluation took.
        request: the options that it was made with.
    """

    title: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    reference: ReferenceFacts = ReferenceFacts()
    systems: dict[str, SystemScores] = field(default_factory=dict)
    untranscribed: dict[str, UntranscribedScores] = field(default_factory=dict)
    comparisons: list[Comparison] = field(default_factory=list)
    unavailable: dict[str, str] = field(default_factory=dict)
    settings: dict[str, int] = field(default_factory=dict)
    figures: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    request: dict[str, Any] = field(default_factory=dict)


_UNSEEN = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}


def _typed(kind: Any, value: Any) -> Any:
    """A value of JSON as a field of a type has it; a TypeError if it is something else."""
    if get_origin(kind) is UnionType:  # with None
        if value is None:
            return None
        kind = get_args(kind)[0]
    if is_dataclass(kind):
        kinds = get_type_hints(kind)
        found = {one.name: _typed(kinds[one.name], value[one.name]) for one in fields(kind) if one.name in value}
        return kind(**found)  # type: ignore[operator]
    inner = get_args(kind)
    if get_origin(kind) is dict:
        return {_typed(str, key): _typed(inner[1], one) for key, one in value.items()}
    if get_origin(kind) is list:
        return [_typed(inner[0], one) for one in _of(list, value)]
    if get_origin(kind) is tuple:
        return tuple(_of(int | float, one) for one in _of(list, value))
    if kind is str:
        return _of(str, value).translate(_UNSEEN)  # a terminal would do what they say
    return value if kind is Any else _of(int | float if kind is float else kind, value)


def _of(kind: Any, value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError
    return value


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")


def read_scores(path: Path) -> Scores:
    """Contents of a scores.json; a UserError if the file was not written by espnet_ext.bin.evaluate."""
    if not path.is_file():
        raise FileNotFoundError(f"scores not found: {path} (espnet_ext.bin.evaluate writes it)")
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise UserError(f"scores must be JSON: {path}: {error}") from None
    try:
        if content.keys() >= REQUIRED:
            scores: Scores = _typed(Scores, content)
            return scores
    except (AttributeError, TypeError):  # a list, say, where there is a table in ours
        pass
    raise UserError(f"scores must be a file written by espnet_ext.bin.evaluate, got {path}")


def write_scores(scores: Scores, path: Path) -> None:
    """Write a scores.json, in one piece."""
    with atomic_path(path) as temporary:
        content = json.dumps(asdict(scores), indent=1, ensure_ascii=False, allow_nan=False)
        temporary.write_text(content + "\n", encoding="utf-8")
