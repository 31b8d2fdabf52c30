"""What runs as it is, because what makes it faster reads keys and values where they lie."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache

import torch

from espnet_ext.model.cache import KVCache


def can_read(what: str, kept: KVCache | None, dtypes: Sequence[torch.dtype] = ()) -> bool:
    """Whether keys and values lie in a cache as they are; otherwise it is said once who goes on without.

    Args:
        what: makes a step faster.
        kept: the cache, if there is one.
        dtypes: of keys and values that it reads; none where it reads any.

    Returns:
        The answer.
    """
    if kept is None:
        return True
    if not kept.plain:
        _tell(what, "reads keys and values that are kept as they are, with cache exact")
        return False
    others = [str(one.dtype) for one in (kept.keys, kept.values) if dtypes and one.dtype not in dtypes]
    if others:
        _tell(what, f"reads keys and values in one of {[str(one) for one in dtypes]}, got {others[0]}")
    return not others


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
