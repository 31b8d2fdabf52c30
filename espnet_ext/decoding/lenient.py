"""Acceptances that let similar codes pass: more drafts stay, and codes have another distribution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from espnet_ext.decoding.acceptance import Acceptance, Drafts, Verdict, one_draw, register_acceptance, residual
from espnet_ext.decoding.sampling import Sampler
from espnet_ext.errors import UserError
from espnet_ext.model.heads import SlotEmbedding
from espnet_ext.options import check_number

_similar: WeakKeyDictionary[SlotEmbedding, dict[object, Tensor]] = WeakKeyDictionary()


def of_tables(tables: SlotEmbedding | None, slots: int, what: object, find: Callable[[Tensor], Tensor]) -> Tensor:
    """What is found out once about the code tables of a model, for every slot: (slots, …).

    Args:
        tables: of the model.
        slots: L.
        what: name of the finding, with its options.
        find: (tables, codes, D) vectors → (tables, …).

    Returns:
        Of every slot that of its table.

    Raises:
        UserError: if the model has no such tables.
    """
    if tables is None:
        raise UserError(
            "acceptance must be one that asks for no similar codes with this model, which has no code tables"
        )
    found, key = _similar.setdefault(tables, {}), (what, tables.table.weight._version, tables.table.weight.device)
    if key not in found:
        found[key] = find(tables.vectors())
    of_table = found[key]
    return of_table[torch.arange(slots, device=of_table.device) % len(of_table)]


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


@register_acceptance("lantern")
@dataclass(frozen=True)
class Lantern(Acceptance):
    """A draft stays with the probability of its neighbours on top of its own: they count as the same code.

    Attributes:
        k: neighbours in the model's code tables, the nearest ones.
        delta: probability that a draft takes over from them, at most; 0 is exact. A list has one for each codebook.

    Reference:
        Jang et al. 2024, arXiv:2410.03355; here the vectors are those that the model has learned for its codes.
    """

    k: int = 16
    delta: float | Sequence[float] = 0.2

    exact = False

    def __post_init__(self) -> None:
        check_number("k", self.k, least=1, whole=True)
        object.__setattr__(self, "delta", shares("delta", self.delta))

    def judge(self, drafts: Drafts, sampler: Sampler) -> Verdict:  # noqa: D102 (inherited)
        p, q, slots = drafts.verified.double(), drafts.drafted_from.double(), drafts.codes.shape[1]
        near = of_tables(drafts.tables, slots, ("nearest", self.k), partial(nearest, count=self.k))
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
class PCG(Acceptance):
    """A draft stays with min(1, P / Q) of its group of similar codes; groups have the distribution of the model's.

    Attributes:
        groups: of each codebook, in the model's code tables; as many as codes are exact.

    Reference:
        Principled coarse-grained acceptance, arXiv:2511.13732; here groups do not overlap.
    """

    groups: int = 64

    exact = False

    def __post_init__(self) -> None:
        check_number("groups", self.groups, least=1, whole=True)

    def judge(self, drafts: Drafts, sampler: Sampler) -> Verdict:  # noqa: D102 (inherited)
        p, q, slots = drafts.verified.double(), drafts.drafted_from.double(), drafts.codes.shape[1]
        group = of_tables(
            drafts.tables, slots, ("groups", self.groups), lambda vectors: groups_of(vectors, self.groups)
        )
        others = p.shape[-1] - group.shape[1]  # special ids have groups of their own
        behind = int(group.max()) + 1 + torch.arange(others, device=group.device)
        group = torch.cat((group, behind.expand(slots, -1)), dim=1).expand_as(p)
        of_p, of_q = (torch.zeros_like(p).scatter_add(-1, group, probs) for probs in (p, q))  # by number of the group
        of_draft = group.gather(-1, drafts.codes[..., None])
        ratio = (of_p.gather(-1, of_draft) / of_q.gather(-1, of_draft))[..., 0]
        within = p / of_p.gather(-1, group).clamp_min(torch.finfo(p.dtype).tiny)
        return Verdict(one_draw(drafts, ratio, sampler), residual(of_p, of_q).gather(-1, group) * within)
