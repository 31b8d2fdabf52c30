"""Options as fields of a page: which kind of field an option has, and its value there and back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import yaml

from espnet_ext.errors import UserError
from espnet_ext.options import parse_yaml

Kind = Literal["flag", "whole", "number", "text"]


def kind_of(values: Iterable[Any]) -> Kind:
    """The field that shows all these values of one option, the first of which is its default.

    >>> kind_of([0.5, 1]), kind_of([3, 4]), kind_of([True]), kind_of([1.0, [0.3, 0.7]])
    ('number', 'whole', 'flag', 'text')
    """
    default, *others = values
    if isinstance(default, bool):
        return "flag"
    if not all(isinstance(value, int | float) for value in (default, *others)):
        return "text"
    return "whole" if all(isinstance(value, int) for value in (default, *others)) else "number"


def to_field(value: Any, kind: Kind) -> Any:
    """A value as its field shows it.

    >>> to_field((0.3, 0.7), "text"), to_field("purity", "text"), to_field(3, "whole")
    ('[0.3, 0.7]', 'purity', 3)
    """
    if kind != "text":
        return value
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...")


def from_field(name: str, shown: Any, kind: Kind) -> Any:
    """The value of an option from its field.

    Args:
        name: of the option.
        shown: what the field holds.
        kind: of the field.

    Returns:
        The value.

    Raises:
        UserError: if a text is no yaml, or a number is missing.

    >>> from_field("temperature", "[0.3, 0.7]", "text")
    [0.3, 0.7]
    """
    if kind != "text":
        if shown is None:
            raise UserError(f"{name} must be a number, got none")
        return int(shown) if kind == "whole" else shown
    try:
        return parse_yaml(shown or "")
    except yaml.YAMLError as error:
        raise UserError(f"{name} must be yaml, got {shown!r} ({' '.join(str(error).split())})") from None
