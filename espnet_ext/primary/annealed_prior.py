"""The prior of the published base model: along the diagonal while training begins, a moving window in inference."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from espnet_ext.alignment import Alignment
from espnet_ext.options import check_number
from espnet_ext.primary.attention_prior import AttentionPrior, Reading, attention_priors


@attention_priors.register("annealed")
class AnnealedPrior(AttentionPrior):
    """A beta-binomial prior that fades out during training; in inference a window behind the token attended to last.

    The attention has to learn the alignment itself; the forward-sum loss on its scores (weight `alignment` of the
    model) helps. In inference tokens outside of the window keep a share of their probability. A token that was
    attended to for many frames is a sink: it is left, and the window moves on to the next one. The last token, the
    end of the text, may last.

    Args:
        width: D.
        stacking: S.
        concentration: of the beta-binomial distribution; larger is narrower.
        anneal_from: step of the optimiser from which on the prior fades; where none is followed, batch.
        anneal_until: step from which on there is none.
        behind: tokens of the window before the one attended to last.
        ahead: tokens of the window after it.
        floor: factor of tokens outside of the window; 1 for no window, 0 for a strict one.
        sink_frames: frames after which a token is a sink.

    Raises:
        ValueError: if an option is out of range.

    Reference:
        Base model of arXiv:2509.19592. Its published implementation has the prior and the forward-sum loss at S = 1
        only; here every frame of a step has an attention head of its own, hence both for every S. The prior is
        scaled to have 1 as its largest value, so that fading it towards 1 everywhere is gradual.
    """

    reads_attention: ClassVar[bool] = True
    batches: Tensor

    def __init__(
        self,
        width: int,
        stacking: int,
        concentration: float = 0.5,
        anneal_from: int = 8000,
        anneal_until: int = 12000,
        behind: int = 1,
        ahead: int = 5,
        floor: float = 0.1,
        sink_frames: int = 8,
    ) -> None:
        super().__init__(width, stacking)
        check_number("concentration", concentration, above=0)
        check_number("anneal_from", anneal_from, least=0, whole=True)
        check_number("anneal_until", anneal_until, least=anneal_from, whole=True)
        check_number("behind", behind, least=0, whole=True)
        check_number("ahead", ahead, least=1, whole=True)
        check_number("floor", floor, least=0, most=1)
        check_number("sink_frames", sink_frames, least=1, whole=True)
        self.concentration, self.anneal = concentration, (anneal_from, anneal_until)
        self.behind, self.ahead, self.sink_frames = behind, ahead, sink_frames
        self.floor = math.log(floor) if floor else -torch.inf
        self._follows = False
        # Steps of the optimiser; the name is that of older checkpoints, which counted batches. In the checkpoint, so
        # that a training that is continued knows how far it is. ESPnet adds such numbers up where it averages weights;
        # decoding does not read this one.
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def follow(self, optimizer: Optimizer) -> None:  # noqa: D102
        self._follows = True

        def count(*_: object) -> None:
            self.batches += 1

        # not called for steps that are left out because of gradients that are not finite
        optimizer.register_step_post_hook(count)

    def strength(self) -> float:
        """How much is left of the prior: 1 at first, 0 in the end."""
        start, end = self.anneal
        left = end - int(self.batches)
        return min(max(left, 0) / max(end - start, 1), 1.0)

    def forward(  # noqa: D102
        self, reading: Reading, targets: Tensor, step_lengths: Tensor
    ) -> tuple[Tensor | None, Alignment | None]:
        strength = self.strength()
        if self.training and not self._follows:
            self.batches += 1
        if strength == 0.0:
            return None, None
        frames, tokens = targets.shape[1] * self.stacking, reading.text.shape[1]
        lengths = step_lengths * self.stacking
        prior = diagonal_prior(lengths, reading.lengths, frames, tokens, self.concentration)
        faded = (1.0 - strength * (1.0 - prior)).clamp_min(torch.finfo(prior.dtype).tiny).log()
        return faded.unflatten(1, (-1, self.stacking)).transpose(1, 2), None

    def alignment_of(self, scores: Tensor, reading: Reading, step_lengths: Tensor) -> Alignment | None:  # noqa: D102
        given = reading.given  # a row without conditions attends to nothing
        per_frame = scores[given].transpose(1, 2).flatten(1, 2).float()
        lengths = reading.lengths[given]
        exists = torch.arange(scores.shape[3], device=scores.device) < lengths[:, None]
        log_attention = per_frame.masked_fill(~exists[:, None], -1e4).log_softmax(dim=-1)
        return Alignment(log_attention, step_lengths[given] * self.stacking, lengths)

    def start(self, reading: Reading, frames: int) -> Tensor:  # noqa: D102
        return torch.zeros(len(reading.lengths), frames, dtype=torch.int64, device=reading.lengths.device)

    def step(self, path: Tensor, frames: Tensor, tokens: Tensor) -> Tensor:  # noqa: D102
        first = frames[:1]
        token = torch.arange(tokens.shape[1], device=tokens.device)
        end = tokens.sum(1, keepdim=True) - 1  # (B, 1)
        done = (torch.arange(path.shape[1], device=path.device) < first).long()
        visits = torch.zeros_like(tokens, dtype=torch.int64).scatter_add_(1, path, done.expand_as(path))
        sink = (visits >= self.sink_frames) & (token < end)
        last = path.index_select(1, (first - 1).clamp_min(0)) * (first > 0)
        # the window stands on the first token from the last one on that is no sink; the end of the text never is
        here = torch.where((token >= last) & ~sink, token, tokens.shape[1]).amin(1, keepdim=True).minimum(end)
        # within a step a later frame may be further on
        reach = here + self.ahead + torch.arange(self.stacking, device=tokens.device)  # (B, S)
        inside = (token >= here[..., None] - self.behind) & (token <= reach[..., None]) & ~sink[:, None]  # (B, S, U)
        zero = torch.zeros((), device=tokens.device)
        return torch.where(inside, zero, self.floor)[:, :, None]

    def observe(self, path: Tensor, frames: Tensor, scores: Tensor) -> None:  # noqa: D102
        path.index_copy_(1, frames, scores[:, :, 0].argmax(-1))


def diagonal_prior(
    frame_lengths: Tensor, text_lengths: Tensor, frames: int, tokens: int, concentration: float
) -> Tensor:
    """Beta-binomial probabilities of every token for every frame, divided by the frame's largest: (B, F, U) float32.

    Args:
        frame_lengths: (B,) int64.
        text_lengths: (B,) int64.
        frames: F.
        tokens: U.
        concentration: of the distribution.

    Returns:
        The prior; 0 where no token is, anything behind a row's last frame.

    Reference:
        Badlani et al. 2022, "One TTS Alignment To Rule Them All", §2.2.

    >>> diagonal_prior(torch.tensor([3]), torch.tensor([3]), 3, 3, 1.0).argmax(-1).tolist()
    [[0, 1, 2]]
    """
    device = frame_lengths.device
    frame = torch.arange(frames, device=device, dtype=torch.float32)
    rise = concentration * (frame + 1)  # (F,)
    fall = concentration * (frame_lengths[:, None] - frame).clamp_min(1.0)  # (B, F)
    last = (text_lengths - 1)[:, None]
    token = torch.arange(tokens, device=device).minimum(last).float()  # (B, U)
    left = last - token
    choose = torch.lgamma(last + 1.0) - torch.lgamma(token + 1) - torch.lgamma(left + 1)  # (B, U)
    beta = (
        torch.lgamma(token[:, None] + rise[:, None])
        + torch.lgamma(left[:, None] + fall[..., None])
        - torch.lgamma(last[..., None] + (rise + fall)[..., None])
    )
    exists = torch.arange(tokens, device=device) < text_lengths[:, None]
    log_prior = (choose[:, None] + beta).masked_fill(~exists[:, None], -torch.inf)
    return (log_prior - log_prior.amax(-1, keepdim=True)).exp()
