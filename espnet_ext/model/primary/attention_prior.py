"""What tells the cross-attention which text token a frame speaks: the registry of priors, and the predicted path."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from espnet_ext.codes import length_mask, num_steps
from espnet_ext.model.alignment import (
    Aligner,
    Alignment,
    FramePredictor,
    at_least_float32,
    best_path,
    path_log_prior,
    path_of,
    positions_of,
    within_tokens,
)
from espnet_ext.model.primary.known_path import Known, path_around
from espnet_ext.model.primary.state import EndGuard, Ending
from espnet_ext.options import check_flag, check_number
from espnet_ext.registry import Registry

# as published: tokens from the text's end on which an utterance may end, and from which on the steps to its end
# are counted; steps after which it may end wherever the attention is by then
END_TOKENS, LAST_TOKENS, END_GRACE_STEPS = 3, 2, 5


class Reading(NamedTuple):
    """Text and speaker prompt, as a prior sees them.

    Attributes:
        text: (B, U, D) embedded tokens.
        encoded: (B, U, D) encoded tokens.
        lengths: (B,) int64 tokens.
        prompt: (B, D) mean of the encoded prompt, zero without one.
        given: (B,) bool, False for a row whose text and prompt the model must not see.
    """

    text: Tensor
    encoded: Tensor
    lengths: Tensor
    prompt: Tensor
    given: Tensor

    def float(self) -> Reading:
        """The same, in float32 at least."""
        wide = {name: at_least_float32(part) for name, part in self._asdict().items() if part.is_floating_point()}
        return self._replace(**wide)


class AttentionPrior(nn.Module, ABC):
    """A log prior over text tokens for every frame of a step; the cross-attention has one head per frame.

    In inference a prior keeps one tensor, the place of every frame in the text: `start` makes it, `observe` may write.

    Args:
        width: D.
        stacking: S.

    Attributes:
        reads_attention: whether `alignment_of` and `observe` want the cross-attention's scores.
        plans: whether it can tell, with `plan`, where all frames of an utterance are before there is any.
    """

    reads_attention: ClassVar[bool] = False
    plans: ClassVar[bool] = False

    def __init__(self, width: int, stacking: int) -> None:
        super().__init__()
        self.width, self.stacking = width, stacking

    @classmethod
    def complete(cls, conf: Mapping[str, object]) -> dict[str, object]:
        """Options with the defaults of those that have options of their own.

        Args:
            conf: options, those of the constructor complete.

        Returns:
            The options.
        """
        return dict(conf)

    def follow(self, optimizer: Optimizer) -> None:
        """Count the optimiser's steps instead of batches, for a prior that changes during training.

        Args:
            optimizer: of the training.
        """
        return

    @abstractmethod
    def forward(
        self, reading: Reading, targets: Tensor, step_lengths: Tensor
    ) -> tuple[Tensor | None, Alignment | None]:
        """Log prior (B, S, L, U) of teacher-forced steps, None for none, and the alignment if it is known already.

        Args:
            reading: text and prompt.
            targets: (B, L, S or 1, D) embedded frames, or embedded steps where the model does not tell frames apart.
            step_lengths: (B,) int64.

        Returns:
            Prior and alignment.
        """

    def again(self, reading: Reading, targets: Tensor, step_lengths: Tensor) -> tuple[Tensor | None, Alignment | None]:
        """What `forward` says, for one more pass over the same batch, which is no further batch of the training.

        Args:
            reading: text and prompt.
            targets: as in `forward`.
            step_lengths: (B,) int64.

        Returns:
            Prior and alignment.
        """
        return self.forward(reading, targets, step_lengths)

    def alignment_of(self, scores: Tensor, reading: Reading, step_lengths: Tensor) -> Alignment | None:
        """The alignment that the cross-attention found, for its loss; None where that of `forward` counts.

        Args:
            scores: (B, S, L, U) logits of the cross-attention without the prior, mean of the layers.
            reading: text and prompt.
            step_lengths: (B,) int64.

        Returns:
            The alignment of the rows that have conditions.
        """
        return None

    @abstractmethod
    def start(self, reading: Reading, frames: int) -> Tensor:
        """Where every frame is in the text, (B, frames) tokens, before the first step, as far as it can be known.

        Args:
            reading: text and prompt.
            frames: most frames of any row.

        Returns:
            The tokens.
        """

    def plan(self, reading: Reading, known: Known, max_frames: Tensor) -> tuple[Tensor, Tensor]:
        """What `start` gives, of whole utterances and the frame that ends each, and their lengths.

        Args:
            reading: text and prompt.
            known: of the utterances.
            max_frames: (B,) int64, most frames of a row whose length is predicted.

        Returns:
            The path, (B, L * S), and the frames of each row, (B,) int64.
        """
        raise NotImplementedError

    @abstractmethod
    def step(self, path: Tensor, frames: Tensor, tokens: Tensor) -> Tensor:
        """Log prior (B, S, W, U) of W steps; where the prior reads its attention, of one.

        Args:
            path: what `start` made.
            frames: (1 or B, W * S) int64, numbers of the steps' frames.
            tokens: (B, U) bool, True where a token exists.

        Returns:
            The prior.
        """

    def observe(self, path: Tensor, frames: Tensor, scores: Tensor, tokens: Tensor) -> None:
        """Take note of what a step attended to.

        Args:
            path: what `start` made; may be written.
            frames: (1 or B, S) int64, numbers of the step's frames.
            scores: (B, S, 1, U) logits of the cross-attention with the prior, mean of the layers.
            tokens: (B, U) bool, True where a token exists.
        """
        return

    @property
    def end_guard(self) -> EndGuard | None:
        """Tells where an utterance may end unless the decoding says otherwise; None where it may everywhere."""
        return None

    def guard(self, steps: int) -> EndGuard | None:
        """What forbids the end before that of the text, and forces it so many steps behind that.

        Args:
            steps: behind the text's end, at least 1.

        Returns:
            The guard; None for a prior that does not know where the frames are in the text.
        """
        return None


def at_frames(path: Tensor, frames: Tensor) -> Tensor:
    """What a path (B, frames) has at some of its frames, (1 or B, S) int64: (B, S)."""
    return path.gather(1, frames.expand(len(path), -1))


def ending(path: Tensor, steps: Tensor, tokens: Tensor, stacking: int, end_steps: int, after_steps: int = 0) -> Ending:
    """Where rows may end by the tokens of their frames, as the published implementation has it.

    Args:
        path: (B, frames), the token of every frame, or how far it has come.
        steps: (1 or B,) int64, those that are done.
        tokens: (B, U) bool, True where a token exists.
        stacking: S.
        end_steps: steps from the first one at the end of the text on after which a row must end.
        after_steps: first steps, in which nothing is guarded.

    Returns:
        What is possible and what is due.
    """
    size, frame = tokens.sum(1), torch.arange(path.shape[1], device=path.device)  # (B,), (frames,)
    steps = steps.expand_as(size)
    done = (steps * stacking)[:, None]
    path = path.round()  # the end of a token is the beginning of the next
    last = at_frames(path, (done - 1).clamp(0, path.shape[1] - 1))[:, 0].masked_fill(steps == 0, 0)
    near_end = (path >= (size - LAST_TOKENS)[:, None]) & (frame < done) & (frame >= after_steps * stacking)
    since = steps - torch.where(near_end, frame // stacking, steps[:, None]).amin(1)  # steps, the first one counted
    free = steps < after_steps
    possible = (last >= size - END_TOKENS) | (since > END_GRACE_STEPS)
    return Ending(possible | free, (since >= end_steps) & ~free)


attention_priors: Registry[type[AttentionPrior]] = Registry("prior", "espnet_ext.prior")
register_prior = attention_priors.register


@register_prior("path")
class PathPrior(AttentionPrior):
    """A bump on the token of a monotonic path; quick to learn, because no attention has to find the text by itself.

    With codes (training, scoring) the path is the best one through an aligner's similarities; in inference it is
    made of the frames per token that a predictor expects.

    Args:
        width: D.
        stacking: S.
        spread: standard deviation of the bump, in tokens.
        moves: whether the bump moves through a token while it is spoken, so that frames know how far they are in it;
            otherwise it stands on the token.
    """

    plans = True

    def __init__(self, width: int, stacking: int, *, spread: float = 1.5, moves: bool = False) -> None:
        super().__init__(width, stacking)
        check_number("spread", spread, above=0)
        check_flag("moves", moves)
        self.spread, self.moves = spread, moves
        self.aligner = Aligner(width)
        self.frame_predictor = FramePredictor(width)

    def attend(self, reading: Reading, targets: Tensor, step_lengths: Tensor) -> Tensor:
        """Log-attention of the aligner, (B, L * S, U), in float32 at least, whatever the weights are in."""
        told = targets.shape[2]  # frames of a step that are told apart
        dtype = self.aligner.log_scale.dtype
        text, frames = reading.text.to(dtype), targets.detach().flatten(1, 2).to(dtype)
        log_attention = at_least_float32(self.aligner(text, reading.lengths, frames, step_lengths * told))
        return log_attention.repeat_interleave(self.stacking // told, dim=1)

    def align(self, reading: Reading, targets: Tensor, step_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Log-attention of the aligner (B, L * S, U), and the best path (B, L * S) through it."""
        log_attention = self.attend(reading, targets, step_lengths)
        return log_attention, best_path(log_attention.detach(), step_lengths * self.stacking, reading.lengths)

    def predict(self, reading: Reading) -> Tensor:
        """Log of the expected frames per token (B, U), in float32 at least: sums over a long text go on from it.

        The encoders learn from the codes, not from this.
        """
        mask, dtype = length_mask(reading.lengths, reading.encoded.shape[1]), self.aligner.log_scale.dtype
        encoded, prompt = reading.encoded.detach().to(dtype), reading.prompt.detach().to(dtype)
        return at_least_float32(self.frame_predictor(encoded, mask, prompt))

    def forward(  # noqa: D102
        self, reading: Reading, targets: Tensor, step_lengths: Tensor
    ) -> tuple[Tensor | None, Alignment | None]:
        log_attention, path = self.align(reading, targets, step_lengths)
        frame_lengths = step_lengths * self.stacking
        centre = within_tokens(path, frame_lengths) if self.moves else path
        prior = path_log_prior(centre, self.stacking, reading.text.shape[1], self.spread)
        existing = length_mask(frame_lengths, path.shape[1]).to(log_attention.dtype)
        spoken = torch.zeros_like(log_attention[:, 0]).scatter_add_(1, path, existing)
        return prior, Alignment(log_attention, frame_lengths, reading.lengths, spoken, self.predict(reading))

    def start(self, reading: Reading, frames: int) -> Tensor:  # noqa: D102
        of_frames = positions_of if self.moves else path_of
        expected = self.predict(reading).exp()
        return of_frames(expected, reading.lengths, frames)

    def plan(self, reading: Reading, known: Known, max_frames: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        expected = self.predict(reading).exp()
        expected = expected * length_mask(reading.lengths, expected.shape[1])
        total = expected.sum(1)
        # tokens of the training also last for the frame that ends an utterance, and the rest of its step
        ending = (self.stacking + 1) / 2
        predicted = (total - ending).round().long().clamp_min(1).minimum(max_frames)
        lengths = predicted.where(known.lengths == 0, known.lengths)
        frame_lengths = num_steps(lengths + 1, self.stacking) * self.stacking
        expected = expected * (frame_lengths / total)[:, None]
        of_frames, width = positions_of if self.moves else path_of, int(frame_lengths.max())
        path = of_frames(expected, reading.lengths, width)
        rows = (known.lengths > 0).nonzero()[:, 0]
        if not len(rows):
            return path, lengths
        some = Reading(*(part[rows] for part in reading))
        is_known = known.is_known[rows].flatten(1).repeat_interleave(self.stacking // known.is_known.shape[2], dim=1)
        attention = self.attend(some, known.frames[rows], frame_lengths[rows] // self.stacking)
        of_rows = frame_lengths[rows], some.lengths
        found = path_around(attention, is_known, *of_rows, expected[rows])
        found = within_tokens(found, of_rows[0]) if self.moves else found
        path = path.to(found.dtype)
        path[rows, : found.shape[1]] = found[:, :width]
        return path, lengths

    def step(self, path: Tensor, frames: Tensor, tokens: Tensor) -> Tensor:  # noqa: D102
        return path_log_prior(at_frames(path, frames), self.stacking, tokens.shape[1], self.spread)

    def guard(self, steps: int) -> EndGuard:  # noqa: D102
        return partial(ending, stacking=self.stacking, end_steps=steps)
