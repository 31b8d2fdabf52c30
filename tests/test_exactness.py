"""Every strategy that claims to sample the right distribution is shown to, exactly; and wrong ones are caught."""

from __future__ import annotations

import pytest
import torch
from conftest import SPEC, ragged_batch, tiny_model

from espnet_ext.decoding import (
    LocalAR,
    LocalMaskGIT,
    LocalMaskGITAdaptive,
    LocalSpeculative,
    Parallel,
    generate,
)
from espnet_ext.decoding.acceptance import Exact
from espnet_ext.decoding.masked_step import MaskedStep
from espnet_ext.decoding.rows import legal_ids
from espnet_ext.decoding.sampling import Sampler, SamplingOptions, row_generators
from espnet_ext.model.heads import ARLocalTransformer, ParallelHeads
from espnet_ext.testing.exactness import (
    EnumeratingSampler,
    Tape,
    all_masked_logits,
    causal_logits,
    causal_masked_logits,
    check_same_distribution,
    closed_form,
    conditions,
    enumerable_model,
    exact_distribution,
    frame_masked_logits,
    total_variation,
)

WARM = SamplingOptions(temperature=0.8)
REJECTION = LocalSpeculative("exact")
EXACT, ACCEPT = Exact(), Exact.accept  # the right one, which planted bugs take the place of
ROWS = 16  # of each of the 72 random cases: 1152 steps

# model, sampling, max_frames, min_frames; where EOS is legal there are three ids, and top_k = 2 takes one away
LOSSLESS = {
    "2 frames": ({}, WARM, 2, 1),
    "3 frames": ({}, WARM, 3, 1),
    "3 frames without an early end": ({}, WARM, 3, 3),
    "cross-attention": ({"primary": "cross_attention"}, WARM, 2, 1),
    "guidance": ({}, SamplingOptions(0.8, cfg_scale=1.7), 3, 1),
    "top-k": ({}, SamplingOptions(1.3, top_k=2), 3, 1),
    "guidance and top-k": ({}, SamplingOptions(1.3, top_k=2, cfg_scale=1.7), 3, 1),
    "repetition": ({}, SamplingOptions(0.8, top_k=2, repetition_window=2, repetition_threshold=0.4), 3, 1),
    "greedy": ({}, SamplingOptions(0.0), 3, 1),
    "a temperature per codebook": ({}, SamplingOptions([0.5, 1.4], cfg_scale=1.7), 3, 1),
    "one codebook greedy": ({}, SamplingOptions([0.0, 0.8]), 3, 1),
    "stacked, a temperature per codebook": ({"stacking": 2}, SamplingOptions([1.3, 0.6], top_k=2), 2, 1),
    "delays": ({"delays": (0, 1)}, WARM, 2, 1),
    "stacked": ({"stacking": 2}, WARM, 2, 1),
    "stacked, top-k": ({"stacking": 2}, SamplingOptions(0.8, top_k=2), 2, 1),
    "stacked, guidance and top-k": ({"stacking": 2}, SamplingOptions(1.3, top_k=2, cfg_scale=1.7), 2, 1),
    "residual": ({"residual": True}, WARM, 2, 1),
    "residual, guidance and top-k": ({"residual": True}, SamplingOptions(1.3, top_k=2, cfg_scale=1.7), 3, 1),
    "residual, delays": ({"residual": True, "delays": (0, 1)}, WARM, 2, 1),
    "residual, stacked, tied": ({"stacking": 2, "residual": True, "frame_tables": "tied"}, WARM, 2, 1),
    # truncation leaves so few branches that two steps of four slots can be listed
    "two stacked steps": ({"stacking": 2}, SamplingOptions(0.8, top_p=0.85), 3, 1),
    "two stacked steps, guidance": ({"stacking": 2}, SamplingOptions(0.8, top_p=0.85, cfg_scale=1.7), 4, 1),
}


@pytest.mark.parametrize("strategy", [REJECTION, LocalSpeculative("block")], ids=lambda one: one.acceptance)
@pytest.mark.parametrize("case", list(LOSSLESS))
def test_speculation_with_rejection_has_the_distribution_of_local_ar(case, strategy):
    options, sampling, max_frames, min_frames = LOSSLESS[case]
    model = enumerable_model(**options)
    plain = exact_distribution(model, LocalAR(), sampling, max_frames, min_frames)
    speculative = exact_distribution(model, strategy, sampling, max_frames, min_frames)
    assert abs(plain.mass - 1) < 1e-12 and abs(speculative.mass - 1) < 1e-12
    assert total_variation(plain, speculative) < 1e-12
    assert case == "greedy" or speculative.branches > plain.branches > 4, "nothing was truly random"


def test_the_check_for_other_packages_tells_a_lossless_strategy_from_another_one():
    check_same_distribution("local_speculative", "local_ar", {"acceptance": "exact"})
    with pytest.raises(AssertionError, match="parallel and local_ar must have one distribution, total variation 0"):
        check_same_distribution("parallel", "local_ar")


def test_the_gumbel_coupling_is_lossless_even_with_fresh_noise_in_every_pass():
    """The enumerating sampler fixes no noise; what a code becomes is then still decided by the verification alone."""
    model = enumerable_model()
    plain = exact_distribution(model, LocalAR(), WARM, 2)
    assert total_variation(plain, exact_distribution(model, LocalSpeculative("gumbel"), WARM, 2)) < 1e-12


RESIDUAL = {"residual": True, "frame_tables": "tied"}
MODELS = [{}, {"delays": (0, 1)}, {"stacking": 2}, {"stacking": 3}, RESIDUAL, {"stacking": 2, **RESIDUAL}]


@pytest.mark.parametrize("options", MODELS, ids=str)
@pytest.mark.parametrize("min_frames", [1, 3])
def test_local_ar_has_the_distribution_of_the_teacher_forced_probabilities(options, min_frames):
    model = enumerable_model(**options)
    expected = closed_form(model, causal_logits, 3, min_frames, WARM.temperature)
    result = exact_distribution(model, LocalAR(), WARM, 3, min_frames)
    assert result.probabilities.keys() == expected.probabilities.keys()
    assert total_variation(result, expected) < 1e-12


@pytest.mark.parametrize("stacking", [1, 2])
def test_one_round_of_maskgit_is_the_product_of_the_marginals_of_the_masked_step(stacking):
    model = enumerable_model(stacking)
    expected = closed_form(model, all_masked_logits, 3, 3, WARM.temperature)
    result = exact_distribution(model, LocalMaskGIT(n_rounds=1), WARM, 3, 3)
    assert total_variation(result, expected) < 1e-12


def test_maskgit_from_the_left_has_the_distribution_of_its_logits_one_after_the_other():
    model = enumerable_model()
    expected = closed_form(model, causal_masked_logits, 3, 1, WARM.temperature)
    result = exact_distribution(model, LocalMaskGIT(n_rounds=2, order="left_to_right"), WARM, 3)
    assert total_variation(result, expected) < 1e-12


def test_maskgit_with_one_round_per_frame_has_the_distribution_of_frames_one_after_the_other():
    model = enumerable_model(stacking=2)
    expected = closed_form(model, frame_masked_logits, 3, 3, WARM.temperature)
    result = exact_distribution(model, LocalMaskGIT(n_rounds=2, order="frames"), WARM, 3, 3)
    assert total_variation(result, expected) < 1e-12
    slots = closed_form(model, all_masked_logits, 3, 3, WARM.temperature)
    assert total_variation(result, slots) > 0.01


@pytest.mark.parametrize("other", [Parallel(), LocalMaskGIT(n_rounds=1), LocalMaskGITAdaptive()], ids=str)
def test_strategies_of_other_distributions_are_told_from_local_ar(other):
    model = enumerable_model()
    plain = exact_distribution(model, LocalAR(), WARM, 2)
    assert total_variation(plain, exact_distribution(model, other, WARM, 2)) > 0.01


@pytest.mark.parametrize(("strategy", "max_frames"), [(LocalAR(), 3), (REJECTION, 2)], ids=str)
def test_branches_as_rows_of_a_batch_are_branches_run_alone(strategy, max_frames):
    """Of three frames some rows have one and are frozen while the others go on."""
    model = enumerable_model()
    together = exact_distribution(model, strategy, WARM, max_frames)
    alone = exact_distribution(model, strategy, WARM, max_frames, batch=1)
    assert together.branches == alone.branches
    assert together.probabilities == pytest.approx(alone.probabilities, rel=1e-12)


def test_randomness_that_cannot_be_enumerated_is_refused():
    model = enumerable_model()
    sampler = EnumeratingSampler(WARM, (0,), tape=Tape(torch.full((1, 8), -1), 5))
    with pytest.raises(NotImplementedError, match="uniform"):
        generate(model, conditions(model, 1), LocalMaskGIT(noise=1.0), sampler, 2)


def keep_stale_codes(drafts, sampler):
    """Declares all codes known after the first pass: those behind a rejected one were drafted for other codes."""
    final, now_known = ACCEPT(EXACT, drafts, sampler)
    return drafts.codes.where(drafts.slot >= now_known[:, None], final), torch.full_like(now_known, final.shape[1])


def swap_draft_and_target(drafts, sampler):
    """Accepts with q / p instead of p / q."""
    return ACCEPT(EXACT, drafts._replace(verified=drafts.drafted_from, drafted_from=drafts.verified), sampler)


def mistake_the_drafts_temperature(drafts, sampler):
    """Takes the drafts for those of twice the temperature."""
    flat = drafts.drafted_from.sqrt()
    return ACCEPT(EXACT, drafts._replace(drafted_from=flat / flat.sum(dim=-1, keepdim=True)), sampler)


@pytest.mark.parametrize("bug", [keep_stale_codes, swap_draft_and_target, mistake_the_drafts_temperature])
@pytest.mark.parametrize("stacking", [1, 2])
def test_a_planted_bug_is_caught(bug, stacking, monkeypatch):
    model = enumerable_model(stacking)
    plain = exact_distribution(model, LocalAR(), WARM, 2)
    monkeypatch.setattr(Exact, "accept", lambda _, drafts, sampler: bug(drafts, sampler))
    wrong = exact_distribution(model, REJECTION, WARM, 2)
    assert abs(wrong.mass - 1) < 1e-12
    assert total_variation(plain, wrong) > 0.01


@pytest.mark.parametrize("stacking", [1, 2, 4])
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.3])
@pytest.mark.parametrize("top_k", [0, 3])
@pytest.mark.parametrize("top_p", [1.0, 0.8])
@pytest.mark.parametrize("cfg_scale", [1.0, 1.7])
def test_speculation_with_the_same_noise_gives_the_codes_of_local_ar(stacking, temperature, top_k, top_p, cfg_scale):
    options = SamplingOptions(temperature, top_k, top_p, cfg_scale)
    seed = int(100 * temperature + 10 * top_k + top_p)
    model = tiny_model(stacking=stacking, local="ar", seed=seed)
    rows = 2 * ROWS if options.guided else ROWS
    hidden = torch.randn(rows, model.primary.width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    filled = []
    for strategy in (LocalAR(), LocalSpeculative()):
        sampler = Sampler(options, row_generators(seed, list(map(str, range(ROWS)))))
        sampler = sampler.for_step(legal_ids(model.spec, model.layout, step=1, min_frames=1)[None])
        with torch.no_grad():
            filled.append(strategy.decode_step(model.heads, hidden, sampler))
    plain, speculative = filled
    assert torch.equal(plain.codes, speculative.codes)
    assert torch.allclose(plain.logprobs, speculative.logprobs)
    assert set(speculative.local_passes.tolist()) <= set(range(1, model.slots + 1))


@pytest.mark.parametrize("stacking", [1, 2, 4])
@pytest.mark.parametrize(
    "options",
    [
        SamplingOptions(0.0),
        SamplingOptions(0.7, cfg_scale=1.7),
        SamplingOptions(1.3, top_k=3),
        SamplingOptions(1.3, top_p=0.8, repetition_window=3, repetition_threshold=0.3),
    ],
    ids=["greedy", "guidance", "top-k", "top-p and repetition"],
)
def test_speculation_with_the_same_generators_gives_the_utterances_of_local_ar(stacking, options):
    model = tiny_model(stacking=stacking, local="ar", conditioning_dropout=0.1)
    plain, speculative = (
        generate(
            model,
            ragged_batch().conditions(model),
            strategy,
            Sampler(options, row_generators(0, ["a", "b", "c"])),
            max_frames=torch.tensor([12, 7, 10]),
        )
        for strategy in (LocalAR(), LocalSpeculative())
    )
    for name in ("codes", "lengths", "has_eos", "steps"):
        assert torch.equal(getattr(plain, name), getattr(speculative, name)), name
    assert torch.allclose(plain.logprobs, speculative.logprobs)
    assert bool((speculative.local_passes >= speculative.steps).all())
    assert bool((speculative.local_passes <= plain.local_passes).all())


@pytest.mark.parametrize("acceptance", ["gumbel", "exact", "block"])
def test_the_better_the_drafts_the_fewer_the_passes(acceptance):
    small = {"width": 16, "heads": 2}  # not residual, so that the draft can be as good or as bad as the test wants
    model = tiny_model(stacking=2, local="ar", frame_tables="own", local_conf=small)
    draft, local = model.heads.of(ParallelHeads), model.heads.of(ARLocalTransformer)
    dependence = local.heads.weight.data.clone()
    hidden = torch.randn(64, model.primary.width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    legal = legal_ids(model.spec, model.layout, step=1, min_frames=1)[None]
    draft.heads.weight.data.zero_()
    draft.heads.bias.data.copy_(local.heads.bias.data.normal_().flatten())
    passes = []
    for strength in (0.0, 0.3, 3.0):
        local.heads.weight.data = strength * dependence
        sampler = Sampler(SamplingOptions(), row_generators(0, list(map(str, range(64))))).for_step(legal)
        with torch.no_grad():
            passes.append(LocalSpeculative(acceptance).decode_step(model.heads, hidden, sampler).local_passes)
    perfect, good, poor = (each.double().mean() for each in passes)
    assert bool((passes[0] == 1).all())
    assert 1 == perfect < good < poor <= model.slots


@pytest.fixture
def known_counts(monkeypatch):
    """Known codes of each row after each round of the test: [(R,)], R the rows that were revealed to."""
    counts = []
    reveal = MaskedStep.reveal

    def reveal_and_count(step, rows, draw, chosen):
        reveal(step, rows, draw, chosen)
        counts.append(step.known[rows].sum(dim=1))

    monkeypatch.setattr(MaskedStep, "reveal", reveal_and_count)
    return counts


def fill_a_step(strategy, stacking, rows=8):
    """One step, of which EOS is no part, filled for some random rows: passes of each row, and M."""
    model = tiny_model(stacking=stacking, local="maskgit")
    hidden = torch.randn(rows, model.primary.width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sampler = Sampler(SamplingOptions(), row_generators(0, list(map(str, range(rows)))))
    sampler = sampler.for_step(legal_ids(model.spec, model.layout, step=0, min_frames=99)[None])
    with torch.no_grad():
        filled = strategy.decode_step(model.heads, hidden, sampler)
    assert bool((filled.codes < model.spec.codebook_size).all())
    return filled.local_passes.tolist(), model.slots


@pytest.mark.parametrize("more_than_m", [0, 5])
def test_maskgit_from_the_left_in_m_rounds_reveals_one_code_per_round(more_than_m, stacking, known_counts):
    n_rounds = stacking * SPEC.num_codebooks + more_than_m
    passes, slots = fill_a_step(LocalMaskGIT(n_rounds=n_rounds, order="left_to_right"), stacking)
    assert passes == [slots] * 8
    assert torch.stack(known_counts).tolist() == [[count] * 8 for count in range(1, slots + 1)]


def test_adaptive_rounds_at_threshold_0_are_one_round(stacking):
    assert set(fill_a_step(LocalMaskGITAdaptive(threshold=0.0), stacking)[0]) == {1}


@pytest.mark.parametrize("n_rounds", [1, 2, 99])
def test_adaptive_rounds_above_threshold_1_are_one_per_code_as_far_as_allowed(n_rounds, stacking, known_counts):
    passes, slots = fill_a_step(LocalMaskGITAdaptive(threshold=1.5, n_rounds=n_rounds), stacking)
    assert set(passes) == {min(slots, n_rounds)}
    assert [set(counts.tolist()) for counts in known_counts[:-1]] == [{n + 1} for n in range(min(slots, n_rounds) - 1)]


@pytest.mark.parametrize("n_rounds", [2, 3, 5])
def test_adaptive_rounds_are_never_more_than_allowed(n_rounds, stacking):
    passes, slots = fill_a_step(LocalMaskGITAdaptive(threshold=0.6, n_rounds=n_rounds), stacking)
    assert max(passes) <= min(n_rounds, slots)


@pytest.mark.parametrize("max_codes", [1, 2, 3])
def test_adaptive_rounds_reveal_no_more_codes_than_allowed(max_codes, stacking, known_counts):
    strategy = LocalMaskGITAdaptive(threshold=0.0, max_codes=max_codes, n_rounds=99)
    passes, slots = fill_a_step(strategy, stacking)
    assert set(passes) == {-(-slots // max_codes)}
    assert [set(counts.tolist()) for counts in known_counts[:-1]] == [
        {max_codes * (n + 1)} for n in range(passes[0] - 1)
    ]
