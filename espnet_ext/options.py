"""Checks of single options, each failure one line that names the option, what is allowed and what was given."""

from __future__ import annotations

import math
from numbers import Integral, Real


def check_number(name: str, value: object, least: float, most: float = math.inf, whole: bool = False) -> None:
    """Refuse what is no finite number in [least, most].

    Args:
        name: of the option.
        value: what was given.
        least: smallest allowed value.
        most: largest allowed value.
        whole: whether only integers are allowed.

    Raises:
        ValueError: naming option, value and what is allowed.

    >>> check_number("n_rounds", 0, least=1, whole=True)
    Traceback (most recent call last):
    ValueError: n_rounds must be at least 1, got 0
    """
    if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):
        raise ValueError(f"{name} must be {'an integer' if whole else 'a number'}, got {value!r}")
    if not (-math.inf < value < math.inf and least <= value <= most):  # type: ignore[operator]  # a real number
        finite = "" if whole else " and finite"
        allowed = f"at least {least}{finite}" if most == math.inf else f"in [{least}, {most}]"
        raise ValueError(f"{name} must be {allowed}, got {value}")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse what is not among the choices.

    Args:
        name: of the option.
        value: what was given.
        choices: what is allowed.

    Raises:
        ValueError: naming option, value and choices.
    """
    if value not in choices:
        raise ValueError(f"{name} must be one of {list(choices)}, got {value!r}")
