"""The contracts of drafters and acceptances: speculation with either changes nothing that it says it does not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from espnet_ext.decoding import Order, build_order, build_strategy, drafters, generate_joining
from espnet_ext.decoding.acceptance import Drafts, Verdict, acceptances
from espnet_ext.decoding.request import Decoding
from espnet_ext.decoding.sampling import Sampler, SamplingOptions, row_generators
from espnet_ext.testing.contract import hold_to
from espnet_ext.testing.exactness import SAME, enumerable_model, exact_distribution, total_variation
from espnet_ext.testing.models import NAMES, SAMPLING, assert_rows_are_their_own, decode, ragged_batch, shared_model
from espnet_ext.testing.refusal import assert_no_other_option

Conf = Mapping[str, Any]
Clause = Callable[[str, Conf], None]  # of a registered name and its options
# S, sampling, most and fewest frames: few branches, with which two steps can be listed at S = 2 as well
LISTED = (
    (1, SamplingOptions(0.8), 3, 1),
    (1, SamplingOptions(1.3, top_k=2, cfg_scale=1.7), 3, 1),
    (2, SamplingOptions(0.8, top_p=0.8), 4, 3),
)
STRATEGIES = ("parallel", "local_ar", "local_maskgit", "local_speculative")


def order_of(drafter: str = "repeat", acceptance: str = "gumbel", width: int = 3, **conf: Any) -> Order:
    """A speculative order, lossy or not."""
    return build_order("speculative", drafter=drafter, acceptance=acceptance, width=width, exact=False, **conf)


def assert_distribution_of_causal(order: Order, strategy: str = "local_ar") -> None:
    """Every output is as probable as with one step after the other, by enumeration."""
    for stacking, sampling, most, least in LISTED:
        model, filler = enumerable_model(stacking, residual=stacking == 2), build_strategy(strategy)
        plain = exact_distribution(model, filler, sampling, most, least)
        found = exact_distribution(model, filler, sampling, most, least, order=order)
        assert abs(found.mass - 1) < SAME, f"the probabilities of {order} sum to {found.mass}"
        apart = total_variation(plain, found)
        assert apart < SAME, f"{order} must have the distribution of causal, total variation {apart:.3g}, S={stacking}"


def codes_are_those_of_causal(name: str, conf: Conf) -> None:
    """Guesses change how fast codes come, and not the codes: with the same noise they are those of `causal`."""
    limits = torch.tensor([7, 12, 9])
    for stacking, strategy, sampling in zip(
        (1, 2, 1, 2), STRATEGIES, ("sampled", "greedy", "guided", "no repetition"), strict=True
    ):
        model, how = shared_model(stacking=stacking), (strategy, SAMPLING[sampling], limits)
        plain = decode(model, ragged_batch(), *how)
        drafted = decode(model, ragged_batch(), *how, steps=order_of(name, drafter_conf=conf))
        for field in ("codes", "lengths", "has_eos", "steps"):
            same = torch.equal(getattr(plain, field), getattr(drafted, field))
            assert same, f"{field} with drafter {name} must be those of causal, {strategy}, S={stacking}"
        assert drafted.primary_passes is not None
        assert bool((drafted.primary_passes <= plain.steps).all()), "a pass must keep a step at least"


def drafts_that_are_drawn_tell_from_what(name: str, conf: Conf) -> None:
    """A draft that says another distribution than its own makes codes of another one."""
    for acceptance in ("exact", "block"):
        assert_distribution_of_causal(order_of(name, acceptance, 2, drafter_conf=conf))


def rows_are_their_own(name: str, conf: Conf) -> None:
    """What is guessed for a row has nothing to do with the others."""
    for acceptance in ("gumbel", "exact"):
        for sampling in ("greedy", "guided, no repetition"):
            order = order_of(name, acceptance, drafter_conf=conf)
            assert_rows_are_their_own(shared_model(), "local_ar", SAMPLING[sampling], order)


def a_row_that_joins_is_what_it_is_alone(name: str, conf: Conf) -> None:
    """What is remembered of the row before it is forgotten."""
    model, batch = shared_model(), ragged_batch()
    for acceptance in ("gumbel", "exact"):
        order = order_of(name, acceptance, drafter_conf=conf)

        def request(row: int, order: Order = order) -> Decoding:
            sampler = Sampler(SAMPLING["sampled"], row_generators(0, NAMES[row : row + 1]))
            given = model, batch.row(row).conditions(model), build_strategy("local_ar"), sampler, 11
            return Decoding(*given, names=NAMES[row : row + 1], order=order)

        for most in (1, 2):
            for numbers, made in generate_joining((request(row) for row in range(3)), most):
                for place, row in enumerate(numbers):
                    alone = decode(
                        model, batch.row(row), "local_ar", max_frames=11, names=NAMES[row : row + 1], steps=order
                    )
                    codes = made.codes[place, : made.lengths[place]]
                    assert torch.equal(codes, alone.codes[0]), f"row {row} has other codes where it joins, {acceptance}"


def an_unknown_option_of_a_drafter_is_refused(name: str, conf: Conf) -> None:
    """Options are the fields of the dataclass."""
    assert_no_other_option(drafters.build, name, conf, "drafter_conf")


DRAFTER_CONTRACT: tuple[Clause, ...] = (
    codes_are_those_of_causal,
    drafts_that_are_drawn_tell_from_what,
    rows_are_their_own,
    a_row_that_joins_is_what_it_is_alone,
    an_unknown_option_of_a_drafter_is_refused,
)


def check_drafter(name: str, conf: Conf | None = None) -> None:
    """Hold a registered drafter to its contract, on tiny random models with all registered parts.

    Args:
        name: registered name.
        conf: its options; None for the defaults.

    Raises:
        AssertionError: saying what it does not keep.
    """
    hold_to(DRAFTER_CONTRACT, name, conf)


def random_drafts(equal: bool = False) -> Drafts:
    """Drafts of 64 rows and six codes of two codebooks, of which some are known, drawn from random distributions."""
    torch.manual_seed(0)
    model = shared_model()
    verified, drafted_from = torch.rand(2, 64, 6, model.spec.codebook_size, dtype=torch.float64).softmax(-1)
    drafted_from = verified if equal else drafted_from
    codes = torch.multinomial(drafted_from.flatten(0, 1), 1).view(64, 6)
    books = model.spec.num_codebooks
    return Drafts(codes, torch.arange(64) % 7, drafted_from, verified, model.code_vectors, books)


def judged(name: str, conf: Conf, drafts: Drafts) -> Verdict:
    """What an acceptance says of drafts."""
    sampler = Sampler(SamplingOptions(), row_generators(0, list(map(str, range(len(drafts.codes))))))
    return acceptances.build(name, **conf).judge(drafts, sampler)


def known_codes_stay(name: str, conf: Conf) -> None:
    """Nobody judges what is final, and no more than all stay."""
    drafts = random_drafts()
    accepted = judged(name, conf, drafts).accepted
    assert accepted.shape == drafts.known.shape and accepted.dtype == torch.int64, "accepted must be (R,) int64"
    assert bool((accepted >= drafts.known).all()), "known codes must stay"
    assert int(accepted.max()) <= drafts.codes.shape[1], "no more codes can stay than there are"


def what_comes_instead_is_a_distribution(name: str, conf: Conf) -> None:
    """Of the first code that does not stay, and another code than it."""
    drafts = random_drafts()
    verdict = judged(name, conf, drafts)
    row = (verdict.accepted < drafts.codes.shape[1]).nonzero()[:, 0]
    place = verdict.accepted[row]
    instead = verdict.instead[row, place]
    assert bool((instead >= 0).all()), "probabilities must be at least 0"
    torch.testing.assert_close(instead.sum(-1), torch.ones(len(row), dtype=instead.dtype))
    again: Tensor = instead[torch.arange(len(row)), drafts.codes[row, place]]
    assert bool((again < 1e-12).all()), "a code that does not stay must not come instead of itself"


def drafts_of_the_models_own_distribution_stay(name: str, conf: Conf) -> None:
    """Where p = q there is nothing to correct; a draft of the same noise is another thing."""
    if not acceptances[name].same_noise:
        drafts = random_drafts(equal=True)
        assert bool((judged(name, conf, drafts).accepted == drafts.codes.shape[1]).all()), "drafts with p = q must stay"


def what_is_exact_has_the_distribution_of_causal(name: str, conf: Conf) -> None:
    """By enumeration, with drafts that are certain and with drawn ones, over slots and over steps."""
    if not acceptances[name].exact:
        return
    for drafter in ("repeat", "jacobi"):
        for strategy in ("parallel", "local_ar"):
            assert_distribution_of_causal(order_of(drafter, name, 2, acceptance_conf=conf), strategy)
    for stacking, sampling, _, _ in LISTED[:2]:
        model = enumerable_model(stacking)
        drafted = build_strategy("local_speculative", acceptance=name, acceptance_conf=conf)
        plain, found = (exact_distribution(model, how, sampling, 2) for how in (build_strategy("local_ar"), drafted))
        assert total_variation(plain, found) < SAME, f"local_speculative with {name} must have local_ar's distribution"


def rows_are_judged_on_their_own(name: str, conf: Conf) -> None:
    """Code by code, whoever else is there."""
    for sampling in ("sampled", "guided, no repetition"):
        order = order_of("jacobi", name, acceptance_conf=conf)
        assert_rows_are_their_own(shared_model(stacking=2), "local_ar", SAMPLING[sampling], order)


def an_unknown_option_of_an_acceptance_is_refused(name: str, conf: Conf) -> None:
    """Options are the fields of the dataclass."""
    assert_no_other_option(acceptances.build, name, conf, "acceptance_conf")


ACCEPTANCE_CONTRACT: tuple[Clause, ...] = (
    known_codes_stay,
    what_comes_instead_is_a_distribution,
    drafts_of_the_models_own_distribution_stay,
    what_is_exact_has_the_distribution_of_causal,
    rows_are_judged_on_their_own,
    an_unknown_option_of_an_acceptance_is_refused,
)


def check_acceptance(name: str, conf: Conf | None = None) -> None:
    """Hold a registered acceptance to its contract.

    Args:
        name: registered name.
        conf: its options; None for the defaults.

    Raises:
        AssertionError: saying what it does not keep.
    """
    hold_to(ACCEPTANCE_CONTRACT, name, conf)
