"""The contract of every registered strategy; a new one is tested unasked."""

from dataclasses import dataclass

import pytest
import torch
from conftest import SPEC, ragged_batch, tiny_model

from espnet_ext.decoding import (
    DecodingStrategy,
    Filled,
    build_strategy,
    generate,
    register_strategy,
    same_passes,
    strategies,
)
from espnet_ext.local_transformer import ParallelHeads
from espnet_ext.registry import Registry
from espnet_ext.sampling import Sampler, SamplingOptions, row_generators

NAMES = ["a", "b", "c"]
SAMPLING = SamplingOptions()
PASSES = {"parallel": lambda slots: 1, "local_ar": lambda slots: slots}


def run(model, name, options=SAMPLING, max_frames=10, seed=0, **conf):
    conditions = ragged_batch().conditions(model)
    sampler = Sampler(options, row_generators(seed, NAMES))
    return generate(model, conditions, build_strategy(name, **conf), sampler, max_frames)


@pytest.mark.parametrize("name", list(strategies))
def test_codes_have_the_codecs_shape_and_ids(name, stacking):
    result = run(tiny_model(stacking=stacking), name)
    assert result.codes.shape[0] == 3 and result.codes.shape[2] == SPEC.num_codebooks
    assert result.codes.shape[1] == int(result.lengths.max())
    SPEC.check(result.codes)


@pytest.mark.parametrize("name", list(strategies))
def test_the_same_seed_gives_the_same_codes_and_another_seed_others(name):
    model = tiny_model()
    first, second, other = (run(model, name, seed=seed).codes for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert first.shape != other.shape or not torch.equal(first, other)


@pytest.mark.parametrize("name", list(strategies))
@pytest.mark.parametrize("max_frames", [1, 5, 7])
def test_no_row_is_longer_than_its_limit(name, stacking, max_frames):
    result = run(tiny_model(stacking=stacking), name, max_frames=max_frames)
    assert int(result.lengths.max()) <= max_frames
    assert bool((result.has_eos | (result.lengths == max_frames)).all())


@pytest.mark.parametrize("name", list(strategies))
def test_local_passes_are_counted(name, stacking):
    model = tiny_model(stacking=stacking)
    result = run(model, name)
    assert bool((result.local_passes <= result.steps * model.slots).all())
    if name in PASSES:
        assert torch.equal(result.local_passes, result.steps * PASSES[name](model.slots))


@pytest.mark.parametrize("name", list(strategies))
def test_min_frames_are_kept(name, stacking):
    model = tiny_model(stacking=stacking)
    conditions, strategy = ragged_batch().conditions(model), build_strategy(name)
    sampler = Sampler(SamplingOptions(2.0), row_generators(0, NAMES))
    result = generate(model, conditions, strategy, sampler, 12, min_frames=11)
    assert int(result.lengths.min()) >= 11


def test_an_unknown_strategy_is_refused_with_the_list():
    with pytest.raises(ValueError, match=r"decoding must be one of \[.*'local_ar'.*\], got 'beam'"):
        build_strategy("beam")


def test_an_unknown_option_is_refused_with_the_list():
    with pytest.raises(ValueError, match=r"decoding_conf of parallel must be among \[\], got \['rounds'\]"):
        build_strategy("parallel", rounds=3)


def test_a_strategy_without_its_head_says_which_heads_there_are():
    model = tiny_model(local="none")
    with pytest.raises(ValueError, match=r"no ARLocalTransformer; its heads are \['parallel'\]"):
        run(model, "local_ar")


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
        assert not run(tiny_model(), "first_code").codes.any()
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
