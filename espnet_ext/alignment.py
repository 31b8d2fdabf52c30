"""Which text position a step speaks: priors that guide cross-attention, and the loss that teaches it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def diagonal_log_prior(step_lengths: Tensor, text_lengths: Tensor, width: float) -> Tensor:
    """Log prior for training, high where a step and a token are at the same share of the utterance: (B, L, U).

    A Gaussian ridge along the diagonal; its standard deviation is `width` of the text's length.

    Args:
        step_lengths: (B,) int64 steps of each utterance.
        text_lengths: (B,) int64 tokens of each utterance.
        width: standard deviation as a share of the text.

    Returns:
        The log prior, 0 on the ridge and negative beside it.

    Reference:
        arXiv:2509.19592's base model uses a beta-binomial ridge; a Gaussian needs no table per length.
    """
    steps = torch.arange(int(step_lengths.max()), device=step_lengths.device)
    tokens = torch.arange(int(text_lengths.max()), device=step_lengths.device)
    step_share = (steps + 0.5) / step_lengths[:, None]  # (B, L)
    token_share = (tokens + 0.5) / text_lengths[:, None]  # (B, U)
    distance = step_share[:, :, None] - token_share[:, None]
    return -0.5 * (distance / width).square()


def window_log_prior(attended: Tensor, tokens: int, back: int, ahead: int, floor: float) -> Tensor:
    """Log prior for inference, 0 in a window around the last attended token: (B, U).

    Args:
        attended: (B,) int64, the token each row attended to most in the step before.
        tokens: U.
        back: tokens of the window before the attended one.
        ahead: tokens of the window after it.
        floor: log prior outside of the window, negative; -inf forbids leaving it.

    Returns:
        The log prior.

    >>> window_log_prior(torch.tensor([0, 2]), tokens=4, back=1, ahead=1, floor=-9.0).tolist()
    [[0.0, 0.0, -9.0, -9.0], [-9.0, 0.0, 0.0, 0.0]]
    """
    offset = torch.arange(tokens, device=attended.device) - attended[:, None]
    inside = (offset >= -back) & (offset <= ahead)
    return torch.where(inside, 0.0, floor)


def forward_sum_loss(
    log_attention: Tensor, step_lengths: Tensor, text_lengths: Tensor, repeats: int = 1, blank_logprob: float = -1.0
) -> Tensor:
    """Mean negative log-likelihood per token of all monotonic alignments, a scalar.

    Every token must be attended to at least once and in order, at most `repeats` tokens per step; the sum over
    such paths is the CTC forward algorithm with the tokens' indices as labels. A blank of constant score
    lets a path rest between tokens.

    Args:
        log_attention: (B, L, U) log-probabilities over tokens; -inf or very low where no token is.
        step_lengths: (B,) int64.
        text_lengths: (B,) int64.
        repeats: frames per step: a step of S frames may pass S tokens.
        blank_logprob: score of the blank.

    Returns:
        The loss. Utterances with more tokens than frames have no path and count as 0.

    Reference:
        Shih et al. 2021, RAD-TTS, "alignment learning"; used at S = 1 by arXiv:2509.19592's base model. Counting
        a stacked step as S frames is ours.
    """
    batch, _, tokens = log_attention.shape
    frames = log_attention.clamp_min(-1e4).repeat_interleave(repeats, dim=1)
    with_blank = F.pad(frames, (1, 0), value=blank_logprob).log_softmax(dim=-1)
    labels = torch.arange(1, tokens + 1, device=log_attention.device).expand(batch, -1)
    loss = F.ctc_loss(
        with_blank.transpose(0, 1),
        labels,
        step_lengths * repeats,
        text_lengths,
        blank=0,
        reduction="none",
        zero_infinity=True,
    )
    return (loss / text_lengths).mean()
