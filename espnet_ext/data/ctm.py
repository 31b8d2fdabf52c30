"""Times of words on disk, in the form of NIST's tools and Kaldi: utterance, channel, begin, duration, word."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf
from pathlib import Path

from espnet_ext.errors import UserError
from espnet_ext.storage.atomic import atomic_path

WORDS_NAME = "words.ctm"
Words = list[tuple[str, float, float]]  # word, start, end in seconds


def write_ctm(path: Path, words: Mapping[str, Iterable[tuple[str, float, float]]]) -> None:
    """Write the words of every utterance, the utterances sorted as in the C locale.

    Args:
        path: file to write.
        words: utterance → words, their starts and ends in seconds.
    """
    lines = [
        f"{utterance} 1 {start:.3f} {end - start:.3f} {word}\n"
        for utterance in sorted(words)
        for word, start, end in words[utterance]
    ]
    with atomic_path(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


def read_ctm(path: Path) -> dict[str, Words]:
    """Utterance → words with their starts and ends in seconds; nothing if there is no such file.

    Args:
        path: as `write_ctm` writes it.

    Returns:
        The words.

    Raises:
        UserError: naming file and line, if a line has other fields.
    """
    found: dict[str, Words] = {}
    if not path.is_file():
        return found
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            utterance, _, begin, duration, word = line.decode().split()
            start, end = float(begin), float(begin) + float(duration)
            if not 0 <= start <= end < inf:
                raise ValueError
        except ValueError:  # also what is not UTF-8
            raise UserError(f"{path}:{number}: must be id, channel, begin, duration and word, got {line!r}") from None
        found.setdefault(utterance, []).append((word, round(start, 3), round(end, 3)))
    return found
