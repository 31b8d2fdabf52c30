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
    _tell(what)
    return False


@cache
def _tell(what: str) -> None:
    logging.warning("%s: going on without: it reads keys and values that are kept as they are, with cache exact", what)
