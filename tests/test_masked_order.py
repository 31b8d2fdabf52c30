"""The order `masked`: rounds over whole utterances; what is known stays, and lengths are predicted or given."""

from __future__ import annotations

import pytest
import torch
from conftest import NAMES, SAMPLING, SPEC, ragged_batch

from espnet_ext.decoding import Masked, build_strategy, generate
from espnet_ext.decoding.sampling import Sampler, SamplingOptions, row_generators
from espnet_ext.errors import UserError
from espnet_ext.fast import FastOptions, accelerate
from espnet_ext.model.caches import build_cache
from espnet_ext.model.primary.known_path import path_around
from espnet_ext.testing.models import assert_rows_are_their_own, shared_model, tiny_model

GREEDY = SamplingOptions(temperature=0.0)
STRATEGIES = ["parallel", "local_ar", "local_maskgit", "local_maskgit_adaptive", "local_speculative"]
stackings = pytest.mark.parametrize("stacking", [1, 2, 4])


def masked_model(stacking=1, unit="steps", **options):
    return tiny_model(
        stacking=stacking, objective="masked", conditioning_dropout=0.1, mask_conf={"unit": unit}, **options
    )


def known_of(batch, anew):
    """The batch's own codes, MASK where `anew` (B, T) says so, and their lengths."""
    return batch.codes.masked_fill(anew[..., None], SPEC.mask_id), batch.code_lengths


def complete(model, batch, anew, strategy="parallel", options=GREEDY, order=None, max_frames=12, **conf):
    """What a model makes of the batch's own codes where some frames are to be made anew."""
    known, lengths = known_of(batch, anew)
    conditions = batch.conditions(model)._replace(known=known, known_lengths=lengths)
    sampler = Sampler(options, row_generators(0, NAMES))
    order = order or Masked(rounds=3)
    return generate(model, conditions, build_strategy(strategy, **conf), sampler, max_frames, order=order)


def plain_forward(model, batch, inputs):
    """Hidden vectors of steps in one pass without cache, as training has them: (B, L, D)."""
    targets = model.targets(batch.codes, batch.code_lengths)
    embedded = model.embedding.step(inputs), model.embedding.frames(targets)
    steps = model.layout.num_steps(batch.code_lengths + 1)
    return model.primary.forward_masked(batch.conditions(model), *embedded, steps).hidden


@stackings
@pytest.mark.parametrize("strategy", ["parallel", "local_ar"])
def test_one_round_with_everything_masked_is_a_plain_forward_pass(stacking, strategy):
    """With a prior that says nothing in both, as the one of training is made from the codes."""
    model, batch = masked_model(stacking), ragged_batch()
    model.primary.prior.spread = 1e6
    everything = torch.ones(batch.codes.shape[:2], dtype=torch.bool)
    made = complete(model, batch, everything, strategy, order=Masked(rounds=1))
    assert torch.equal(made.lengths, batch.code_lengths) and made.primary_passes.tolist() == [1, 1, 1]
    assert bool(made.has_eos.all())

    targets = model.targets(batch.codes, batch.code_lengths)
    hidden = plain_forward(model, batch, targets.masked_fill(targets < SPEC.codebook_size, SPEC.mask_id))
    own = model.targets(made.codes, made.lengths)
    for row, length in enumerate(model.layout.num_steps(batch.code_lengths + 1).tolist()):
        kind, steps = model.heads["ar" if strategy == "local_ar" else "parallel"], own[row, :length]
        logits = kind(model.heads.inputs(kind, hidden[row, :length]), steps).logits[..., : SPEC.codebook_size]
        is_frame = steps < SPEC.codebook_size
        assert torch.equal(logits.argmax(-1)[is_frame], steps[is_frame])


@stackings
@pytest.mark.parametrize("unit", ["steps", "codes", "levels"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_editing_where_all_is_known_changes_nothing_and_costs_nothing(stacking, unit, strategy):
    model, batch = masked_model(stacking, unit), ragged_batch()
    made = complete(model, batch, torch.zeros(batch.codes.shape[:2], dtype=torch.bool), strategy)
    assert torch.equal(made.lengths, batch.code_lengths) and bool(made.has_eos.all())
    for row, length in enumerate(made.lengths.tolist()):
        assert torch.equal(made.codes[row, :length], batch.codes[row, :length])
    assert made.primary_passes.tolist() == made.local_passes.tolist() == made.logprobs.tolist() == [0, 0, 0]


@stackings
@pytest.mark.parametrize("unit", ["steps", "codes", "levels"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_known_frames_stay_and_what_a_round_has_kept_stays(stacking, unit, strategy, monkeypatch):
    """Frames within a step that is half known, too; no round sees what it has not kept."""
    model, batch = masked_model(stacking, unit), ragged_batch()
    anew = torch.tensor([[0, 0, 1, 1, 1, 0, 0, 1, 0]] * 3, dtype=torch.bool)
    seen, fill = [], model.fill
    monkeypatch.setattr(model, "fill", lambda codes, *rest: (seen.append(codes.clone()), fill(codes, *rest))[1])
    made = complete(model, batch, anew, strategy, SAMPLING["sampled"])
    for row, length in enumerate(batch.code_lengths.tolist()):
        same = made.codes[row, :length] == batch.codes[row, :length]
        assert same[~anew[row, :length]].all(), "known frames must stay"
    SPEC.check(made.codes)
    final = model.targets(made.codes, made.lengths)
    for codes in seen:
        is_known = codes != SPEC.mask_id
        assert torch.equal(codes[is_known], final[:, : codes.shape[1]][is_known])
    masked = [int((codes == SPEC.mask_id).sum()) for codes in seen]
    assert all(later < earlier for earlier, later in zip(masked, masked[1:], strict=False))


@stackings
@pytest.mark.parametrize("rounds", [1, 2, 5, 99])
def test_an_utterance_takes_as_many_rounds_as_are_asked_for_and_never_more_than_it_has_steps(stacking, rounds):
    model, batch = masked_model(stacking), ragged_batch()
    everything = torch.ones(batch.codes.shape[:2], dtype=torch.bool)
    made = complete(model, batch, everything, order=Masked(rounds=rounds))
    steps = -(-batch.code_lengths // stacking)
    assert made.primary_passes.tolist() == [min(rounds, count) for count in steps.tolist()]
    assert torch.equal(made.local_passes, made.primary_passes)


def test_rounds_may_be_one_number_for_each_codebook_of_a_model_of_levels():
    model, batch = masked_model(unit="levels"), ragged_batch()
    everything = torch.ones(batch.codes.shape[:2], dtype=torch.bool)
    made = complete(model, batch, everything, order=Masked(rounds=[3, 2, 1]))
    assert made.primary_passes.tolist() == [6, 6, 6]
    with pytest.raises(UserError, match=r"rounds must be a number or 3 of them, one for each codebook with this model"):
        complete(model, batch, everything, order=Masked(rounds=[3, 2]))
    with pytest.raises(UserError, match=r"rounds must be one number with this model, got \[3, 2, 1\]"):
        complete(masked_model(), batch, everything, order=Masked(rounds=[3, 2, 1]))


@pytest.mark.parametrize("unit", ["steps", "codes", "levels"])
@pytest.mark.parametrize("sampling", ["sampled", "guided, no repetition", "a temperature per codebook"])
@pytest.mark.parametrize("order", [Masked(3), Masked(3, "random"), Masked(4, temperature=2.0)], ids=str)
def test_a_row_does_not_depend_on_others_however_it_is_unmasked(order, sampling, unit):
    for stacking, strategy in ((1, "local_ar"), (2, "local_maskgit")):
        assert_rows_are_their_own(masked_model(stacking, unit), strategy, SAMPLING[sampling], order)


@pytest.mark.parametrize("most_rows", [1, 2])
@pytest.mark.parametrize("stacking", [1, 2])
def test_a_row_that_joins_later_is_what_it_is_alone(stacking, most_rows):
    model = shared_model(stacking=stacking, objective="masked")
    sampling = SAMPLING["guided, no repetition"]
    assert_rows_are_their_own(model, "local_ar", sampling, Masked(), most_rows=most_rows)


def test_the_confidence_alone_decides_without_noise_and_noise_or_chance_choose_others():
    model, batch = masked_model(), ragged_batch()
    everything = torch.ones(batch.codes.shape[:2], dtype=torch.bool)
    made = [
        complete(model, batch, everything, options=SAMPLING["sampled"], order=order).codes
        for order in (Masked(4), Masked(4), Masked(4, "random"), Masked(4, temperature=5.0))
    ]
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2]) and not torch.equal(made[0], made[3])


@stackings
def test_an_utterance_is_as_long_as_its_text_is_expected_to_take(stacking):
    """And the path of its prior is stretched where it has to be shorter."""
    model, batch = masked_model(stacking), ragged_batch()
    predictor = model.primary.prior.frame_predictor
    torch.nn.init.zeros_(predictor.output.weight)
    torch.nn.init.constant_(predictor.output.bias, torch.tensor(4.15).log())
    conditions, sampler = batch.conditions(model), Sampler(GREEDY)
    made = generate(model, conditions, build_strategy("parallel"), sampler, 99, order=Masked(rounds=2))
    expected = 4.15 * batch.text_lengths - (stacking + 1) / 2
    assert torch.equal(made.lengths, expected.round().long()) and bool(made.has_eos.all())
    cut = generate(model, conditions, build_strategy("parallel"), sampler, 8, order=Masked(rounds=2))
    assert cut.lengths.tolist() == [8, 8, 8] and not cut.has_eos.any()
    state = model.prefill(conditions, model.layout.num_steps(torch.tensor([8, 8, 8])))
    last = (batch.text_lengths - 1).tolist()
    for row, steps in enumerate(model.layout.num_steps(state.lengths + 1).tolist()):
        assert int(state.path[row, steps * stacking - 1]) == last[row]


def test_known_frames_are_at_their_tokens_and_new_ones_share_the_tokens_between_them():
    sure = torch.eye(6).repeat_interleave(2, dim=0)[None].log().clamp_min(-9.0)  # two frames for each token
    known = torch.tensor([[True] * 4 + [False] * 6 + [True] * 2])
    twelve, six = torch.tensor([12]), torch.tensor([6])
    expected = torch.tensor([[2.0, 2.0, 1.0, 1.0, 4.0, 2.0]])
    path = path_around(sure, known, twelve, six, expected)
    assert path[0].tolist() == [0, 0, 1, 1, 2, 3, 4, 4, 4, 4, 5, 5]
    # with nothing left to be said the tokens on both sides go on
    known[0, 4:10] = torch.tensor([True, True, False, False, True, True])
    sure = torch.eye(5).repeat_interleave(2, dim=0)[None].log().clamp_min(-9.0)
    joined = torch.cat((sure[:, :6], sure[:, 5:6], sure[:, 6:7], sure[:, 6:10]), dim=1)
    path = path_around(joined, known, twelve, torch.tensor([5]), torch.ones(1, 5))
    assert path[0].tolist() == [0, 0, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4]


def test_what_an_edit_is_known_of_tells_the_prior_where_its_frames_are():
    model, batch = masked_model(), ragged_batch()
    anew = torch.zeros(batch.codes.shape[:2], dtype=torch.bool)
    anew[:, 1:3] = True
    known, lengths = known_of(batch, anew)
    given = batch.conditions(model)._replace(known=known, known_lengths=lengths)
    path = model.prefill(given, model.layout.num_steps(lengths + 1)).path
    aligned = model.spoken_at(*batch)
    assert (path[0, 4:9] - aligned[0, 4:9]).abs().max() <= 1, "known frames are where the aligner has them"
    assert (path[:, 1:] >= path[:, :-1]).all()


@pytest.mark.parametrize("stacking", [1, 2])
def test_an_edit_works_with_all_weights_in_bfloat16(stacking):
    model, batch = masked_model(stacking).to(torch.bfloat16), ragged_batch()
    anew = torch.zeros(batch.codes.shape[:2], dtype=torch.bool)
    anew[:, 1:3] = True
    made = complete(model, batch, anew)
    for row, length in enumerate(batch.code_lengths.tolist()):
        stays = ~anew[row, :length]
        assert torch.equal(made.codes[row, :length][stays], batch.codes[row, :length][stays])


@pytest.mark.parametrize("is_native", [False, True])
@pytest.mark.parametrize("strategy", ["parallel", "local_ar"])
def test_packed_weights_keep_the_codes_and_a_step_at_a_time_is_no_must(strategy, is_native):
    made = []
    for fast in (False, True):
        model, batch = masked_model().float(), ragged_batch()
        if fast:
            accelerate(model, FastOptions("float32", native=is_native), rows=3, budget_ms=1)
        anew = torch.tensor([[1, 1, 0, 1, 1, 0, 1, 1, 1]] * 3, dtype=torch.bool)
        made.append(complete(model, batch, anew, strategy, SamplingOptions(temperature=0.0, cfg_scale=1.5)))
    assert torch.equal(made[0].codes, made[1].codes)


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({"rounds": 0}, "rounds must be"),
        ({"rounds": [2, 0]}, "rounds must be"),
        ({"choice": "purity"}, r"choice must be one of \['confidence', 'random'\], got 'purity'"),
        ({"temperature": -1}, "temperature must be"),
        ({"rounds": []}, r"rounds must be a number or a list of them, one for each codebook, got \[\]"),
        ({"choice": "random", "temperature": 3.0}, "temperature must be 0 with choice random, .*, got 3.0"),
    ],
)
def test_options_out_of_range_are_refused(conf, message):
    with pytest.raises(UserError, match=message):
        Masked(**conf)


def test_a_cache_that_packs_is_refused_as_nothing_of_the_steps_is_kept():
    model, batch = masked_model(), ragged_batch()
    with pytest.raises(UserError, match="cache must be exact with objective masked"):
        model.prefill(batch.conditions(model), torch.tensor([3, 3, 3]), build_cache("gear", rank=0))
