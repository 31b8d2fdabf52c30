"""Unmasking in as many rounds as the model's confidence asks for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from espnet_ext.decoding.base import DecodingStrategy, Filled, Round, last_round, register_strategy
from espnet_ext.decoding.masked_step import MaskedStep, rank
from espnet_ext.decoding.sampling import Sampler, SamplingOptions
from espnet_ext.errors import UserError
from espnet_ext.model.heads import Heads, MaskGITLocalTransformer
from espnet_ext.model.parts import UnmaskingFilter
from espnet_ext.options import check_choice, check_number

SCHEDULES = ("threshold", "learned")
FILTER = "unmasking_filter"  # the part of a learned schedule


@register_strategy("local_maskgit_adaptive")
@dataclass(frozen=True)
class LocalMaskGITAdaptive(DecodingStrategy):
    """Each round reveals every slot whose most likely code is sure enough; easy steps need few rounds.

    Attributes:
        threshold: probability from which on a slot is sure, tau; 0 reveals everything at once, above 1 as little as
            possible.
        min_codes: codes that a round reveals at least, the surest ones.
        max_codes: codes that a round reveals at most; 0 for no limit.
        n_rounds: rounds per step at most; the last one reveals all that is left.
        schedule: what is to reach the threshold: "threshold": the probability of a slot's most likely code, "learned":
            what the part `unmasking_filter` of the model says of the slot's code being final.

    Reference:
        Confidence-adaptive decoding of CD4LM, arXiv:2601.02236, over the slots of a step instead of over text; its
        learned schedule: Learn2PD, arXiv:2509.25188.
    """

    threshold: float = 0.8
    min_codes: int = 1
    max_codes: int = 0
    n_rounds: int = 8
    schedule: str = "threshold"

    head_types = (MaskGITLocalTransformer,)
    is_static = True

    def __post_init__(self) -> None:
        check_number("threshold", self.threshold, least=0)
        check_number("min_codes", self.min_codes, least=1, whole=True)
        check_number("max_codes", self.max_codes, least=0, whole=True)
        check_number("n_rounds", self.n_rounds, least=1, whole=True)
        check_choice("schedule", self.schedule, SCHEDULES)
        if 0 < self.max_codes < self.min_codes:
            raise UserError(f"max_codes must be 0 or at least min_codes = {self.min_codes}, got {self.max_codes}")

    def check(self, heads: Heads) -> None:  # noqa: D102 (inherited)
        super().check(heads)
        if self.schedule == "learned" and FILTER not in heads.beside:
            raise UserError(f"schedule must be threshold with a model without part {FILTER}, got 'learned'")

    def doubt(self, heads: Heads, sampling: SamplingOptions) -> str | None:  # noqa: D102 (inherited)
        part = heads.beside[FILTER] if self.schedule == "learned" else None
        if not isinstance(part, UnmaskingFilter) or set(sampling.temperatures) == {part.temperature}:
            return None
        return (
            f"temperature must be {part.temperature}, which this model's {FILTER} was trained for, got "
            f"{sampling.temperature}: what it says of codes is then not what it learned"
        )

    def decode_step(self, heads: Heads, hidden: Tensor, sampler: Sampler) -> Filled:  # noqa: D102
        return last_round(self.rounds(heads, hidden, sampler))

    def rounds(self, heads: Heads, hidden: Tensor, sampler: Sampler) -> Iterator[Round]:  # noqa: D102
        local = heads.of(MaskGITLocalTransformer)
        step = MaskedStep(local, heads.inputs(local, hidden), sampler)
        last = min(self.n_rounds, local.slots) - 1  # a round reveals a code, at least
        for number in range(last + 1):
            rows = step.rows_below(local.slots)
            draw = step.predict(rows)
            if number == 0:
                step.decide_end(draw)
            confidence, known = step.confidence(draw, purity=True), step.known[rows]
            place, most = rank(confidence.masked_fill(known, -1.0)), self.max_codes or local.slots
            sure = self._sure(heads, confidence, known)
            chosen = ((sure >= self.threshold) & (place < most)) | (place < self.min_codes)
            step.reveal(rows, draw, chosen | (number == last))
            yield Round(step.filled(), ~step.known.all(dim=1))

    def _sure(self, heads: Heads, confidence: Tensor, known: Tensor) -> Tensor:
        """What is compared with the threshold, (R', M); of known slots it means nothing."""
        if self.schedule == "threshold":
            return confidence
        part = heads.beside[FILTER]
        assert isinstance(part, UnmaskingFilter)
        return part.logits(confidence, known).sigmoid()
