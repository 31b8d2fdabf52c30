"""The MaskGIT local transformer, its schedules, its rounds, and which heads a model can have."""

import math

import pytest
import torch
from conftest import SAMPLING, SPEC, TEXT_VOCAB, Batch, decode, ragged_batch, shared_model, tiny_model

from espnet_ext.decoding import LocalMaskGIT, LocalMaskGITAdaptive
from espnet_ext.decoding.local_maskgit import ORDERS, unmask_schedule
from espnet_ext.decoding.masked_step import MaskedStep
from espnet_ext.decoding.rows import legal_ids
from espnet_ext.decoding.sampling import Sampler, SamplingOptions, row_generators
from espnet_ext.model.core_lm import TextCoreLM, local_options
from espnet_ext.model.heads import Heads, LocalInput, MaskGITLocalTransformer, masked_counts
from espnet_ext.model.loss import LossWeights, codec_loss

# codes known after each of three rounds, worked out by hand from ceil(M cos(pi / 2 * i / 3)) with cos(pi / 3) just
# below a half, as in float32
THREE_ROUNDS = {3: [1, 2, 3], 6: [1, 3, 6], 9: [1, 4, 9], 12: [1, 6, 12]}
EQUAL_ROUNDS = {3: [1, 2, 3], 6: [2, 4, 6], 9: [3, 6, 9], 12: [4, 8, 12]}


def maskgit(stacking=1, training=False):
    head = tiny_model(stacking=stacking, local="maskgit").heads.of(MaskGITLocalTransformer)
    return head.train(training)


def random_steps(head, steps=5, seed=0):
    """Hidden vectors (P, D) and codes (P, M)."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(steps, 32, dtype=torch.float64, generator=generator)
    return hidden, torch.randint(SPEC.codebook_size, (steps, head.slots), generator=generator)


def given(head, hidden, seed=0):
    """What the head is given of the hidden vectors, with anything for a residual one to add to."""
    base = torch.randn(len(hidden), head.slots, SPEC.vocab_size, generator=torch.Generator().manual_seed(seed))
    return LocalInput(hidden, base.double() if head.residual else None)


# --- the schedule ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("slots", "masked"), [(8, [8, 7, 4]), (16, [16, 14, 8]), (32, [32, 28, 16])])
def test_three_rounds_begin_with_the_published_number_of_masks(slots, masked):
    """Bug: in float64 cos(pi / 3) is above a half, and 5, 9 and 17 slots are masked at the start of the last round."""
    for dtype in (torch.float32, torch.float64):
        assert masked_counts(torch.arange(3, dtype=dtype) / 3, slots).tolist() == masked
    assert unmask_schedule(slots, 3, "purity") == [slots - count for count in masked[1:]] + [slots]


@pytest.mark.parametrize("slots", THREE_ROUNDS)
def test_codes_known_after_each_round_are_those_worked_out_by_hand(slots):
    assert unmask_schedule(slots, 3, "confidence") == unmask_schedule(slots, 3, "purity") == THREE_ROUNDS[slots]
    assert unmask_schedule(slots, 3, "frames") == unmask_schedule(slots, 3, "left_to_right") == EQUAL_ROUNDS[slots]


@pytest.mark.parametrize("order", ORDERS)
def test_every_round_reveals_at_least_one_code_and_the_last_one_all(order):
    for slots in range(1, 33):
        for n_rounds in range(1, 41):
            known = [0, *unmask_schedule(slots, n_rounds, order)]
            assert all(later > earlier for earlier, later in zip(known, known[1:], strict=False)), (slots, n_rounds)
            assert known[-1] == slots and len(known) - 1 <= min(n_rounds, slots)


@pytest.mark.parametrize("order", ORDERS)
def test_as_many_rounds_as_slots_reveal_one_code_each(order):
    assert unmask_schedule(12, 12, order) == unmask_schedule(12, 99, order) == list(range(1, 13))


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stacking", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("frames", [1, 2, 5, 7, 8])
def test_utterances_of_any_length_train_and_decode_at_any_stacking(stacking, frames):
    """Bug of the published implementation: MaskGIT with stacking crashes in training unless S divides T + 1."""
    batch = ragged_batch()
    codes, lengths = batch.codes[:, :frames], torch.tensor([frames, max(frames - 1, 1), max(frames - 2, 1)])
    batch = Batch(*batch[:2], codes, lengths, *batch[4:])
    model = tiny_model(stacking=stacking).train()
    loss = codec_loss(model(*batch), SPEC.num_codebooks, LossWeights())
    loss.total.backward()
    assert bool(loss.total.isfinite()) and int(loss.codes) == int((lengths + 1).sum()) * SPEC.num_codebooks
    for name in ("ar", "maskgit"):
        gradients = [p.grad for p in model.heads[name].parameters() if p.grad is not None]
        assert gradients and all(bool(gradient.isfinite().all()) for gradient in gradients)
    for name in ("local_ar", "local_maskgit"):
        result = decode(model.eval(), batch, name, SamplingOptions(2.0), max_frames=frames, min_frames=frames)
        assert result.codes.shape == (3, frames, SPEC.num_codebooks)


def test_a_known_code_is_seen_from_both_sides(stacking):
    head = maskgit(stacking)
    hidden, codes = random_steps(head, steps=50)
    codes[:, 0] = SPEC.mask_id
    codes[:, -1] = SPEC.mask_id
    changed, middle = codes.clone(), head.slots // 2
    changed[:, middle] = (changed[:, middle] + 1) % SPEC.codebook_size
    difference = (
        (head.logits(given(head, hidden), codes) - head.logits(given(head, hidden), changed)).abs().amax((0, 2))
    )
    assert difference[0] > 1e-3 and difference[-1] > 1e-3


def test_the_true_value_of_a_masked_code_influences_nothing(stacking):
    head = maskgit(stacking)
    hidden, codes = random_steps(head)
    output = head(given(head, hidden), codes)
    changed = torch.where(output.loss_mask, (codes + 3) % SPEC.codebook_size, codes)
    assert torch.equal(head(given(head, hidden), changed).logits, output.logits)
    unknown = torch.where(output.loss_mask, codes, (codes + 3) % SPEC.codebook_size)
    assert output.loss_mask.all(1).any() and not torch.equal(head(given(head, hidden), unknown).logits, output.logits)


def test_the_loss_counts_masked_codes_only(stacking):
    model, batch = tiny_model(stacking=stacking), ragged_batch()
    output = model(*batch).heads["maskgit"]
    output.logits.retain_grad()
    nats = codec_loss(model(*batch)._replace(heads={"parallel": output}), 3, LossWeights()).total
    nats.backward()
    masked = model.heads.of(MaskGITLocalTransformer).draw_mask(len(output.logits), torch.device("cpu"))
    existing = model(*batch).heads["parallel"].loss_mask  # not the slots behind the frame that ends an utterance
    assert torch.equal(output.loss_mask, masked & existing)
    assert torch.equal(output.logits.grad.any(-1), masked & existing)


def test_two_validations_have_the_same_masks_and_two_updates_others(stacking):
    head, cpu = maskgit(stacking), torch.device("cpu")
    torch.manual_seed(1)
    first = head.draw_mask(50, cpu)
    torch.manual_seed(2)
    assert torch.equal(head.draw_mask(50, cpu), first)
    head.train()
    assert not torch.equal(head.draw_mask(50, cpu), head.draw_mask(50, cpu))


def test_a_validation_does_not_move_the_random_numbers_of_training():
    head = maskgit()
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    head.draw_mask(5, torch.device("cpu"))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("stacking", [1, 2, 4, 8])
def test_a_step_of_which_nothing_is_known_is_seen_as_often_as_the_cosine_says(stacking):
    """Bug of the published implementation: with a ratio drawn per frame 1 % of the steps at S = 4 are all masked.

    M slots are all masked where cos(pi / 2 * r) > (M - 1) / M. 40,000 steps: a false alarm at 5 standard errors has
    a probability below 1e-5.
    """
    torch.manual_seed(0)
    head, steps = maskgit(stacking, training=True), 40_000
    masked = head.draw_mask(steps, torch.device("cpu"))
    expected = 2 / math.pi * math.acos((head.slots - 1) / head.slots)
    share = float(masked.all(1).double().mean())
    assert share == pytest.approx(expected, abs=5 * (expected * (1 - expected) / steps) ** 0.5)
    assert int(masked.sum(1).min()) >= 1
    per_slot = masked.double().mean(0)
    assert per_slot.max() - per_slot.min() < 5 * (0.5 / steps) ** 0.5, "no slot is preferred"


def test_with_eight_slots_a_third_of_the_steps_is_all_masked():
    ratios = (torch.arange(100_000) + 0.5) / 100_000
    assert float((masked_counts(ratios, 8) == 8).double().mean()) == pytest.approx(0.3217, abs=1e-3)


# --- decoding; greedy unmasking equals a naive loop in test_equivalence ----------------------------------------------


@pytest.mark.parametrize("sampling", ["greedy", "sampled"])
def test_one_round_is_one_parallel_draw_through_the_local_transformer(stacking, sampling):
    model = shared_model(stacking=stacking)
    local = model.heads.of(MaskGITLocalTransformer)
    hidden, codes = random_steps(local, steps=4)
    legal = legal_ids(SPEC, model.layout, step=0, min_frames=99)[None]  # no end, behind which nothing is compared

    def sampler():
        return Sampler(SAMPLING[sampling], row_generators(0, list("abcd"))).for_step(legal)

    with torch.no_grad():
        expected = sampler()(local.logits(model.heads.inputs(local, hidden), torch.full_like(codes, SPEC.mask_id)))
        for strategy in (
            LocalMaskGIT(n_rounds=1),
            LocalMaskGITAdaptive(threshold=0.0),
            LocalMaskGITAdaptive(n_rounds=1),
        ):
            filled = strategy.decode_step(model.heads, hidden, sampler())
            assert torch.equal(filled.codes, expected.codes) and filled.local_passes.tolist() == [1] * 4
            torch.testing.assert_close(filled.logprobs, expected.logprobs)


@pytest.mark.parametrize("order", ORDERS)
def test_more_rounds_than_slots_are_as_many_as_slots(order, stacking):
    model, batch = shared_model(stacking=stacking), ragged_batch()
    most = decode(model, batch, "local_maskgit", n_rounds=model.slots, order=order)
    more = decode(model, batch, "local_maskgit", n_rounds=999, order=order)
    assert torch.equal(most.codes, more.codes) and torch.equal(most.local_passes, more.local_passes)


def test_a_fixed_schedule_that_is_the_cosine_gives_its_codes():
    model, batch = shared_model(stacking=2), ragged_batch()
    cosine = decode(model, batch, "local_maskgit", n_rounds=3)
    fixed = decode(model, batch, "local_maskgit", n_rounds=3, fixed_schedule=THREE_ROUNDS[6])
    other = decode(model, batch, "local_maskgit", n_rounds=3, fixed_schedule=[4, 5, 6])
    assert torch.equal(fixed.codes, cosine.codes)
    assert other.codes.shape != cosine.codes.shape or not torch.equal(other.codes, cosine.codes)


def test_noise_changes_the_order_and_no_noise_does_not():
    """Of greedy codes, which are the same whatever the random numbers are unless their order is drawn."""
    model, batch, greedy = shared_model(stacking=2), ragged_batch(), SAMPLING["greedy"]
    for noise, same in ((0.0, True), (5.0, False)):
        first, second = (
            decode(model, batch, "local_maskgit", greedy, seed=seed, noise=noise, min_frames=8) for seed in (1, 2)
        )
        assert (first.codes.shape == second.codes.shape and torch.equal(first.codes, second.codes)) == same


# --- the end of an utterance -----------------------------------------------------------------------------------------


class EndsUnlessSomethingIsKnown(MaskGITLocalTransformer):
    """EOS with probability 0.3 in every codebook 0 if nothing is known, other codebooks nearly sure of code 2.

    With any code known EOS is out of the question, as in a trained model that sees a frame with real codes.
    """

    def logits(self, hidden, codes):
        probs = torch.full((*codes.shape, SPEC.vocab_size), 1e-9, dtype=torch.float64)
        probs[..., : SPEC.codebook_size] = 0.1 / SPEC.codebook_size
        probs[..., 2] = 0.9
        nothing_known = (codes == SPEC.mask_id).all(1)
        end = torch.where(nothing_known, 0.3, 1e-9)[:, None, None]
        first_book = probs[:, :: SPEC.num_codebooks]
        first_book[..., : SPEC.codebook_size] = (1 - end) / SPEC.codebook_size
        first_book[..., SPEC.eos_id] = end[..., 0]
        return probs.log()


@pytest.mark.parametrize(
    "strategy",
    [
        LocalMaskGIT(order="purity"),
        LocalMaskGIT(order="confidence"),
        LocalMaskGIT(order="frames"),
        LocalMaskGIT(order="frames", n_rounds=6, noise=0.5),
        LocalMaskGIT(order="left_to_right", n_rounds=1),
        LocalMaskGIT(noise=1.0),
        LocalMaskGITAdaptive(),
    ],
    ids=repr,
)
@pytest.mark.parametrize("stacking", [1, 2])
def test_utterances_end_as_often_as_the_step_without_known_codes_says(strategy, stacking):
    """Bug: the codes of other codebooks are surer and revealed first, and then hardly any utterance ends.

    2,000 rows: a false alarm at 5 standard errors has a probability below 1e-5.
    """
    rows, p = 2_000, 0.3
    model = tiny_model(stacking=stacking, local="maskgit")
    local = model.heads.of(MaskGITLocalTransformer)
    local.__class__ = EndsUnlessSomethingIsKnown
    legal = legal_ids(SPEC, model.layout, step=1, min_frames=1)[None]
    sampler = Sampler(SamplingOptions(), row_generators(0, [str(row) for row in range(rows)])).for_step(legal)
    codes = strategy.decode_step(model.heads, torch.zeros(rows, 32, dtype=torch.float64), sampler).codes
    ends = codes[:, :: SPEC.num_codebooks] == SPEC.eos_id
    first = torch.where(ends.any(1), ends.long().argmax(1), stacking).bincount(minlength=stacking + 1) / rows
    for frame in range(stacking):
        expected = p * (1 - p) ** frame
        assert float(first[frame]) == pytest.approx(expected, abs=5 * (expected * (1 - expected) / rows) ** 0.5)


def test_an_end_that_stands_fills_what_lies_behind_it_and_cannot_be_drawn_later():
    model = tiny_model(stacking=2, local="maskgit")
    local = model.heads.of(MaskGITLocalTransformer)
    legal = legal_ids(SPEC, model.layout, step=1, min_frames=1)[None]
    sampler = Sampler(SamplingOptions(), row_generators(0, ["a", "b"])).for_step(legal)
    step = MaskedStep(local, model.heads.inputs(local, torch.zeros(2, 32, dtype=torch.float64)), sampler)
    draw = step.predict(step.rows_below(1))
    draw = draw._replace(codes=torch.tensor([[1, 1, 1, SPEC.eos_id, 1, 1], [1, 1, 1, 1, 1, 1]]))
    step.decide_end(draw)
    assert step.known.tolist() == [[False] * 3 + [True] * 3, [False] * 6]
    assert step.codes[0, 3:].tolist() == [SPEC.eos_id] * 3
    assert step.sampler.legal is not None and not step.sampler.legal[..., SPEC.eos_id].any()


# --- adaptive rounds -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("threshold", "rounds"), [(0.0, lambda m: 1), (1.01, lambda m: m)])
def test_the_threshold_decides_between_one_round_and_one_per_code(stacking, threshold, rounds):
    model = shared_model(stacking=stacking)
    result = decode(
        model, ragged_batch(), "local_maskgit_adaptive", max_frames=8, min_frames=8, threshold=threshold, n_rounds=99
    )
    assert torch.equal(result.local_passes, result.steps * rounds(model.slots))


# --- options of the heads --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("local", "conf", "message"),
    [
        ("gan", {}, r"local must be one of \['ar', 'maskgit'\], got 'gan'"),
        (["ar", "gan"], {}, r"local must be one of \['ar', 'maskgit'\], got 'gan'"),
        (["ar", "ar"], {}, r"local must be one or several of \['ar', 'maskgit'\], each once, got \['ar', 'ar'\]"),
        ([], {}, r"local must be one or several of .*, got \[\]"),
        ("none", {"layers": 1}, r"local_conf must be empty with local none, got \['layers'\]"),
        ("maskgit", {"depth": 1}, r"local_conf of maskgit must be among \['width', .*\], got \['depth'\]"),
        ("maskgit", {"slots": 1}, r"local_conf of maskgit must be among \['width', .*\], got \['slots'\]"),
        (["ar", "maskgit"], {"maskgit": {"depth": 1}}, r"local_conf of maskgit must be among .*, got \['depth'\]"),
        (["ar", "maskgit"], {"layers": 1}, r"local_conf must have keys among \['ar', 'maskgit'\], got \['layers'\]"),
        (["ar", "maskgit"], {"ar": 3}, r"local_conf must hold options by name for local .*, got ar: 3"),
        (["maskgit"], {"ar": {}}, r"local_conf must have keys among \['maskgit'\], got \['ar'\]"),
        ({"ar": {"width": 16}}, {}, r"local must be one or several of .*, got {'ar': {'width': 16}}"),
        (3, {}, r"local must be one or several of .*, got 3"),
        ([["ar"]], {}, r"local must be one or several of .*, got \[\['ar'\]\]"),
        ("ar", 3, "local_conf must be names and values, got 3"),
        ("ar", {3: 4, "a": 5}, r"local_conf of ar must be among .*, got \[3, 'a'\]"),
        ("ar", {"width": -4}, "width must be at least 1, got -4"),
        ("ar", {"width": 30.5}, "width must be an integer, got 30.5"),
        ("ar", {"heads": 0}, "heads must be at least 1, got 0"),
        ("maskgit", {"layers": -1}, r"layers must be in \[0, 1024\], got -1"),
        ("maskgit", {"dropout": "x"}, "dropout must be a number, got 'x'"),
        ("maskgit", {"mask": "steps"}, r"mask must be one of \['slots', 'frames', 'left_to_right'\], got 'steps'"),
        ("ar", {"mask": "slots"}, r"local_conf of ar must be among .*, got \['mask'\]"),
    ],
)
def test_heads_and_options_that_do_not_exist_are_refused_in_one_line(local, conf, message):
    with pytest.raises(ValueError, match=message) as refusal:
        TextCoreLM(SPEC, TEXT_VOCAB, local=local, local_conf=conf)
    assert "\n" not in str(refusal.value)


def test_one_model_has_several_heads_each_with_its_options():
    model = TextCoreLM(
        SPEC, TEXT_VOCAB, local=["maskgit", "ar"], local_conf={"ar": {"width": 24, "layers": 2, "heads": 2}}
    )
    assert list(model.heads) == ["parallel", "maskgit", "ar"]
    assert model.heads["ar"].transformer.width == 24 and len(model.heads["ar"].transformer.blocks) == 2
    assert local_options("ar", {"layers": 2}) == local_options("ar", {"ar": {"layers": 2}}) == {"ar": {"layers": 2}}
    assert local_options("none", {}) == {}


def test_heads_are_found_by_their_class():
    heads = Heads({"one": maskgit()})
    assert heads.of(MaskGITLocalTransformer) is heads["one"]
