"""The CMU pronouncing dictionary that comes with pocketsphinx: 134,000 English words in 39 phones, without stress."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

_SIBILANTS, _VOICELESS = ("S", "Z", "SH", "ZH", "CH", "JH"), ("P", "T", "K", "F", "TH")


@lru_cache(maxsize=1)
def dictionary() -> dict[str, tuple[str, ...]]:
    """Every word with its lines, one per pronunciation.

    Returns:
        Word → lines, in the dictionary's order.

    Raises:
        ModuleNotFoundError: if pocketsphinx is not installed.
    """
    import pocketsphinx

    found: dict[str, tuple[str, ...]] = {}
    path = Path(pocketsphinx.get_model_path("en-us/cmudict-en-us.dict"))
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            word = line.split(maxsplit=1)[0].partition("(")[0]
            found[word] = (*found.get(word, ()), line)
    return found


def pronunciations(words: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Dictionary lines of every word that the dictionary knows, in its order.

    Args:
        words: in lower case, without punctuation but apostrophes.

    Returns:
        Word → its lines, one per pronunciation.
    """
    wanted = set(words)
    return {word: lines for word, lines in dictionary().items() if word in wanted}


def phones(word: str) -> tuple[str, ...] | None:
    """Phones of a word's first pronunciation, also of a known word with 's; None for a word that the dictionary lacks.

    >>> phones("finch's")
    ('F', 'IH', 'N', 'CH', 'IH', 'Z')
    """
    lines = dictionary().get(word)
    if lines is not None:
        return tuple(lines[0].split()[1:])
    known = phones(word[:-2]) if word.endswith("'s") else None
    if not known:
        return None
    ending = ("IH", "Z") if known[-1] in _SIBILANTS else ("S",) if known[-1] in _VOICELESS else ("Z",)
    return (*known, *ending)
