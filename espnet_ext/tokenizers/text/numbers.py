"""English numbers, years, dates and sums of money in words; inflect knows the words, and is loaded for them."""

from __future__ import annotations

import calendar
import re
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

INSTALL = "pip install 'espnet_ext[numbers]'"
_CURRENCIES = {"$": ("dollar", "cent"), "£": ("pound", "penny"), "€": ("euro", "cent")}
_ISO_DATE = re.compile(r"\b([0-9]{4})-(0[1-9]|1[0-2])-0?([1-9]|[12][0-9]|3[01])\b")
_MONTHS = "|".join([*calendar.month_name[1:], "Sept", *calendar.month_abbr[1:]])
_DAY = re.compile(rf"\b((?:{_MONTHS})\.?) ([1-9]|[12][0-9]|3[01])(?![0-9a-z:]|[.,][0-9])", re.IGNORECASE)
_MONEY = re.compile(
    r"([$£€])((?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?)( (?:thousand|million|billion|trillion)\b)?"
)
_TIME = re.compile(r"\b([0-9]{1,2}):([0-5][0-9])\b")
_NUMBER = re.compile(r"(?:(?<![\w)])-)?([0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(\.[0-9]+)?(?:(st|nd|rd|th|s)\b)?|%")
_YEAR = re.compile(r"1[1-9][0-9]{2}|20[1-9][0-9]")  # 2005 is said as any other number


@lru_cache(maxsize=1)
def can_spell_numbers() -> bool:
    """Whether the package is there."""
    return find_spec("inflect") is not None


@lru_cache(maxsize=1)
def _library() -> Any:
    import inflect

    return inflect.engine()


def _words(number: str) -> str:
    said: str = _library().number_to_words(number, andword="", comma="")
    return said.replace("-", " ")


def _money(found: re.Match[str]) -> str:
    (unit, part), (whole, _, small) = _CURRENCIES[found[1]], found[2].partition(".")
    if found[3] or len(small) not in (0, 2):
        return f"{found[2]}{found[3] or ''} {unit}s"
    counts = [(whole.replace(",", ""), unit)] if whole.strip("0,") or not small.strip("0") else []
    counts += [(small.lstrip("0"), part)] if small.strip("0") else []
    said = " and ".join(f"{count} {_library().plural(name, int(count))}" for count, name in counts)
    return said.replace("pennies", "pence")


def _number(found: re.Match[str]) -> str:
    if found[0] == "%":
        return " percent"
    digits, ending = found[1].replace(",", ""), found[3] or ""
    if found[2] or ending not in ("", "s"):
        said = _words(digits + (found[2] or "") + ending)
    elif len(digits) > 15 or (len(digits) > 1 and digits[0] == "0"):  # a code or a telephone
        said = " ".join(map(_words, digits))
    elif _YEAR.fullmatch(found[1]):
        small = _words(digits[2:])
        rest = small if digits[2] != "0" else "hundred" if digits[3] == "0" else f"oh {small}"
        said = f"{_words(digits[:2])} {rest}"
    else:
        said = _words(digits)
    said = (re.sub("y$", "ie", said) + "s") if ending == "s" else said
    said = f"minus {said}" if found[0][0] == "-" else said
    around = found.string[: found.start()][-1:], found.string[found.end() :][:1]  # mp3, 5km
    return f"{' ' if around[0].isalpha() else ''}{said}{' ' if around[1].isalpha() else ''}"


def spell_numbers(text: str) -> str:
    """The text with its numbers in words.

    >>> spell_numbers("In 1905, on May 3, 1,250 men won $2.50 or 7%, the 21st.")
    'In nineteen oh five, on May third, one thousand two hundred fifty men won two dollars and fifty cents or seven percent, the twenty first.'

    Args:
        text: an English text.

    Returns:
        The text without digits, unless they are part of a word.
    """  # noqa: E501
    text = _ISO_DATE.sub(lambda found: f"{calendar.month_name[int(found[2])]} {found[3]}, {found[1]}", text)
    text = _DAY.sub(lambda found: f"{found[1]} {_library().ordinal(found[2])}", text)
    text = _TIME.sub(r"\1 \2", text.replace(":00", " o'clock"))
    return _NUMBER.sub(_number, _MONEY.sub(_money, text))
