"""Warping and drawing."""

import pytest
import torch

from espnet_ext.decoding.options import DecodeOptions
from espnet_ext.decoding.sampling import (
    Sampler,
    SamplingOptions,
    avoid_repetition,
    row_generators,
    warn_of_no_conditions,
    warp,
)


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
        ({"temperature": -1.0}, r"temperature must be in \[0, 10\], got -1.0"),
        ({"temperature": []}, "temperature must be a number or one for each codebook, got an empty list"),
        ({"temperature": [1, -0.5]}, r"temperature\[1\] must be in \[0, 10\], got -0.5"),
        ({"temperature": [1, "hot"]}, r"temperature\[1\] must be a number, got 'hot'"),
        ({"repetition_window": 5, "temperature": [0.7, 0]}, "repetition_window must be 0 with temperature 0, got 5"),
        ({"top_k": -1}, "top_k must be at least 0, got -1"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0.0"),
        ({"top_p": 1.5}, r"top_p must be in \(0, 1\], got 1.5"),
        ({"top_p": -0.5}, r"top_p must be .*, got -0.5"),
        ({"cfg_scale": -1.0}, r"cfg_scale must be in \[0, 20\], got -1.0"),
        ({"cfg_scale": float("inf")}, r"cfg_scale must be in \[0, 20\], got inf"),
        ({"temperature": 1e9}, r"temperature must be in \[0, 10\], got 1000000000.0"),
        ({"temperature": [1, 11]}, r"temperature\[1\] must be in \[0, 10\], got 11"),
        ({"cfg_scale": 1000}, r"cfg_scale must be in \[0, 20\], got 1000"),
        ({"cfg_scale": "strong"}, "cfg_scale must be a number, got 'strong'"),
        ({"repetition_window": -1}, "repetition_window must be at least 0, got -1"),
        ({"repetition_window": 1.5}, "repetition_window must be an integer, got 1.5"),
        ({"repetition_threshold": 1.5}, r"repetition_threshold must be in \[0, 1\], got 1.5"),
        ({"repetition_threshold": -0.1}, r"repetition_threshold must be in \[0, 1\], got -0.1"),
        ({"repetition_threshold": None}, "repetition_threshold must be a number, got None"),
        ({"repetition_window": 5, "temperature": 0}, "repetition_window must be 0 with temperature 0, got 5"),
    ],
)
def test_options_out_of_range_are_refused_in_one_line(options, message):
    with pytest.raises(ValueError, match=message) as refusal:
        SamplingOptions(**options)
    assert "\n" not in str(refusal.value)


def test_a_scale_of_zero_which_leaves_the_text_out_is_said_once():
    warn_of_no_conditions.cache_clear()
    with pytest.warns(UserWarning, match="cfg_scale 0 leaves text and prompt out") as said:
        kinds = [DecodeOptions(sampling={"cfg_scale": 0}), *(SamplingOptions(cfg_scale=0.0) for _ in range(2))]
    assert len(kinds) == 3 and len(said) == 1


@pytest.mark.parametrize("first_slot", [0, 1, 2, 5])
@pytest.mark.parametrize("top_k", [0, 4])
def test_each_slot_has_the_temperature_of_its_codebook(top_k, first_slot):
    """Codebooks 0, 1 and 2 of two frames, one greedy; a slot alone is warped as it is among the others."""
    temperatures = [0.7, 0.0, 1.6]
    logits = torch.randn(2, 6 - first_slot, 9)
    sampler = Sampler(SamplingOptions(temperatures, top_k)).for_step(torch.rand(1, 6, 9) < 2)
    _, probs = sampler.distribution(logits, first_slot)
    for place in range(logits.shape[1]):
        alone = SamplingOptions(temperatures[(first_slot + place) % 3], top_k)
        assert torch.equal(probs[:, place], warp(logits[:, place], alone))


def test_equal_temperatures_of_all_codebooks_draw_the_codes_of_one():
    logits = torch.randn(2, 6, 9)
    one, several = (
        Sampler(SamplingOptions(temperature, 4), row_generators(0, ["a", "b"]))(logits)
        for temperature in (0.8, [0.8, 0.8, 0.8])
    )
    assert torch.equal(one.codes, several.codes)
    assert Sampler(SamplingOptions([0, 0, 0]))(logits).codes.equal(logits.argmax(-1)), "greedy: no generator is needed"


def test_temperatures_of_another_number_of_codebooks_are_refused():
    SamplingOptions(0.7).check(8)
    SamplingOptions([0.7] * 8).check(8)
    message = r"temperature must be a number or 8 of them, one for each codebook of the model, got \[0.5, 1.0\]"
    with pytest.raises(ValueError, match=message):
        SamplingOptions([0.5, 1.0]).check(8)
    assert hash(SamplingOptions([0.5, 1.0])) == hash(SamplingOptions((0.5, 1.0))), "a key of captured graphs"


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


# --- the whole pipeline ----------------------------------------------------------------------------------------------


def naive_distribution(conditional, unconditional, legal, history, options):
    """One slot: ban, guide, temperature, top-k, top-p, avoidance of repetition, with Python lists."""
    s = options.cfg_scale
    guided = [
        s * c + (1 - s) * u if ok else -torch.inf for c, u, ok in zip(conditional, unconditional, legal, strict=True)
    ]
    plain = torch.tensor(guided).softmax(-1).tolist()
    first = naive_warp(guided, options)
    if options.repetition_window:
        first = naive_second_draw(first, plain, history, options)
    return first


def naive_second_draw(first, plain, history, options):
    """Every first draw and what follows it: it stays, or another one is made from what was not warped."""
    result = [0.0] * len(first)
    for drawn, p in enumerate(first):
        if history.count(drawn) / options.repetition_window > options.repetition_threshold:
            for again, q in enumerate(plain):
                result[again] += p * q
        else:
            result[drawn] += p
    return result


@pytest.mark.parametrize(
    "options",
    [
        SamplingOptions(0.7, top_k=5, top_p=0.8, cfg_scale=1.8),
        SamplingOptions(1.6, top_p=0.6),
        SamplingOptions(0.5, top_k=4, repetition_window=5, repetition_threshold=0.3),
        SamplingOptions(0.9, 6, 0.9, 2.5, repetition_window=5, repetition_threshold=0.2),
        SamplingOptions(repetition_window=5, repetition_threshold=0.0),
    ],
    ids=repr,
)
def test_ban_guide_temperature_top_k_top_p_and_repetition_come_in_this_order(options):
    """Two rows of two frames of three codebooks; guiding before banning is the same, any other order is not."""
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(4 if options.guided else 2, 6, 9, generator=generator)
    legal = torch.rand(6, 9, generator=generator) < 0.8
    legal[:, 3] = True
    history = torch.randint(9, (2, 5, 3), generator=generator)
    sampler = Sampler(options).for_step(legal[None], history)
    _, probs = sampler.distribution(logits)
    unconditional = logits[2:] if options.guided else logits
    for row in range(2):
        for slot in range(6):
            expected = naive_distribution(
                logits[row, slot].tolist(),
                unconditional[row, slot].tolist(),
                legal[slot].tolist(),
                history[row, :, slot % 3].tolist(),
                options,
            )
            torch.testing.assert_close(probs[row, slot], torch.tensor(expected), rtol=1e-4, atol=1e-6)
    assert float(probs[~legal.expand_as(probs)].abs().sum()) == 0.0


@pytest.mark.parametrize("first_slot", [0, 1, 4])
def test_a_part_of_the_slots_is_drawn_from_what_the_whole_is(first_slot):
    options = SamplingOptions(0.7, top_k=5, cfg_scale=1.8, repetition_window=4, repetition_threshold=0.1)
    logits, history = torch.randn(4, 6, 9), torch.randint(9, (2, 4, 3))
    sampler = Sampler(options).for_step(torch.rand(1, 6, 9) < 0.9, history)
    for whole, part in zip(
        sampler.distribution(logits), sampler.distribution(logits[:, first_slot:], first_slot), strict=True
    ):
        torch.testing.assert_close(part, whole[:, first_slot:])


# --- repetition ------------------------------------------------------------------------------------------------------


def test_repetition_is_ignored_by_default():
    logits, history = torch.randn(1, 3, 5), torch.zeros(1, 9, 3, dtype=torch.long)
    legal = torch.ones(1, 3, 5, dtype=torch.bool)
    off, on = (Sampler(SamplingOptions(0.5, repetition_window=window)).for_step(legal, history) for window in (0, 9))
    assert torch.equal(off.distribution(logits)[1], warp(logits, SamplingOptions(0.5)))
    assert not torch.allclose(on.distribution(logits)[1], off.distribution(logits)[1])


def test_a_code_counts_as_repeated_above_the_threshold_in_its_own_codebook_only():
    """Four of ten frames have code 2 in codebook 0; frames that are not yet there count as different."""
    history = torch.zeros(1, 4, 2, dtype=torch.long)
    history[0, :, 0] = 2
    logits = torch.tensor([-torch.inf, 0.0, 1.0]).expand(1, 2, 3)  # code 0, which codebook 1 repeats, is never drawn
    legal = torch.ones(1, 2, 3, dtype=torch.bool)
    for threshold, redrawn in ((0.39, True), (0.4, False)):
        options = SamplingOptions(0.5, repetition_window=10, repetition_threshold=threshold)
        _, probs = Sampler(options).for_step(legal, history).distribution(logits)
        first = warp(logits, options)
        assert torch.allclose(probs[0, 0], first[0, 0]) != redrawn
        torch.testing.assert_close(probs[0, 1], first[0, 1])


def test_draws_that_avoid_repetition_have_the_frequencies_of_two_stages():
    """20,000 simulated pairs of draws; a false alarm at 5 standard errors has a probability below 1e-5."""
    options = SamplingOptions(0.4, top_k=2, repetition_window=5, repetition_threshold=0.5)
    logits, history, rounds = torch.tensor([1.0, 2.0, 0.5, -1.0]), torch.tensor([1, 1, 1, 0, 3]), 20_000
    generator = torch.Generator().manual_seed(0)
    drawn = warp(logits, options).multinomial(rounds, replacement=True, generator=generator)
    again = logits.softmax(-1).multinomial(rounds, replacement=True, generator=generator)
    simulated = torch.where(drawn == 1, again, drawn).bincount(minlength=4) / rounds
    sampler = Sampler(options, row_generators(0, ["row"]))
    sampler = sampler.for_step(torch.ones(1, 1, 4, dtype=torch.bool), history[None, :, None])
    probs = sampler.distribution(logits.view(1, 1, 4))[1][0, 0]
    assert ((simulated - probs).abs() < 5 * (probs * (1 - probs) / rounds).sqrt() + 1e-12).all()


# --- rows, noise, generators -----------------------------------------------------------------------------------------


def test_the_sampler_of_some_rows_is_theirs_in_their_order():
    """Legal ids, history, noise and generators all move along."""
    options = SamplingOptions(0.8, repetition_window=4, repetition_threshold=0.2)
    logits, rows = torch.randn(3, 2, 7), torch.tensor([2, 0])
    legal, history = torch.rand(3, 2, 7) < 0.8, torch.randint(7, (3, 4, 2))
    legal[..., 0] = True
    for fixed in (False, True):
        whole, part = (Sampler(options, row_generators(0, ["a", "b", "c"])).for_step(legal, history) for _ in range(2))
        if fixed:
            whole, part = (each.with_fixed_noise(2, 7, torch.device("cpu")) for each in (whole, part))
        expected, drawn = whole(logits), part.for_rows(rows)(logits[rows])
        for name in ("codes", "logprobs", "probs"):
            assert torch.equal(getattr(drawn, name), getattr(expected, name)[rows])


def test_fixed_noise_gives_the_same_code_for_the_same_slot_and_fresh_noise_others():
    sampler = Sampler(SamplingOptions(), row_generators(0, ["a", "b"]))
    logits = torch.randn(2, 20, 9)
    fixed = sampler.with_fixed_noise(20, 9, torch.device("cpu"))
    codes = fixed(logits).codes
    assert torch.equal(fixed(logits).codes, codes)
    assert torch.equal(fixed(logits[:, 7:9], 7).codes, codes[:, 7:9])
    assert not torch.equal(sampler(logits).codes, sampler(logits).codes)


def test_the_noise_of_a_step_ends_with_it():
    sampler = Sampler(SamplingOptions(), row_generators(0, ["a"])).with_fixed_noise(4, 5, torch.device("cpu"))
    assert sampler.for_step(torch.ones(1, 4, 5, dtype=torch.bool)).noise is None


def test_draws_with_fixed_noise_follow_the_distribution():
    """5,000 steps with noise of their own; a false alarm at 5 standard errors has a probability below 1e-5."""
    probs, steps = torch.tensor([0.6, 0.3, 0.1, 0.0]), 5_000
    sampler = Sampler(SamplingOptions(), row_generators(1, ["a"])).with_fixed_noise(steps, 4, torch.device("cpu"))
    counts = sampler.categorical(probs.expand(1, steps, 4)).flatten().bincount(minlength=4) / steps
    assert counts[3] == 0 and ((counts - probs).abs() < 5 * (probs * (1 - probs) / steps).sqrt() + 1e-12).all()


def test_greedy_sampling_needs_no_generators_and_drawing_does():
    logits = torch.randn(2, 3, 5)
    greedy = Sampler(SamplingOptions(0.0))
    assert torch.equal(greedy.with_fixed_noise(3, 5, torch.device("cpu"))(logits).codes, logits.argmax(-1))
    with pytest.raises(ValueError, match="generators must be one per row to draw at random, got none"):
        Sampler(SamplingOptions())(logits)


def test_an_id_is_banned_from_all_slots_on_top_of_the_others():
    legal = torch.ones(1, 2, 3, dtype=torch.bool)
    legal[0, 0, 1] = False
    sampler = Sampler(SamplingOptions()).for_step(legal)
    assert sampler.without(2).legal.tolist() == [[[True, False, False], [True, True, False]]]
    assert sampler.legal[..., 2].all(), "the sampler itself stays as it is"


def test_avoiding_repetition_changes_nothing_where_nothing_is_repeated():
    """Bug: one minus a sum of probabilities is a little below zero at times, and a code below zero was always drawn."""
    logits = torch.randn(200, 4, 50, generator=torch.Generator().manual_seed(0))
    probs, plain = warp(logits, SamplingOptions(top_p=0.5)), logits.softmax(-1)
    assert torch.equal(avoid_repetition(probs, plain, torch.full_like(probs, 0.1), 0.1), probs)


def test_a_temperature_near_zero_is_greedy_and_does_not_overflow():
    logits = torch.tensor([5.0, 80.0, 79.0, -torch.inf])
    assert warp(logits, SamplingOptions(1e-38)).tolist() == [0.0, 1.0, 0.0, 0.0]
