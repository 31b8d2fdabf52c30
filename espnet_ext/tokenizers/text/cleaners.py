"""Transcripts as a model should read them; what is cleaned twice is the same as cleaned once."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable

from espnet_ext.errors import UserError
from espnet_ext.tokenizers.text.english import spell_abbreviations

# before Unicode's own decompositions, some of which turn a quotation mark into an accent on a space
_SAME = str.maketrans({
    **dict.fromkeys("‘’‛`´ʼ′", "'"),
    **dict.fromkeys("‐‑", "-"),
    **dict.fromkeys("‒–—―−", " - "),
    "…": "...",
    "&": " and ",
    "æ": "ae",
    "Æ": "ae",
    "œ": "oe",
    "Œ": "oe",
})  # fmt: skip
_OTHER = re.compile(r"[^a-z0-9',.!?;:\- ]")


# soft hyphen, zero-width space, marks of direction, word joiner, byte order mark. The joiners stay where a script uses
# them to spell (UAX #31, 2.3): between Arabic, Indic and other letters of U+0600 to U+18AF
_INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]|(?<![\u0600-\u18af])[\u200c\u200d]")


def compose(text: str) -> tuple[str, int]:
    """The text in Unicode's form NFC without invisible characters, and how many of those there were.

    >>> compose("scho\u0308n ge\u00adsagt")
    ('schön gesagt', 1)
    """
    text, invisible = _INVISIBLE.subn("", text)
    return unicodedata.normalize("NFC", text), invisible


def clean_none(text: str) -> str:
    """The text without blanks around it."""
    return text.strip()


def clean_lower(text: str) -> str:
    """Lower case, one blank between words."""
    return re.sub(r"\s+", " ", text).strip().lower()


def _fold(text: str) -> str:
    """Lower-case letters without accents, the common quotation marks and dashes as ASCII, one kind of blank."""
    decomposed = unicodedata.normalize("NFKD", text.translate(_SAME).lower()).lower()
    letters = "".join(character for character in decomposed if unicodedata.category(character) != "Mn")
    return re.sub(r"\s+", " ", letters)


def clean_english(text: str) -> str:
    """Lower-case English: a–z, digits and ' , . ! ? ; : - alone, titles and the like written out.

    Accents are removed, quotation marks around words and all other symbols become blanks (`removed` counts them).
    Numbers stay digits here, as a corpus has them: `TextTokenizer` spells them for a model that knows no digit.

    >>> clean_english("“Mr. O’Neill’s café”—no. 5 [sic]")
    "mister o'neill's cafe - no. 5 sic"

    Args:
        text: a transcript.

    Returns:
        The cleaned text; empty if nothing of it can be read.
    """
    text = _OTHER.sub(" ", _fold(spell_abbreviations(text)))
    text = re.sub(r"-{2,}", " - ", text)
    text = re.sub(r"(?<!\s)\s+(?=[,.!?;:])", "", text)  # from the first blank on: the square of many is hours
    text = re.sub(r"\.{2,}", "...", text)
    text = re.sub(r"\s+", " ", text).strip()
    return spell_abbreviations(text)  # of which folding may have made more


def removed(text: str, cleaner: str) -> Counter[str]:
    """The characters that a cleaner takes out of a text, with their counts.

    Args:
        text: a transcript.
        cleaner: name of the cleaner.

    Returns:
        The characters; none for a cleaner that keeps all.
    """
    return Counter(_OTHER.findall(_fold(text)) if cleaner == "english" else ())


CLEANERS: dict[str, Callable[[str], str]] = {"lower": clean_lower, "none": clean_none, "english": clean_english}


def find_cleaner(name: str) -> Callable[[str], str]:
    """The cleaner of this name.

    Args:
        name: key of `CLEANERS`.

    Returns:
        The function.

    Raises:
        UserError: if there is none.
    """
    if name not in CLEANERS:
        raise UserError(f"cleaner must be one of {list(CLEANERS)}, got {name!r}")
    return CLEANERS[name]
