"""The contract of a cache policy: what the loop over time and rows that come and go rely on."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from espnet_ext.model.caches import build_cache
from espnet_ext.testing.contract import hold_to
from espnet_ext.testing.models import SAMPLING, SPEC, assert_rows_are_their_own, ragged_batch, shared_model
from espnet_ext.testing.refusal import assert_refused

Conf = Mapping[str, Any]
Clause = Callable[[str, int, Conf], None]  # of a registered name, S and the options of the policy
PRIMARIES = ("cross_attention", "cross_attention_annealed", "prefix", "prefix_learned")


def codes_of(model: Any, steps: int) -> torch.Tensor:
    """Codes of so many steps for three rows: (3, steps, M)."""
    return torch.randint(SPEC.codebook_size, (3, steps, model.slots), generator=torch.Generator().manual_seed(0))


def a_row_does_not_depend_on_its_batch(name: str, stacking: int, conf: Conf) -> None:
    """Code by code what it is alone, whatever the primary transformer; also where rows join and leave."""
    policy = build_cache(name, **conf)
    for primary in PRIMARIES:
        for sampling, most_rows in (("sampled", None), ("sampled", 2), ("guided, no repetition", 1)):
            given = shared_model(primary, stacking), "local_ar", SAMPLING[sampling]
            assert_rows_are_their_own(*given, cache=policy, most_rows=most_rows)


def its_caches_are_as_plain_as_it_says(name: str, stacking: int, conf: Conf) -> None:
    """Models of masked steps go by what the policy says before there is a cache."""
    policy, model = build_cache(name, **conf), shared_model("prefix", stacking)
    state = model.prefill(ragged_batch().conditions(model), 4, policy)
    assert policy.plain == state.cache.plain, f"plain must be {state.cache.plain}, got {policy.plain}"


@torch.no_grad()
def rows_that_stay_are_as_they_were(name: str, stacking: int, conf: Conf) -> None:
    """`gather` gives rows in any order, `keep` in place; both go on alike, and fewer rows are fewer bytes."""
    model = shared_model("prefix", stacking)
    state = model.prefill(ragged_batch().conditions(model), 24, build_cache(name, **conf))
    for codes in codes_of(model, 9).unbind(1):
        model.step(codes, state)
    before, gathered = state.cache.num_bytes(), state.gather(torch.tensor([2, 0]))
    state.keep(torch.tensor([0, 2]))
    assert 0 < state.cache.num_bytes() < before, "fewer rows must be fewer bytes"
    for codes in codes_of(model, 9)[:2].unbind(1):
        here, there = model.step(codes, state), model.step(codes.flip(0), gathered).flip(0)
        torch.testing.assert_close(here, there, msg="keep and gather must give rows that go on alike")


@torch.no_grad()
def what_is_taken_back_is_forgotten(name: str, stacking: int, conf: Conf) -> None:
    """A row goes on behind the steps it has kept, whatever came after them."""
    model, policy, kept = shared_model("cross_attention", stacking), build_cache(name, **conf), torch.tensor([0, 3, 1])
    codes, ends = codes_of(model, 12), []
    for wrong in (False, True):
        state = model.prefill(ragged_batch().conditions(model), 24, policy)
        state.cache.may_go_back(3)
        for number in range(8):
            model.step(codes[:, number], state)
        for number in range(8, 11):
            rejected = (number - 8 >= kept)[:, None] & torch.tensor(wrong)
            model.step(torch.where(rejected, SPEC.codebook_size - 1 - codes[:, number], codes[:, number]), state)
        state.accept(kept, 3)
        assert state.steps.tolist() == [8, 11, 9], f"steps done must be those kept, got {state.steps.tolist()}"
        ends.append(model.step(codes[:, 11], state))
    torch.testing.assert_close(ends[1], ends[0], msg="steps that were taken back must leave nothing behind")


def an_unknown_option_is_refused_with_those_there_are(name: str, stacking: int, conf: Conf) -> None:
    """Options are the fields of the dataclass."""
    message = f"cache_conf of {re.escape(name)} must be among .*, got .*no_option"
    assert_refused(partial(build_cache, name, **conf, no_option=1), message)


CACHE_CONTRACT: tuple[Clause, ...] = (
    a_row_does_not_depend_on_its_batch,
    its_caches_are_as_plain_as_it_says,
    rows_that_stay_are_as_they_were,
    what_is_taken_back_is_forgotten,
    an_unknown_option_is_refused_with_those_there_are,
)


def check_cache(name: str, conf: Conf | None = None, stackings: Sequence[int] = (1, 2)) -> None:
    """Hold a registered cache policy to its contract, on tiny random models.

    Args:
        name: registered name.
        conf: its options; None for the defaults.
        stackings: the S to try.

    Raises:
        AssertionError: saying what it does not keep.
    """
    hold_to(CACHE_CONTRACT, name, conf, stackings)
