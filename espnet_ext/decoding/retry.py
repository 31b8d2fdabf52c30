"""Rows that ran away, decoded again with other draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from espnet_ext.decoding.generate import generate
from espnet_ext.decoding.request import Decoding
from espnet_ext.decoding.rows import Generation


def generate_with_retries(decoding: Decoding, seed: int, retries: int) -> Generation:
    """What `generate` makes, with rows that ran away decoded again until one attempt has not, or none is left.

    If every attempt of a row ran away the first one stays: the probability of the codes is no reason to prefer another,
    as loops and silence are what is most probable.

    Args:
        decoding: what is decoded.
        seed: of the draws.
        retries: attempts besides the first one.

    Returns:
        The codes, with the costs of all attempts.
    """
    best = generate(*decoding)
    for attempt in range(1, retries + 1):
        rows = [row for row, reason in enumerate(best.runaway) if reason is not None]
        if not rows:
            break
        best = _better(best, rows, generate(*decoding.again(rows, seed, attempt)))
    return best


def _better(best: Generation, rows: Sequence[int], again: Generation) -> Generation:
    """What there is, with the rows that did not run away again in the place of those before."""
    taken = [place for place, reason in enumerate(again.runaway) if reason is None]
    device = best.lengths.device
    index, tried = torch.tensor(rows, device=device), torch.tensor(taken, dtype=torch.int64, device=device)
    places = index[tried]
    frames = max(best.codes.shape[1], again.codes.shape[1])
    codes = _padded(best.codes, frames)
    codes = codes.index_copy(0, places, _padded(again.codes, frames)[tried])
    kept = {
        name: getattr(best, name).index_copy(0, places, getattr(again, name)[tried])
        for name in ("lengths", "has_eos", "logprobs")
    }
    costs = {}
    for name in ("steps", "local_passes", "primary_passes", "primary_layers"):
        cost, more = getattr(best, name), getattr(again, name)
        costs[name] = cost if more is None else cost.index_add(0, index, more)
    mended = set(places.tolist())
    return replace(
        best,
        **kept,
        **costs,
        codes=codes[:, : int(kept["lengths"].max())],
        runaway=tuple(None if row in mended else reason for row, reason in enumerate(best.runaway)),
        retries=tuple(count + (row in rows) for row, count in enumerate(best.retries)),
        failed=best.failed + again.failed,
    )


def _padded(codes: Tensor, frames: int) -> Tensor:
    """Codes (B, T, N) with zeros behind them: (B, frames, N)."""
    return torch.nn.functional.pad(codes, (0, 0, 0, frames - codes.shape[1]))
