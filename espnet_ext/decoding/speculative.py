"""Several steps in a turn: drafted, scored in one pass of the primary transformer, and kept as far as they hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from espnet_ext.decoding.acceptance import Acceptance, Drafts, acceptances, build_acceptance
from espnet_ext.decoding.base import DecodingStrategy
from espnet_ext.decoding.drafters import Draft, Drafter, Seen, drafters
from espnet_ext.decoding.order import Advance, Order, Own, Turn, register_order
from espnet_ext.decoding.sampling import Sampler, window_of
from espnet_ext.errors import UserError
from espnet_ext.model.core_lm import StepModel
from espnet_ext.options import check_flag, check_number
from espnet_ext.registries import strategies

MOST_WIDTH = 64


@register_order("speculative")
@dataclass(frozen=True)
class Speculative(Order):
    """A drafter guesses the steps that come; one pass of the primary transformer scores them all.

    With an acceptance of the same noise, `gumbel`, the strategy fills step after step, whatever strategy it is, as long
    as what it fills is what was guessed: the codes are those of `causal` with the same generators. With another one the
    local head scores all drafted codes in one pass, and the first step that does not hold is completed behind the
    codes of it that do.

    Attributes:
        width: steps that a pass scores, one more than are drafted.
        drafter: name of the drafter.
        drafter_conf: its options, as far as they are given.
        acceptance: name of the acceptance.
        acceptance_conf: its options, as far as they are given.
        exact: whether the acceptance has to be exact.
    """

    width: int = 4
    drafter: str = "jacobi"
    drafter_conf: Mapping[str, object] = field(default_factory=dict, hash=False)
    acceptance: str = "gumbel"
    acceptance_conf: Mapping[str, object] = field(default_factory=dict, hash=False)
    exact: bool = True

    def __post_init__(self) -> None:
        check_number("width", self.width, least=2, most=MOST_WIDTH, whole=True)
        check_flag("exact", self.exact)
        for name in ("drafter_conf", "acceptance_conf"):
            if not isinstance(getattr(self, name), Mapping):
                raise UserError(f"{name} must be names and values, got {getattr(self, name)!r}")
        _ = self.drafting, self.accepting

    @cached_property
    def drafting(self) -> Drafter:
        """Who guesses."""
        return drafters.build(self.drafter, **self.drafter_conf)

    @cached_property
    def accepting(self) -> Acceptance:
        """Which guesses stay."""
        return build_acceptance(self.acceptance, self.acceptance_conf, self.exact)

    def check_model(self, strategy: DecodingStrategy, model: StepModel) -> None:  # noqa: D102 (inherited)
        self.drafting.check(model, self.width - 1)
        self.accepting.check(model.code_vectors)
        if self.accepting.same_noise or strategy.scores_steps:
            return
        able = [one for one in strategies if strategies[one].scores_steps]
        alike = [one for one in acceptances if acceptances[one].same_noise]
        mine = next((one for one in strategies if strategies[one] is type(strategy)), type(strategy).__name__)
        raise UserError(
            f"decoding must be one of {able} with acceptance {self.acceptance!r}, got {mine!r}, whose codes have no "
            f"order; it goes with acceptance {alike}"
        )

    def begin(self, model: StepModel, conditions: Any) -> Own | None:  # noqa: D102 (inherited)
        return self.drafting.begin(model, conditions)

    def advance(self, turn: Turn, own: Any) -> Advance:  # noqa: D102 (inherited)
        count = self.width - 1
        draft = self.drafting.draft(turn, own, count, draws=not self.accepting.same_noise)
        hidden, behind = self.drafting.extend(turn, torch.cat((turn.codes[:, None], draft.codes), dim=1))
        samplers = turn.samplers(draft.codes.unbind(1))
        make = self._fill if self.accepting.same_noise else self._verify
        made = make(turn, draft, hidden, samplers)
        turn.state.accept(made.kept, self.width)
        self.drafting.observe(own, Seen(hidden, made.codes, made.kept, behind))
        return made._replace(draft_layers=draft.layers)

    def _fill(self, turn: Turn, draft: Draft, hidden: Tensor, samplers: Iterable[Sampler]) -> Advance:
        """The strategy's own steps, as long as they are those that were drafted; mostly that is one."""
        codes = nn.functional.pad(draft.codes, (0, 0, 0, 1))
        logprobs: Tensor | None = None
        kept, passes = torch.zeros_like(codes[:, 0, 0]), torch.zeros_like(codes[:, 0, 0])
        going = torch.ones_like(kept, dtype=torch.bool)
        for place, sampler in enumerate(samplers):
            rows = sampler.rows_of(going)
            filled = turn.strategy.decode_step(turn.model.heads, hidden[rows, place], sampler.for_rows(rows))
            logprobs = filled.logprobs.new_zeros(codes.shape) if logprobs is None else logprobs
            as_drafted = (filled.codes == codes[rows, place]).all(dim=1)
            codes[rows, place], logprobs[rows, place] = filled.codes, filled.logprobs
            kept[rows], passes[rows] = place + 1, passes[rows] + filled.local_passes
            going = torch.zeros_like(going).index_copy(0, rows, as_drafted)
            if not bool(going.any()):
                break
        assert logprobs is not None
        return Advance(codes, logprobs, kept, passes, torch.ones_like(kept))

    def _verify(self, turn: Turn, draft: Draft, hidden: Tensor, behind: Iterable[Sampler]) -> Advance:
        """Drafted codes as far as they hold, and the rest of the step in which the first one does not."""
        (rows, count, slots), heads, samplers = draft.codes.shape, turn.model.heads, list(behind)
        window = window_of(samplers, rows // 2 if samplers[0].options.guided else rows, turn.model.spec.mask_id)
        row = torch.arange(rows, device=hidden.device)
        drafted = (row[:, None] * self.width + torch.arange(count, device=row.device)).flatten()  # rows of the window
        scores = turn.strategy.scores(heads, hidden[:, :-1].flatten(0, 1), draft.codes.flatten(0, 1))
        logs, verified = (part.unflatten(0, (rows, count)).flatten(1, 2) for part in
                          window.for_rows(drafted).distribution(scores))  # fmt: skip
        codes = draft.codes.flatten(1)
        point = nn.functional.one_hot(codes, verified.shape[-1]).to(verified.dtype)
        drafted_from = point if draft.probs is None else draft.probs.flatten(1, 2)
        drafts = Drafts(
            codes, torch.zeros_like(row), drafted_from, verified, turn.model.code_vectors, turn.model.spec.num_codebooks
        )
        accepted, instead = self.accepting.judge(drafts, samplers[0])
        # the first code that does not hold; where all do, there is none
        place = accepted.clamp_max(count * slots - 1)
        of_place = place[:, None, None].expand(-1, 1, verified.shape[-1])
        all_hold = accepted == count * slots
        other = torch.where(all_hold[:, None, None], point.gather(1, of_place), instead.gather(1, of_place))
        codes = codes.scatter(1, place[:, None], samplers[0].categorical(other))
        logprobs = logs.gather(-1, codes[..., None])[..., 0]

        step = accepted // slots
        known = torch.where(all_hold, 0, accepted % slots + 1)
        codes, logprobs = (
            nn.functional.pad(part.unflatten(1, (count, slots)), (0, 0, 0, 1)) for part in (codes, logprobs)
        )
        passes = torch.ones_like(row)
        left = (known < slots).nonzero()[:, 0]
        if len(left):
            at = left, step[left]
            sampler = window.for_rows(left * self.width + step[left])
            filled = turn.strategy.complete(heads, hidden[at], sampler, codes[at], known[left])
            is_new = torch.arange(slots, device=row.device) >= known[left, None]
            codes[at], logprobs[at] = filled.codes, torch.where(is_new, filled.logprobs, logprobs[at])
            passes[left] += filled.local_passes
        return Advance(codes, logprobs, step + 1, passes, torch.ones_like(passes))
