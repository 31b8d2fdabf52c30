"""Rows that join a batch in the middle of its generation: each is, code by code, what it is alone."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial

import pytest
import torch
from conftest import SAMPLING, SPEC
from test_attention_prior import with_prior
from test_graphs import uncaptured

from espnet_ext.decoding import SpeechLimits, Watch, build_strategy, generate, generate_joining, plain_step
from espnet_ext.decoding import batch as batches
from espnet_ext.decoding.request import Decoding
from espnet_ext.decoding.rows import Rows
from espnet_ext.decoding.sampling import Sampler, SamplingOptions, row_generators
from espnet_ext.errors import UserError
from espnet_ext.fast import FastOptions, accelerate, static_state
from espnet_ext.testing.models import TEXT_VOCAB, Batch, shared_model, tiny_model

STRATEGIES = ["parallel", "local_ar", "local_maskgit", "local_maskgit_adaptive", "local_speculative"]
COUNT = 9
LIMITS = torch.tensor([3, 17, 6, 1, 12, 24, 2, 9, 5])


@cache
def crowd() -> Batch:
    """Nine utterances whose texts and prompts differ in length; some have no prompt."""
    generator = torch.Generator().manual_seed(3)
    numbers = torch.arange(COUNT)
    return Batch(
        torch.randint(TEXT_VOCAB, (COUNT, 8), generator=generator),
        numbers % 7 + 2,
        torch.zeros(COUNT, 1, 3, dtype=torch.int64),
        torch.ones(COUNT, dtype=torch.int64),
        torch.randint(SPEC.codebook_size, (COUNT, 9, 3), generator=generator),
        numbers * 4 % 10,
    )


def asked(model, strategy="local_ar", sampling="sampled", row=None, **how):
    """What is asked for of all rows, or of one: with generators of its own each time, as they are used up."""
    sampler = Sampler(SAMPLING[sampling], row_generators(4, [f"row {row}" for row in range(COUNT)]))
    given = model, crowd().conditions(model), build_strategy(strategy), sampler
    decoding = Decoding(*given, **{"max_frames": LIMITS * model.stacking, **how})
    return decoding if row is None else decoding.rows([row])


def assert_each_is_alone(made, ask):
    for row in range(COUNT):
        alone = generate(*ask(row=row))
        assert torch.equal(made.codes[row, : made.lengths[row]], alone.codes[0]), f"row {row}"
        for field in ("lengths", "has_eos", "steps", "local_passes", "primary_passes"):
            assert getattr(made, field)[row] == getattr(alone, field)[0], f"{field} of row {row}"
        assert made.runaway[row] == alone.runaway[0]
        torch.testing.assert_close(made.logprobs[row], alone.logprobs[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stacking", [1, 2])
@pytest.mark.parametrize("sampling", ["greedy", "sampled", "guided, no repetition"])
@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("primary", ["cross_attention", "prefix"])
def test_a_row_that_joins_is_what_it_is_alone(primary, name, sampling, stacking):
    ask = partial(asked, shared_model(primary, stacking), name, sampling)
    assert_each_is_alone(generate(*ask(most_rows=3)), ask)


@pytest.mark.parametrize("most_rows", [1, 2, 8, 9, 50])
@pytest.mark.parametrize("primary", ["cross_attention_annealed", "prefix_learned"])
def test_the_bound_on_rows_changes_nothing(primary, most_rows):
    ask, seen = partial(asked, shared_model(primary), "parallel", "guided"), []

    def step(model, strategy, codes, state, sampler):
        seen.append(len(codes) // 2)
        return plain_step(model, strategy, codes, state, sampler)

    assert_each_is_alone(generate(*ask(most_rows=most_rows, step=step)), ask)
    assert max(seen) == min(most_rows, COUNT)


@pytest.mark.parametrize("sampling", ["sampled", "guided, no repetition"])
def test_rows_that_join_wait_for_their_own_late_codebooks(sampling):
    ask = partial(asked, shared_model("prefix", 1, (0, 1, 2)), "parallel", sampling)
    assert_each_is_alone(generate(*ask(most_rows=3)), ask)


@pytest.mark.parametrize("stacking", [1, 2])
def test_rows_that_join_run_away_by_what_they_are(stacking):
    watch = Watch(SpeechLimits(2.0, period=2, repeated=1), torch.arange(COUNT) * 3 + 4)
    limits = torch.full((COUNT,), 60)
    ask = partial(asked, tiny_model(stacking=stacking), "parallel", "greedy", watch=watch, max_frames=limits)
    made = generate(*ask(most_rows=4))
    assert_each_is_alone(made, ask)
    assert len({*made.runaway}) > 1


@pytest.mark.parametrize("conf", [{"floor": 0.0, "sink_frames": 2}, {"rules": {"forward": True, "end_guard": True}}])
def test_rows_that_join_follow_their_own_text(conf):
    ask = partial(asked, with_prior(**conf), "local_ar", "sampled", max_frames=LIMITS + 9)
    assert_each_is_alone(generate(*ask(most_rows=3)), ask)


def test_an_end_guard_holds_for_rows_that_join():
    ask = partial(asked, shared_model(), "parallel", "sampled", max_frames=LIMITS + 30, end_guard=0.2)
    assert_each_is_alone(generate(*ask(most_rows=3)), ask)


@pytest.mark.parametrize("primary", ["cross_attention", "prefix_learned"])
@pytest.mark.parametrize("sampling", ["sampled", "guided"])
def test_rows_join_steps_that_run_in_buffers_of_their_own(primary, sampling, monkeypatch):
    monkeypatch.setattr(static_state, "POSITIONS", 4)
    monkeypatch.setattr(static_state, "TOKENS", 2)
    ask = partial(asked, shared_model(primary), "local_speculative", sampling)
    assert_each_is_alone(generate(*ask(most_rows=3, step=uncaptured())), ask)
    monkeypatch.setattr(batches, "is_gpu", lambda device: True)
    assert_each_is_alone(generate(*ask(most_rows=3, step=uncaptured())), ask)


@pytest.mark.parametrize("most_rows", [1, 4])
def test_requests_are_asked_for_when_there_is_a_place_and_handed_out_when_they_are_finished(most_rows):
    model, begun, made = shared_model("prefix"), [], {}

    def requests():
        for row in range(COUNT):
            begun.append(row)
            yield asked(model, row=row)

    for numbers, generation in generate_joining(requests(), most_rows):
        # one is looked at ahead
        assert len(begun) <= len(made) + len(numbers) + most_rows + 1
        made |= {number: (generation, place) for place, number in enumerate(numbers)}
    assert sorted(made) == list(range(COUNT))
    for row, (generation, place) in made.items():
        alone = generate(*asked(model, row=row))
        assert torch.equal(generation.codes[place, : generation.lengths[place]], alone.codes[0])


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("primary", ["cross_attention", "prefix_learned"])
def test_rows_join_packed_models(primary, native):
    model = tiny_model(primary, conditioning_dropout=0.1).float()
    accelerate(model, FastOptions("float32", native=native))
    right = generate(*asked(model, "local_ar", "guided"))
    made = generate(*asked(model, "local_ar", "guided", most_rows=3))
    assert torch.equal(made.codes, right.codes) and torch.equal(made.lengths, right.lengths)


def test_no_requests_are_no_rows():
    assert list(generate_joining([], 3)) == []


def test_requests_that_cannot_join_are_refused():
    model = shared_model("prefix")
    one, other = asked(model, row=0), asked(model, "parallel", row=1)
    with pytest.raises(UserError, match="strategy must be the same for all rows, got Parallel"):
        list(generate_joining([one, other], 3))
    warm = other._replace(strategy=one.strategy, sampler=replace(other.sampler, options=SamplingOptions(2.0)))
    with pytest.raises(UserError, match="sampling must be the same for all rows"):
        list(generate_joining([one, warm], 3))
    with pytest.raises(UserError, match="request 0 must be of one row, got 9"):
        list(generate_joining([asked(model)], 3))
    for call in (lambda: list(generate_joining([one], 0)), lambda: generate(*asked(model, most_rows=0))):
        with pytest.raises(UserError, match="most_rows must be at least 1, got 0"):
            call()


def test_a_row_that_joins_and_has_no_finite_logits_is_named():
    model, calls = shared_model(), []

    def overflow(*given):
        filled = plain_step(*given)
        calls.append(filled)
        if len(calls) == 9:
            filled.logprobs[0, 0] = torch.nan
        return filled

    names = [f"utterance-{row}" for row in range(COUNT)]
    with pytest.raises(UserError, match=r"got NaN in one of the \d+ steps of utterance utterance-\d"):
        generate(*asked(model, "parallel", most_rows=1, step=overflow, names=names, min_frames=1))


def test_a_neighbours_history_would_be_seen(monkeypatch):
    """What a row repeats is told from its own codes: those of the row before it in its place change its draws."""
    ask = partial(asked, shared_model("prefix"), "parallel", "guided, no repetition")
    right = generate(*ask())
    monkeypatch.setattr(Rows, "history", lambda rows, frames: rows.codes[:, :frames].clamp_max(SPEC.codebook_size))
    wrong = generate(*ask(most_rows=3))
    assert not torch.equal(wrong.codes[:, :1], right.codes[:, :1]) or wrong.codes.shape != right.codes.shape
