"""Classifier-free guidance: what the unconditional half sees, how the halves are mixed, how dropout trains it."""

import warnings

import pytest
import torch
from conftest import (
    NAMES,
    SAMPLING,
    SPEC,
    TEXT_VOCAB,
    Batch,
    built_in,
    decode,
    every_variant,
    ragged_batch,
    registered,
    shared_model,
    tiny_model,
)

from espnet_ext.decoding import strategies
from espnet_ext.decoding.rows import legal_ids
from espnet_ext.decoding.sampling import Sampler, SamplingOptions, row_generators
from espnet_ext.model.heads import ARLocalTransformer, MaskGITLocalTransformer
from espnet_ext.model.loss import LossWeights, alignment_losses, codec_loss
from espnet_ext.model.primary import with_unconditional


def unconditional(model, batch):
    conditions = batch.conditions(model)
    return conditions._replace(given=torch.zeros_like(conditions.given))


def play(model, conditions, codes):
    """Hidden vectors (B, L, D) of given steps (B, L, M)."""
    state = model.prefill(conditions, codes.shape[1] + 1)
    inputs = [torch.full((len(codes), model.slots), SPEC.bos_id), *codes.unbind(1)]
    return torch.stack([model.step(each, state) for each in inputs], dim=1)


def random_codes(model, rows=3, steps=4):
    generator = torch.Generator().manual_seed(5)
    return torch.randint(SPEC.codebook_size, (rows, steps, model.slots), generator=generator)


# --- the unconditional half ------------------------------------------------------------------------------------------


def test_the_unconditional_half_sees_neither_text_nor_prompt(primary, stacking):
    model, batch = shared_model(primary, stacking), ragged_batch()
    generator = torch.Generator().manual_seed(9)
    other = Batch(
        torch.randint(TEXT_VOCAB, (3, 9), generator=generator),
        torch.tensor([2, 9, 6]),
        *batch[2:4],
        torch.randint(SPEC.codebook_size, (3, 7, 3), generator=generator),
        torch.tensor([0, 7, 3]),
    )
    codes = random_codes(model)
    first, second = (play(model, unconditional(model, each), codes) for each in (batch, other))
    torch.testing.assert_close(second, first, rtol=1e-9, atol=1e-9)
    given = play(model, batch.conditions(model), codes)
    assert not torch.isclose(given, first).all(-1).any(), "the conditional half sees them"


def test_the_twins_are_the_rows_with_and_without_their_conditions(primary):
    model, batch = shared_model(primary, stacking=2), ragged_batch()
    codes = random_codes(model)
    twins = play(model, with_unconditional(batch.conditions(model)), torch.cat((codes, codes)))
    apart = [play(model, each, codes) for each in (batch.conditions(model), unconditional(model, batch))]
    torch.testing.assert_close(twins, torch.cat(apart), rtol=1e-9, atol=1e-9)


# --- the mix ---------------------------------------------------------------------------------------------------------


def test_guided_logits_are_mixed_and_banned_as_by_hand():
    """Banning both halves first and guiding what is left gives the same as guiding first, which has no infinities."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, 5, generator=generator, dtype=torch.float64)
    legal = torch.rand(3, 5, generator=generator) < 0.6
    legal[:, 0] = True
    sampler = Sampler(SamplingOptions(cfg_scale=2.5)).for_step(legal[None])
    logprobs, probs = sampler.distribution(logits)
    for row in range(2):
        for slot in range(3):
            ids = legal[slot].nonzero()[:, 0]
            guided = 2.5 * logits[row, slot, ids] + (1 - 2.5) * logits[row + 2, slot, ids]
            for half in (row, row + 2):
                torch.testing.assert_close(probs[half, slot, ids], guided.softmax(0))
                torch.testing.assert_close(logprobs[half, slot, ids], guided.log_softmax(0))
                assert float(probs[half, slot].sum()) == pytest.approx(1.0)


def test_both_halves_receive_the_codes_and_random_numbers_of_their_row():
    sampler = Sampler(SamplingOptions(cfg_scale=2.0), row_generators(0, ["a", "b"]))
    codes = sampler(torch.randn(4, 6, 9)).codes
    assert torch.equal(codes[:2], codes[2:]) and not torch.equal(codes[0], codes[1])
    uniform = sampler.uniform((5,), torch.device("cpu"))
    assert torch.equal(uniform[:2], uniform[2:])


def test_rows_of_a_guided_sampler_come_in_pairs():
    sampler = Sampler(SamplingOptions(cfg_scale=2.0), row_generators(0, NAMES))
    pairs = sampler.for_rows(torch.tensor([2, 0, 5, 3]))
    assert pairs.generators == (sampler.generators[2], sampler.generators[0])


@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("name", ["parallel", "local_ar", "local_maskgit"])
def test_guided_decoding_equals_two_models_mixed_by_hand(primary, name, scale):
    """Greedy codes of two states that never meet; their logits are mixed slot by slot."""
    model, batch = shared_model(primary, stacking=2), ragged_batch()
    conf = {"n_rounds": 1} if name == "local_maskgit" else {}
    options = SamplingOptions(temperature=0.0, cfg_scale=scale)
    result = decode(model, batch, name, options, max_frames=8, min_frames=8, **conf)
    states = [model.prefill(each, 4) for each in (batch.conditions(model), unconditional(model, batch))]
    codes, steps = torch.full((3, model.slots), SPEC.bos_id), []
    for step in range(4):
        hidden = [model.step(codes, state) for state in states]
        legal, codes = legal_ids(SPEC, model.layout, step, min_frames=8), torch.zeros_like(codes)
        for slot in range(model.slots):
            with_text, without = (slot_logits(model, name, each, codes, slot) for each in hidden)
            mixed = scale * with_text + (1 - scale) * without
            codes[:, slot] = mixed.masked_fill(~legal[slot], -torch.inf).argmax(-1)
        steps.append(codes)
    expected = torch.stack(steps, dim=1).reshape(3, 8, 3)
    assert torch.equal(result.codes, expected)


def slot_logits(model, name, hidden, codes, slot):
    if name == "parallel":
        return model.heads["parallel"].logits(hidden)[:, slot]
    if name == "local_ar":
        local = model.heads.of(ARLocalTransformer)
        return local.logits(model.heads.inputs(local, hidden), codes[:, :slot])[:, slot]
    masks = torch.full_like(codes, SPEC.mask_id)
    local = model.heads.of(MaskGITLocalTransformer)
    return local.logits(model.heads.inputs(local, hidden), masks)[:, slot]


def assert_same_codes(first, second):
    assert torch.equal(first.lengths, second.lengths) and torch.equal(first.codes, second.codes)
    assert torch.equal(first.local_passes, second.local_passes)
    torch.testing.assert_close(first.logprobs, second.logprobs, rtol=1e-4, atol=1e-4)


@registered
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_scale_of_one_is_no_guidance(name, stacking, temperature):
    """The scale next to 1 goes through all of the guidance, and its codes are still those of none."""
    model, batch = shared_model(stacking=stacking), ragged_batch()
    plain, one, nearly = (
        decode(model, batch, name, SamplingOptions(temperature, **conf))
        for conf in ({}, {"cfg_scale": 1.0}, {"cfg_scale": 1.0 + 1e-12})
    )
    assert_same_codes(plain, one)
    assert_same_codes(plain, nearly)


@every_variant
def test_a_scale_of_one_is_no_guidance_for_variants(name, conf):
    model, batch = shared_model(stacking=2), ragged_batch()
    plain = decode(model, batch, name, SamplingOptions(0.8), **conf)
    assert_same_codes(plain, decode(model, batch, name, SamplingOptions(0.8, cfg_scale=1.0 + 1e-12), **conf))


@registered
def test_guidance_has_an_effect(name):
    model, batch = shared_model(stacking=2), ragged_batch()
    plain, guided = (
        decode(model, batch, name, SamplingOptions(0.0, cfg_scale=scale), max_frames=8, min_frames=8).codes
        for scale in (1.0, 6.0)
    )
    assert not torch.equal(plain, guided)


@pytest.mark.parametrize("name", built_in(strategies))
def test_guided_passes_are_counted_per_utterance(name):
    """A pass over a row and its twin is one pass."""
    model = shared_model(stacking=2)
    once = {"parallel": 1, "local_ar": model.slots, "local_maskgit": 3}.get(name, model.slots)
    result = decode(model, ragged_batch(), name, SAMPLING["greedy guided"])
    assert bool((result.local_passes <= result.steps * once).all())


def test_guiding_a_model_without_conditioning_dropout_warns_and_goes_on():
    model = tiny_model()
    message = "cfg_scale must be 1 for a model trained with conditioning_dropout 0, got 2.0"
    with pytest.warns(UserWarning, match=message):
        decode(model, ragged_batch(), "parallel", SamplingOptions(cfg_scale=2.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decode(model, ragged_batch(), "parallel")
        decode(shared_model(), ragged_batch(), "parallel", SamplingOptions(cfg_scale=2.0))


# --- conditioning dropout --------------------------------------------------------------------------------------------


def many(batch, times):
    return Batch(*(part.repeat(times, *[1] * (part.dim() - 1)) for part in batch))


def given_in(model, batch):
    return model.draw_given(len(batch.text), batch.text.device)


def test_utterances_lose_their_conditions_each_on_its_own():
    """Bug of the published implementation: one draw per batch. Rate: 5 standard errors, below 1e-5 by chance."""
    torch.manual_seed(0)
    model, batch = tiny_model(conditioning_dropout=0.3).train(), many(ragged_batch(), 500)
    given = given_in(model, batch)
    assert float((~given).double().mean()) == pytest.approx(0.3, abs=5 * (0.3 * 0.7 / 1500) ** 0.5)


def test_without_dropout_and_in_validation_no_conditions_are_lost():
    batch = many(ragged_batch(), 100)
    assert bool(given_in(tiny_model().train(), batch).all())
    assert bool(given_in(tiny_model(conditioning_dropout=0.9).eval(), batch).all())


@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5])
def test_a_dropout_that_is_no_probability_is_refused(p):
    with pytest.raises(ValueError, match=rf"conditioning_dropout must be in \[0, 1\), got {p}"):
        tiny_model(conditioning_dropout=p)


def outputs_with_and_without_dropout(primary, stacking):
    """Training outputs of one batch in which some rows are dropped, the drop pattern, and those without dropout."""
    model, batch = tiny_model(primary, stacking, "ar", conditioning_dropout=0.5).train(), many(ragged_batch(), 4)
    torch.manual_seed(3)
    given = given_in(model, batch)
    torch.manual_seed(3)
    dropped = model(*batch)
    assert given.any() and not given.all(), "the test needs rows of both kinds"
    model.conditioning_dropout = 0.0
    return model, batch, given, dropped, model(*batch)


def test_dropped_rows_are_trained_as_the_unconditional_half_is_decoded_and_others_as_ever(primary, stacking):
    model, batch, given, dropped, plain = outputs_with_and_without_dropout(primary, stacking)
    rows = torch.arange(12).repeat_interleave(model.layout.num_steps(batch.code_lengths + 1))
    keep = given[rows]
    for name in dropped.heads:
        torch.testing.assert_close(dropped.heads[name].logits[keep], plain.heads[name].logits[keep])
        differs = ~torch.isclose(dropped.heads[name].logits, plain.heads[name].logits).all(-1).all(-1)
        assert bool(differs[~keep].all())
    # what a dropped row is trained on is what its twin shows in decoding
    start = 0
    for row in range(12):
        steps = int(model.layout.num_steps(batch.code_lengths[row] + 1))
        if not given[row]:
            codes = dropped.targets[start : start + steps]
            hidden = play(model, unconditional(model, batch.row(row)), codes[None, :-1])[0]
            expected = model.heads["parallel"].logits(hidden)
            torch.testing.assert_close(dropped.heads["parallel"].logits[start : start + steps], expected)
        start += steps


def test_dropout_changes_neither_the_alignment_nor_the_loss_of_it(stacking):
    """The aligner sees text and codes of a dropped row too: its path must not be learnt from nothing."""
    *_, dropped, plain = outputs_with_and_without_dropout("cross_attention", stacking)
    assert torch.equal(dropped.alignment.log_attention, plain.alignment.log_attention)
    assert torch.equal(dropped.alignment.spoken, plain.alignment.spoken)
    assert torch.equal(*(alignment_losses(each.alignment)["alignment"] for each in (dropped, plain)))


def test_frames_are_predicted_from_text_and_prompt_of_dropped_rows_too(stacking):
    """Bug: the predictor learnt from dropped rows as if they had no prompt."""
    *_, dropped, plain = outputs_with_and_without_dropout("cross_attention", stacking)
    torch.testing.assert_close(dropped.alignment.predicted, plain.alignment.predicted)


def test_a_batch_without_any_conditions_trains(primary, stacking):
    model = tiny_model(primary, stacking, conditioning_dropout=0.999999).train()
    loss = codec_loss(model(*ragged_batch()), 3, LossWeights()).total
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert bool(loss.isfinite()) and all(bool(gradient.isfinite().all()) for gradient in gradients)
