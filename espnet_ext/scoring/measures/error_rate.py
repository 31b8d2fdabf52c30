"""Word and character error counts of a hypothesis against its transcript, and their sums."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import Any

import jiwer


@dataclass(frozen=True)
class ErrorCounts:
    """Units of an alignment with the fewest edits.

    Attributes:
        correct: reference units that were recognised.
        substitutions: reference units recognised as others.
        deletions: reference units without counterpart.
        insertions: hypothesis units without counterpart.
    """

    correct: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @property
    def reference(self) -> int:
        """Units of the reference."""
        return self.correct + self.substitutions + self.deletions

    @property
    def errors(self) -> int:
        """Edits."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Edits per reference unit; NaN without any unit."""
        return self.errors / self.reference if self.reference else float("nan")

    def __add__(self, other: ErrorCounts) -> ErrorCounts:
        return ErrorCounts(*map(sum, zip(astuple(self), astuple(other), strict=True)))


def normalise(text: str) -> str:
    """Text as a recogniser writes it: lower case, no accents, no punctuation but apostrophes within words.

    >>> normalise("  “Stop,” said Zoë's well-known friend. ")
    "stop said zoe's well known friend"
    """
    text = "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    text = re.sub(r"[^\w']+|_", " ", text.replace("’", "'").lower())
    return " ".join(word for word in (word.strip("'") for word in text.split()) if word)


def word_errors(reference: str, hypothesis: str) -> ErrorCounts:
    """Counts over words of normalised texts: of the transcript, and of what was heard, which may be nothing.

    >>> word_errors("Two red dogs.", "two bad dogs now")
    ErrorCounts(correct=2, substitutions=1, deletions=0, insertions=1)
    >>> word_errors("two red dogs", "")
    ErrorCounts(correct=0, substitutions=0, deletions=3, insertions=0)
    """
    reference, hypothesis = normalise(reference), normalise(hypothesis)
    if not reference:  # jiwer refuses it
        return ErrorCounts(insertions=len(hypothesis.split()))
    return _counts(jiwer.process_words(reference, hypothesis))


def character_errors(reference: str, hypothesis: str) -> ErrorCounts:
    """Counts over characters, likewise; a space between words is a character."""
    reference, hypothesis = normalise(reference), normalise(hypothesis)
    if not reference:
        return ErrorCounts(insertions=len(hypothesis))
    return _counts(jiwer.process_characters(reference, hypothesis))


def _counts(found: Any) -> ErrorCounts:
    return ErrorCounts(found.hits, found.substitutions, found.deletions, found.insertions)


def total(counts: Iterable[ErrorCounts]) -> ErrorCounts:
    """Sum of counts, so that every unit weighs the same however long its utterance."""
    return sum(counts, ErrorCounts())
