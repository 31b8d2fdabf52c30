"""The prior of the published base model: along the diagonal while training begins, a moving window in inference."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from espnet_ext.errors import UserError
from espnet_ext.model.alignment import Alignment
from espnet_ext.model.primary.attention_prior import (
    END_TOKENS,
    AttentionPrior,
    Reading,
    at_frames,
    ending,
    register_prior,
)
from espnet_ext.model.primary.state import EndGuard
from espnet_ext.options import check_flag, check_number


@dataclass(frozen=True)
class InferenceRules:
    """Rules of the published implementation for the window and for the end; without them it is as it was at first.

    Attributes:
        after_steps: first steps that have neither window nor guard and are not looked at; the window then begins at
            the text's first token.
        short_text: texts of so many tokens or fewer have no window.
        forward: whether the token attended to is looked for within the window, from its token on and apart from the
            text's last ones, which count as its end; otherwise it is the most probable of all.
        end_guard: whether an utterance cannot end before its attention is near the text's end, and must some time
            after.
        end_steps: this time.
    """

    after_steps: int = 0
    short_text: int = 0
    forward: bool = False
    end_guard: bool = False
    end_steps: int = 20

    def __post_init__(self) -> None:
        check_number("rules.after_steps", self.after_steps, least=0, whole=True)
        check_number("rules.short_text", self.short_text, least=0, whole=True)
        check_number("rules.end_steps", self.end_steps, least=1, whole=True)
        for name in ("forward", "end_guard"):
            check_flag(f"rules.{name}", getattr(self, name))

    @classmethod
    def of(cls, conf: object) -> InferenceRules:
        """The rules of an option.

        Args:
            conf: names and values, or None for the defaults.

        Returns:
            The rules.

        Raises:
            UserError: if a rule is unknown or has a value that is not allowed.
        """
        if conf is not None and not isinstance(conf, Mapping):
            raise UserError(f"rules must be names and values, got {conf!r}")
        known, given = [field.name for field in fields(cls)], dict(conf or {})
        unknown = sorted(set(given) - set(known), key=str)
        if unknown:
            raise UserError(f"rules of annealed must be among {known}, got {unknown}")
        return cls(**given)


@register_prior("annealed")
class AnnealedPrior(AttentionPrior):
    """A beta-binomial prior that fades out during training; in inference a window behind the token attended to last.

    The attention has to learn the alignment itself; the forward-sum loss on its scores, without the prior (weight
    `alignment` of the model), helps. In inference tokens outside of the window keep a share of their probability. A
    token that was attended to for many frames is a sink: it is left, and the window moves on to the next one. The last
    token, the end of the text, may last.

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
        rules: `InferenceRules`.

    Raises:
        UserError: if an option is out of range.

    Reference:
        Base model of arXiv:2509.19592. Its published implementation has the prior and the forward-sum loss at S = 1
        only; here every frame of a step has an attention head of its own, hence both for every S. The prior is
        scaled to have 1 as its largest value, so that fading it towards 1 everywhere is gradual. `docs/priors.md`
        lists every difference.
    """

    reads_attention: ClassVar[bool] = True
    batches: Tensor

    def __init__(
        self,
        width: int,
        stacking: int,
        *,
        concentration: float = 0.5,
        anneal_from: int = 8000,
        anneal_until: int = 12000,
        behind: int = 1,
        ahead: int = 5,
        floor: float = 0.1,
        sink_frames: int = 8,
        rules: Mapping[str, object] | None = None,
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
        self.floor, self.rules = math.log(floor) if floor else -torch.inf, InferenceRules.of(rules)
        self._follows = False
        # Steps of the optimiser; the name is that of older checkpoints, which counted batches. In the checkpoint, so
        # that a training that is continued knows how far it is. ESPnet adds such numbers up where it averages weights;
        # decoding does not read this one.
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    @classmethod
    def complete(cls, conf: Mapping[str, object]) -> dict[str, object]:  # noqa: D102
        return {**conf, "rules": asdict(InferenceRules.of(conf.get("rules")))}

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
        made = self.again(reading, targets, step_lengths)
        if self.training and not self._follows:
            self.batches += 1
        return made

    def again(  # noqa: D102
        self, reading: Reading, targets: Tensor, step_lengths: Tensor
    ) -> tuple[Tensor | None, Alignment | None]:
        strength = self.strength()
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

    @property
    def _first_frame(self) -> int:
        """Number of the first frame that is looked at."""
        return self.rules.after_steps * self.stacking

    def _window(self, path: Tensor, first: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where the window of a step stands (B, 1), which tokens are sinks (B, U), each frame's furthest token (B, S).

        Args:
            path: what `start` made.
            first: (1 or B, 1) int64, the step's first frame.
            tokens: (B, U) bool, True where a token exists.

        Returns:
            The three.
        """
        token, frame = (
            torch.arange(tokens.shape[1], device=path.device),
            torch.arange(path.shape[1], device=path.device),
        )
        end = tokens.sum(1, keepdim=True) - 1  # (B, 1)
        counted = ((frame < first) & (frame >= self._first_frame)).long()
        visits = torch.zeros_like(tokens, dtype=torch.int64).scatter_add_(1, path, counted.expand_as(path))
        sink = (visits >= self.sink_frames) & (token < end)
        last = at_frames(path, (first - 1).clamp_min(0)) * (first > 0)
        # the window stands on the first token from the last one on that is no sink; the end of the text never is
        here = torch.where((token >= last) & ~sink, token, tokens.shape[1]).amin(1, keepdim=True).minimum(end)
        # within a step a later frame may be further on
        return here, sink, here + self.ahead + torch.arange(self.stacking, device=tokens.device)

    def step(self, path: Tensor, frames: Tensor, tokens: Tensor) -> Tensor:  # noqa: D102
        token = torch.arange(tokens.shape[1], device=tokens.device)
        here, sink, reach = self._window(path, frames[:, :1], tokens)
        inside = (token >= here[..., None] - self.behind) & (token <= reach[..., None]) & ~sink[:, None]  # (B, S, U)
        free = (tokens.sum(1, keepdim=True) <= self.rules.short_text) | (frames < self._first_frame)  # (B, S)
        zero = torch.zeros((), device=tokens.device)
        return torch.where(inside | free[..., None], zero, self.floor)[:, :, None]

    def observe(self, path: Tensor, frames: Tensor, scores: Tensor, tokens: Tensor) -> None:  # noqa: D102
        scores = scores[:, :, 0]  # (B, S, U)
        attended = scores.argmax(-1)
        if self.rules.forward:
            token, end = torch.arange(tokens.shape[1], device=tokens.device), tokens.sum(1)[:, None, None] - 1
            here, _, reach = self._window(path, frames[:, :1], tokens)
            inside = (token >= here[..., None]) & (token < reach[..., None].minimum(end + 1 - END_TOKENS))
            found = scores.masked_fill(~inside, -torch.inf).argmax(-1)
            attended = torch.where(inside.any(-1), found, end[..., 0])
        path.scatter_(1, frames.expand(len(path), -1), attended * (frames >= self._first_frame))

    @property
    def end_guard(self) -> EndGuard | None:
        """Tells where an utterance may end, from the tokens of its frames; None without the rule."""
        return self.guard(self.rules.end_steps) if self.rules.end_guard else None

    def guard(self, steps: int) -> EndGuard:  # noqa: D102
        return partial(ending, stacking=self.stacking, end_steps=steps, after_steps=self.rules.after_steps)


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
