"""Acceptances that let similar codes pass: more drafts stay, and codes have another distribution."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from espnet_ext.decoding.acceptance import Acceptance, Drafts, Verdict, one_draw, register_acceptance, residual
from espnet_ext.decoding.sampling import Sampler
from espnet_ext.errors import UserError
from espnet_ext.model.heads import CODEC, MODEL, CodeVectors
from espnet_ext.options import check_choice, check_number

_similar: WeakKeyDictionary[CodeVectors, dict[object, Tensor]] = WeakKeyDictionary()


def of_slots(vectors: CodeVectors, slot: Tensor, what: object, find: Callable[[Tensor], Tensor]) -> Tensor:
    """What is found out once about vectors of codes, for every slot: (L, …).

    Args:
        vectors: of the codes.
        slot: (L,) int64, numbers of the slots.
        what: name of the finding, with its options.
        find: (tables, codes, D) vectors → (tables, …).

    Returns:
        Of every slot that of its table.
    """
    found, key = _similar.setdefault(vectors, {}), (what, vectors.version(), slot.device)
    if key not in found:
        found[key] = find(vectors.vectors()).to(slot.device)
    of_table = found[key]
    return of_table[slot % len(of_table)]


def nearest(vectors: Tensor, count: int) -> Tensor:
    """The nearest other codes of each code, the nearest one first: (tables, codes, D) → (tables, codes, count)."""
    apart = torch.cdist(vectors, vectors)
    apart.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    return apart.argsort(dim=-1, stable=True)[..., : min(count, vectors.shape[1] - 1)]


def groups_of(vectors: Tensor, count: int) -> Tensor:
    """The group of every code, (tables, codes) int64 below `count`: that of the nearest of as many centres.

    The centres are codes; each is the one that is farthest from those before it.
    """
    apart = torch.cdist(vectors, vectors)
    centre = apart.sum(-1).argmin(-1)  # the most central code
    distance = torch.full_like(apart[..., 0], torch.inf)
    group = torch.zeros_like(distance, dtype=torch.int64)
    table = torch.arange(len(vectors), device=vectors.device)
    for number in range(min(count, vectors.shape[1])):
        nearer = apart[table, centre] < distance
        group, distance = group.masked_fill(nearer, number), distance.minimum(apart[table, centre])
        centre = distance.argmax(-1)
    return group


def shares(name: str, value: float | Sequence[float]) -> float | Sequence[float]:
    """An option that is a share, or one for each codebook, as something to look up by; others are refused."""
    if isinstance(value, (list, tuple)) and not value:
        raise UserError(f"{name} must be a number or one for each codebook, got an empty list")
    for one in value if isinstance(value, (list, tuple)) else [value]:
        check_number(name, one, least=0, most=1)
    return tuple(value) if isinstance(value, (list, tuple)) else value


def per_slot(name: str, value: float | Sequence[float], drafts: Drafts) -> Tensor:
    """An option that has one value, or one for each codebook, of every slot: (L,) float64."""
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    if len(values) not in (1, drafts.codebooks):
        raise UserError(f"{name} must be a number or {drafts.codebooks} of them, one for each codebook, got {values}")
    return torch.tensor(values, dtype=torch.float64, device=drafts.codes.device)[drafts.slot % len(values)]


@register_acceptance("tolerance")
@dataclass(frozen=True)
class Tolerance(Acceptance):
    """A draft x stays with probability min(1, p(x) / ((1 - delta) q(x))).

    Attributes:
        delta: 0 is exact, with 1 all that is possible stays; a list has one for each codebook.
    """

    delta: float | Sequence[float] = 0.3

    exact = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "delta", shares("delta", self.delta))

    def judge(self, drafts: Drafts, sampler: Sampler) -> Verdict:  # noqa: D102 (inherited)
        p, q = drafts.verified.double(), drafts.drafted_from.double()
        of_p, of_q = drafts.of_codes(p), drafts.of_codes(q) * (1 - per_slot("delta", self.delta, drafts))
        return Verdict(one_draw(drafts, torch.where(of_p > 0, of_p / of_q, 0.0), sampler), residual(p, q))


@dataclass(frozen=True)
class OfSimilar(Acceptance):
    """One that asks which codes are similar.

    Attributes:
        vectors: by which they are: "model", those of its code tables, or "codec", those of its codebooks, which an
            experiment has with its codec.
    """

    vectors: str = MODEL

    exact = False

    def __post_init__(self) -> None:
        check_choice("vectors", self.vectors, (MODEL, CODEC))

    def check(self, vectors: Collection[str]) -> None:  # noqa: D102 (inherited)
        if not vectors:
            raise UserError("acceptance must be one that asks for no similar codes with a model without code tables")
        if self.vectors not in vectors:
            raise UserError(f"vectors must be one of {list(vectors)} with this model, got {self.vectors!r}")


@register_acceptance("lantern")
@dataclass(frozen=True)
class Lantern(OfSimilar):
    """A draft stays with the probability of its neighbours on top of its own: they count as the same code.

    Attributes:
        k: neighbours, the nearest ones.
        delta: probability that a draft takes over from them, at most; 0 is exact. A list has one for each codebook.

    Reference:
        Jang et al. 2024, arXiv:2410.03355, with the codebook of the images' tokenizer: `vectors: codec`.
    """

    k: int = 16
    delta: float | Sequence[float] = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("k", self.k, least=1, whole=True)
        object.__setattr__(self, "delta", shares("delta", self.delta))

    def judge(self, drafts: Drafts, sampler: Sampler) -> Verdict:  # noqa: D102 (inherited)
        p, q = drafts.verified.double(), drafts.drafted_from.double()
        find = partial(nearest, count=self.k)
        near = of_slots(drafts.vectors[self.vectors], drafts.slot, ("nearest", self.k), find)
        is_code = drafts.codes < near.shape[1]
        mine = near[drafts.slot, drafts.codes.where(is_code, torch.zeros_like(drafts.codes))]  # (R, L, k)
        theirs = p.gather(-1, mine)
        taken = (theirs.cumsum(-1) <= per_slot("delta", self.delta, drafts)[:, None]) & is_code[..., None]
        theirs = theirs * taken
        # what the draft takes over they lose
        moved = p.scatter_add(-1, mine, -theirs).scatter_add(-1, drafts.codes[..., None], theirs.sum(-1, keepdim=True))
        moved = moved.clamp_min(0.0)
        return Verdict(one_draw(drafts, drafts.of_codes(moved) / drafts.of_codes(q), sampler), residual(moved, q))


@register_acceptance("pcg")
@dataclass(frozen=True)
class PCG(OfSimilar):
    """A draft stays with min(1, P / Q) of its group of similar codes; groups have the distribution of the model's.

    Attributes:
        groups: of each codebook; as many as codes are exact.

    Reference:
        Principled coarse-grained acceptance, arXiv:2511.13732; here groups do not overlap.
    """

    groups: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("groups", self.groups, least=1, whole=True)

    def judge(self, drafts: Drafts, sampler: Sampler) -> Verdict:  # noqa: D102 (inherited)
        p, q = drafts.verified.double(), drafts.drafted_from.double()
        find = partial(groups_of, count=self.groups)
        group = of_slots(drafts.vectors[self.vectors], drafts.slot, ("groups", self.groups), find)
        others = p.shape[-1] - group.shape[1]  # special ids have groups of their own
        behind = int(group.max()) + 1 + torch.arange(others, device=group.device)
        group = torch.cat((group, behind.expand(len(group), -1)), dim=1).expand_as(p)
        of_p, of_q = (torch.zeros_like(p).scatter_add(-1, group, probs) for probs in (p, q))  # by number of the group
        of_draft = group.gather(-1, drafts.codes[..., None])
        ratio = (of_p.gather(-1, of_draft) / of_q.gather(-1, of_draft))[..., 0]
        within = p / of_p.gather(-1, group).clamp_min(torch.finfo(p.dtype).tiny)
        return Verdict(one_draw(drafts, ratio, sampler), residual(of_p, of_q).gather(-1, group) * within)
