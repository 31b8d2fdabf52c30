"""The contract of every registered strategy; a new one is tested unasked."""

from dataclasses import dataclass

import pytest
import torch
from conftest import (
    SAMPLING,
    SPEC,
    assert_rows_are_their_own,
    decode,
    every_variant,
    make_ends_likely,
    ragged_batch,
    registered,
    shared_model,
    tiny_model,
)

from espnet_ext.decoding import (
    DecodingStrategy,
    Filled,
    build_strategy,
    generate,
    register_strategy,
    same_passes,
    strategies,
)
from espnet_ext.decoding.generate import legal_ids
from espnet_ext.decoding.sampling import Sampler, SamplingOptions, row_generators
from espnet_ext.model.heads import ParallelHeads
from espnet_ext.registry import Registry

# passes of one step of M slots: fewest and most
PASSES = {
    "parallel": lambda slots, conf: (1, 1),
    "local_ar": lambda slots, conf: (slots, slots),
    "local_maskgit": lambda slots, conf: (1, min(conf.get("n_rounds", 3), slots)),
    "local_maskgit_adaptive": lambda slots, conf: (1, min(conf.get("n_rounds", 8), slots)),
    "local_speculative": lambda slots, conf: (1, slots),
}


HIDDEN = torch.randn(40, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def fill(model, name, options=SAMPLING["sampled"], min_frames=1):
    """The second step of forty rows, filled from random hidden vectors."""
    sampler = Sampler(options, row_generators(0, [str(row) for row in range(len(HIDDEN))]))
    sampler = sampler.for_step(legal_ids(SPEC, model.layout, 1, min_frames)[None])
    with torch.no_grad():
        return build_strategy(name).decode_step(model.heads, HIDDEN, sampler)


@registered
def test_codes_have_the_codecs_shape_and_ids(name, stacking):
    result = decode(shared_model(stacking=stacking), ragged_batch(), name)
    assert result.codes.shape[0] == 3 and result.codes.shape[2] == SPEC.num_codebooks
    assert result.codes.shape[1] == int(result.lengths.max())
    SPEC.check(result.codes)


@registered
def test_the_same_seed_gives_the_same_codes_and_another_seed_others(name):
    first, second, other = (decode(shared_model(), ragged_batch(), name, seed=seed).codes for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert first.shape != other.shape or not torch.equal(first, other)


@registered
@pytest.mark.parametrize("max_frames", [1, 5, 7])
def test_no_row_is_longer_than_its_limit(name, stacking, max_frames):
    result = decode(shared_model(stacking=stacking), ragged_batch(), name, max_frames=max_frames)
    assert int(result.lengths.max()) <= max_frames
    assert bool((result.has_eos | (result.lengths == max_frames)).all())


@registered
def test_min_frames_are_kept(name, stacking):
    model, options = shared_model(stacking=stacking), SamplingOptions(2.0)
    result = decode(model, ragged_batch(), name, options, max_frames=12, min_frames=11)
    assert int(result.lengths.min()) >= 11


def model_that_wants_special_ids(stacking, hidden):
    """Heads to which illegal ids are the likeliest ones, and EOS where it is legal a likely one."""
    model = tiny_model(stacking=stacking)
    make_ends_likely(model, hidden)
    illegal = torch.ones(model.slots, SPEC.vocab_size)
    illegal[:, : SPEC.codebook_size] = 0
    illegal[:: SPEC.num_codebooks, SPEC.eos_id] = 0
    for head in model.heads.values():
        bias = head.heads.bias.data.view(-1, SPEC.vocab_size)  # of one frame where they are tied
        bias += 20.0 * illegal[: len(bias)]
    return model


@registered
@pytest.mark.parametrize("sampling", ["greedy", "sampled"])
def test_in_front_of_the_first_eos_of_a_codebook_0_there_are_codes_only(name, stacking, sampling):
    """Nothing but an EOS in codebook 0 ends a row, so every other special id would be a code that no codec has."""
    model = model_that_wants_special_ids(stacking, HIDDEN)
    codes = fill(model, name, options=SAMPLING[sampling]).codes
    first_book = torch.arange(model.slots) % SPEC.num_codebooks == 0
    behind = ((codes == SPEC.eos_id) & first_book).long().cumsum(dim=1) > 0
    assert behind.any() and not behind[:, 0].all(), "the test needs rows that end and rows that go on"
    assert bool((behind | (codes < SPEC.codebook_size)).all())


@registered
def test_a_step_without_eos_has_nothing_but_codes(name, stacking):
    model = shared_model(stacking=stacking)
    filled = fill(model, name, SamplingOptions(3.0), min_frames=99)
    SPEC.check(filled.codes.unflatten(1, (stacking, -1)))
    assert bool((filled.logprobs < 0).all()) and bool(filled.logprobs.isfinite().all())


def assert_passes(model, name, conf):
    result = decode(model, ragged_batch(), name, **conf)
    fewest, most = PASSES.get(name, lambda slots, conf: (0, slots))(model.slots, conf)
    assert bool((result.local_passes >= result.steps * fewest).all())
    assert bool((result.local_passes <= result.steps * most).all())


@registered
def test_local_passes_are_counted(name, stacking):
    assert_passes(shared_model(stacking=stacking), name, {})


@every_variant
def test_local_passes_of_variants_are_counted(name, conf):
    assert_passes(shared_model(stacking=2), name, conf)


@pytest.mark.parametrize("name", ["local_maskgit_adaptive", "local_speculative"])
def test_a_row_that_is_done_takes_part_in_no_more_passes(name):
    """A count of the batch would charge every row with the passes of the slowest."""
    passes = fill(shared_model(stacking=2), name).local_passes
    assert len(set(passes.tolist())) > 1


@registered
@pytest.mark.parametrize("sampling", SAMPLING)
def test_a_generated_row_does_not_depend_on_its_batch(name, stacking, sampling):
    assert_rows_are_their_own(shared_model(stacking=stacking), name, SAMPLING[sampling])


@registered
@pytest.mark.parametrize("sampling", ["greedy", "sampled", "guided, no repetition"])
@pytest.mark.parametrize("decoder_only", ["prefix", "prefix_learned"])
def test_a_generated_row_does_not_depend_on_its_batch_with_a_prefix(name, decoder_only, sampling):
    assert_rows_are_their_own(shared_model(decoder_only, stacking=2), name, SAMPLING[sampling])


@every_variant
@pytest.mark.parametrize("sampling", ["greedy guided", "sampled", "guided, no repetition"])
def test_a_row_of_a_variant_does_not_depend_on_its_batch(name, conf, sampling):
    options = SAMPLING[sampling]
    assert_rows_are_their_own(shared_model(stacking=2), name, options, **conf)


@registered
def test_eight_frames_per_step_are_as_good_as_one(name):
    model = shared_model(stacking=8)
    assert_rows_are_their_own(model, name, SAMPLING["guided"])
    assert_passes(model, name, {})


@registered
def test_greedy_sampling_needs_no_generators(name):
    model, batch = shared_model(stacking=2), ragged_batch()
    without = generate(model, batch.conditions(model), build_strategy(name), Sampler(SAMPLING["greedy"]), 8)
    assert torch.equal(without.codes, decode(model, batch, name, SAMPLING["greedy"], max_frames=8).codes)


@registered
@pytest.mark.parametrize("generators", [0, 1, 4])
def test_sampling_needs_one_generator_per_row(name, generators):
    model, names = shared_model(), [str(row) for row in range(generators)]
    with pytest.raises(ValueError, match=f"generators must be one per row = 3, got {generators}"):
        decode(model, ragged_batch(), name, names=names)


@registered
def test_a_strategy_without_its_head_says_which_heads_there_are(name):
    missing = [kind.__name__ for kind in strategies[name].head_types if kind is not ParallelHeads]
    if not missing:
        pytest.skip("the parallel heads are always there")
    with pytest.raises(ValueError, match=rf"no {missing[0]}; its heads are \['parallel'\]"):
        decode(tiny_model(local="none"), ragged_batch(), name)


def test_a_model_with_another_head_lists_it():
    with pytest.raises(ValueError, match=r"no MaskGITLocalTransformer; its heads are \['parallel', 'ar'\]"):
        decode(tiny_model(local="ar"), ragged_batch(), "local_maskgit")


def test_an_unknown_strategy_is_refused_with_the_list():
    with pytest.raises(ValueError, match=r"decoding must be one of \[.*'local_ar'.*\], got 'beam'"):
        build_strategy("beam")


@pytest.mark.parametrize(
    ("name", "conf", "message"),
    [
        ("parallel", {"n_rounds": 3}, r"decoding_conf of parallel must be among \[\], got \['n_rounds'\]"),
        ("local_ar", {"rounds": 3}, r"decoding_conf of local_ar must be among \[\], got \['rounds'\]"),
        ("local_maskgit", {"rounds": 3}, r"local_maskgit must be among \['n_rounds', 'order', .*got \['rounds'\]"),
        ("local_maskgit", {"n_rounds": 0}, "n_rounds must be at least 1, got 0"),
        ("local_maskgit", {"n_rounds": -2}, "n_rounds must be at least 1, got -2"),
        ("local_maskgit", {"n_rounds": 2.5}, "n_rounds must be an integer, got 2.5"),
        ("local_maskgit", {"n_rounds": True}, "n_rounds must be an integer, got True"),
        ("local_maskgit", {"n_rounds": "3"}, "n_rounds must be an integer, got '3'"),
        ("local_maskgit", {"order": "random"}, r"order must be one of \['confidence', .*\], got 'random'"),
        ("local_maskgit", {"order": None}, "order must be one of .*, got None"),
        ("local_maskgit", {"order": ["frames"]}, r"order must be one of .*, got \['frames'\]"),
        (
            "local_maskgit",
            {"order": "left_to_right", "noise": 0.1},
            "noise must be 0 with order left_to_right, got 0.1",
        ),
        ("local_maskgit", {"noise": -0.1}, "noise must be at least 0 and finite, got -0.1"),
        ("local_maskgit", {"noise": float("inf")}, "noise must be at least 0 and finite, got inf"),
        ("local_maskgit", {"noise": "much"}, "noise must be a number, got 'much'"),
        ("local_maskgit", {"fixed_schedule": 3}, "fixed_schedule must be a list of integers, got 3"),
        ("local_maskgit", {"fixed_schedule": "123"}, "fixed_schedule must be a list of integers, got '123'"),
        ("local_maskgit", {"fixed_schedule": [1, 2.5, 3]}, "fixed_schedule must be an integer, got 2.5"),
        ("local_maskgit", {"fixed_schedule": [0, 1, 3]}, "fixed_schedule must be at least 1, got 0"),
        ("local_maskgit", {"fixed_schedule": [1, 1, 3]}, r"fixed_schedule must increase, got \[1, 1, 3\]"),
        ("local_maskgit", {"fixed_schedule": [2, 1, 3]}, r"fixed_schedule must increase, got \[2, 1, 3\]"),
        ("local_maskgit", {"fixed_schedule": [1, 3]}, "n_rounds must be 2 as fixed_schedule has, got 3"),
        ("local_maskgit_adaptive", {"tau": 0.5}, r"local_maskgit_adaptive must be among .*, got \['tau'\]"),
        ("local_maskgit_adaptive", {"threshold": -0.5}, "threshold must be at least 0 and finite, got -0.5"),
        ("local_maskgit_adaptive", {"threshold": "high"}, "threshold must be a number, got 'high'"),
        ("local_maskgit_adaptive", {"threshold": float("nan")}, "threshold must be at least 0 and finite, got nan"),
        ("local_maskgit_adaptive", {"min_codes": 0}, "min_codes must be at least 1, got 0"),
        ("local_maskgit_adaptive", {"max_codes": -1}, "max_codes must be at least 0, got -1"),
        ("local_maskgit_adaptive", {"min_codes": 3, "max_codes": 2}, "max_codes must be 0 or at least .* 3, got 2"),
        ("local_maskgit_adaptive", {"n_rounds": 0}, "n_rounds must be at least 1, got 0"),
        ("local_maskgit_adaptive", {"n_rounds": 1.0}, "n_rounds must be an integer, got 1.0"),
        ("local_speculative", {"coupling": "max"}, r"coupling must be one of \['gumbel', 'rejection'\], got 'max'"),
        ("local_speculative", {"coupling": 1}, "coupling must be one of .*, got 1"),
        ("local_speculative", {"draft": 1}, r"local_speculative must be among \['coupling'\], got \['draft'\]"),
    ],
)
def test_options_that_are_not_allowed_are_refused_in_one_line(name, conf, message):
    with pytest.raises(ValueError, match=message) as refusal:
        build_strategy(name, **conf)
    assert "\n" not in str(refusal.value)


def test_a_schedule_for_another_number_of_slots_is_refused():
    with pytest.raises(ValueError, match=r"fixed_schedule must end with 3, the slots of this model, got \[1, 2, 4\]"):
        decode(shared_model(), ragged_batch(), "local_maskgit", fixed_schedule=[1, 2, 4])


def test_a_third_party_adds_a_strategy_in_ten_lines():
    @register_strategy("first_code")
    @dataclass(frozen=True)
    class FirstCode(DecodingStrategy):
        """Always code 0."""

        head_types = (ParallelHeads,)

        def decode_step(self, heads, hidden, sampler):
            codes = torch.zeros(len(hidden), heads.of(ParallelHeads).slots, dtype=torch.long)
            return Filled(codes, torch.zeros(codes.shape), same_passes(hidden, 0))

    try:
        assert not decode(tiny_model(), ragged_batch(), "first_code").codes.any()
    finally:
        del strategies._classes["first_code"]


def test_a_second_class_of_the_same_name_is_refused_with_both_owners():
    registry = Registry("thing")

    @registry.register("one")
    class One: ...

    with pytest.raises(ValueError, match=r"thing 'one' is already .*One; .*Other needs another name"):

        @registry.register("one")
        class Other: ...


def test_names_are_lower_case():
    with pytest.raises(ValueError, match="thing name must be lower case, got 'One'"):
        Registry("thing").register("One")
