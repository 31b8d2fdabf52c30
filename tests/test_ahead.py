"""Positions behind steps: what comes out there, in training and in decoding, and the drafters that guess with it."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import PRIMARIES, SAMPLING, ragged_batch, tiny_model
from test_fast import KERNELS, NATIVE_ROWS, float32_model
from test_gpst import ragged, tiny_gpst

from espnet_ext.decoding import CAUSAL, build_order, build_strategy, drafters, generate
from espnet_ext.decoding.sampling import Sampler, SamplingOptions, row_generators
from espnet_ext.errors import UserError
from espnet_ext.fast import FastOptions, accelerate
from espnet_ext.model.ahead import Ahead, AheadCache
from espnet_ext.model.caches import EXACT, build_cache
from espnet_ext.model.loss import LossWeights, codec_loss
from espnet_ext.testing.exactness import enumerable_model, exact_distribution, total_variation
from espnet_ext.testing.models import PlainPrimary, assert_rows_are_their_own, decode, shared_model, with_parts
from espnet_ext.testing.speculation import codes_are_those_of_causal, drafts_that_are_drawn_tell_from_what, order_of

AHEAD = ["masks", "prompts"]
NAMES = [*PRIMARIES, "gpst rope", "gpst anew"]
VECTORS = torch.randn(2, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def as_steps(model, state, vectors):
    """Vectors as the input of steps, one after the other: (B, k, D); the slow and obvious way."""
    made = []
    for vector in vectors:
        x = vector.expand(3, -1)
        if hasattr(model, "units"):
            x = x[:, None]
            made.append(model.primary.advance(x, state, model._coming(state, 1))[:, 0])
        elif hasattr(model.primary, "segment"):
            made.append(model.primary.advance(x[:, None], state)[:, 0])
        else:
            made.append(model.primary.step(x, state))
    return torch.stack(made, dim=1)


def model_of(name, stacking):
    return tiny_gpst(name.split()[1], stacking) if name.startswith("gpst") else tiny_model(name, stacking)


def conditions_of(model):
    if hasattr(model, "units"):
        batch, nothing = ragged(), torch.zeros(3, dtype=torch.int64)
        return model.conditions(batch["semantic"], batch["semantic_lengths"], batch["codes"][:, :0], nothing)
    return ragged_batch()._replace(prompt_lengths=torch.tensor([5, 2, 0])).conditions(model)


@pytest.mark.parametrize("stacking", [1, 2])
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_what_stands_behind_steps_is_as_if_it_were_their_input_and_leaves_nothing(name, stacking):
    model = model_of(name, stacking)
    codes = torch.randint(8, (3, 9, model.slots), generator=torch.Generator().manual_seed(0))
    here, plain = (model.prefill(conditions_of(model), 16) for _ in range(2))
    for state in (here, plain):
        model.extend(codes[:, :2], state)
        state.accept(torch.tensor([2, 1, 2]), 2)  # rows have clocks of their own
    right_steps, right = [], []
    for place in range(2, 5):
        right_steps.append(model.step(codes[:, place], plain))
        right.append(as_steps(model, plain.gather(torch.arange(3)), VECTORS))
    steps, behind = model.extend_ahead(codes[:, 2:5], here, Ahead(VECTORS))
    torch.testing.assert_close(steps, torch.stack(right_steps, 1))
    torch.testing.assert_close(behind, torch.stack(right, 1))
    assert here.steps.tolist() == plain.steps.tolist()
    torch.testing.assert_close(model.step(codes[:, 5], here), model.step(codes[:, 5], plain))


@pytest.mark.parametrize("stacking", [1, 2])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "cross_attention"])
@torch.no_grad()
def test_what_stands_behind_steps_in_training_stands_there_in_decoding(name, stacking, monkeypatch):
    """But for a prior that reads the codes in training, and predicts their path in decoding."""
    model, made, places = model_of(name, stacking), {}, torch.tensor([0, 1, 3])

    def scores(hidden, targets, *_, further, **__):
        made.update(hidden=hidden, targets=targets, behind=further(Ahead(VECTORS), places))

    monkeypatch.setattr(type(model), "asks_further", True)
    monkeypatch.setattr(model, "scores", scores)
    batch = {key: value for key, value in ragged().items() if key != "language"}
    model(**batch) if hasattr(model, "units") else model(*ragged_batch())
    state = model.prefill(conditions_of(model), 12)
    inputs = torch.cat((model.first_codes(conditions_of(model))[:, None], made["targets"][:, :3]), dim=1)
    hidden, behind = model.extend_ahead(inputs, state, Ahead(VECTORS))
    for row, steps in enumerate(-(-(ragged_batch().code_lengths + 1) // stacking)):
        there = places < steps
        torch.testing.assert_close(made["hidden"][row, :4][:steps], hidden[row][:steps])
        torch.testing.assert_close(made["behind"][row][there], behind[row, places[there]])


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_what_works_behind_steps_alone_leaves_them_bit_for_bit_as_they_are(name):
    model = with_parts(model_of(name, 2))
    codes = torch.randint(8, (3, 6, model.slots), generator=torch.Generator().manual_seed(0))
    ahead, made = model.parts["masks"].ahead(2), []
    for change in (ahead.change, None):
        state = model.prefill(conditions_of(model), 16)
        made += [[model.extend_ahead(part, state, ahead._replace(change=change)) for part in codes.split(3, dim=1)]]
    for (steps, behind), (plain, otherwise) in zip(*made, strict=True):
        assert torch.equal(steps, plain)
        assert not torch.allclose(behind, otherwise)


@pytest.mark.parametrize("cache", [EXACT, build_cache("gear", buffer=4)], ids=["exact", "gear"])
@pytest.mark.parametrize("primary", PRIMARIES)
@pytest.mark.parametrize("drafter", AHEAD)
def test_rows_guess_on_their_own_whatever_the_primary_and_the_cache(drafter, primary, cache):
    order = order_of(drafter, "exact")
    for sampling in ("sampled", "guided, no repetition"):
        given = shared_model(primary, 2), "local_ar", SAMPLING[sampling], order
        assert_rows_are_their_own(*given, cache=cache)


@pytest.mark.parametrize("drafter", AHEAD)
def test_a_gpst_speaks_the_same_with_guesses_behind_its_steps(drafter):
    for positions in ("rope", "anew"):
        model = with_parts(tiny_gpst(positions, 2))
        made = []
        for order in (CAUSAL, order_of(drafter, width=4)):
            sampler = Sampler(SAMPLING["guided"], row_generators(0, list("abc")))
            made.append(generate(model, conditions_of(model), build_strategy("local_ar"), sampler, 12, order=order))
        assert torch.equal(made[0].codes, made[1].codes)


@pytest.mark.parametrize("is_native", KERNELS)
@pytest.mark.parametrize("primary", ["cross_attention", "prefix"])
@pytest.mark.parametrize("drafter", AHEAD)
def test_packed_weights_guess_what_plain_ones_guess(drafter, primary, is_native):
    model = with_parts(float32_model(primary, conditioning_dropout=0.1)).float()
    fast = copy.deepcopy(model)
    accelerate(fast, FastOptions("float32", native=is_native), rows=NATIVE_ROWS)
    for sampling in ("sampled", "guided"):
        right, ours = (
            decode(one, ragged_batch(), "local_ar", SAMPLING[sampling], 12, steps=order_of(drafter, "exact"))
            for one in (model, fast)
        )
        assert torch.equal(ours.codes, right.codes) and torch.equal(ours.primary_passes, right.primary_passes)


# exactness


@pytest.mark.parametrize("acceptance", ["gumbel", "exact", "block"])
@pytest.mark.parametrize(
    ("stacking", "delays", "sampling", "least", "most", "width"),
    [
        (1, (), SamplingOptions(0.8, top_k=2), 1, 3, 3),
        (2, (), SamplingOptions(0.8, top_p=0.8), 3, 4, 2),
        (1, (0, 1), SamplingOptions(0.8), 1, 2, 3),
    ],
    ids=["S1", "S2", "delays"],
)
@pytest.mark.parametrize("drafter", AHEAD)
def test_drafts_behind_steps_have_the_distribution_of_causal(
    drafter, acceptance, stacking, delays, sampling, least, most, width
):
    model = enumerable_model(stacking, delays, residual=stacking == 2)
    how = model, build_strategy("local_ar"), sampling, most, least
    plain = exact_distribution(*how)
    found = exact_distribution(
        *how, order=build_order("speculative", drafter=drafter, acceptance=acceptance, width=width)
    )
    assert abs(found.mass - 1) < 1e-12
    assert total_variation(plain, found) < 1e-12
    assert found.branches >= plain.branches > 8, "nothing was truly random"


# planted bugs


def left_in_the_cache(drafter, monkeypatch):
    """The pass writes what stands behind steps as it writes steps, and no more than the drafts is taken back."""
    right = drafters[drafter].extend

    def extend(self, turn, codes):
        turn.state.make_room(codes.shape[1] ** 2)
        return right(self, turn, codes)

    monkeypatch.setattr(drafters[drafter], "extend", extend)
    monkeypatch.setattr(AheadCache, "write", lambda self, *written: self.cache.write(*written))
    monkeypatch.setattr(AheadCache, "advance", lambda self, count: self.cache.advance(count))


def seen_by_steps(drafter, monkeypatch):
    right = AheadCache.visible

    def wrong(self, count=1):
        seen = right(self, count)
        seen[:, :, : self.steps, -1] = True
        return seen

    monkeypatch.setattr(AheadCache, "visible", wrong)


@pytest.mark.parametrize("bug", [left_in_the_cache, seen_by_steps])
@pytest.mark.parametrize("drafter", AHEAD)
def test_positions_that_leave_a_trace_are_caught(drafter, bug, monkeypatch):
    bug(drafter, monkeypatch)
    with pytest.raises(AssertionError, match="must be those of causal"):
        codes_are_those_of_causal(drafter, {})


@pytest.mark.parametrize("drafter", AHEAD)
def test_drafts_that_are_drawn_otherwise_than_they_say_are_caught(drafter, monkeypatch):
    kind = drafters[drafter]
    draft = kind.draft

    def wrong(self, turn, own, count, draws):
        made = draft(self, turn, own, count, draws)
        if made.probs is None:
            return made
        flat = made.probs.sqrt()
        return made._replace(probs=flat / flat.sum(-1, keepdim=True))

    monkeypatch.setattr(kind, "draft", wrong)
    with pytest.raises(AssertionError, match="must have the distribution of causal"):
        drafts_that_are_drawn_tell_from_what(drafter, {})


# what is learned


@pytest.mark.parametrize("drafter", AHEAD)
def test_what_is_trained_guesses_steps_that_nobody_else_does(drafter):
    """Greedily, on codes of which each step tells the next ones."""
    follows = torch.tensor([0, 3, 5, 1, 7, 2, 6, 4])
    batch = ragged_batch()
    codes = follows[(torch.arange(9)[:, None] + torch.arange(3))[None].expand(3, -1, -1) % 8]
    batch, model = batch._replace(codes=codes), tiny_model("prefix", local="none")
    model.add_parts({drafter: {"every": 1}})
    model = model.double().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.005)
    for _ in range(150):
        optimizer.zero_grad()
        codec_loss(model(*batch), 3, LossWeights()).total.backward()
        optimizer.step()
    how = batch, "parallel", SAMPLING["greedy"], batch.code_lengths
    plain, guessed, repeated = (
        decode(model.eval(), *how, steps=order)
        for order in (CAUSAL, order_of(drafter, width=4), order_of("repeat", width=4))
    )
    assert torch.equal(guessed.codes, plain.codes)
    assert int(guessed.primary_passes.sum()) < 0.7 * int(repeated.primary_passes.sum())


# what is refused


@pytest.mark.parametrize("drafter", AHEAD)
def test_a_model_without_the_part_or_with_a_narrower_one_is_refused_in_one_line(drafter):
    able = r"\['early_exit', 'jacobi', 'ngram', 'repeat'\]"
    message = f"drafter must be one of {able} with a model without part {drafter}, got '{drafter}'"
    with pytest.raises(UserError, match=message):
        decode(tiny_model(), ragged_batch(), "local_ar", steps=order_of(drafter))
    message = f"width must be at most 4 with drafter {drafter} and 3 steps of part {drafter}, got 5"
    with pytest.raises(UserError, match=message):
        decode(shared_model(), ragged_batch(), "local_ar", steps=order_of(drafter, width=5))


@pytest.mark.parametrize("part", AHEAD)
@pytest.mark.parametrize("conf", [{"steps": 0}, {"steps": 64}, {"every": 0}, {"weight": -1}], ids=str)
def test_what_a_part_cannot_be_is_refused_in_one_line(part, conf):
    ((name, value),) = conf.items()
    with pytest.raises(UserError, match=rf"{name} must be .*, got {value}"):
        tiny_model().add_parts({part: conf})


@pytest.mark.parametrize("part", AHEAD)
def test_a_primary_transformer_that_cannot_look_ahead_is_refused(part):
    model = tiny_model("prefix")
    model.primary = PlainPrimary(model.primary)
    with pytest.raises(UserError, match=f"parts must be without {part}, which looks ahead, with a primary transformer"):
        model.add_parts({part: {}})
