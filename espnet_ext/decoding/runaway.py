"""Speech that has run away from its text, told while it is made by what no speech of the training does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

import torch
from torch import Tensor

from espnet_ext.codes import CodecSpec, StepLayout
from espnet_ext.decoding.row_tensors import RowTensors
from espnet_ext.errors import UserError
from espnet_ext.options import check_number

MARGIN = 1.25  # of what the training has at most: the next speaker may be somewhat slower
LEAST_SEC = 0.5  # a repetition or a silence is longer in any case: a small training set has seen little
LOOK_FRAMES = 8  # or a step: looking at every frame would cost some percent of a small model's time
MOST_PERIOD = 10**4  # frames
ROUNDS = 2  # a sequence of codes comes at least so many times more


class Runaway(StrEnum):
    """Why speech counts as run away."""

    LENGTH = "length"
    NO_END = "no_end"
    LOOP = "loop"
    SILENCE = "silence"

    @property
    def words(self) -> str:
        """The reason for a user."""
        return WORDS[self]


WORDS = {
    Runaway.LENGTH: "longer than any speech of the training for such a text",
    Runaway.NO_END: "no end before its length limit",
    Runaway.LOOP: "the same codes again and again",
    Runaway.SILENCE: "a longer silence than any of the training",
}
REASONS: tuple[Runaway | None, ...] = (None, *Runaway)  # by their numbers on the device


@dataclass(frozen=True)
class SpeechLimits:
    """What no speech of the training exceeds; None where nobody knows.

    Attributes:
        frames_per_token: frames of code per token of what is said.
        period: frames up to which a repetition was looked for.
        repeated: frames in a row each of which has the code of codebook 0 that was there some frames, at most
            `period`, before; always as many.
        pause: frames in a row that are silent.
        silence: codes of codebook 0 that are silent.
    """

    frames_per_token: float | None = None
    period: int = 0
    repeated: int | None = None
    pause: int | None = None
    silence: tuple[int, ...] = ()

    @classmethod
    def of(cls, conf: Mapping[str, Any] | None) -> Self:
        """Limits as config.yaml has them, which older ones lack.

        Args:
            conf: names and values; None for none.

        Returns:
            The limits.

        Raises:
            UserError: naming what is unknown or out of range.
        """
        conf = {} if conf is None else conf
        known = list(cls.__dataclass_fields__)
        if not isinstance(conf, Mapping) or set(conf) - set(known):
            raise UserError(f"speech_limits must have keys among {known}, got {ascii(conf)[:100]}")
        values = {name: value for name, value in conf.items() if value is not None}
        for name in set(values) - {"silence"}:
            # frames; what is as long as that is no limit, and all up to the period are looked at in every step
            most = MOST_PERIOD if name == "period" else 10**6
            check_number(f"speech_limits.{name}", values[name], 0, most, whole=name != "frames_per_token")
        silence = values.get("silence", ())
        if not isinstance(silence, list | tuple):
            raise UserError(f"speech_limits.silence must be codes, got {ascii(silence)[:100]}")
        for code in silence:
            check_number("speech_limits.silence", code, least=0, whole=True)
        return cls(**{**values, "silence": tuple(silence)})


@dataclass(frozen=True)
class Watch:
    """What counts as run away in a batch.

    Attributes:
        limits: of the training.
        longest: (B,) int64 frames from which on a row is too long for its text; None where nobody knows.
        stops: whether a row that has run away ends there; otherwise it is only told.
    """

    limits: SpeechLimits
    longest: Tensor | None = None
    stops: bool = True

    @classmethod
    def of(cls, limits: SpeechLimits, tokens: Tensor, stops: bool) -> Self:
        """The watch over texts of so many tokens, (B,) int64."""
        ratio = limits.frames_per_token
        return cls(limits, None if ratio is None else (tokens * ratio * MARGIN).ceil().long(), stops)


class Repetitions(RowTensors):
    """Counts, row by row, how long codes of codebook 0 repeat those before or are silent; it looks now and then.

    Args:
        limits: of the training.
        spec: the codec's facts.
        layout: of frames in steps.
        batch: rows.
        steps: most steps of a row.
        device: where the codes are.

    Attributes:
        every: steps from one look to the next.
    """

    shared = ("most", "silent")

    def __init__(
        self, limits: SpeechLimits, spec: CodecSpec, layout: StepLayout, batch: int, steps: int, device: torch.device
    ) -> None:
        self.period = 0 if limits.repeated is None else limits.period
        self.every = max(LOOK_FRAMES // layout.stacking, 1)
        least, frames = LEAST_SEC * spec.frame_rate_hz, steps * layout.stacking
        most = [max(MARGIN * (limits.repeated or 0), ROUNDS * lag, least) for lag in range(self.period, 0, -1)]
        has_pauses = limits.pause is not None and bool(limits.silence)
        most.append(max(MARGIN * (limits.pause or 0), least) if has_pauses else math.inf)
        self.most = torch.tensor(most, device=device)
        self.silent = torch.zeros(spec.vocab_size, dtype=torch.bool, device=device)
        self.silent[[code for code in limits.silence if code < spec.codebook_size]] = True
        # -1 is no code, so that nothing repeats what was before the first frame
        self.past = torch.full((batch, self.period + frames), -1, device=device)
        self.run = torch.zeros(batch, self.period + 1, dtype=torch.int64, device=device)  # by lag, then of silence

    def reasons(self, rows: Tensor, first: Tensor, codes: Tensor) -> Tensor | None:
        """Why rows have run away by now, numbers in `REASONS`: (R,) int64; None where surely none has.

        Args:
            rows: (R,) int64, those that are looked at.
            first: (R,) int64, frame that the look at each begins with.
            codes: (R, K) int64 of codebook 0 since the last look.

        Returns:
            The numbers.
        """
        count = codes.shape[1]
        place = first[:, None] + torch.arange(self.period + count, device=first.device)  # where the oldest lag begins
        place = place.clamp_max(self.past.shape[1] - 1)  # rows that are finished are beyond
        self.past[rows[:, None], place[:, self.period :]] = codes
        before = self.past[rows[:, None], place[:, :-1]].unfold(1, count, 1)  # (R, period, K), longest lag first
        same = torch.cat((before == codes[:, None], self.silent[codes][:, None]), dim=1).long()
        reached = self.run[rows] + same.cumprod(-1).sum(-1)
        self.run[rows] = torch.where(same.amin(-1) > 0, reached, same.flip(-1).cumprod(-1).sum(-1))
        over = reached > self.most
        if over.device.type == "cpu" and not over.any():
            return None
        loop, silence = REASONS.index(Runaway.LOOP), REASONS.index(Runaway.SILENCE)
        return torch.where(over[:, -1], silence, over.any(1) * loop)
