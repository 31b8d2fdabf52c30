"""Which configuration and which text tokens suit a corpus, and why."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from dataclasses import dataclass
from math import inf

from espnet_ext.errors import UserError
from espnet_ext.tokenizers.text.cmudict import phones
from espnet_ext.tokenizers.text.g2p import g2ps

# a size is for corpora of up to so many hours of training data: the geometric means of 20 min, 2 h, 20 h and 200 h
SIZES = {"20min": 0.8, "2h": 6.3, "20h": 63.0, "200h": inf}
MOST_WORDS = 20_000  # different unknown words that are kept
ENGLISH = 0.95  # of the running words: what a dictionary of English knows of English with names in it
ENOUGH = 0.995  # so few words are missing that their utterances can be spared


@dataclass(frozen=True)
class TextChoice:
    """Text tokens for a corpus.

    Attributes:
        token_type: phn or char.
        g2p: what makes the phones.
        reason: why, a sentence.
        unknown: words that the dictionary lacks, with their counts.
    """

    token_type: str
    g2p: str
    reason: str
    unknown: Counter[str]


def choose_size(hours: float) -> tuple[str, str]:
    """The size of the configuration for so many hours of training data, and why.

    >>> choose_size(1.3)
    ('2h', '1.30 h of training data are up to 6.3 h')
    """
    size = next(name for name, most in SIZES.items() if hours <= most)
    limit = f"are up to {SIZES[size]:g} h" if SIZES[size] < inf else "are more than 63 h"
    return size, f"{hours:.2f} h of training data {limit}"


def words_of(text: str) -> list[str]:
    """The words of a text as g2p cmudict reads them."""
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower())


def choose_text(store: sqlite3.Connection) -> TextChoice:
    """Phones where a dictionary or a model knows them, else characters; what the chosen ones cannot say is skipped.

    Args:
        store: behind `survey.skip_duplicates`; utterances are skipped in it.

    Returns:
        The choice.
    """
    nothing = Counter[str]()
    named = [one for (one,) in store.execute("SELECT DISTINCT language FROM usable")]
    if others := sorted(one for one in named if one and not re.match("en($|[-_ g])", one.lower())):
        reason = f"the dictionary of phones is English, and the corpus has {', '.join(others[:5])}"
        return TextChoice("char", "none", f"characters: {reason}", nothing)
    try:
        words, unknown = count_words(store)
    except ModuleNotFoundError:
        reason = "characters: pocketsphinx, which has the dictionary of phones, is not installed"
        return TextChoice("char", "none", reason, nothing)
    if words and not unknown:
        return TextChoice("phn", "cmudict", f"phones: all {words} words are in the dictionary (cmudict)", unknown)
    known = 1 - unknown.total() / max(words, 1)
    said = f"{known:.2%} of the {words} words are in the dictionary (cmudict)"
    if known < ENGLISH:
        return TextChoice("char", "none", f"characters: only {said}", unknown)
    try:
        g2ps["g2p_en"]()
    except UserError as error:
        if known < ENOUGH:
            return TextChoice("char", "none", f"characters: {said}, and for the others {error}", unknown)
        skip_unknown_words(store)
        reason = f"phones: {said}; utterances with others are skipped, which g2p_en would read ({error})"
        return TextChoice("phn", "cmudict", reason, unknown)
    return TextChoice("phn", "g2p_en", f"phones: {said}, and g2p_en guesses the others", unknown)


def count_words(store: sqlite3.Connection) -> tuple[int, Counter[str]]:
    """Running words, and those of them that the dictionary lacks."""
    words, unknown = 0, Counter[str]()
    for (text,) in store.execute("SELECT text FROM usable"):
        for word in words_of(text):
            words += 1
            if phones(word) is None:
                unknown[word if word in unknown or len(unknown) < MOST_WORDS else "…"] += 1
    return words, unknown


def skip_unknown_words(store: sqlite3.Connection) -> None:
    """Skip utterances with a word that the dictionary lacks."""
    store.create_function("lacking", 1, lambda text: next((w for w in words_of(text) if phones(w) is None), None))
    store.execute(
        "UPDATE utterance SET reason = 'word without phones: ' || lacking(text) || ' of ' || place "
        "WHERE reason = '' AND lacking(text) IS NOT NULL"
    )  # fmt: skip
