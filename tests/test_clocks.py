"""Rows of one batch at different steps: each goes on as if it were alone, whatever was taken back before it."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from conftest import NAMES, PRIMARIES, SAMPLING, SPEC, ragged_batch
from test_attention_prior import with_prior
from test_gpst import conditions_of, ragged, shared_gpst

from espnet_ext.decoding import build_order
from espnet_ext.fast.static_state import StaticState
from espnet_ext.model import cache as caches
from espnet_ext.model.caches import Gear
from espnet_ext.testing.models import decode, shared_model

TURNS = ((3, (1, 3, 0)), (2, (0, 1, 2)), (4, (4, 0, 1)), (1, (1, 1, 1)), (3, (2, 2, 2)))  # steps, and those kept
close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)


def codes_of(model, seed=0):
    return torch.randint(SPEC.codebook_size, (3, 24, model.slots), generator=torch.Generator().manual_seed(seed))


def run_turns(model, state, turns=TURNS):
    """Every row takes its own codes; what it has taken back it takes again later. Hidden vectors (B, steps, D)."""
    codes, done, made = codes_of(model), [0, 0, 0], [[], [], []]
    for count, kept in turns:
        hidden = []
        for number in range(count):
            fed = torch.stack([codes[row, done[row] + number] for row in range(3)])
            hidden.append(model.step(fed, state))
        state.accept(torch.tensor(kept), count)
        for row in range(3):
            made[row] += [hidden[number][row] for number in range(kept[row])]
            done[row] += kept[row]
        assert state.steps.expand(3).tolist() == done
    return made


def assert_alone(model, conditions, made):
    """What rows made is what each makes step by step in a batch that nothing is taken back in."""
    state, codes = model.prefill(conditions, 24), codes_of(model)
    right = torch.stack([model.step(step, state) for step in codes[:, :16].unbind(1)], dim=1)
    for row in range(3):
        close(torch.stack(made[row]), right[row, : len(made[row])])


@pytest.fixture(params=[False, True], ids=["holes stay", "holes are closed"])
def closed(request, monkeypatch):
    if request.param:
        monkeypatch.setattr(caches, "LEAST_HOLES", 0)
        monkeypatch.setattr(caches, "MOST_HOLES", 0.0)


@torch.no_grad()
@pytest.mark.parametrize("stacking", [1, 2])
@pytest.mark.parametrize("primary", list(PRIMARIES))
def test_rows_that_take_steps_back_go_on_from_their_own_ones(primary, stacking, closed):
    model = shared_model(primary, stacking)
    conditions = ragged_batch().conditions(model)
    assert_alone(model, conditions, run_turns(model, model.prefill(conditions, 24)))


@torch.no_grad()
@pytest.mark.parametrize("stacking", [1, 2])
@pytest.mark.parametrize("conf", [{"floor": 0.0, "sink_frames": 2}, {"rules": {"after_steps": 2, "forward": True}}])
def test_a_prior_that_reads_the_attention_forgets_what_was_taken_back(conf, stacking, closed):
    model = with_prior(stacking, **conf)
    conditions = ragged_batch().conditions(model)
    assert_alone(model, conditions, run_turns(model, model.prefill(conditions, 24)))


@torch.no_grad()
@pytest.mark.parametrize("stacking", [1, 2])
def test_units_and_codes_of_gpst_have_their_own_clocks(stacking, closed):
    model = shared_gpst(stacking=stacking)
    conditions = conditions_of(model, ragged())
    assert_alone(model, conditions, run_turns(model, model.prefill(conditions, 24)))


@torch.no_grad()
@pytest.mark.parametrize("primary", ["cross_attention", "prefix_learned"])
def test_rows_in_buffers_have_their_own_clocks(primary, closed):
    model = shared_model(primary)
    conditions = ragged_batch().conditions(model)
    state = model.prefill(conditions, 24)
    StaticState(state).load(state)
    assert_alone(model, conditions, run_turns(model, state))


@torch.no_grad()
def test_rows_in_buffers_have_the_lengths_that_they_had():
    model = shared_model(objective="masked")
    state = model.prefill(ragged_batch().conditions(model), 24)
    lengths = state.lengths.clone()
    StaticState(state).load(state)
    assert torch.equal(state.lengths, lengths)


@torch.no_grad()
def test_rows_that_leave_take_their_clocks_along():
    model = shared_model("prefix")
    state = model.prefill(ragged_batch().conditions(model), 24)
    run_turns(model, state, TURNS[:2])
    gathered = state.gather(torch.tensor([2, 0]))
    state.keep(torch.tensor([0, 2]))
    assert state.steps.tolist() == [1, 2] and gathered.steps.tolist() == [2, 1]
    fed = codes_of(model)[:2, 0]
    close(model.step(fed, state), model.step(fed.flip(0), gathered).flip(0))


@torch.no_grad()
def test_a_cache_whose_rows_have_taken_much_back_is_no_longer_than_the_longest_needs(monkeypatch):
    monkeypatch.setattr(caches, "LEAST_HOLES", 3)
    monkeypatch.setattr(caches, "MOST_HOLES", 0.0)
    model = shared_model("prefix")
    state = model.prefill(ragged_batch().conditions(model), 24)
    before = state.cache.length
    for turn in range(8):
        step = torch.zeros(3, model.slots, dtype=torch.int64)
        model.step(step, state)
        state.accept((torch.arange(3) == turn % 3).long(), 1)
    longest = int(state.cache.key_mask[:, : state.cache.length].sum(1).max())
    assert state.steps.tolist() == [3, 3, 2]
    assert longest <= state.cache.length <= longest + 3 < before + 8


# packed blocks


@pytest.mark.parametrize(("drafter", "buffer"), [("early_exit", 8), ("early_exit", 4), ("jacobi", 4)])
def test_what_is_packed_does_not_depend_on_how_far_others_guess(drafter, buffer):
    """Also where a pass is as wide as a block, and is the first one of a row without prompt."""
    how = {"width": 4, "acceptance": "pcg", "acceptance_conf": {"groups": 2}, "exact": False}
    order = build_order("speculative", drafter=drafter, **how)
    model, policy = shared_model("cross_attention"), Gear(2, buffer=buffer, rank=0, sparse=0.0)
    batch, limits = ragged_batch(), torch.tensor([49, 60, 54])
    how = {"steps": order, "cache": policy, "min_frames": 45, "seed": 7}
    together = decode(model, batch, "local_ar", SAMPLING["sampled"], limits, **how)
    for row in range(3):
        single = batch.row(row), "local_ar", SAMPLING["sampled"], limits[row], NAMES[row : row + 1]
        alone = decode(model, *single, **how)
        assert torch.equal(together.codes[row, : together.lengths[row]], alone.codes[0])
        torch.testing.assert_close(together.logprobs[row], alone.logprobs[0], rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_of_passes_that_are_all_taken_back_no_block_tells():
    model, policy = shared_model("cross_attention"), Gear(2, buffer=4, rank=0, sparse=0.0)
    conditions, codes = ragged_batch().conditions(model), codes_of(model)
    for done in range(4, 9):
        ends = []
        for guesses in (0, 3):
            state = model.prefill(conditions, 24, policy)
            state.cache.may_go_back(4)
            for step in codes[:, :done].unbind(1):
                model.step(step, state)
            with state.cache.taken_back():
                for step in codes[:, done : done + guesses].unbind(1):
                    model.step(step, state)
            state.accept(torch.zeros(3, dtype=torch.int64), guesses)
            ends.append(model.step(codes[:, done], state))
        torch.testing.assert_close(ends[1], ends[0])
