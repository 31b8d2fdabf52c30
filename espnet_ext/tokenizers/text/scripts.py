"""Scripts that write no blanks between words."""

from __future__ import annotations

import unicodedata
from functools import cache

# beginnings of the names of their characters
UNSPACED = ("CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
# signs that are spoken with the next letter (vowels of Thai and Lao, stackers), and vowels spoken with the one before
_BEFORE_THEIR_LETTER = frozenset("เแโใไເແໂໃໄ\u17d2\u1039")
_BEHIND_THEIR_LETTER = frozenset("ะาำๅະາຳ")


@cache
def is_unspaced(character: str) -> bool:
    """Whether the character is of such a script."""
    return unicodedata.name(character, "").startswith(UNSPACED)


def split_letters(text: str) -> list[str]:
    """The text cut between letters of such scripts, but not within what is written as one.

    >>> split_letters("红狗 two เด็กー。")
    ['红', '狗 two เด็', 'กー。']

    Args:
        text: any text.

    Returns:
        The pieces, which together are the text.
    """
    pieces = [""]
    for before, one in zip(f" {text}", text, strict=False):
        may_end = is_unspaced(before) and unicodedata.category(before)[0] in "LM" and before not in _BEFORE_THEIR_LETTER
        may_begin = is_unspaced(one) and unicodedata.category(one) == "Lo" and one not in _BEHIND_THEIR_LETTER
        if may_end and may_begin:
            pieces.append("")
        pieces[-1] += one
    return pieces
