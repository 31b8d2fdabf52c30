"""Codec merging: some codebooks keep one code for a group of frames, so that a model has fewer codes to predict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from espnet_ext.errors import UserError


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True)
class Merge:
    """Which codebooks are constant over groups of frames.

    Attributes:
        rate: frames of a group; the last group of an utterance may be shorter.
        codebooks: indices of the merged codebooks, ascending.

    Reference:
        Han et al. 2024, arXiv:2406.07855 (VALL-E R), "codec-merging": no codec is retrained. A group's code is that
        of the mean of what is to be quantised; the codebooks behind it quantise what is left of each frame.
    """

    rate: int
    codebooks: tuple[int, ...]

    @classmethod
    def parse(cls, value: object, num_codebooks: int) -> Merge:
        """The option `merge` of a codec.

        Args:
            value: a mapping of rate and codebooks, the latter a number or a list
            num_codebooks: N of the codec

        Returns:
            The option.

        Raises:
            UserError: if something is missing or impossible
        """
        if not isinstance(value, Mapping) or set(value) != {"rate", "codebooks"}:
            raise UserError(f"merge must have rate and codebooks, got {value!r}")
        rate, wanted = value["rate"], value["codebooks"]
        codebooks = list(wanted) if isinstance(wanted, list | tuple) else [wanted]
        if not _whole(rate) or rate < 1:
            raise UserError(f"merge.rate must be a whole number of at least 1, got {rate!r}")
        if not codebooks or not all(_whole(index) and 0 <= index < num_codebooks for index in codebooks):
            raise UserError(f"merge.codebooks must be whole numbers in [0, {num_codebooks}), got {wanted!r}")
        return cls(rate, tuple(sorted(set(codebooks))))

    def plain(self) -> dict[str, object]:
        """The option in types that yaml knows."""
        return {"rate": self.rate, "codebooks": list(self.codebooks)}


def group_means(values: Tensor, rate: int) -> Tensor:
    """Means over groups of frames: (..., ceil(T / rate)) float.

    Args:
        values: (..., T) float.
        rate: frames of a group.

    Returns:
        One value per group; a shorter last group counts the frames it has.

    >>> group_means(torch.tensor([1.0, 3.0, 5.0]), rate=2).tolist()
    [2.0, 5.0]
    """
    frames = values.shape[-1]
    groups = -(-frames // rate)
    padded = torch.nn.functional.pad(values, (0, groups * rate - frames))
    counts = torch.full((groups,), rate, device=values.device)
    counts[-1:] = frames - (groups - 1) * rate
    return padded.unflatten(-1, (groups, rate)).sum(-1) / counts


def hold(groups: Tensor, rate: int, frames: int) -> Tensor:
    """One value per frame from one per group: (..., frames).

    >>> hold(torch.tensor([7, 8]), rate=2, frames=3).tolist()
    [7, 7, 8]
    """
    return groups.repeat_interleave(rate, dim=-1)[..., :frames]


def thin(codes: Tensor, merge: Merge) -> tuple[Tensor, Tensor]:
    """Merged codes without the repetitions; `expand` is the inverse.

    Args:
        codes: (T, N) int64, those of the merged codebooks constant over each group.
        merge: which ones.

    Returns:
        (ceil(T / rate), K) codes of the K merged codebooks and (T, N - K) codes of the others.

    Raises:
        UserError: if the codes are not merged this way.

    >>> slow, fast = thin(torch.tensor([[4, 1], [4, 2], [5, 3]]), Merge(rate=2, codebooks=(0,)))
    >>> slow.tolist(), fast.tolist()
    ([[4], [5]], [[1], [2], [3]])
    """
    merged = codes[:, list(merge.codebooks)]
    slow = merged[:: merge.rate]
    if not torch.equal(hold(slow.T, merge.rate, len(codes)).T, merged):
        raise UserError(
            f"codes must be constant over groups of {merge.rate} frames in codebooks {list(merge.codebooks)}"
        )
    others = [index for index in range(codes.shape[1]) if index not in merge.codebooks]
    return slow, codes[:, others]


def expand(slow: Tensor, fast: Tensor, merge: Merge) -> Tensor:
    """Codes of every frame from the two parts that `thin` gives.

    Args:
        slow: (ceil(T / rate), K) int64.
        fast: (T, N - K) int64.
        merge: which codebooks the first part holds.

    Returns:
        (T, N) int64.
    """
    codes = fast.new_empty(len(fast), slow.shape[1] + fast.shape[1])
    others = [index for index in range(codes.shape[1]) if index not in merge.codebooks]
    codes[:, list(merge.codebooks)] = hold(slow.T, merge.rate, len(fast)).T
    codes[:, others] = fast
    return codes
