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
_DAY = re.compile(rf"\b((?:{_MONTHS})\.?) ([1-9]|[12][0-9]|3[01])(?![0-9a-z:]|[.,][0-9])")
_LARGE = {"k": "thousand", "m": "million", "b": "billion", "t": "trillion"}  # their first letters, as in $5m
_MONEY = re.compile(
    r"([$£€])((?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?)"
    r"(?:([ -]?(?:thousand|million|billion|trillion))\b|([kKmMbBtT])n?\b)?"
)
_TIME = re.compile(
    r"(?<![\w:])(?<![0-9][.,])([0-9]{1,2}):([0-5][0-9])(?::([0-5][0-9]))?(?![0-9:]|[.,][0-9])(?: o['’]clock\b)?"
)
_VERSION = re.compile(r"(?<![0-9.,])[0-9]+(?:\.[0-9]+){2,}(?![0-9])")
_NUMBER = re.compile(r"(?:(?<![\w)])-)?([0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(\.[0-9]+)?(?:(st|nd|rd|th|s)\b)?")
_YEAR = re.compile(r"1[1-9][0-9]{2}|20[1-9][0-9]")  # 2005 is said as any other number


@lru_cache(maxsize=1)
def can_spell_numbers() -> bool:
    """Whether the package is there."""
    return find_spec("inflect") is not None


def _library() -> Any:
    import inflect

    return inflect.engine()  # a new one costs nothing, and notes on itself what it counts: threads must not share it


def _words(number: str) -> str:
    said: str = _library().number_to_words(number, andword="", comma="")
    return said.replace("-", " ")


def _count(number: str) -> str:
    """A number that is no year; digit by digit if it is a code or a telephone."""
    whole, point, small = number.replace(",", "").partition(".")
    if len(whole) > 15 or (len(whole) > 1 and whole[0] == "0"):
        return " ".join("point" if one == "." else _words(one) for one in whole + point + small)
    return _words(whole + point + small)


def _apart(found: re.Match[str], said: str) -> str:
    """What is said, with a blank where a letter touches it: mp3, 5km."""
    before, behind = found.string[: found.start()][-1:], found.string[found.end() :][:1]
    return f"{' ' if before.isalpha() else ''}{said}{' ' if behind.isalpha() else ''}"


def _money(found: re.Match[str]) -> str:
    (unit, part), (whole, _, small) = _CURRENCIES[found[1]], found[2].partition(".")
    large = _LARGE[found[4].lower()] if found[4] else (found[3] or "").strip(" -")
    if large or len(small) not in (0, 2):
        return _apart(found, f"{_count(found[2])} {large} {unit}s".replace("  ", " "))
    counts = [(whole.replace(",", ""), unit)] if whole.strip("0,") or not small.strip("0") else []
    counts += [(small.lstrip("0"), part)] if small.strip("0") else []
    said = " and ".join(f"{_count(count)} {_library().plural(name, int(count))}" for count, name in counts)
    return _apart(found, said.replace("pennies", "pence"))


def _time(found: re.Match[str]) -> str:
    hour, minute, second = found.groups(default="00")
    if minute == second == "00" and int(hour) <= 24:
        return _apart(found, f"{_words(hour)} o'clock")
    parts = [minute] if second == "00" else [minute, second]
    said = [f"oh {_words(part[1])}" if part[0] == "0" else _words(part) for part in parts]
    return _apart(found, " ".join([_words(hour), *said]).replace("oh zero", "zero zero"))


def _number(found: re.Match[str]) -> str:
    digits, ending = found[1].replace(",", ""), found[3] or ""
    if ending not in ("", "s") and len(digits) <= 15:
        said = _words(digits + (found[2] or "") + ending)
    elif _YEAR.fullmatch(found[1]) and not found[2]:
        small = _words(digits[2:])
        rest = small if digits[2] != "0" else "hundred" if digits[3] == "0" else f"oh {small}"
        said = f"{_words(digits[:2])} {rest}"
    else:
        said = _count(digits + (found[2] or ""))
    said = (re.sub("y$", "ie", said) + "s") if ending == "s" else said
    said = f"minus {said}" if found[0][0] == "-" else said
    return _apart(found, said)


def spell_numbers(text: str) -> str:
    """The text with its numbers in words.

    >>> spell_numbers("In 1905, on May 3, 1,250 men won $2.50, the 21st.")
    'In nineteen oh five, on May third, one thousand two hundred fifty men won two dollars and fifty cents, the twenty first.'

    Args:
        text: an English text.

    Returns:
        The text without digits, unless they are part of a word.
    """  # noqa: E501
    text = _ISO_DATE.sub(lambda found: f"{calendar.month_name[int(found[2])]} {found[3]}, {found[1]}", text)
    text = _DAY.sub(lambda found: f"{found[1]} {_library().ordinal(found[2])}", text)
    text = _VERSION.sub(lambda found: _apart(found, " point ".join(map(_count, found[0].split(".")))), text)
    return _NUMBER.sub(_number, _MONEY.sub(_money, _TIME.sub(_time, text)))
