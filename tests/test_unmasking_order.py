"""In which order MaskGIT reveals slots."""

import pytest
import torch
from conftest import SAMPLING, SPEC, decode, make_ends_likely, ragged_batch, shared_model, tiny_model

from espnet_ext.decoding import LocalMaskGIT, build_strategy, local_maskgit
from espnet_ext.decoding.local_maskgit import noise_share, rank_by_frame
from espnet_ext.decoding.masked_step import MaskedStep, rank
from espnet_ext.decoding.rows import legal_ids
from espnet_ext.decoding.sampling import Sampler, SamplingOptions, row_generators
from espnet_ext.model.heads import MaskGITLocalTransformer


def sampler_of(model, rows, sampling="sampled", min_frames=1):
    """For the second step of so many utterances."""
    sampler = Sampler(SAMPLING[sampling], row_generators(0, [str(row) for row in range(rows)]))
    return sampler.for_step(legal_ids(SPEC, model.layout, 1, min_frames)[None])


# --- noise -----------------------------------------------------------------------------------------------------------


def test_noise_fades_to_nothing_before_the_last_round():
    for rounds in range(1, 41):
        shares = [noise_share(number, rounds) for number in range(rounds)]
        assert shares == sorted(shares, reverse=True) and all(0 <= share < 1 for share in shares)
        assert shares[-2:] == [0.0] * min(rounds, 2)
    assert [noise_share(number, 5) for number in range(5)] == pytest.approx([0.6, 0.4, 0.2, 0.0, 0.0])


class KnowsNothing(MaskGITLocalTransformer):
    """The same logits for every code of every slot, so that noise is all that orders slots."""

    def logits(self, given, codes):
        return torch.zeros(*codes.shape, SPEC.vocab_size, dtype=torch.float64)


@pytest.mark.parametrize("order", ["confidence", "purity", "frames"])
def test_noise_is_centred_and_as_wide_as_its_share_of_the_option(order, monkeypatch):
    """2,000 rows: a false alarm at 5 standard errors has a probability below 1e-5."""
    model, rows, width, rounds = tiny_model(stacking=2, local="maskgit"), 2_000, 0.8, 6
    model.heads.of(MaskGITLocalTransformer).__class__ = KnowsNothing
    noises = []

    def watched(priority):
        if priority.is_floating_point():
            noises.append(priority[priority.isfinite()] - 1 / SPEC.codebook_size)
        return rank(priority)

    monkeypatch.setattr(local_maskgit, "rank", watched)
    strategy = LocalMaskGIT(n_rounds=rounds, noise=width, order=order)
    strategy.decode_step(model.heads, torch.zeros(rows, 32).double(), sampler_of(model, rows, "greedy", min_frames=99))
    assert len(noises) == rounds
    for number, noise in enumerate(noises):
        half = width * noise_share(number, rounds) / 2
        assert noise.abs().max() <= half + 1e-6, "uniform around 0"
        assert noise.mean().abs() <= 5 * half / (3 * len(noise)) ** 0.5 + 1e-6
        assert noise.var().sqrt() == pytest.approx(half / 3**0.5, rel=0.05, abs=1e-6)


def test_noise_needs_three_rounds_to_do_anything():
    model, batch, greedy = shared_model(stacking=2), ragged_batch(), SAMPLING["greedy"]
    for n_rounds in (1, 2):
        without = decode(model, batch, "local_maskgit", greedy, n_rounds=n_rounds)
        noisy = decode(model, batch, "local_maskgit", greedy, n_rounds=n_rounds, noise=5.0)
        assert torch.equal(noisy.codes, without.codes)


# --- frame after frame -----------------------------------------------------------------------------------------------


def test_the_old_name_of_left_to_right_means_the_same_and_warns_once():
    local_maskgit.warn_of_old_name.cache_clear()
    with pytest.warns(UserWarning, match="order causal is now called left_to_right") as warned:
        first, strategy = (build_strategy("local_maskgit", order="causal", n_rounds=2) for _ in range(2))
    assert len(warned) == 1 and first == strategy
    assert strategy == LocalMaskGIT(order="left_to_right", n_rounds=2) != LocalMaskGIT(order="frames", n_rounds=2)


def test_slots_are_ranked_by_frame_then_by_priority_and_known_ones_come_first():
    priority = torch.tensor([[0.1, 0.3, 0.2, 0.9, 0.7, 0.8], [0.1, 0.1, 0.2, 0.3, 0.7, 0.8]])
    known = torch.tensor([[False] * 6, [False, False, True, False, False, True]])
    assert rank_by_frame(priority, known, num_codebooks=3).tolist() == [[2, 0, 1, 3, 5, 4], [2, 3, 0, 5, 4, 1]]


@pytest.mark.parametrize("sampling", ["greedy", "sampled", "guided"])
@pytest.mark.parametrize("conf", [{}, {"n_rounds": 99}, {"n_rounds": 5, "noise": 3.0}], ids=str)
def test_no_slot_of_a_frame_is_revealed_before_all_of_the_frames_in_front_are(stacking, conf, sampling, monkeypatch):
    """With rows that end in any of the frames, whose end no later round sees."""
    model = tiny_model(stacking=stacking, local="maskgit", conditioning_dropout=0.1)
    hidden = torch.randn(40, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    make_ends_likely(model, hidden)
    seen, logits = [], MaskGITLocalTransformer.logits

    def watched(local, given, codes):
        seen.append((codes != SPEC.mask_id).unflatten(1, (stacking, -1)))
        return logits(local, given, codes)

    monkeypatch.setattr(MaskGITLocalTransformer, "logits", watched)
    rows = len(hidden) // 2 if SAMPLING[sampling].guided else len(hidden)
    strategy = LocalMaskGIT(order="frames", **conf)
    with torch.no_grad():
        filled = strategy.decode_step(model.heads, hidden, sampler_of(model, rows, sampling))
    assert not seen[0].any() and len(seen) == min(strategy.n_rounds, model.slots)
    for known in seen[1:]:
        complete_in_front = known.all(2).long().cumprod(1)
        assert bool((complete_in_front[:, :-1].bool() | ~known.any(2)[:, 1:]).all())
    assert not bool((filled.codes == SPEC.mask_id).any())
    ends = (filled.codes == SPEC.eos_id).unflatten(1, (stacking, -1))
    assert torch.equal(ends.any(2), ends.all(2)), "an EOS fills its frame"
    assert torch.equal(ends[..., 0].long().cummax(1).values.bool(), ends[..., 0]), "and those behind it"
    assert ends.any() and not ends[:, 0].all(), "the test needs rows that end and rows that go on"


def test_an_end_that_is_not_shown_stands_all_the_same():
    model = tiny_model(stacking=2, local="maskgit")
    local = model.heads.of(MaskGITLocalTransformer)
    inputs = model.heads.inputs(local, torch.zeros(2, 32, dtype=torch.float64))
    step = MaskedStep(local, inputs, sampler_of(model, 2))
    draw = step.predict(step.rows_below(1))
    draw = draw._replace(codes=torch.tensor([[1, 1, 1, SPEC.eos_id, 1, 1], [1, 1, 1, 1, 1, 1]]))
    step.decide_end(draw, shown=False)
    assert step.known.tolist() == [[False] * 3 + [True] * 3, [False] * 6]
    assert bool((step.codes == SPEC.mask_id).all()) and not step.sampler.legal[..., SPEC.eos_id].any()
    step.reveal(torch.arange(2), draw, torch.ones(2, 6, dtype=torch.bool))
    filled = step.filled()
    assert filled.codes.tolist() == [[1, 1, 1] + [SPEC.eos_id] * 3, [1] * 6]
    assert filled.logprobs[0, 3] == draw.logprobs[0, 3] and not filled.logprobs[0, 4:].any()


def test_with_one_frame_per_step_frames_are_confidence_in_equal_shares():
    model, batch, options = shared_model(), ragged_batch(), SamplingOptions(0.8)
    shares = {"n_rounds": 3, "fixed_schedule": [1, 2, 3]}
    frames, confidence = (
        decode(model, batch, "local_maskgit", options, min_frames=10, order=order, **shares)
        for order in ("frames", "confidence")
    )
    assert torch.equal(frames.codes, confidence.codes)
