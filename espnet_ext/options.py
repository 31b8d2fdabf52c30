"""Checks of single options, each failure one line that names the option, what is allowed and what was given."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

from espnet_ext.errors import UserError


def check_number(
    name: str,
    value: object,
    least: float = -math.inf,
    most: float = math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    whole: bool = False,
) -> None:
    """Refuse what is no finite number inside of the bounds.

    Args:
        name: of the option.
        value: what was given.
        least: smallest allowed value.
        most: largest allowed value.
        above: what an allowed value must be larger than.
        below: what an allowed value must be smaller than.
        whole: whether only integers are allowed.

    Raises:
        UserError: naming option, value and what is allowed.

    >>> check_number("n_rounds", 0, least=1, whole=True)
    Traceback (most recent call last):
    espnet_ext.errors.UserError: n_rounds must be at least 1, got 0
    >>> check_number("top_p", 1.5, above=0, most=1)
    Traceback (most recent call last):
    espnet_ext.errors.UserError: top_p must be in (0, 1], got 1.5
    """
    if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):
        raise UserError(f"{name} must be {'an integer' if whole else 'a number'}, got {value!r}")
    number: Any = value
    if -math.inf < number < math.inf and least <= number <= most and above < number < below:
        return
    left = f"({above}" if above > least else f"[{least}"
    right = f"{below})" if below < most else f"{most}]"
    allowed = f"in {left}, {right}"
    if min(most, below) == math.inf:
        finite = "" if whole else " and finite"
        allowed = f"above {above}{finite}" if above > least else f"at least {least}{finite}"
    raise UserError(f"{name} must be {allowed}, got {value}")


def check_flag(name: str, value: object) -> None:
    """Refuse what is neither true nor false.

    Args:
        name: of the option.
        value: what was given.

    Raises:
        UserError: naming option, value and what is allowed.
    """
    if not isinstance(value, bool):
        raise UserError(f"{name} must be true or false, got {value!r}")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse what is not among the choices.

    Args:
        name: of the option.
        value: what was given.
        choices: what is allowed.

    Raises:
        UserError: naming option, value and choices.
    """
    if value not in choices:
        raise UserError(f"{name} must be one of {list(choices)}, got {value!r}")


def boolean(text: str) -> bool:
    """An option of the command line that is true or false.

    Args:
        text: what was given.

    Returns:
        The value.

    Raises:
        UserError: if it is neither.

    >>> boolean("true"), boolean("False")
    (True, False)
    """
    if text.lower() not in ("true", "false"):
        raise UserError(f"must be true or false, got {text!r}")
    return text.lower() == "true"
