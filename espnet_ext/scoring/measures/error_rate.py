"""Word and character error counts of a hypothesis against its transcript, and their sums."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from functools import cache
from itertools import zip_longest
from typing import Any

import jiwer

from espnet_ext.tokenizers.text.scripts import is_unspaced

APOSTROPHES = dict.fromkeys(map(ord, "’ʼ"), "'")


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


@cache
def _kept(character: str) -> str:
    category = unicodedata.category(character)
    return "" if category == "Cf" else character if character == "'" or category[0] in "LNM" else " "


def normalise(text: str, fold_accents: bool = False) -> str:
    """Text as a recogniser writes it: lower case, no punctuation but apostrophes within words, in the form NFC.

    Letters, digits and marks of every script stay (Unicode categories L, N and M): a mark is a vowel in Devanagari, a
    tone in Thai, another letter in Japanese or German. Format characters (Cf) such as joiners vanish, all else is a
    blank. In scripts that write no blanks between words (`UNSPACED`) a blank means nothing, and is left out.

    Args:
        text: in any spelling.
        fold_accents: drop combining marks, for a recogniser that cannot hear them, such as an English dictionary.

    Returns:
        The words, separated by blanks.

    >>> normalise("  “Stop,” said Zoë's well-known friend. ")
    "stop said zoë's well known friend"
    >>> normalise("Zoë's", fold_accents=True)
    "zoe's"
    """
    if fold_accents:
        text = "".join(one for one in unicodedata.normalize("NFKD", text) if not unicodedata.combining(one))
    lower = unicodedata.normalize("NFKC", text.translate(APOSTROPHES)).lower()
    text = unicodedata.normalize("NFKC", lower.replace("i\u0307", "i"))  # what lower() makes of a Turkish İ
    words = [word for word in (word.strip("'") for word in "".join(map(_kept, text)).split()) if word]
    blanks = (
        "" if is_unspaced(before[-1]) and is_unspaced(word[0]) else " "
        for before, word in zip(words, words[1:], strict=False)
    )
    return "".join(part for pair in zip_longest(words, blanks, fillvalue="") for part in pair)


def words_of(text: str) -> list[str]:
    """The words of a normalised text; of scripts without blanks between words, the letters with their marks.

    UAX #29 leaves the words of Thai, Lao, Khmer and Myanmar to dictionaries, on which recognisers and transcribers do
    not agree, and breaks between ideographs: here all scripts of `UNSPACED` count letter by letter, as is usual for
    error rates of Chinese and Japanese. A letter with the marks behind it is one, as in its grapheme clusters.

    >>> words_of("two 红狗 がぎ")
    ['two', '红', '狗', 'が', 'ぎ']
    """
    parts = []
    for before, one in zip(f" {text}", text, strict=False):
        is_mark = unicodedata.category(one)[0] == "M"
        apart = not is_mark and (is_unspaced(one) or is_unspaced(before))
        parts.append(f" {one}" if apart else one)
    return "".join(parts).split()


def word_errors(reference: str, hypothesis: str) -> ErrorCounts:
    """Counts over words of normalised texts: of the transcript, and of what was heard, which may be nothing.

    >>> word_errors("Two red dogs.", "two bad dogs now")
    ErrorCounts(correct=2, substitutions=1, deletions=0, insertions=1)
    >>> word_errors("two red dogs", "")
    ErrorCounts(correct=0, substitutions=0, deletions=3, insertions=0)
    """
    wanted, heard = (words_of(normalise(text)) for text in (reference, hypothesis))
    if not wanted:  # jiwer refuses it
        return ErrorCounts(insertions=len(heard))
    return _counts(jiwer.process_words(" ".join(wanted), " ".join(heard)))


def character_errors(reference: str, hypothesis: str) -> ErrorCounts:
    """Counts over characters (code points), likewise; a space between words is a character."""
    reference, hypothesis = normalise(reference), normalise(hypothesis)
    if not reference:
        return ErrorCounts(insertions=len(hypothesis))
    return _counts(jiwer.process_characters(reference, hypothesis))


def _counts(found: Any) -> ErrorCounts:
    return ErrorCounts(found.hits, found.substitutions, found.deletions, found.insertions)


def total(counts: Iterable[ErrorCounts]) -> ErrorCounts:
    """Sum of counts, so that every unit weighs the same however long its utterance."""
    return sum(counts, ErrorCounts())
