"""Which text token a step speaks: found from text and codes in training, predicted from the text in inference."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from espnet_ext.codes import length_mask


def at_least_float32(x: Tensor) -> Tensor:
    """The same numbers, in float32 where they were in fewer bits."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Alignment(NamedTuple):
    """What the alignment losses need.

    Attributes:
        log_attention: (B, F, U) log-probabilities over tokens of every frame.
        frame_lengths: (B,) int64.
        text_lengths: (B,) int64.
        spoken: (B, U) frames of each token on the best monotonic path; None where nothing is predicted.
        predicted: (B, U) log of the frames expected from text and prompt; None likewise.
    """

    log_attention: Tensor
    frame_lengths: Tensor
    text_lengths: Tensor
    spoken: Tensor | None = None
    predicted: Tensor | None = None


class Aligner(nn.Module):
    """Similarity of every step to every token, from short stretches of codes and text alone.

    Neither side knows its position, so an alignment can only be monotonic by being right; a wide ridge along
    the diagonal breaks ties between repeated words.

    Args:
        width: D of text and step embeddings.
        inner: width of the space they are compared in.
        ridge: standard deviation of the diagonal ridge as a share of the text.

    Reference:
        Shih et al. 2021, RAD-TTS, "alignment learning"; here steps of codes take the place of mel frames.
    """

    def __init__(self, width: int, inner: int = 96, ridge: float = 0.15) -> None:
        super().__init__()
        self.ridge = ridge
        # embeddings start small; without norms the convolutions would begin with little but their biases
        self.text_norm, self.step_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.key = nn.Sequential(nn.Conv1d(width, inner, 5, padding=2), nn.GELU(), nn.Conv1d(inner, inner, 1))
        self.query = nn.Sequential(nn.Conv1d(width, inner, 3, padding=1), nn.GELU(), nn.Conv1d(inner, inner, 1))
        self.log_scale = nn.Parameter(torch.tensor(2.5))

    def forward(self, text: Tensor, text_lengths: Tensor, steps: Tensor, step_lengths: Tensor) -> Tensor:
        """Log-probabilities over tokens: (B, L, U).

        Args:
            text: (B, U, D) embedded tokens.
            text_lengths: (B,) int64.
            steps: (B, L, D) embedded steps, each at the place where it is spoken.
            step_lengths: (B,) int64.

        Returns:
            Log-probabilities; very low where no token is.
        """
        tokens = length_mask(text_lengths, text.shape[1])
        key = F.normalize(self.key((self.text_norm(text) * tokens[..., None]).transpose(1, 2)), dim=1)
        valid = length_mask(step_lengths, steps.shape[1])[..., None]
        query = F.normalize(self.query((self.step_norm(steps) * valid).transpose(1, 2)), dim=1)
        logits = query.transpose(1, 2) @ key * self.log_scale.exp()
        logits = logits + diagonal_ridge(step_lengths, text_lengths, self.ridge, logits)
        return logits.masked_fill(~tokens[:, None], -1e4).log_softmax(dim=-1)


def diagonal_ridge(step_lengths: Tensor, text_lengths: Tensor, width: float, like: Tensor) -> Tensor:
    """Log prior that is 0 where step and token are at the same share of the utterance: (B, L, U).

    Args:
        step_lengths: (B,) int64.
        text_lengths: (B,) int64.
        width: standard deviation as a share of the text.
        like: (B, L, U), gives shape and dtype.

    Returns:
        The log prior, negative beside the ridge.
    """
    step_share = (torch.arange(like.shape[1], device=like.device) + 0.5) / step_lengths[:, None]  # (B, L)
    token_share = (torch.arange(like.shape[2], device=like.device) + 0.5) / text_lengths[:, None]  # (B, U)
    return (-0.5 * ((step_share[:, :, None] - token_share[:, None]) / width).square()).to(like.dtype)


def forward_sum_loss(log_attention: Tensor, frame_lengths: Tensor, text_lengths: Tensor) -> Tensor:
    """Mean negative log-likelihood per token of all monotonic alignments, a scalar.

    Every token must be attended to at least once and in order; the sum over such paths is the CTC forward
    algorithm with the tokens' indices as labels. A blank of constant score lets a path rest between tokens.

    Args:
        log_attention: (B, F, U) log-probabilities over tokens.
        frame_lengths: (B,) int64.
        text_lengths: (B,) int64.

    Returns:
        The loss. Utterances with more tokens than frames have no path and count as 0; so does a batch of none.

    Reference:
        Shih et al. 2021, RAD-TTS, "alignment learning".
    """
    batch, _, tokens = log_attention.shape
    if batch == 0:
        return log_attention.sum()
    with_blank = F.pad(log_attention, (1, 0), value=-1.0).log_softmax(dim=-1)
    labels = torch.arange(1, tokens + 1, device=log_attention.device).expand(batch, -1)
    loss = F.ctc_loss(
        with_blank.transpose(0, 1), labels, frame_lengths, text_lengths, reduction="none", zero_infinity=True
    )
    return (loss / text_lengths).mean()


@torch.no_grad()
def best_path(log_attention: Tensor, frame_lengths: Tensor, text_lengths: Tensor) -> Tensor:
    """The most likely monotonic alignment: (B, F) int64, the token of every frame.

    It begins at the first token, ends at the last one and moves on by at most one token per frame. Where there
    are fewer frames than tokens it is the diagonal.

    Args:
        log_attention: (B, F, U).
        frame_lengths: (B,) int64.
        text_lengths: (B,) int64.

    Returns:
        The path; behind a row's last frame it stays at the last token.

    >>> best_path(torch.eye(3).repeat_interleave(2, 0)[None], torch.tensor([6]), torch.tensor([3])).tolist()
    [[0, 0, 1, 1, 2, 2]]
    """
    batch, frames, tokens = log_attention.shape
    rows = torch.arange(batch, device=log_attention.device)
    score = torch.full_like(log_attention[:, 0], -torch.inf)
    score[:, 0] = log_attention[:, 0, 0]
    advanced = torch.zeros(frames, batch, tokens, dtype=torch.bool, device=score.device)
    for frame in range(1, frames):
        moved = F.pad(score[:, :-1], (1, 0), value=-torch.inf)
        advanced[frame] = moved > score
        score = torch.maximum(moved, score) + log_attention[:, frame]
    path = torch.empty(frames, batch, dtype=torch.int64, device=score.device)
    token = text_lengths - 1
    for frame in range(frames - 1, -1, -1):
        path[frame] = token
        inside = frame < frame_lengths
        token = token - (advanced[frame, rows, token] & inside).long()
    diagonal = torch.arange(frames, device=score.device) * text_lengths[:, None] // frame_lengths[:, None]
    possible = frame_lengths >= text_lengths
    return torch.where(possible[:, None], path.T, diagonal.minimum(text_lengths[:, None] - 1))


class FramePredictor(nn.Module):
    """How many frames each token takes, from the encoded text and the encoded prompt."""

    def __init__(self, width: int, inner: int = 96) -> None:
        super().__init__()
        self.input = nn.Conv1d(width, inner, 3, padding=1)
        self.prompt = nn.Linear(width, inner)
        self.hidden = nn.Conv1d(inner, inner, 3, padding=1)
        self.output = nn.Linear(inner, 1)

    def forward(self, encoded: Tensor, mask: Tensor, prompt: Tensor) -> Tensor:
        """Log of the expected frames of every token: (B, U).

        Args:
            encoded: (B, U, D) encoded text.
            mask: (B, U) bool, True where a token exists.
            prompt: (B, D) mean of the encoded prompt.

        Returns:
            The predictions.
        """
        valid = mask[:, None]
        x = F.gelu(self.input(encoded.transpose(1, 2) * valid) + self.prompt(prompt)[..., None])
        x = F.gelu(self.hidden(x * valid))
        return self.output(x.transpose(1, 2))[..., 0]


def path_of(frames: Tensor, text_lengths: Tensor, length: int) -> Tensor:
    """The token spoken at every frame if tokens last so long: (B, length) int64, the last token at the end.

    Args:
        frames: (B, U) frames of each token, fractions allowed.
        text_lengths: (B,) int64.
        length: number of frames.

    Returns:
        The path.

    >>> path_of(torch.tensor([[1.0, 2.5, 1.5]]), torch.tensor([3]), 6).tolist()
    [[0, 1, 1, 2, 2, 2]]
    """
    return _tokens_at(*_clock(frames, text_lengths, length), text_lengths)


def _clock(frames: Tensor, text_lengths: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """When every token ends, (B, U), and the middle of every frame, (length,), both counted in frames."""
    ends = (frames * length_mask(text_lengths, frames.shape[1])).cumsum(dim=1)
    return ends, torch.arange(length, device=frames.device, dtype=frames.dtype) + 0.5


def _tokens_at(ends: Tensor, middle: Tensor, text_lengths: Tensor) -> Tensor:
    token = torch.searchsorted(ends, middle.expand(len(ends), -1).contiguous(), right=True)
    return token.minimum(text_lengths[:, None] - 1)


def within_tokens(path: Tensor, frame_lengths: Tensor) -> Tensor:
    """How far each frame has come on a monotonic path: (B, F), token u is passed through from u - 0.5 to u + 0.5.

    Args:
        path: (B, F) int64, the token of every frame.
        frame_lengths: (B,) int64.

    Returns:
        The positions, which rise evenly while a token is spoken; behind a row's last frame the end of its last token.

    >>> within_tokens(torch.tensor([[0, 1, 1, 2, 2, 2, 2, 2]]), torch.tensor([7]))[0].tolist()
    [0.0, 0.75, 1.25, 1.625, 1.875, 2.125, 2.375, 2.5]
    """
    count = path.shape[1]
    frames = torch.arange(count, device=path.device)
    new = F.pad(path[:, 1:] != path[:, :-1], (1, 0), value=True)
    first = torch.where(new, frames, 0).cummax(dim=1).values
    ends = torch.where(F.pad(new[:, 1:], (0, 1), value=True), frames, count)
    last = ends.flip(1).cummin(dim=1).values.flip(1)
    last = last.minimum(frame_lengths[:, None] - 1)  # padding belongs to no token
    return path + ((frames - first + 0.5) / (last - first + 1)).clamp_max(1.0) - 0.5


def positions_of(frames: Tensor, text_lengths: Tensor, length: int) -> Tensor:
    """What `within_tokens` says of tokens that last so long: (B, length), the end of the last token behind it.

    Args:
        frames: (B, U) frames of each token, fractions allowed.
        text_lengths: (B,) int64.
        length: number of frames.

    Returns:
        The positions.

    >>> positions_of(torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([3]), 8)[0].tolist()
    [0.0, 0.75, 1.25, 1.625, 1.875, 2.125, 2.375, 2.5]
    """
    ends, middle = _clock(frames, text_lengths, length)
    token = _tokens_at(ends, middle, text_lengths)
    left = (ends.gather(1, token) - middle) / frames.gather(1, token)
    return token + 0.5 - left.clamp(0.0, 1.0)


def path_log_prior(path: Tensor, stacking: int, tokens: int, width: float) -> Tensor:
    """Log prior of every frame of a step, 0 on the token it speaks and falling off beside it: (B, S, L, U).

    Args:
        path: (B, L * S), the token of every frame, or how far it has come.
        stacking: S.
        tokens: U.
        width: standard deviation of the fall, in tokens.

    Returns:
        The log prior.
    """
    distance = torch.arange(tokens, device=path.device) - path.unflatten(1, (-1, stacking))[..., None]  # (B, L, S, U)
    return -0.5 * (distance / width).square().transpose(1, 2)
