"""Whether speech repeats itself or breaks off, judged by what a recogniser heard."""

from __future__ import annotations

import jiwer

from espnet_ext.scoring.measures.error_rate import normalise, words_of

LONGEST_REPETITION = 4  # words; a loop of a language model is rarely longer, and longer ones contain shorter ones
TRUNCATED_WORDS = 2  # words missing at the end, at least: one may be a mistake of the recogniser
TRUNCATED_SHARE = 0.25  # of the words


def _repetitions(words: list[str]) -> int:
    """Stretches of several words that are said twice in a row, and words that are said three times in a row."""
    count = sum(len(set(words[start : start + 3])) == 1 for start in range(len(words) - 2))
    for length in range(2, LONGEST_REPETITION + 1):
        for start in range(len(words) - 2 * length + 1):
            first, second = words[start : start + length], words[start + length : start + 2 * length]
            count += first == second and len(set(first)) > 1
    return count


def is_repeated(transcript: str, heard: str) -> bool:
    """Whether more is said again at once than the text asks for.

    A single word counts when it is heard three times in a row, a stretch of words when it is heard twice, so that one
    word which the recogniser inserts is no repetition.

    >>> is_repeated("call three five now", "call three call three five now")
    True
    >>> is_repeated("call three three five", "call three three five five")
    False
    """
    return _repetitions(words_of(normalise(heard))) > _repetitions(words_of(normalise(transcript)))


def is_truncated(transcript: str, heard: str) -> bool:
    """Whether the end of what was to be said is missing in what a recogniser heard.

    >>> is_truncated("open the blue door behind the church", "open the blue door")
    True
    >>> is_truncated("open the blue door behind the church", "open the blue door behind a bird")
    False
    """
    wanted, spoken = words_of(normalise(transcript)), words_of(normalise(heard))
    if not wanted or not spoken:
        return bool(wanted)
    last = jiwer.process_words(" ".join(wanted), " ".join(spoken)).alignments[0][-1]
    missing = last.ref_end_idx - last.ref_start_idx if last.type == "delete" else 0
    return missing >= max(TRUNCATED_WORDS, TRUNCATED_SHARE * len(wanted))
