"""The contract of every registered strategy; a new one is tested unasked."""

from dataclasses import dataclass

import pytest
import torch
from conftest import (
    SAMPLING,
    SPEC,
    assert_rows_are_their_own,
    built_in,
    decode,
    every_variant,
    ragged_batch,
    registered,
    shared_model,
    tiny_model,
)

from espnet_ext.decoding import (
    DecodingStrategy,
    Filled,
    build_strategy,
    register_strategy,
    same_passes,
    strategies,
)
from espnet_ext.model.heads import ParallelHeads
from espnet_ext.registry import Registry
from espnet_ext.testing import check_strategy
from espnet_ext.testing import strategy as contract
from espnet_ext.testing.strategy import STRATEGY_CONTRACT, fill, model_that_wants_special_ids

# passes of one step of M slots: fewest and most
PASSES = {
    "parallel": lambda slots, conf: (1, 1),
    "local_ar": lambda slots, conf: (slots, slots),
    "local_maskgit": lambda slots, conf: (1, min(conf.get("n_rounds", 3), slots)),
    "local_maskgit_adaptive": lambda slots, conf: (1, min(conf.get("n_rounds", 8), slots)),
    "local_speculative": lambda slots, conf: (1, slots),
}


@registered
@pytest.mark.parametrize("clause", STRATEGY_CONTRACT, ids=lambda clause: clause.__name__)
def test_contract(name, clause, stacking):
    clause(name, stacking, {})


@every_variant
@pytest.mark.parametrize(
    "clause",
    [
        contract.a_row_does_not_depend_on_its_batch,
        contract.a_step_without_eos_has_nothing_but_codes,
        contract.greedy_sampling_needs_no_generators,
        contract.in_front_of_the_first_eos_of_a_codebook_0_there_are_codes_only,
    ],
    ids=lambda clause: clause.__name__,
)
def test_contract_of_variants(name, conf, clause):
    clause(name, 2, conf)


@pytest.mark.parametrize("name", PASSES)
def test_another_seed_gives_other_codes(name):
    first, other = (decode(shared_model(), ragged_batch(), name, seed=seed).codes for seed in (1, 2))
    assert first.shape != other.shape or not torch.equal(first, other)


def test_the_model_that_wants_special_ids_ends_some_rows_and_not_others(stacking):
    model = model_that_wants_special_ids(stacking)
    codes = fill(model, "parallel").codes
    ended = (codes[:, :: SPEC.num_codebooks] == SPEC.eos_id).any(dim=1)
    assert ended.any() and not ended.all()


def assert_passes(model, name, conf):
    result = decode(model, ragged_batch(), name, **conf)
    fewest, most = PASSES[name](model.slots, conf)
    assert bool((result.local_passes >= result.steps * fewest).all())
    assert bool((result.local_passes <= result.steps * most).all())


def test_every_strategy_of_ours_says_how_many_passes_it_takes():
    assert set(PASSES) == set(built_in(strategies))


@pytest.mark.parametrize("name", PASSES)
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


@pytest.mark.parametrize("name", PASSES)
def test_eight_frames_per_step_are_as_good_as_one(name):
    model = shared_model(stacking=8)
    assert_rows_are_their_own(model, name, SAMPLING["guided"])
    assert_passes(model, name, {})


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
        ("local_speculative", {"acceptance": "max"}, r"acceptance must be one of \['block', 'exact', .*\], got 'max'"),
        ("local_speculative", {"acceptance": 1}, "acceptance must be one of .*, got 1"),
        (
            "local_speculative",
            {"acceptance": "pcg"},
            r"acceptance must be one of \['block', 'exact', 'gumbel'\] with exact true, got 'pcg'",
        ),
        (
            "local_speculative",
            {"acceptance_conf": {"k": 1}},
            r"acceptance_conf of gumbel must be among \[\], got \['k'\]",
        ),
        (
            "local_speculative",
            {"draft": 1},
            r"local_speculative must be among \['acceptance', 'acceptance_conf', 'exact'\], got \['draft'\]",
        ),
    ],
)
def test_options_that_are_not_allowed_are_refused_in_one_line(name, conf, message):
    with pytest.raises(ValueError, match=message) as refusal:
        build_strategy(name, **conf)
    assert "\n" not in str(refusal.value)


def test_a_schedule_for_another_number_of_slots_is_refused():
    with pytest.raises(ValueError, match=r"fixed_schedule must end with 3, the slots of this model, got \[1, 2, 4\]"):
        decode(shared_model(), ragged_batch(), "local_maskgit", fixed_schedule=[1, 2, 4])


@pytest.fixture
def other_packages(monkeypatch):
    """What a test registers is gone behind it."""
    monkeypatch.setattr(strategies, "_classes", dict(strategies._classes))


@pytest.mark.usefixtures("other_packages")
def test_a_third_party_adds_a_strategy_in_ten_lines():
    @register_strategy("first_code")
    @dataclass(frozen=True)
    class FirstCode(DecodingStrategy):
        """Always code 0."""

        head_types = (ParallelHeads,)

        def decode_step(self, heads, hidden, sampler):
            codes = torch.zeros(len(hidden), heads.of(ParallelHeads).slots, dtype=torch.long)
            return Filled(codes, torch.zeros(codes.shape), same_passes(hidden, 0))

    check_strategy("first_code", stackings=[2])
    assert not decode(tiny_model(), ragged_batch(), "first_code").codes.any()


@dataclass(frozen=True)
class Flawed(DecodingStrategy):
    """Codes of a fair draw, and then something that a strategy must not do."""

    head_types = (ParallelHeads,)
    flaw: str = "none"

    def decode_step(self, heads, hidden, sampler):
        codes, logprobs, _ = sampler(heads.of(ParallelHeads).logits(hidden))
        passes = same_passes(hidden, 1)
        if self.flaw == "batch":
            codes = codes.where(codes >= SPEC.codebook_size, codes.roll(1, dims=0))
        elif self.flaw == "eos":
            codes = codes.masked_fill(torch.arange(codes.shape[1]) == 0, SPEC.eos_id)
        elif self.flaw == "special":
            codes = codes.masked_fill(torch.arange(codes.shape[1]) == 0, SPEC.mask_id)
        elif self.flaw == "random":
            codes = codes.where(codes >= SPEC.codebook_size, torch.randint(SPEC.codebook_size, codes.shape))
        elif self.flaw == "passes":
            passes = passes.double()
        return Filled(codes, logprobs, passes)


@pytest.mark.usefixtures("other_packages")
@pytest.mark.parametrize(
    ("flaw", "message"),
    [
        ("none", None),
        ("batch", "row 0 of a batch has other codes than alone|row 1 of a batch"),
        ("eos", "rows must have at least 11 frames"),
        ("special", "special ids .* in front of EOS|codes must lie in"),
        ("random", "the same seed must give the same codes"),
        ("passes", "passes must be .R,. int64"),
    ],
)
def test_the_contract_finds_what_a_strategy_must_not_do(flaw, message):
    register_strategy("flawed")(Flawed)
    if message is None:
        check_strategy("flawed", {"flaw": flaw})
        return
    with pytest.raises((AssertionError, ValueError), match=message):
        check_strategy("flawed", {"flaw": flaw})


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
