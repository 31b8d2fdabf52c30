"""Drafters that work between layers: exact, learned, and as cheap as they say."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from conftest import SAMPLING, ragged_batch, tiny_model
from test_depth import PRIMARIES, loss_of, without
from test_gpst import conditions_of, ragged, tiny_gpst

from espnet_ext.decoding import CAUSAL, build_order, build_strategy, draft_early_exit, generate
from espnet_ext.decoding.draft_early_exit import DraftEarlyExit
from espnet_ext.decoding.sampling import Sampler, SamplingOptions, row_generators
from espnet_ext.decoding.tokens_per_layer import Held
from espnet_ext.errors import UserError
from espnet_ext.model.caches import build_cache
from espnet_ext.model.core_lm import StepModel
from espnet_ext.model.layers import Entry, LayerPass
from espnet_ext.testing import exactness
from espnet_ext.testing.exactness import enumerable_model, exact_distribution, total_variation
from espnet_ext.testing.models import NAMES, PlainPrimary, decode, shared_model
from espnet_ext.testing.speculation import order_of

LIMITS = torch.tensor([7, 12, 9])
SAMPLED = SamplingOptions(0.8, top_k=2)


def deep_model(monkeypatch: Any, stacking: int = 1) -> Any:
    """An enumerable model of two layers, so that one can be left out."""
    monkeypatch.setitem(exactness.SMALL, "layers", 2)
    return enumerable_model(stacking, seed=3)


# exactness


@pytest.mark.parametrize("drafter", ["early_exit", "hidden_transfer"])
@pytest.mark.parametrize("acceptance", ["gumbel", "exact", "block"])
def test_between_two_layers_drafts_have_the_distribution_of_causal(drafter, acceptance, monkeypatch):
    model, strategy = deep_model(monkeypatch), build_strategy("local_ar")
    order = build_order("speculative", drafter=drafter, acceptance=acceptance, width=3)
    plain, found = (exact_distribution(model, strategy, SAMPLED, 2, **how) for how in ({}, {"order": order}))
    assert abs(found.mass - 1) < 1e-12
    assert total_variation(plain, found) < 1e-12
    assert found.branches >= plain.branches > 8, "nothing was truly random"


def test_guesses_that_stay_in_the_cache_are_caught(monkeypatch):
    """The steps that the first layers have guessed have to be taken back before they are verified."""
    model = shared_model("prefix")
    how = model, ragged_batch(), "local_ar", SAMPLING["sampled"], LIMITS
    plain = decode(*how)
    order = order_of("early_exit", drafter_conf={"exit_layer": 1})
    assert torch.equal(plain.codes, decode(*how, steps=order).codes)
    from espnet_ext.model.primary import PrimaryState

    accept = PrimaryState.accept
    monkeypatch.setattr(
        PrimaryState, "accept", lambda self, kept, count: accept(self, kept, count) if kept.any() else None
    )
    with pytest.raises((AssertionError, UserError)):
        assert torch.equal(plain.codes, decode(*how, steps=order).codes)


def test_guesses_that_tell_another_distribution_than_their_own_are_caught(monkeypatch):
    model, strategy = deep_model(monkeypatch), build_strategy("local_ar")
    guess = draft_early_exit._guess

    def wrong(*given: Any) -> Any:
        made = guess(*given)
        return made._replace(probs=None if made.probs is None else made.probs.sqrt() / made.probs.sqrt().sum(-1, True))

    monkeypatch.setattr(draft_early_exit, "_guess", wrong)
    order = build_order("speculative", drafter="early_exit", acceptance="exact", width=2)
    plain, found = (exact_distribution(model, strategy, SAMPLED, 2, **how) for how in ({}, {"order": order}))
    assert total_variation(plain, found) > 1e-3


@pytest.mark.parametrize("drafter", ["early_exit", "hidden_transfer"])
@pytest.mark.parametrize("positions", ["rope", "anew"])
def test_a_gpst_is_guessed_as_it_would_go_on(drafter, positions):
    model = tiny_gpst(positions)
    model.add_parts({"early_exit": {}, "hidden_transfer": {}})
    model = model.double().eval()
    made = []
    for order in (CAUSAL, order_of(drafter)):
        sampler = Sampler(SAMPLING["guided"], row_generators(0, NAMES))
        given = model, conditions_of(model, ragged(), (2, 0, 1)), build_strategy("local_ar"), sampler, LIMITS
        made.append(generate(*given, order=order))
    assert torch.equal(made[0].codes, made[1].codes)


@pytest.mark.parametrize("drafter", ["early_exit", "hidden_transfer"])
def test_packed_keys_are_those_of_causal(drafter):
    """Guesses are written and taken back, or never written, whatever keeps them."""
    model, cache = shared_model(), build_cache("gear", buffer=8, rank=0)
    how = model, ragged_batch(), "local_ar", SAMPLING["sampled"], torch.tensor([6, 6, 6])
    plain, drafted = (decode(*how, steps=order, cache=cache) for order in (CAUSAL, order_of(drafter)))
    assert drafted.lengths.tolist() == plain.lengths.tolist()


# positions that enter on the way


@torch.no_grad()
@pytest.mark.parametrize("primary", PRIMARIES)
def test_a_position_that_enters_is_as_if_it_were_alone_behind_its_step(primary):
    """The oracle: the pass up to each step, with nothing behind it but what enters there."""
    model, batch = shared_model(primary), ragged_batch()
    codes = torch.randint(8, (3, 3, model.slots), generator=torch.Generator().manual_seed(0))
    entry = model.parts["hidden_transfer"].entry(2)
    state = model.prefill(batch.conditions(model), 12)
    made = model.extend(codes, state, LayerPass(entry=entry))
    steps, entered = made[:, :3], made[:, 3:].unflatten(1, (3, 2))
    plain = model.prefill(batch.conditions(model), 12)
    torch.testing.assert_close(steps, model.extend(codes, plain))
    torch.testing.assert_close(state.cache.keys, plain.cache.keys)
    for place in range(3):
        alone = model.prefill(batch.conditions(model), 12)
        if place:
            model.extend(codes[:, :place], alone)
        one = model.extend(codes[:, place : place + 1], alone, LayerPass(entry=entry))
        torch.testing.assert_close(one[:, 1:], entered[:, place])


def decode_with_the_prior_of_training(model: Any) -> Any:
    """A copy whose annealed prior has not faded, and is in decoding what it last was over whole utterances."""
    model = copy.deepcopy(model)
    prior = model.primary.prior
    prior.anneal, forward, said = (8, 9), prior.again, []

    def again(*given: Any) -> Any:
        said.append(forward(*given)[0])
        return said[-1], None

    def step(path: Any, frames: Any, tokens: Any) -> Any:
        return said[-1][:, :, int(frames[0, 0]) // model.stacking][:, :, None]

    prior.again, prior.step = again, step
    return model


@torch.no_grad()
@pytest.mark.parametrize("primary", ["cross_attention_annealed", "not annealed yet", "prefix", "prefix_learned"])
def test_what_is_learned_is_what_is_guessed_with(primary):
    """Teacher-forced positions are those of decoding, where no path is learned from the speech."""
    batch = ragged_batch().row(0)
    if primary == "not annealed yet":
        model = decode_with_the_prior_of_training(shared_model("cross_attention_annealed"))
    else:
        model = shared_model(primary)
    taught = []
    scores = type(model).scores

    def keep(self: Any, *given: Any, **named: Any) -> Any:
        taught.append(named["again"])
        return scores(self, *given, **named)

    model.__class__.scores = keep
    try:
        model(*batch)
    finally:
        model.__class__.scores = scores
    entry = model.parts["hidden_transfer"].entry(2)
    hidden, entered, taken = taught[0].run(LayerPass(entry=entry, taps=(1,)))
    state = model.prefill(batch.conditions(model), 12)
    codes = torch.cat((model.first_codes(batch.conditions(model))[:, None], batch.codes), dim=1)
    through = LayerPass(entry=entry, taps=(1,))
    made = model.extend(codes, state, through)
    torch.testing.assert_close(made[:, :10], hidden)
    torch.testing.assert_close(through.hidden(1), taken[1])
    torch.testing.assert_close(made[:, 10:].unflatten(1, (10, 2)), entered)


# where to leave


def test_an_exit_is_taken_while_its_guesses_hold():
    """By hand: of four layers, left in front of the first, second and third."""
    rows = torch.zeros(1, dtype=torch.int64)
    nothing = torch.zeros(1, 3, dtype=torch.float64)
    held, cost, full = Held(nothing, nothing, rows, rows), torch.tensor([[1, 2, 3]]), torch.tensor([4])
    held.choose(cost, full, 3)
    assert (held.exit.item(), held.length.item()) == (0, 3)  # 4 steps for 7 layers
    held.learn(torch.tensor([1]), 10**9)  # the first of them did not hold
    held.choose(cost, full, 3)
    assert (held.exit.item(), held.length.item()) == (1, 3)  # 4 steps for 10 layers
    for _ in range(20):
        held.learn(torch.tensor([1]), 10**9)
        held.choose(cost, full, 3)
    assert held.length.item() == 0, "guesses that never hold are not worth a layer"
    tried = []
    for _ in range(200):
        held.learn(torch.tensor([1]), 32)
        held.choose(cost, full, 3)
        tried.append(held.length.item())
    assert 0 < sum(length > 0 for length in tried) < 100, "what was long ago is forgotten, and tried again"


def test_layers_of_guesses_are_counted_and_spared_where_they_do_not_hold():
    model = shared_model()
    how = model, ragged_batch(), "local_ar", SAMPLING["sampled"], torch.tensor([20, 20, 20])
    always, auto = (
        decode(*how, steps=order_of("early_exit", drafter_conf=conf, width=2)) for conf in ({"memory": 10**6}, {})
    )
    for made in (always, auto):
        assert bool((made.primary_layers >= 2 * made.primary_passes).all())
        assert bool((made.primary_layers <= 3 * made.primary_passes).all())
    assert torch.equal(decode(*how).primary_layers, 2 * decode(*how).steps)


def test_a_first_layer_that_says_it_all_halves_the_layers_of_a_step():
    """Greedily, with a second layer that changes nothing: all guesses hold, and passes are a third of the steps."""
    model = tiny_model("prefix")
    second = model.primary.transformer.blocks[1]
    with torch.no_grad():
        for branch in (second.attention.out, second.feed_forward.down):
            branch.weight.zero_()
        second.feed_forward.down.bias.zero_()
    how = model, ragged_batch(), "parallel", SAMPLING["greedy"], torch.tensor([12, 12, 12])
    plain, drafted = decode(*how, min_frames=12), decode(*how, min_frames=12, steps=order_of("early_exit"))
    assert torch.equal(plain.codes, drafted.codes)
    assert drafted.primary_passes.tolist() == [4, 4, 4]
    assert drafted.primary_layers.tolist() == [4 * (2 + 2)] * 3
    assert torch.equal(decode(without(model, (True, False)), *how[1:], min_frames=12).codes, plain.codes)


# what parts learn


@pytest.mark.parametrize("name", ["early_exit", "hidden_transfer"])
def test_a_part_learns_alone_and_the_model_stays_as_it_was(name):
    model = tiny_model()
    model.add_parts({name: {}})
    model = model.double()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.train_only([name])
    model.train()
    optimizer, losses = torch.optim.Adam(model.parts.parameters(), lr=0.02), []
    for _ in range(40):
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.total.backward()
        optimizer.step()
        losses.append(float(loss.stats[f"loss_{name}_1"]))
    assert losses[-1] < 0.7 * losses[0]
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed and all(key.startswith(f"parts.{name}.") for key in changed)


def test_a_new_early_exit_is_the_hidden_vector_itself():
    model, hidden = tiny_model(), torch.randn(2, 32, dtype=torch.float64)
    model.add_parts({"early_exit": {}})
    assert torch.equal(model.double().parts["early_exit"].leave(1, hidden), hidden)
    how = ragged_batch(), "local_ar", SAMPLING["guided"], LIMITS
    costs = [decode(one, *how, steps=order_of("early_exit")).primary_layers for one in (model, tiny_model().double())]
    assert torch.equal(*costs), "without the part it guesses as with a new one"


# what is refused


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({"exit_layer": 2}, r"exit_layer must be auto or one of \[1\], got 2"),
        ({"exit_layer": "last"}, "exit_layer must be an integer, got 'last'"),
        ({"memory": 0}, "memory must be at least 1, got 0"),
    ],
    ids=str,
)
def test_an_exit_that_there_is_not_is_refused_in_one_line(conf, message):
    with pytest.raises(UserError, match=message):
        decode(shared_model(), ragged_batch(), "local_ar", steps=order_of("early_exit", drafter_conf=conf))


def test_a_model_without_the_part_or_without_layers_is_refused_with_the_drafters_that_it_has():
    message = r"drafter must be one of \['early_exit', 'jacobi', .*\] with a model without part hidden_transfer"
    with pytest.raises(UserError, match=message):
        decode(tiny_model(), ragged_batch(), "local_ar", steps=order_of("hidden_transfer"))
    with pytest.raises(UserError, match="width must be at most 4 with drafter hidden_transfer and 3 steps"):
        decode(shared_model(), ragged_batch(), "local_ar", steps=order_of("hidden_transfer", width=5))
    with pytest.raises(UserError, match=r"layer must be in \[0, 1\], got 2"):
        tiny_model().add_parts({"hidden_transfer": {"layer": 2}})
    model = tiny_model()
    model.primary = PlainPrimary(model.primary)
    message = r"drafter must be one of \['jacobi', .*\] with a model that runs all layers, got 'early_exit'"
    with pytest.raises(UserError, match=message):
        decode(model, ragged_batch(), "local_ar", steps=order_of("early_exit"))
    with pytest.raises(UserError, match="parts must be without routers, which works between layers"):
        model.add_parts({"routers": {}})
    assert DraftEarlyExit().goes_through and Entry(0, 1, torch.clone).count == 1


def test_who_runs_all_layers_says_so_when_asked_for_some():
    with pytest.raises(NotImplementedError, match="runs all layers"):
        StepModel.extend(tiny_model("prefix"), torch.zeros(1, 1, 3), None, LayerPass())


@pytest.mark.parametrize("order", ["causal", "speculative"])
def test_a_primary_transformer_that_can_nothing_besides_makes_the_same_codes(order):
    plain, model = tiny_model(), tiny_model()
    plain.primary = PlainPrimary(plain.primary)
    steps = order_of("jacobi") if order == "speculative" else build_order("causal")
    made = [decode(one, ragged_batch(), "local_ar", steps=steps).codes for one in (model, plain)]
    assert torch.equal(*made)
