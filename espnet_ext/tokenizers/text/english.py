"""English abbreviations and symbols in words."""

from __future__ import annotations

import re

# as they are read aloud; "st." is a saint far more often than a street in read books
ABBREVIATIONS = {
    "mr": "mister",
    "mrs": "missus",
    "ms": "miss",
    "messrs": "messieurs",
    "dr": "doctor",
    "prof": "professor",
    "st": "saint",
    "rev": "reverend",
    "hon": "honorable",
    "gen": "general",
    "col": "colonel",
    "capt": "captain",
    "lieut": "lieutenant",
    "lt": "lieutenant",
    "sgt": "sergeant",
    "maj": "major",
    "jr": "junior",
    "sr": "senior",
    "esq": "esquire",
    "co": "company",
    "ltd": "limited",
    "mt": "mount",
    "vol": "volume",
    "etc": "et cetera",
}
_ROADS = {"st": "street", "dr": "drive"}  # behind a name, unless one follows
_ABBREVIATION = re.compile(rf"\b({'|'.join(ABBREVIATIONS)})\.(?![\w.])", re.IGNORECASE)
_ORDINAL = re.compile(r"[0-9]+(?:st|nd|rd|th)")
# words that begin a sentence, and so are no name in spite of their capital
_NO_NAME = re.compile(
    "a|an|and|as|at|but|by|for|from|he|her|his|i|if|in|it|my|no|of|on|or|our|she|so|that|the|their|then|"
    "there|they|this|to|was|we|were|when|with|yes|you|your",
    re.IGNORECASE,
)


def _is_name(word: str) -> bool:
    return word[:1].isupper() and not _NO_NAME.fullmatch(word)


def _in_words(found: re.Match[str]) -> str:
    short = found[1].casefold()
    before = re.search(r"(\w+)\s+$", found.string[max(0, found.start() - 40) : found.start()])
    after = re.match(r"\s+(\w[\w.]*)", found.string[found.end() : found.end() + 40])
    behind, following = before[1] if before else "", after[1] if after else ""
    is_ordinal = bool(_ORDINAL.fullmatch(behind))
    if short not in _ROADS or not (is_ordinal or (_is_name(behind) and not _is_name(following))):
        return ABBREVIATIONS[short]
    ends = following[:1].isupper() or not found.string[found.end() :].strip()
    return _ROADS[short] + ("." if ends else "")


def spell_abbreviations(text: str) -> str:
    """The text with titles and the like in words; one that is written out already is the same.

    >>> spell_abbreviations("Dr. Lee of St. Louis lives on Main St. near Mr. Day.")
    'doctor Lee of saint Louis lives on Main street near mister Day.'

    Args:
        text: an English text.

    Returns:
        The text without the abbreviations of the table.
    """
    return _ABBREVIATION.sub(_in_words, text)


def spell_symbols(text: str) -> str:
    """The text with & @ % in words, and # where a number follows.

    >>> spell_symbols("rock & roll @ 7%, #1")
    'rock and roll at 7 percent, number 1'

    Args:
        text: an English text.

    Returns:
        The text without them.
    """
    # from the first blank on: the square of many is hours
    text = re.sub(r"(?<!\s)\s*&\s*", " and ", text)
    text = re.sub(r"(?<!\s)\s*@\s*", " at ", text)
    return re.sub(r"#\s?(?=[0-9])", "number ", re.sub(r"(?<!\s)\s*%", " percent", text))
