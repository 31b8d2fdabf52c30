"""Warping and drawing."""

import pytest
import torch

from espnet_ext.sampling import Sampler, SamplingOptions, row_generators, warp


def naive_warp(logits, options):
    """One distribution, with Python lists."""
    scaled = [value / options.temperature for value in logits]
    order = sorted(range(len(scaled)), key=lambda v: -scaled[v])
    kept = order[: options.top_k] if options.top_k else order
    weights = torch.tensor([scaled[v] if v in kept else -torch.inf for v in range(len(scaled))]).softmax(-1).tolist()
    if options.top_p < 1:
        total, nucleus = 0.0, []
        for v in sorted(range(len(weights)), key=lambda v: -weights[v]):
            if total >= options.top_p:
                break
            nucleus.append(v)
            total += weights[v]
        weights = [w if v in nucleus else 0.0 for v, w in enumerate(weights)]
    return [w / sum(weights) for w in weights]


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("top_k", [0, 1, 3, 99])
@pytest.mark.parametrize("top_p", [0.2, 0.7, 1.0])
def test_warp_equals_the_naive_loop(temperature, top_k, top_p):
    options = SamplingOptions(temperature, top_k, top_p)
    logits = torch.randn(4, 5, 9, generator=torch.Generator().manual_seed(0))
    expected = torch.tensor([[naive_warp(row.tolist(), options) for row in block] for block in logits])
    torch.testing.assert_close(warp(logits, options), expected, rtol=1e-5, atol=1e-6)


def test_top_k_keeps_k_codes_when_all_are_equal():
    assert (warp(torch.zeros(7), SamplingOptions(top_k=3)) > 0).sum() == 3


def test_temperature_zero_is_the_most_likely_code():
    assert warp(torch.tensor([0.1, 0.3, 0.2]), SamplingOptions(0.0)).tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature must be at least 0"),
        ({"top_k": -1}, "top_k must be at least 0"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\]"),
        ({"top_p": 1.5}, r"top_p must be in \(0, 1\]"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SamplingOptions(**options)


def test_draws_follow_the_distribution():
    """40,000 draws: a false alarm at 5 standard errors has a probability below 1e-5."""
    probs = torch.tensor([0.5, 0.3, 0.2, 0.0])
    sampler = Sampler(SamplingOptions(), row_generators(3, ["row"]))
    counts = sampler.categorical(probs.expand(1, 40_000, 4)).flatten().bincount(minlength=4) / 40_000
    assert counts[3] == 0
    assert ((counts - probs).abs() < 5 * (probs * (1 - probs) / 40_000).sqrt() + 1e-12).all()


def test_illegal_ids_are_never_drawn_and_do_not_count_in_scores():
    legal = torch.tensor([[True, True, False], [False, True, True]])
    sampler = Sampler(SamplingOptions(), row_generators(0, ["row"])).for_step(legal[None])
    for _ in range(50):
        codes, logprobs, _ = sampler(torch.zeros(1, 2, 3))
        assert codes[0, 0] != 2 and codes[0, 1] != 0
        torch.testing.assert_close(logprobs, torch.full((1, 2), 0.5).log())


def test_the_score_is_the_models_own_log_probability():
    logits = torch.randn(2, 3, 5)
    codes, logprobs, _ = Sampler(SamplingOptions(0.5, top_k=2), row_generators(0, ["a", "b"]))(logits)
    torch.testing.assert_close(logprobs, logits.log_softmax(-1).gather(-1, codes[..., None])[..., 0])


def test_first_slot_selects_the_slots_ban():
    legal = torch.tensor([[True, False], [False, True]])
    sampler = Sampler(SamplingOptions(0.0)).for_step(legal[None])
    assert sampler(torch.tensor([[[0.0, 9.0]]]), 0).codes.item() == 0
    assert sampler(torch.tensor([[[9.0, 0.0]]]), 1).codes.item() == 1


def test_a_rows_draws_depend_on_its_name_and_the_seed_alone():
    logits = torch.zeros(1, 20, 50)

    def draw(seed, names):
        return Sampler(SamplingOptions(), row_generators(seed, names))(logits.expand(len(names), -1, -1))

    assert torch.equal(draw(0, ["x", "y"]).codes[1], draw(0, ["y"]).codes[0])
    assert not torch.equal(draw(0, ["x"]).codes, draw(1, ["x"]).codes)
