"""Yaml, and checks of single options, each failure one line with the option, what is allowed and what was given."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

from espnet_ext.errors import UserError

MOST_VALUES = 10**7  # with those that aliases repeat, which a few lines can do without end
MOST_BITS = 1024  # of an integer: the largest float has as many


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


def parse_yaml(text: str) -> Any:
    """The values of a yaml text.

    Args:
        text: yaml.

    Returns:
        Mappings, sequences and plain values.

    Raises:
        yaml.YAMLError: if it is not yaml, nested too deep, or holds values that are none, or too large or too many.
    """
    import yaml  # here: what decodes needs no more than torch until it reads a file

    try:
        content = yaml.safe_load(text)
        _size(content, {})
    except RecursionError:
        raise yaml.YAMLError("it is nested too deep") from None
    except (ValueError, TypeError, LookupError, AttributeError) as error:  # of a date or a number that is none
        raise yaml.YAMLError(f"it holds a value that is none: {error}") from None
    return content


def _size(value: object, known: dict[int, int]) -> int:
    """How many values there are when all aliases are written out; a RecursionError for one that holds itself."""
    import yaml

    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        raise yaml.YAMLError("it holds a number that is too large")
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        inner = [*value.keys(), *value.values()] if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_size(one, known) for one in inner)
        if known[id(value)] > MOST_VALUES:
            raise yaml.YAMLError("it holds too many values")
    return known[id(value)]
