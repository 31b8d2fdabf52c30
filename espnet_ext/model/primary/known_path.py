"""What is known of utterances that are to be completed, and where their frames are in the text."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from espnet_ext.model.alignment import best_path, path_of


class Known(NamedTuple):
    """What a masked model is told of the utterances that it fills.

    Attributes:
        frames: (B, L, S or 1, D) embedded frames, or embedded steps where the model does not tell frames apart.
        is_known: (B, L, S or 1) bool, False where something is to be filled.
        lengths: (B,) int64 frames; 0 where the length is to be predicted, and nothing is known.
    """

    frames: Tensor
    is_known: Tensor
    lengths: Tensor


def path_around(
    log_attention: Tensor, is_known: Tensor, frame_lengths: Tensor, text_lengths: Tensor, expected: Tensor
) -> Tensor:
    """The token of every frame, (B, F) int64: of known ones by what they sound like, of others by how long tokens last.

    Known frames are aligned by the best path, on which frames that are not known prefer nothing. Between two stretches
    of known frames the tokens that none of them speaks share the frames there in proportion to what is expected.

    Args:
        log_attention: (B, F, U) log-probabilities over tokens, meaningless where a frame is not known.
        is_known: (B, F) bool.
        frame_lengths: (B,) int64.
        text_lengths: (B,) int64.
        expected: (B, U) frames of each token.

    Returns:
        The path; behind a row's last frame it stays at the last token.
    """
    even = torch.zeros_like(log_attention[:, :1]) - text_lengths[:, None, None].log()
    path = best_path(log_attention.where(is_known[..., None], even), frame_lengths, text_lengths)
    for row, length in enumerate(frame_lengths.tolist()):
        for first, end in _gaps(is_known[row, :length].tolist()):
            before = int(path[row, first - 1]) + 1 if first else 0
            behind = int(path[row, end]) if end < length else int(text_lengths[row])
            if before >= behind:  # nothing is left to be said: the tokens on both sides go on
                before, behind = max(before - 1, 0), min(behind + 1, int(text_lengths[row]))
            frames = expected[row, None, before:behind]
            frames = frames * ((end - first) / frames.sum())
            inside = torch.tensor([behind - before], device=path.device)
            path[row, first:end] = before + path_of(frames, inside, end - first)[0]
    return path


def _gaps(is_known: list[bool]) -> list[tuple[int, int]]:
    """First frame, and the one behind the last, of every stretch that is not known.

    >>> _gaps([True, False, False, True, False])
    [(1, 3), (4, 5)]
    """
    edges = [place for place in range(len(is_known) + 1) if _at(is_known, place - 1) != _at(is_known, place)]
    return list(zip(edges[::2], edges[1::2], strict=True))


def _at(is_known: list[bool], place: int) -> bool:
    return not 0 <= place < len(is_known) or is_known[place]
