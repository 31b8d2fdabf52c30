"""The codes of local_ar in fewer passes: the parallel heads draft a step, the local transformer verifies it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from espnet_ext.decoding.acceptance import Acceptance, Drafts, build_acceptance
from espnet_ext.decoding.base import DecodingStrategy, Filled, Round, last_round, register_strategy
from espnet_ext.decoding.local_ar import LocalAR
from espnet_ext.decoding.sampling import Sampler
from espnet_ext.model.heads import MODEL, ARLocalTransformer, Heads, ParallelHeads
from espnet_ext.options import check_flag


@register_strategy("local_speculative")
@dataclass(frozen=True)
class LocalSpeculative(DecodingStrategy):
    """Lossless speculative decoding over the slots of a step.

    One causal pass scores all M drafted codes. The leading codes it agrees with are accepted, the first one it does
    not agree with is corrected, the later ones are drafted anew from this very pass, and so on until all are known.
    Draft and verification use the same bans, guidance and warping.

    Attributes:
        acceptance: how a draft is compared with the verification. "gumbel": codes are those of local_ar with the same
            generators; "exact" and "block": codes have the distribution of those of local_ar; others need exact false.
        acceptance_conf: its options, as far as they are given.
        exact: whether the acceptance has to be exact.

    Reference:
        Leviathan et al. 2023, arXiv:2211.17192, over the depth of a frame instead of over time.
    """

    acceptance: str = "gumbel"
    acceptance_conf: Mapping[str, object] = field(default_factory=dict, hash=False)
    exact: bool = True

    head_types = (ARLocalTransformer, ParallelHeads)
    is_static = True
    scores_steps = True

    def __post_init__(self) -> None:
        check_flag("exact", self.exact)
        _ = self.accepting

    @cached_property
    def accepting(self) -> Acceptance:
        """How a draft is compared with the verification."""
        return build_acceptance(self.acceptance, self.acceptance_conf, self.exact)

    def check(self, heads: Heads) -> None:  # noqa: D102 (inherited)
        super().check(heads)
        self.accepting.check((MODEL, *heads.code_vectors))

    def decode_step(self, heads: Heads, hidden: Tensor, sampler: Sampler) -> Filled:  # noqa: D102
        return last_round(self.rounds(heads, hidden, sampler))

    def rounds(self, heads: Heads, hidden: Tensor, sampler: Sampler) -> Iterator[Round]:  # noqa: D102
        yield from self._rounds(heads, hidden, sampler)

    def scores(self, heads: Heads, hidden: Tensor, codes: Tensor) -> Tensor:  # noqa: D102
        return LocalAR().scores(heads, hidden, codes)

    def complete(  # noqa: D102
        self, heads: Heads, hidden: Tensor, sampler: Sampler, codes: Tensor, known: Tensor
    ) -> Filled:
        return last_round(self._rounds(heads, hidden, sampler, codes, known))

    def _rounds(
        self,
        heads: Heads,
        hidden: Tensor,
        sampler: Sampler,
        given: Tensor | None = None,
        known: Tensor | None = None,
    ) -> Iterator[Round]:
        """The rounds behind leading codes that are known already; none if nothing is said of them."""
        local, accepting = heads.of(ARLocalTransformer), self.accepting
        if accepting.same_noise:
            sampler = sampler.with_fixed_noise(local.slots, local.spec.vocab_size, hidden.device)
        inputs, slot = heads.inputs(local, hidden), torch.arange(local.slots, device=hidden.device)
        vectors = {MODEL: local.embedding, **heads.code_vectors}
        draft = heads.of(ParallelHeads).logits(hidden) if inputs.base is None else inputs.base
        codes, logprobs, drafted_from = sampler(draft)
        passes = torch.zeros_like(codes[:, 0])
        known = torch.zeros_like(passes) if known is None else known
        codes = codes if given is None else given.where(slot < known[:, None], codes)
        going = torch.ones_like(known, dtype=torch.bool)
        for _ in range(local.slots):  # a pass makes one more code known, at least
            rows = sampler.rows_of(going)
            of_rows = sampler.for_rows(rows)
            log_verified, verified = of_rows.distribution(local.logits(inputs.rows(rows), codes[rows, :-1]))
            drafts = Drafts(codes[rows], known[rows], drafted_from, verified, vectors, local.spec.num_codebooks)
            codes[rows], now_known = accepting.accept(drafts, of_rows)
            # the codes of this pass that are still drafts get their final values in a later one
            scores = log_verified.gather(-1, codes[rows, :, None])[..., 0]
            logprobs[rows] = torch.where(slot < known[rows, None], logprobs[rows], scores)
            known[rows], passes[rows] = now_known, passes[rows] + going[rows]
            going = known < local.slots
            drafted_from = verified[sampler.rows_of(going[rows])]
            yield Round(Filled(codes, logprobs, passes), going)
