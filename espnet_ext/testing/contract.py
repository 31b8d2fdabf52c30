"""A contract is a list of clauses, and holding something to it is a loop over them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import Any


def hold_to(
    contract: Iterable[Callable[..., None]],
    name: str,
    conf: Mapping[str, Any] | None = None,
    stackings: Sequence[int] = (),
) -> None:
    """Every clause has been kept.

    Args:
        contract: clauses, each a function of a registered name and its options, with S between them if any are given.
        name: registered name.
        conf: its options; None for the defaults.
        stackings: the S to try.

    Raises:
        AssertionError: saying what is not kept.
    """
    of: list[tuple[Any, ...]] = [(name, stacking, conf or {}) for stacking in stackings] or [(name, conf or {})]
    for about, clause in product(of, contract):
        clause(*about)
