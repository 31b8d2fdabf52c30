"""Speech of which something is made anew: other words in a recording, or the same ones once more."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from espnet_ext.decoding import Watch
from espnet_ext.decoding.options import DecodeOptions
from espnet_ext.errors import UserError
from espnet_ext.inference.listener import Ids
from espnet_ext.inference.requests import Plan, Request, Start, Text, check_ids, register_mode
from espnet_ext.options import check_number

if TYPE_CHECKING:
    from espnet_ext.inference.speaker import Speaker

ANEW = -1  # in codes: to be made anew


@register_mode("edit")
@dataclass(frozen=True)
class Edit(Text):
    """A recording, or codes, of which a stretch is made anew, by a masked model; all other codes stay as they are.

    The text is that of the whole utterance as it shall be. Codes of -1 are made anew as well, so that any frames of an
    utterance may be asked for. Without a prompt, the longest stretch that stays is the voice.

    Attributes:
        start: where the stretch begins, in seconds; None for no stretch, or from the beginning.
        end: where it ends; None for no stretch, or to the end.
        new_sec: how long what comes in its place is; None for as long as it was.

    Raises:
        UserError: if an option is out of range.
    """

    start: float | None = None
    end: float | None = None
    new_sec: float | None = None

    source: ClassVar[str] = "speech"
    reads: ClassVar[tuple[str, ...]] = ("target_wav", "text")
    material: ClassVar[str] = "recording"

    def __post_init__(self) -> None:
        for name in ("start", "end", "new_sec"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), least=0)
        if self.new_sec is not None and not self._has_stretch:
            raise UserError(f"new_sec must come with start or end, got {self.new_sec}")
        if self.end is not None and self.end < (self.start or 0.0):
            raise UserError(f"end must be at least start = {self.start}, got {self.end}")

    @property
    def _has_stretch(self) -> bool:
        return self.start is not None or self.end is not None

    def check(self, speaker: Speaker, options: DecodeOptions) -> None:  # noqa: D102 (inherited)
        super().check(speaker, options)
        if (objective := speaker.corelm.objective) != "masked":
            raise UserError(
                f"mode must be text with a model of objective {objective}, got edit, which needs a masked one"
            )

    def plan_single(self, args: Namespace) -> Plan:  # noqa: D102 (inherited)
        if not args.text or not args.text.strip():
            raise UserError(f"text must be given for mode edit, that of the whole utterance, got {args.text!r}")
        return super().plan_single(args)

    def starts(  # noqa: D102 (inherited)
        self, speaker: Speaker, names: Sequence[str], requests: Sequence[Request], options: DecodeOptions
    ) -> list[Start]:
        known = [self.known(speaker, name, request) for name, request in zip(names, requests, strict=True)]
        starts, longest = [], self.prompt_frames(speaker)
        for name, request, codes in zip(names, requests, known, strict=True):
            voice = voice_in(codes) if request.prompt is None else request.prompt.codes
            check_ids(f"prompt of {name}", voice[:longest], speaker.corelm.spec)
            encoding = speaker.tokenizer.read_to_speak(request.text)
            ids = np.asarray(encoding.ids)
            starts.append(Start(ids, len(ids), voice[:longest], unknown=encoding.unknown, known=codes))
        return starts

    def known(self, speaker: Speaker, name: str, request: Request) -> Ids:
        """Codes (T, N) of an utterance as it shall be, -1 where there is to be something new.

        Args:
            speaker: who speaks.
            name: utterance id, for errors.
            request: what is asked for.

        Returns:
            The codes.

        Raises:
            UserError: if there is no recording, no such stretch, or nothing to make anew.
        """
        if request.speech is None or not len(request.speech.codes):
            raise UserError(f"speech of {name} must be given for mode edit: a recording, or codes")
        codes, spec = request.speech.codes, speaker.corelm.spec
        check_ids(f"speech of {name}", np.where(codes == ANEW, 0, codes), spec)
        if self._has_stretch:
            rate, frames = spec.frame_rate_hz, len(codes)
            first = round((self.start or 0.0) * rate)
            end = frames if self.end is None else round(self.end * rate)
            if not first <= end <= frames:
                raise UserError(
                    f"start and end must be within {frames / rate:g} s of {name}, got {self.start}, {self.end}"
                )
            new = end - first if self.new_sec is None else round(self.new_sec * rate)
            codes = np.concatenate((codes[:first], np.full((new, codes.shape[1]), ANEW), codes[end:]))
        if not (codes == ANEW).any():
            raise UserError(f"speech of {name} must have something to make anew: start and end, or codes of {ANEW}")
        return codes

    def conditions(  # noqa: D102 (inherited)
        self, speaker: Speaker, names: Sequence[str], requests: Sequence[Request], starts: Sequence[Start]
    ) -> Any:
        conditions = super().conditions(speaker, names, requests, starts)
        mask = speaker.corelm.spec.mask_id
        known = [torch.from_numpy(np.where(start.known == ANEW, mask, start.known)) for start in starts]
        lengths = torch.tensor([len(codes) for codes in known], device=speaker.device)
        padded = nn.utils.rnn.pad_sequence(known, batch_first=True).to(speaker.device)
        return conditions._replace(known=padded, known_lengths=lengths)

    def limits(  # noqa: D102 (inherited)
        self, speaker: Speaker, names: Sequence[str], starts: Sequence[Start], conditions: Any, options: DecodeOptions
    ) -> Tensor:
        limits: Tensor = (conditions.known_lengths + 1).clamp_min(options.min_frames)  # with the frame that ends it
        return limits

    def watch(self, speaker: Speaker, starts: Sequence[Start], options: DecodeOptions) -> Watch | None:  # noqa: D102
        return None  # how long it is, and most of what it says, is given


def voice_in(known: Ids) -> Ids:
    """The longest stretch of frames (T', N) that are known all over.

    >>> voice_in(np.array([[1], [-1], [2], [3], [-1]])).tolist()
    [[2], [3]]
    """
    edges = np.flatnonzero(np.diff(np.concatenate(([True], (known == ANEW).any(1), [True]))))
    stretches = list(zip(edges[::2], edges[1::2], strict=True))
    first, end = max(stretches, key=lambda one: one[1] - one[0], default=(0, 0))
    return known[first:end]
