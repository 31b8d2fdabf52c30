"""A step without shapes that depend on values, as a CUDA graph needs it, makes the same codes; capture needs a GPU."""

import gc
import logging
from itertools import zip_longest

import pytest
import torch
from conftest import NAMES, PRIMARIES, SAMPLING, VARIANTS, ragged_batch, tiny_model
from test_attention_prior import with_prior
from test_gpst import conditions_of, ragged, shared_gpst

from espnet_ext.decoding import build_strategy, generate, generate_stream, strategies
from espnet_ext.decoding.generate import rows_to_keep
from espnet_ext.fast.graphs import KEPT, Graphed, GraphedStrategies, StaticStep
from espnet_ext.sampling import Sampler, SamplingOptions, row_generators

EVERY = [*((name, {}) for name in strategies), *VARIANTS]


def decoded(model, strategy, sampling, seed=3, frames=12, names=NAMES):
    sampler = Sampler(SAMPLING[sampling], row_generators(seed, names))
    return generate(model, ragged_batch().conditions(model), strategy, sampler, frames)


def assert_same(ours, right):
    assert torch.equal(ours.codes, right.codes) and torch.equal(ours.lengths, right.lengths)
    assert torch.equal(ours.local_passes, right.local_passes) and torch.equal(ours.has_eos, right.has_eos)
    torch.testing.assert_close(ours.logprobs, right.logprobs)


@pytest.mark.parametrize("sampling", list(SAMPLING))
@pytest.mark.parametrize("stacking", [1, 2])
@pytest.mark.parametrize(("name", "conf"), EVERY)
def test_a_static_step_makes_the_codes_of_its_strategy(name, conf, stacking, sampling):
    model = tiny_model("prefix", stacking, conditioning_dropout=0.1)
    strategy = build_strategy(name, **conf)
    static = Graphed(strategy, capture=False)
    for seed in (3, 4):  # the second time nothing is prepared any more
        assert_same(decoded(model, static, sampling, seed), decoded(model, strategy, sampling, seed))
    assert bool(static.steps) == (not SAMPLING[sampling].repetition_window)


@pytest.mark.parametrize("sampling", ["greedy", "guided"])
@pytest.mark.parametrize("stacking", [1, 2])
@pytest.mark.parametrize("primary", list(PRIMARIES))
def test_a_static_step_of_every_primary_makes_the_codes_of_the_other_one(primary, stacking, sampling):
    model, strategy = tiny_model(primary, stacking, conditioning_dropout=0.1), build_strategy("local_ar")
    ours = decoded(model, Graphed(strategy, capture=False), sampling, frames=40)
    assert_same(ours, decoded(model, strategy, sampling, frames=40))


@pytest.mark.parametrize("stacking", [1, 2])
def test_a_static_step_moves_the_window_of_a_prior(stacking):
    model, strategy = with_prior(stacking, ahead=1, sink_frames=2), build_strategy("local_ar")
    assert_same(
        decoded(model, Graphed(strategy, capture=False), "guided", frames=30),
        decoded(model, strategy, "guided", frames=30),
    )


def test_a_cache_longer_than_its_rounding_and_rows_that_leave():
    model, strategy = tiny_model("prefix", conditioning_dropout=0.1), build_strategy("parallel")
    static = Graphed(strategy, capture=False)
    limits = torch.tensor([300, 20, 150])
    sampling = SamplingOptions(temperature=0.7)
    ours, right = (
        generate(
            model,
            ragged_batch().conditions(model),
            one,
            Sampler(sampling, row_generators(1, NAMES)),
            limits,
            min_frames=20,
        )
        for one in (static, strategy)
    )
    assert_same(ours, right)


def test_requests_of_other_lengths_share_their_buffers_and_old_shapes_go():
    model, strategy = tiny_model("cross_attention"), build_strategy("parallel")
    static = Graphed(strategy, capture=False)
    for frames in (5, 12, 30):
        assert_same(decoded(model, static, "greedy", frames=frames), decoded(model, strategy, "greedy", frames=frames))
    assert {key[1][0] for key in static.steps} <= {1, 2, 3} and len(static.steps) <= 3
    for temperature in torch.linspace(0.5, 1.5, KEPT + 3).tolist():
        sampler = Sampler(SamplingOptions(temperature), row_generators(0, NAMES))
        generate(model, ragged_batch().conditions(model), static, sampler, 3)
    assert len(static.steps) == KEPT


@pytest.mark.parametrize("primary", ["prefix", "cross_attention"])
def test_two_streams_in_turns_do_not_share_what_is_in_the_buffers(primary):
    model, strategy = tiny_model(primary), build_strategy("local_ar")
    static = Graphed(strategy, capture=False)

    def stream(seed, one):
        sampler = Sampler(SAMPLING["sampled"], row_generators(seed, NAMES))
        return generate_stream(model, ragged_batch().conditions(model), one, sampler, 12)

    steps = list(zip_longest(stream(1, static), stream(2, static)))
    for seed, of_stream in zip((1, 2), zip(*steps, strict=True), strict=True):
        assert_same([made for made in of_stream if made][-1], decoded(model, strategy, "sampled", seed))
    gc.collect()
    assert_same(decoded(model, static, "sampled", 5), decoded(model, strategy, "sampled", 5))


@pytest.mark.parametrize("positions", ["rope", "anew", "learned"])
@pytest.mark.parametrize("stage", ["codes", "units"])
def test_a_static_step_of_gpst_makes_its_codes_and_units(stage, positions):
    model, batch = shared_gpst(positions, 2), ragged()
    conditions = conditions_of(model, batch, (1, 0, 1))
    if stage == "units":
        model = model.units
        conditions = model.conditions(batch["semantic"], torch.tensor([3, 0, 2]), batch["language"])
    strategy = build_strategy("parallel" if stage == "units" else "local_ar")
    ours, right = (
        generate(model, conditions, one, Sampler(SAMPLING["sampled"], row_generators(2, NAMES)), 12)
        for one in (Graphed(strategy, capture=False), strategy)
    )
    assert_same(ours, right)


def test_a_static_local_step_alone_makes_the_codes_of_its_strategy():
    model, strategy = tiny_model("prefix"), build_strategy("local_speculative")
    hidden = torch.randn(3, model.primary.width, dtype=torch.float64)
    legal = torch.ones(1, model.slots, model.spec.vocab_size, dtype=torch.bool)
    samplers = [Sampler(SAMPLING["sampled"], row_generators(0, NAMES)).for_step(legal) for _ in range(2)]
    static = StaticStep(strategy, model.heads, lambda: hidden, 3, samplers[0], capture=False)
    for _ in range(4):
        ours, right = static(samplers[0]), strategy.decode_step(model.heads, hidden, samplers[1])
        assert torch.equal(ours.codes, right.codes) and torch.equal(ours.local_passes, right.local_passes)


@pytest.mark.parametrize("primary", ["prefix", "cross_attention"])
def test_a_static_step_beyond_what_was_asked_for_is_refused_or_has_room(primary):
    model, strategy = tiny_model(primary), build_strategy("local_ar")
    static, conditions = Graphed(strategy, capture=False), ragged_batch().conditions(model)
    state, codes = model.prefill(conditions, 4), model.first_codes(conditions)
    legal = torch.ones(1, model.slots, model.spec.vocab_size, dtype=torch.bool)
    sampler = Sampler(SamplingOptions(temperature=0.0)).for_step(legal)
    static.step(model, codes, state, sampler)
    assert state.cache.capacity >= state.cache.prefix + 4 and state.step == 1
    state.cache.length = state.cache.capacity
    with pytest.raises(ValueError, match="cache capacity must be at least"):
        static.step(model, codes, state, sampler)


def test_a_capture_that_fails_falls_back_with_one_warning(caplog):
    if torch.cuda.is_available():
        pytest.skip("a GPU captures")
    model, strategy = tiny_model("prefix"), build_strategy("local_ar")
    static = Graphed(strategy)
    with caplog.at_level(logging.WARNING):
        assert_same(decoded(model, static, "sampled"), decoded(model, strategy, "sampled"))
    assert len(caplog.records) == 1 and "going on without" in caplog.records[0].message


def test_there_are_no_graphs_on_a_cpu():
    strategy, made = build_strategy("local_ar"), GraphedStrategies()
    assert made.of(strategy, "cpu") is strategy
    assert isinstance(made.of(strategy, "cuda"), Graphed)
    assert made.of(strategy, "cuda") is made.of(build_strategy("local_ar"), torch.device("cuda"))
    listed = build_strategy("local_maskgit", fixed_schedule=[1, 2, 3])
    assert made.of(listed, "cuda") is not made.of(build_strategy("local_maskgit"), "cuda")


def test_every_strategy_of_ours_can_be_a_graph():
    assert all(strategies[name].is_static for name in strategies)


def test_rows_leave_a_batch_one_by_one_on_a_cpu():
    finished = torch.tensor([False, True, False, False, True])
    assert rows_to_keep(finished, 3).tolist() == [0, 2, 3]
    assert rows_to_keep(torch.tensor([True] + [False] * 5), 5).tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.gpu
@pytest.mark.parametrize("primary", ["prefix", "cross_attention"])
@pytest.mark.parametrize(("name", "conf"), EVERY)
def test_a_graph_makes_the_codes_of_its_strategy(name, conf, primary):
    model = tiny_model(primary, 2).cuda()
    conditions = ragged_batch().conditions(model.cpu())
    model, conditions = model.cuda(), type(conditions)(*(part.cuda() for part in conditions))
    strategy = build_strategy(name, **conf)
    static = Graphed(strategy)
    for seed in (3, 4):
        ours, right = (
            generate(model, conditions, one, Sampler(SAMPLING["sampled"], row_generators(seed, NAMES, "cuda")), 12)
            for one in (static, strategy)
        )
        assert_same(ours, right)
    assert static.steps and not static.failed
