"""The codes of local_ar in fewer passes: the parallel heads draft a step, the local transformer verifies it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from espnet_ext.decoding.base import DecodingStrategy, Filled, Round, last_round, register_strategy
from espnet_ext.decoding.sampling import Sampler
from espnet_ext.model.heads import ARLocalTransformer, Heads, ParallelHeads
from espnet_ext.options import check_choice


@register_strategy("local_speculative")
@dataclass(frozen=True)
class LocalSpeculative(DecodingStrategy):
    """Lossless speculative decoding over the slots of a step.

    One causal pass scores all M drafted codes. The leading codes it agrees with are accepted, the first one it does
    not agree with is corrected, the later ones are drafted anew from this very pass, and so on until all are known.
    Draft and verification use the same bans, guidance and warping.

    Attributes:
        coupling: how a draft is compared with the verification. "gumbel": both take the code that arrives first under
            the step's fixed noise, and equal codes are accepted; the codes are those of local_ar with the same
            generators. "rejection": a draft x is accepted with probability min(1, p(x) / q(x)), else replaced by a
            draw from the residual (p - q)+; the codes have the distribution of those of local_ar.

    Reference:
        Leviathan et al. 2023, arXiv:2211.17192, algorithm 1, and Chen et al. 2023, arXiv:2302.01318 (rejection), over
        the depth of a frame instead of over time.
    """

    coupling: str = "gumbel"

    head_types = (ARLocalTransformer, ParallelHeads)
    is_static = True

    def __post_init__(self) -> None:
        check_choice("coupling", self.coupling, ("gumbel", "rejection"))

    def decode_step(self, heads: Heads, hidden: Tensor, sampler: Sampler) -> Filled:  # noqa: D102
        return last_round(self.rounds(heads, hidden, sampler))

    def rounds(self, heads: Heads, hidden: Tensor, sampler: Sampler) -> Iterator[Round]:  # noqa: D102
        local = heads.of(ARLocalTransformer)
        accept = accept_by_ratio
        if self.coupling == "gumbel":
            accept, sampler = accept_equal, sampler.with_fixed_noise(local.slots, local.spec.vocab_size, hidden.device)
        inputs = heads.inputs(local, hidden)
        draft = heads.of(ParallelHeads).logits(hidden) if inputs.base is None else inputs.base
        codes, logprobs, drafted_from = sampler(draft)
        known, passes = torch.zeros_like(codes[:, 0]), torch.zeros_like(codes[:, 0])
        going = torch.ones_like(known, dtype=torch.bool)
        for _ in range(local.slots):  # a pass makes one more code known, at least
            rows = sampler.rows_of(going)
            of_rows = sampler.for_rows(rows)
            log_verified, verified = of_rows.distribution(local.logits(inputs.rows(rows), codes[rows, :-1]))
            codes[rows], now_known = accept(codes[rows], known[rows], drafted_from, verified, of_rows)
            # the codes of this pass that are still drafts get their final values in a later one
            scores = log_verified.gather(-1, codes[rows, :, None])[..., 0]
            is_known = torch.arange(local.slots, device=codes.device) < known[rows, None]
            logprobs[rows] = torch.where(is_known, logprobs[rows], scores)
            known[rows], passes[rows] = now_known, passes[rows] + going[rows]
            going = known < local.slots
            drafted_from = verified[sampler.rows_of(going[rows])]
            yield Round(Filled(codes, logprobs, passes), going)


def accept_equal(
    codes: Tensor, known: Tensor, drafted_from: Tensor, verified: Tensor, sampler: Sampler
) -> tuple[Tensor, Tensor]:
    """Accept the codes that the verification draws as well; the others are replaced by what it draws.

    Args:
        codes: (R, M) int64, known codes and then drafts.
        known: (R,) int64, leading codes that are final.
        drafted_from: (R, M, V), not needed.
        verified: (R, M, V) distributions of each code given those in front of it.
        sampler: with fixed noise.

    Returns:
        Codes, and the leading ones that are final now, at least one more.
    """
    slot = torch.arange(codes.shape[1], device=codes.device)
    drawn = codes.where(slot < known[:, None], sampler.categorical(verified))
    accepted = (drawn == codes).long().cumprod(dim=1).sum(dim=1)
    return drawn, (accepted + 1).clamp_max(codes.shape[1])


def accept_by_ratio(
    codes: Tensor, known: Tensor, drafted_from: Tensor, verified: Tensor, sampler: Sampler
) -> tuple[Tensor, Tensor]:
    """Accept a code x with probability min(1, p(x) / q(x)); replace the first other one, draft those behind it anew.

    How many are accepted is one draw: P(j) is the probability that the first j are and the next one is not.

    Args:
        codes: (R, M) int64, known codes and then drafts.
        known: (R,) int64, leading codes that are final.
        drafted_from: (R, M, V), q.
        verified: (R, M, V), p of each code given those in front of it.
        sampler: without fixed noise.

    Returns:
        Codes, and the leading ones that are final now, at least one more.
    """
    slots = codes.shape[1]
    slot = torch.arange(slots, device=codes.device)
    p, q = verified.double(), drafted_from.double()
    ratio = p.gather(-1, codes[..., None]) / q.gather(-1, codes[..., None])
    accept = ratio[..., 0].clamp_max(1.0).masked_fill(slot < known[:, None], 1.0)
    all_in_front = nn.functional.pad(accept.cumprod(dim=1), (1, 0), value=1.0)  # (R, M + 1)
    accepted = sampler.categorical((all_in_front * (1.0 - nn.functional.pad(accept, (0, 1))))[:, None])
    residual = (p - q).clamp_min(0.0)
    total = residual.sum(dim=-1, keepdim=True)
    residual = torch.where(total > 0, residual / total, p)  # p = q up to rounding
    final = nn.functional.one_hot(codes, p.shape[-1]).to(p.dtype)
    drawn_from = torch.where(
        (slot < accepted)[..., None], final, torch.where((slot == accepted)[..., None], residual, p)
    )
    return sampler.categorical(drawn_from), (accepted[:, 0] + 1).clamp_max(slots)
