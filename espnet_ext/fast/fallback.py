"""What runs as it is, because what makes it faster reads keys and values where they lie."""

from __future__ import annotations

import logging
from functools import cache

from espnet_ext.model.cache import KVCache


def can_read(what: str, kept: KVCache | None) -> bool:
    """Whether keys and values lie in a cache as they are; otherwise it is said once who goes on without.

    Args:
        what: makes a step faster.
        kept: the cache, if there is one.

    Returns:
        The answer.
    """
    if kept is None or kept.plain:
        return True
    _tell(what, "reads keys and values that are kept as they are, with cache exact")
    return False


def can_run(what: str, layers: object | None) -> bool:
    """Whether all layers run; otherwise it is said once who goes on without.

    Args:
        what: makes a step faster.
        layers: those that run, where these are not all.

    Returns:
        The answer.
    """
    if layers is not None:
        _tell(what, "runs all layers, with depth full")
    return layers is None


@cache
def _tell(what: str, does: str) -> None:
    logging.warning("%s: going on without: it %s", what, does)
