"""A step without shapes that depend on values, as a CUDA graph needs it, makes the same codes; capture needs a GPU."""

import gc
import logging
import weakref
from itertools import zip_longest

import pytest
import torch
from conftest import NAMES, PRIMARIES, SAMPLING, VARIANTS, built_in, ragged_batch, tiny_model
from test_attention_prior import with_prior
from test_gpst import conditions_of, ragged, shared_gpst

from espnet_ext.decoding import batch as loop
from espnet_ext.decoding import build_strategy, generate, generate_stream, plain_step, strategies
from espnet_ext.decoding.sampling import Sampler, SamplingOptions, row_generators
from espnet_ext.fast import FastOptions, accelerate, graphs
from espnet_ext.fast.graphs import KEPT, Graphs, StaticModelStep, StaticStep

EVERY = [*((name, {}) for name in strategies), *VARIANTS]


def uncaptured():
    """What graphs would record, run operation by operation."""
    return Graphs(capture=False)


def decoded(model, strategy, sampling, seed=3, frames=12, step=plain_step):
    sampler = Sampler(SAMPLING[sampling], row_generators(seed, NAMES))
    return generate(model, ragged_batch().conditions(model), strategy, sampler, frames, step=step)


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
    static = uncaptured()
    for seed in (3, 4):  # the second time nothing is prepared any more
        assert_same(decoded(model, strategy, sampling, seed, step=static), decoded(model, strategy, sampling, seed))
    assert bool(static.steps) == (not SAMPLING[sampling].repetition_window)


@pytest.mark.parametrize("sampling", ["greedy", "guided"])
@pytest.mark.parametrize("stacking", [1, 2])
@pytest.mark.parametrize("primary", list(PRIMARIES))
def test_a_static_step_of_every_primary_makes_the_codes_of_the_other_one(primary, stacking, sampling):
    model, strategy = tiny_model(primary, stacking, conditioning_dropout=0.1), build_strategy("local_ar")
    ours = decoded(model, strategy, sampling, frames=40, step=uncaptured())
    assert_same(ours, decoded(model, strategy, sampling, frames=40))


@pytest.mark.parametrize("stacking", [1, 2])
def test_a_static_step_moves_the_window_of_a_prior(stacking):
    model, strategy = with_prior(stacking, ahead=1, sink_frames=2), build_strategy("local_ar")
    assert_same(
        decoded(model, strategy, "guided", frames=30, step=uncaptured()),
        decoded(model, strategy, "guided", frames=30),
    )


def test_a_cache_longer_than_its_rounding_and_rows_that_leave():
    model, strategy = tiny_model("prefix", conditioning_dropout=0.1), build_strategy("parallel")
    limits = torch.tensor([300, 20, 150])
    sampling = SamplingOptions(temperature=0.7)
    ours, right = (
        generate(
            model,
            ragged_batch().conditions(model),
            strategy,
            Sampler(sampling, row_generators(1, NAMES)),
            limits,
            20,
            step,
        )
        for step in (uncaptured(), plain_step)
    )
    assert_same(ours, right)


def test_requests_of_other_lengths_share_their_buffers_and_old_shapes_go():
    model, strategy = tiny_model("cross_attention"), build_strategy("parallel")
    static = uncaptured()
    for frames in (5, 12, 30):
        ours = decoded(model, strategy, "greedy", frames=frames, step=static)
        assert_same(ours, decoded(model, strategy, "greedy", frames=frames))
    assert {key[2][0] for key in static.steps} <= {1, 2, 3} and len(static.steps) <= 3
    for temperature in torch.linspace(0.5, 1.5, KEPT + 3).tolist():
        sampler = Sampler(SamplingOptions(temperature), row_generators(0, NAMES))
        generate(model, ragged_batch().conditions(model), strategy, sampler, 3, step=static)
    assert len(static.steps) == KEPT


@pytest.mark.parametrize("primary", ["prefix", "cross_attention"])
def test_two_streams_in_turns_do_not_share_what_is_in_the_buffers(primary):
    model, strategy = tiny_model(primary), build_strategy("local_ar")
    static = uncaptured()

    def stream(seed):
        sampler = Sampler(SAMPLING["sampled"], row_generators(seed, NAMES))
        return generate_stream(model, ragged_batch().conditions(model), strategy, sampler, 12, step=static)

    steps = list(zip_longest(stream(1), stream(2)))
    for seed, of_stream in zip((1, 2), zip(*steps, strict=True), strict=True):
        assert_same([made for made in of_stream if made][-1], decoded(model, strategy, "sampled", seed))
    gc.collect()
    assert_same(decoded(model, strategy, "sampled", 5, step=static), decoded(model, strategy, "sampled", 5))


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
        generate(model, conditions, strategy, Sampler(SAMPLING["sampled"], row_generators(2, NAMES)), 12, step=step)
        for step in (uncaptured(), plain_step)
    )
    assert_same(ours, right)


def test_a_static_local_step_alone_makes_the_codes_of_its_strategy():
    model, strategy = tiny_model("prefix"), build_strategy("local_speculative")
    hidden = torch.randn(3, model.primary.width, dtype=torch.float64)
    legal = torch.ones(1, model.slots, model.spec.vocab_size, dtype=torch.bool)
    samplers = [Sampler(SAMPLING["sampled"], row_generators(0, NAMES)).for_step(legal) for _ in range(2)]
    static = StaticStep(lambda taped: strategy.rounds(model.heads, hidden, taped), samplers[0], capture=False)
    for _ in range(4):
        ours, right = static(samplers[0]), strategy.decode_step(model.heads, hidden, samplers[1])
        assert torch.equal(ours.codes, right.codes) and torch.equal(ours.local_passes, right.local_passes)


@pytest.mark.parametrize("primary", ["prefix", "cross_attention"])
def test_a_static_step_beyond_what_was_asked_for_is_refused_or_has_room(primary):
    model, strategy = tiny_model(primary), build_strategy("local_ar")
    static, conditions = uncaptured(), ragged_batch().conditions(model)
    state, codes = model.prefill(conditions, 4), model.first_codes(conditions)
    legal = torch.ones(1, model.slots, model.spec.vocab_size, dtype=torch.bool)
    sampler = Sampler(SamplingOptions(temperature=0.0)).for_step(legal)
    static(model, strategy, codes, state, sampler)
    assert state.cache.capacity >= state.cache.prefix + 4 and set(state.steps.tolist()) == {1}
    state.cache.length = state.cache.capacity
    with pytest.raises(ValueError, match="cache capacity must be at least"):
        static(model, strategy, codes, state, sampler)


def test_a_capture_that_fails_falls_back_with_one_warning(caplog):
    if torch.cuda.is_available():
        pytest.skip("a GPU captures")
    model, strategy = tiny_model("prefix"), build_strategy("local_ar")
    with caplog.at_level(logging.WARNING):
        assert_same(decoded(model, strategy, "sampled", step=Graphs()), decoded(model, strategy, "sampled"))
    assert len(caplog.records) == 1 and "going on without" in caplog.records[0].message


def test_a_capture_that_fails_in_the_middle_goes_on_from_the_fixed_buffers(monkeypatch):
    model, strategy = tiny_model("cross_attention", conditioning_dropout=0.1), build_strategy("local_ar")
    static, steps = uncaptured(), []

    def fails_when_rows_have_left(*args):
        steps.append(args)
        if len(steps) > 1:
            raise RuntimeError("")
        return StaticModelStep(*args)

    monkeypatch.setattr(graphs, "StaticModelStep", fails_when_rows_have_left)
    ours = decoded(model, strategy, "guided", frames=torch.tensor([4, 30, 30]), step=static)
    assert_same(ours, decoded(model, strategy, "guided", frames=torch.tensor([4, 30, 30])))
    assert len(steps) == 2 and static.failed == [""] and not static.steps


def test_steps_that_are_let_go_of_are_free_at_once():
    static = uncaptured()
    decoded(tiny_model("prefix"), build_strategy("local_speculative"), "sampled", step=static)
    held = [weakref.ref(step) for step in static.steps.values()]
    gc.disable()
    try:
        static.clear()
        assert held and not any(step() for step in held)
    finally:
        gc.enable()


def test_the_unit_stage_of_gpst_is_captured_once():
    static, batch = uncaptured(), ragged()
    for _ in range(3):
        stage = shared_gpst().units
        conditions = stage.conditions(batch["semantic"], torch.tensor([3, 0, 2]), batch["language"])
        generate(stage, conditions, build_strategy("parallel"), Sampler(SAMPLING["greedy"]), 4, step=static)
    assert len(static.steps) == 1


def test_no_memory_for_a_step_frees_the_others(monkeypatch):
    model, strategy, static = tiny_model("prefix"), build_strategy("local_ar"), uncaptured()
    decoded(model, strategy, "greedy", step=static)
    assert static.steps

    def too_large(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(graphs, "StaticModelStep", too_large)
    with pytest.raises(torch.OutOfMemoryError):
        decoded(model, strategy, "sampled", step=static)
    assert not static.steps and not static.failed


@pytest.mark.parametrize("sampling", ["greedy", "guided"])
@pytest.mark.parametrize("primary", ["prefix", "cross_attention"])
@pytest.mark.parametrize("name", list(strategies))
def test_a_batch_that_is_halved_and_looked_at_now_and_then_makes_the_same_codes(name, primary, sampling, monkeypatch):
    model, strategy = tiny_model(primary, conditioning_dropout=0.1), build_strategy(name)
    limits = torch.tensor([9, 3, 30])
    right = decoded(model, strategy, sampling, frames=limits)
    monkeypatch.setattr(loop, "is_gpu", lambda device: True)
    assert_same(decoded(model, strategy, sampling, frames=limits, step=uncaptured()), right)
    assert_same(decoded(model, strategy, sampling, frames=limits), right)


def test_there_are_no_graphs_on_a_cpu():
    assert accelerate(tiny_model("prefix").float(), FastOptions("float32")).step is plain_step


def test_every_strategy_of_ours_can_be_a_graph():
    assert all(strategies[name].is_static for name in built_in(strategies))


@pytest.mark.gpu
@pytest.mark.parametrize("primary", ["prefix", "cross_attention"])
@pytest.mark.parametrize(("name", "conf"), EVERY)
def test_a_graph_makes_the_codes_of_its_strategy(name, conf, primary):
    model = tiny_model(primary, 2).cuda()
    conditions = ragged_batch().conditions(model.cpu())
    model, conditions = model.cuda(), type(conditions)(*(part if part is None else part.cuda() for part in conditions))
    strategy = build_strategy(name, **conf)
    static = Graphs()
    for seed in (3, 4):
        samplers = [Sampler(SAMPLING["sampled"], row_generators(seed, NAMES, "cuda")) for _ in range(2)]
        ours = generate(model, conditions, strategy, samplers[0], 12, step=static)
        assert_same(ours, generate(model, conditions, strategy, samplers[1], 12))
    assert static.steps and not static.failed
