"""Local-drop: a local transformer is trained on some steps of each utterance only."""

from __future__ import annotations

import torch
from torch import Tensor

from espnet_ext.codes import length_mask


def kept_steps(lengths: Tensor, drop: float) -> Tensor:
    """Steps of each utterance that are kept: floor((1 - p) T) + 1, and never more than T, same shape as `lengths`.

    Args:
        lengths: int64, T.
        drop: p in [0, 1).

    Returns:
        Counts.

    Reference:
        arXiv:2406.00976, local-drop. The 1 keeps something of every utterance. It also makes the share that is kept
        larger than 1 - p, the more so the shorter the utterance is: at p = 0.5, 2 of 2 steps, 3 of 4, 51 of 100.

    >>> kept_steps(torch.tensor([1, 2, 4, 100]), 0.5).tolist()
    [1, 2, 3, 51]
    """
    # the small number: 0.1 * 10 of the binary fraction nearest to 0.9 must not be floored to 0
    return ((lengths.double() * (1 - drop) + 1e-9).floor().long() + 1).minimum(lengths)


def local_drop(lengths: Tensor, width: int, drop: float) -> tuple[Tensor, Tensor]:
    """The steps that are kept, at random, and what each of them counts: (B, width) bool and (B,).

    A kept step counts T / kept, so that the expectation of the weighted sum over the kept steps of a batch is the sum
    over all its steps, although short utterances keep a larger share.

    Args:
        lengths: (B,) int64 steps of each utterance.
        width: of the mask.
        drop: p in [0, 1).

    Returns:
        The mask and the weights.
    """
    kept = kept_steps(lengths, drop)
    order = torch.rand(len(lengths), width, device=lengths.device).masked_fill(~length_mask(lengths, width), torch.inf)
    rank = order.argsort(dim=1).argsort(dim=1)
    return rank < kept[:, None], lengths / kept
