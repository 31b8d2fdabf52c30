"""Which drafted codes stay: the registry that speculation over slots and over steps share, and what is exact."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from espnet_ext.decoding.sampling import Sampler
from espnet_ext.errors import UserError
from espnet_ext.model.heads import CodeVectors
from espnet_ext.registry import Registry


class Drafts(NamedTuple):
    """Codes that somebody has drafted, and what the model says of them.

    Attributes:
        codes: (R, L) int64, known codes and then drafts, one after the other.
        known: (R,) int64, leading codes that are final.
        drafted_from: (R, L, V), q: what each code was drawn from.
        verified: (R, L, V), p: what it would be drawn from given those in front of it.
        vectors: where similar codes are near each other, by whose they are.
        codebooks: N, code l is of codebook l % N.
    """

    codes: Tensor
    known: Tensor
    drafted_from: Tensor
    verified: Tensor
    vectors: Mapping[str, CodeVectors] = {}
    codebooks: int = 1

    @property
    def slot(self) -> Tensor:
        """Numbers of the codes: (L,) int64."""
        return torch.arange(self.codes.shape[1], device=self.codes.device)

    @property
    def fixed(self) -> Tensor:
        """Which codes are final: (R, L) bool."""
        return self.slot < self.known[:, None]

    def of_codes(self, probs: Tensor) -> Tensor:
        """What distributions (R, L, V) give to the codes: (R, L)."""
        return probs.gather(-1, self.codes[..., None])[..., 0]


class Verdict(NamedTuple):
    """Which drafts stay.

    Attributes:
        accepted: (R,) int64, leading codes that stay, the known ones at least.
        instead: (R, L, V), what the first other code is drawn from; of the others it means nothing.
    """

    accepted: Tensor
    instead: Tensor


class Acceptance(ABC):
    """Which leading drafts stay, and what the first other code is drawn from; a frozen dataclass of its options.

    Attributes:
        exact: whether codes then have the distribution of codes that are drawn one after the other.
        same_noise: whether a draft stays where the model, with the noise that the drafts were drawn with, draws it too.
    """

    exact: ClassVar[bool] = True
    same_noise: ClassVar[bool] = False

    def check(self, vectors: Collection[str]) -> None:
        """Refuse a model without what the acceptance needs, with a UserError that names what there is.

        Args:
            vectors: whose vectors of codes there are.
        """
        return

    @abstractmethod
    def judge(self, drafts: Drafts, sampler: Sampler) -> Verdict:
        """Which drafts stay.

        Args:
            drafts: and what they are compared with.
            sampler: of the rows.

        Returns:
            The verdict.
        """

    def accept(self, drafts: Drafts, sampler: Sampler) -> tuple[Tensor, Tensor]:
        """Codes that stay, one in the place of the first other one, and behind it drafts that are drawn anew from p.

        Args:
            drafts: and what they are compared with.
            sampler: of the rows.

        Returns:
            (R, L) codes, and (R,) leading ones that are final now, at least one more.
        """
        accepted, instead = self.judge(drafts, sampler)
        slot, last = drafts.slot, accepted[:, None]
        stays = nn.functional.one_hot(drafts.codes, instead.shape[-1]).to(instead.dtype)
        others = torch.where((slot == last)[..., None], instead, drafts.verified.to(instead.dtype))
        drawn_from = torch.where((slot < last)[..., None], stays, others)
        return sampler.categorical(drawn_from), (accepted + 1).clamp_max(len(slot))


acceptances: Registry[type[Acceptance]] = Registry("acceptance", "espnet_ext.acceptance")
register_acceptance = acceptances.register


def build_acceptance(name: str, conf: Mapping[str, object], exact: bool) -> Acceptance:
    """The acceptance of this name.

    Args:
        name: registered name.
        conf: its options.
        exact: whether it has to be exact.

    Returns:
        The acceptance.

    Raises:
        UserError: if name or options are unknown, or it is not exact.
    """
    built = acceptances.build(name, **conf)
    if exact and not built.exact:
        there_are = [one for one in acceptances if acceptances[one].exact]
        raise UserError(f"acceptance must be one of {there_are} with exact true, got {name!r}: exact false allows it")
    return built


@register_acceptance("gumbel")
@dataclass(frozen=True)
class Gumbel(Acceptance):
    """A draft stays where the model draws it as well, with the same noise; else what it draws is taken.

    The codes are those that would be drawn one after the other with the same generators.
    """

    same_noise = True

    def judge(self, drafts: Drafts, sampler: Sampler) -> Verdict:  # noqa: D102 (inherited)
        drawn, accepted = self._drawn(drafts, sampler)
        return Verdict(accepted, nn.functional.one_hot(drawn, drafts.verified.shape[-1]).double())

    def accept(self, drafts: Drafts, sampler: Sampler) -> tuple[Tensor, Tensor]:  # noqa: D102 (inherited)
        drawn, accepted = self._drawn(drafts, sampler)
        return drawn, (accepted + 1).clamp_max(drawn.shape[1])

    def _drawn(self, drafts: Drafts, sampler: Sampler) -> tuple[Tensor, Tensor]:
        drawn = drafts.codes.where(drafts.fixed, sampler.categorical(drafts.verified))
        return drawn, _leading(drawn == drafts.codes)


def _leading(true: Tensor) -> Tensor:
    """How many leading entries of each row of (R, L) bool are true: (R,) int64."""
    return true.long().cumprod(dim=1).sum(dim=1)


def one_draw(drafts: Drafts, ratio: Tensor, sampler: Sampler) -> Tensor:
    """How many leading codes stay, drawn at once: P(j) is that of the first j staying and the next one not.

    Args:
        drafts: some of which are final.
        ratio: (R, L), probability that a draft stays if those in front of it do; above 1 it is certain.
        sampler: of the rows.

    Returns:
        (R,) int64.
    """
    stays = ratio.clamp_max(1.0).masked_fill(drafts.fixed, 1.0)
    all_in_front = nn.functional.pad(stays.cumprod(dim=1), (1, 0), value=1.0)  # (R, L + 1)
    return sampler.categorical((all_in_front * (1.0 - nn.functional.pad(stays, (0, 1))))[:, None])[:, 0]


def residual(p: Tensor, q: Tensor) -> Tensor:
    """(p - q)+ as a distribution, (…, V); p where both are equal up to rounding."""
    left = (p - q).clamp_min(0.0)
    total = left.sum(dim=-1, keepdim=True)
    return torch.where(total > 0, left / total, p)


@register_acceptance("exact")
@dataclass(frozen=True)
class Exact(Acceptance):
    """A draft x stays with probability min(1, p(x) / q(x)), else a draw from (p - q)+ takes its place.

    Reference:
        Leviathan et al. 2023, arXiv:2211.17192, algorithm 1, and Chen et al. 2023, arXiv:2302.01318.
    """

    def judge(self, drafts: Drafts, sampler: Sampler) -> Verdict:  # noqa: D102 (inherited)
        p, q = drafts.verified.double(), drafts.drafted_from.double()
        return Verdict(one_draw(drafts, drafts.of_codes(p) / drafts.of_codes(q), sampler), residual(p, q))


@register_acceptance("block")
@dataclass(frozen=True)
class Block(Acceptance):
    """Drafts are verified together: a code that alone would go may stay for those in front of it.

    Never fewer stay, in expectation, than with `exact`.

    Reference:
        Sun et al. 2024, arXiv:2403.10444, algorithm 2.
    """

    def judge(self, drafts: Drafts, sampler: Sampler) -> Verdict:  # noqa: D102 (inherited)
        p, q = drafts.verified.double(), drafts.drafted_from.double()
        ratio = (drafts.of_codes(p) / drafts.of_codes(q)).masked_fill(drafts.fixed, 1.0)
        weight, so_far = torch.ones_like(ratio[:, 0]), []
        for place in range(ratio.shape[1]):  # of the prefix in front of each code, at most 1
            so_far.append(weight)
            weight = (weight * ratio[:, place]).clamp_max(1.0)
        weights = torch.stack(so_far, dim=1)[..., None]  # (R, L, 1)
        left = (weights * p - q).clamp_min(0.0)
        mass = left.sum(dim=-1)
        total = mass + 1.0 - weights[..., 0]
        # where p = q behind a certain prefix the one that is longer is as certain, so that this one may be anything
        stop = torch.where(total > 0, mass / total, 1.0).clamp_max(1.0)
        stop = torch.cat((stop, weight[:, None]), dim=1)  # of a prefix of l codes, L + 1 of them
        stop = stop.masked_fill(torch.arange(stop.shape[1], device=stop.device) == drafts.known[:, None], 1.0)
        longer = (1.0 - stop).flip(1).cumprod(dim=1).flip(1)  # that neither this prefix nor a longer one is taken
        accepted = sampler.categorical((stop * nn.functional.pad(longer[:, 1:], (0, 1), value=1.0))[:, None])[:, 0]
        return Verdict(accepted, torch.where(mass[..., None] > 0, left / mass[..., None], p))
