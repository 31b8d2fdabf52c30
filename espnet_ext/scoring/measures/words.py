"""What a recogniser hears of every system, and how far that is from what was to be said."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from espnet_ext.errors import UserError
from espnet_ext.scoring.evaluators import Recogniser, recognisers
from espnet_ext.scoring.evaluators.evaluator import Choice
from espnet_ext.scoring.measures.bootstrap import Array, Resamples, percentiles
from espnet_ext.scoring.measures.error_rate import ErrorCounts, normalise, total, word_errors, words_of
from espnet_ext.scoring.scores import ErrorRate

Counts = Mapping[str, ErrorCounts]  # utterance → counts
CountErrors = Callable[[str, str], ErrorCounts]  # of a transcript and of what was heard


@dataclass(frozen=True)
class Vocabulary:
    """The words of texts, as a recogniser that hears given words knows them.

    Attributes:
        known: words that it can hear.
        unknown: word that it cannot → how often it occurs, most frequent first.
    """

    known: tuple[str, ...]
    unknown: dict[str, int]

    @classmethod
    def of(cls, recogniser: type[Recogniser], texts: Iterable[str]) -> Vocabulary:
        """Sort the words of texts, in any spelling, by whether the recogniser can hear them."""
        counts = Counter(word for text in texts for word in words_of(recogniser.normalise(text)))
        known = recogniser.known_words(counts)
        unknown = sorted(counts.keys() - known, key=lambda word: (-counts[word], word))
        return cls(tuple(sorted(known)), {word: counts[word] for word in unknown})


OPEN, OFFLINE = "faster_whisper", "pocketsphinx"
MOST_GIVEN_WORDS = 300  # that a recogniser without grammar tells apart well


def recogniser_for(texts: Iterable[str]) -> str:
    """Name of the recogniser for texts of which the user names none: one of given words for few different ones."""
    words = len({word for text in texts for word in words_of(normalise(text))})
    if words <= MOST_GIVEN_WORDS:
        return OFFLINE
    missing = Choice("asr", OPEN).unavailable()
    if missing:
        logging.warning(
            "the texts have %d different words, too many for %s to tell apart well; %s hears any, but %s",
            words, OFFLINE, OPEN, missing,
        )  # fmt: skip
    return OFFLINE if missing else OPEN


def words_to_hear(choice: Choice, texts: Sequence[str], languages: Collection[str] = ()) -> Choice:
    """The recogniser with the words of texts, if it hears given words; a UserError if it can hear none of them."""
    recogniser = recognisers[choice.name]
    refusal = recogniser.refusal(texts, languages, **choice.conf)
    if refusal is not None:
        raise UserError(refusal)
    if not recogniser.hears_given_words:
        return choice
    vocabulary = Vocabulary.of(recogniser, texts)
    if not vocabulary.known:
        some = ", ".join(list(vocabulary.unknown)[:3]) or "no words"
        raise UserError(
            f"the texts must have a word of the dictionary of {choice.name}, got none ({some}): name another "
            "recogniser with --asr"
        )
    return replace(choice, conf={"words": vocabulary.known, **choice.conf})


def spelt_for(choice: Choice | None, texts: Mapping[str, str]) -> dict[str, str]:
    """Utterance → text, normalised as the recogniser's own words are; without a recogniser as any text is."""
    spell = normalise if choice is None else recognisers[choice.name].normalise
    return {one: spell(text) for one, text in texts.items()}


def errors_of(
    transcripts: Mapping[str, str], heard: Iterable[Mapping[str, str]], count: CountErrors = word_errors
) -> list[Counts]:
    """Counts for all utterances; one without audio was heard as nothing, so that its words count as deletions.

    Args:
        transcripts: utterance → text.
        heard: for every repeat, utterance → words.
        count: `word_errors` or `character_errors`.

    Returns:
        For every repeat, utterance → counts.
    """
    return [{one: count(text, run.get(one, "")) for one, text in transcripts.items()} for run in heard]


def rate(counts: Sequence[Counts], resamples: Resamples) -> tuple[ErrorRate, Array]:
    """Counts of all repeats together, their rate with its interval, and (resamples,) rates."""
    everything = [one for run in counts for one in run.values()]
    pooled = total(everything)
    draws = resamples.ratio(
        np.array([[one.errors for one in run.values()] for run in counts], dtype=np.float64),
        np.array([[one.reference for one in run.values()] for run in counts], dtype=np.float64),
    )
    wrong = sum(one.errors > 0 for one in everything)
    counted = {"sentences": len(everything), "wrong_sentences": wrong, **asdict(pooled), "reference": pooled.reference}
    return ErrorRate(**counted, rate=rate_of(pooled), interval=percentiles(draws)), draws


def rate_of(counts: ErrorCounts) -> float | None:
    """Errors per unit of the reference; None without any unit."""
    return counts.rate if counts.reference else None
