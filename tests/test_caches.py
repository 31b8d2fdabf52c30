"""Cache policies: each registered one keeps its contract, and GEAR packs what it says and finds it again."""

from __future__ import annotations

import logging
from argparse import ArgumentParser
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from conftest import PRIMARIES, SAMPLING, ragged_batch
from test_clocks import assert_alone, codes_of, run_turns
from test_gpst import conditions_of, ragged, shared_gpst
from test_graphs import uncaptured
from test_joining import asked, assert_each_is_alone

from espnet_ext.bin.speaking import add_sampling_options
from espnet_ext.decoding import build_order, generate
from espnet_ext.decoding.options import DecodeOptions, GPSTDecodeOptions
from espnet_ext.errors import UserError
from espnet_ext.fast import FastOptions, accelerate, fallback
from espnet_ext.fast.native import compiler
from espnet_ext.inference import Speaker
from espnet_ext.inference.options import decode_options
from espnet_ext.model.cache import KVCache
from espnet_ext.model.caches import EXACT, Exact, Gear, caches, gear
from espnet_ext.model.caches.packed import PackedCache
from espnet_ext.model.caches.packing import Packing
from espnet_ext.testing.cache import CACHE_CONTRACT, check_cache
from espnet_ext.testing.models import assert_rows_are_their_own, decode, shared_model, tiny_model

SMALL = {"buffer": 4, "sparse": 5.0}  # of rows of some twenty positions
FOUR_BITS = Packing(16, 64, 4, -2, 16, 0, 0)


@pytest.mark.parametrize("stacking", [1, 2])
@pytest.mark.parametrize("clause", CACHE_CONTRACT, ids=lambda clause: clause.__name__)
@pytest.mark.parametrize(("name", "conf"), [*((name, {}) for name in caches), ("gear", SMALL)])
def test_every_policy_keeps_its_contract(name, conf, clause, stacking):
    clause(name, stacking, conf)


def test_the_contract_is_one_call():
    check_cache("exact", stackings=[1])


# --- packing ----------------------------------------------------------------------------------------------------------


def blocks(*outer):
    return torch.randn(*outer, 16, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize(("dim", "group"), [(-2, 16), (-2, 4), (-1, 64), (-1, 8)])
def test_numbers_come_back_within_half_a_step(dim, group, bits):
    packing, x = replace(FOUR_BITS, bits=bits, dim=dim, group=group), blocks(2, 3)
    parts = packing.pack(x)
    step = parts[2].float().unsqueeze(dim).expand(x.unflatten(dim, (-1, group)).shape).reshape(x.shape)
    rounding = x.abs().max() * 2**-8  # of the least number of each group, in bfloat16
    assert bool(((packing.unpack(parts) - x).abs() <= step / 2 + rounding).all())
    assert parts[0].dtype == torch.uint8 and parts[0].nbytes == x.numel() * bits // 8


@pytest.mark.parametrize("bits", [2, 4])
def test_what_is_on_the_grid_is_packed_without_loss(bits):
    x = torch.randint(2**bits, (5, 16, 64), generator=torch.Generator().manual_seed(0)).float()
    x[:, 0], x[:, 1] = 0, 2**bits - 1
    packing = replace(FOUR_BITS, bits=bits)
    torch.testing.assert_close(packing.unpack(packing.pack(x)), x)


def test_outliers_are_kept_as_they_are_and_do_not_widen_their_group():
    x, packing = blocks(4), replace(FOUR_BITS, outliers=2)
    plain = (packing.unpack(packing.pack(x)) - x).norm()
    x[:, 3, 5], x[:, 9, 60] = 1000.1, -2000.3
    back = packing.unpack(packing.pack(x))
    assert torch.equal(back[:, 3, 5], x[:, 3, 5]) and torch.equal(back[:, 9, 60], x[:, 9, 60])
    assert (back - x).norm() < 1.2 * plain


def test_a_remainder_of_low_rank_is_found():
    x, errors = blocks(6), []
    for rank in (0, 1, 4, 16):
        packing = replace(FOUR_BITS, bits=2, rank=rank)
        errors.append(float((packing.unpack(packing.pack(x)) - x).norm() / x.norm()))
    assert errors == sorted(errors, reverse=True) and errors[0] > 1.2 * errors[2] and errors[3] < 0.01


@pytest.mark.parametrize("rank", [0, 2])
def test_blocks_do_not_know_of_each_other(rank):
    packing, x = replace(FOUR_BITS, rank=rank, outliers=9), blocks(3, 2)
    together = packing.unpack(packing.pack(x))
    torch.testing.assert_close(together[1, 1], packing.unpack(packing.pack(x[1, 1])), rtol=1e-5, atol=1e-5)


def test_zeros_and_equal_numbers_are_packed():
    packing = replace(FOUR_BITS, rank=2, outliers=3)
    for value in (0.0, 1.0, -3.0):
        torch.testing.assert_close(
            packing.unpack(packing.pack(torch.full((2, 16, 64), value))), torch.full((2, 16, 64), value)
        )
    made, empty = packing.pack(blocks(2, 3)), packing.empty((2, 3), torch.float32, torch.device("cpu"))
    assert [(part.shape, part.dtype) for part in made] == [(part.shape, part.dtype) for part in empty]


# --- clocks -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Whole(Packing):
    """Blocks as they are: what is left of the policy is where everything lies."""

    def empty(self, outer, dtype, device):
        return [torch.zeros(*outer, self.rows, self.columns, dtype=dtype, device=device)]

    def pack(self, block):
        return [block]

    def unpack(self, parts):
        return parts[0]


@pytest.fixture
def whole(monkeypatch):
    """A policy that keeps everything, in blocks of four; and how often a block was packed, and taken back."""
    monkeypatch.setattr(gear, "Packing", Whole)
    seen = {"_pack": 0, "_unpack": 0}
    for name in seen:
        function = getattr(PackedCache, name)

        def counted(cache, rows, name=name, function=function):
            seen[name] += 1
            function(cache, rows)

        monkeypatch.setattr(PackedCache, name, counted)
    return Gear(buffer=4), seen


@torch.no_grad()
@pytest.mark.parametrize("stacking", [1, 2])
@pytest.mark.parametrize("primary", list(PRIMARIES))
def test_rows_find_their_own_blocks_whatever_was_taken_back(primary, stacking, whole):
    model, (policy, seen) = shared_model(primary, stacking), whole
    conditions = ragged_batch().conditions(model)
    assert_alone(model, conditions, run_turns(model, model.prefill(conditions, 24, policy)))
    assert seen["_pack"] and seen["_unpack"]


@torch.no_grad()
@pytest.mark.parametrize("stacking", [1, 2])
def test_units_and_codes_of_gpst_find_their_blocks(stacking, whole):
    model = shared_gpst(stacking=stacking)
    conditions = conditions_of(model, ragged())
    assert_alone(model, conditions, run_turns(model, model.prefill(conditions, 24, whole[0])))


@pytest.mark.parametrize("sampling", ["sampled", "guided, no repetition"])
@pytest.mark.parametrize("primary", list(PRIMARIES))
def test_rows_that_join_find_their_blocks(primary, sampling, whole):
    ask = partial(asked, shared_model(primary), "local_ar", sampling)
    right, made = generate(*ask()), generate(*ask(most_rows=3, cache=whole[0]))
    assert torch.equal(made.codes, right.codes) and torch.equal(made.lengths, right.lengths)


@pytest.mark.parametrize("stacking", [1, 2])
@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("name", ["local_ar", "local_maskgit"])
@pytest.mark.parametrize("primary", ["cross_attention", "prefix_learned"])
def test_a_row_that_joins_packed_ones_is_what_it_is_alone(primary, name, bits, stacking):
    ask = partial(asked, shared_model(primary, stacking), name, "guided", cache=Gear(**SMALL, bits=bits))
    assert_each_is_alone(generate(*ask(most_rows=3)), ask)


@pytest.mark.parametrize("sampling", ["sampled", "guided, no repetition"])
@pytest.mark.parametrize("primary", ["cross_attention", "cross_attention_annealed", "prefix"])
def test_guessed_steps_are_kept_and_taken_back_row_by_row(primary, sampling, whole):
    order, given = (
        build_order("speculative", drafter="repeat", width=3),
        (shared_model(primary), "local_ar", SAMPLING[sampling]),
    )
    for policy in (Gear(**SMALL), whole[0]):
        assert_rows_are_their_own(*given, order, policy, most_rows=2)
    model, *how = given
    right, made = (decode(model, ragged_batch(), *how, steps=order, cache=policy) for policy in (EXACT, whole[0]))
    assert torch.equal(made.codes, right.codes)
    assert not whole[1]["_unpack"], "what may be taken back is never in a block"


@torch.no_grad()
def test_fewer_bits_are_further_from_the_exact_cache():
    model, far = shared_model("prefix"), {}
    conditions, codes = ragged_batch().conditions(model), codes_of(model)
    for policy in (EXACT, Gear(4, buffer=4), Gear(2, buffer=4)):
        state = model.prefill(conditions, 24, policy)
        far[policy] = torch.stack([model.step(step, state) for step in codes[:, :20].unbind(1)])
    exact, four, two = far.values()
    assert (
        0 < (four - exact).norm() < 0.05 * exact.norm() < 0.5 * (two - exact).norm()
        or (two - exact).norm() > 2 * (four - exact).norm()
    )


# --- bytes ------------------------------------------------------------------------------------------------------------


def test_exact_is_the_cache_that_there_was():
    cache = tiny_model().primary.decoder.new_cache(2, 10)
    assert type(cache) is KVCache and cache.num_bytes() == 2 * cache.keys.nbytes + 20


@pytest.mark.parametrize(("bits", "places", "most"), [(4, 250, 0.3), (4, 3000, 0.23), (2, 250, 0.23), (2, 3000, 0.17)])
def test_bytes_are_truly_saved(bits, places, most):
    whole, packed = (
        policy.new((4, 1, 4, places, 64), torch.float32, torch.device("cpu")) for policy in (EXACT, Gear(bits))
    )
    assert packed.num_bytes() <= most * whole.num_bytes()
    assert {part.dtype for part in (packed.packed[0][0], packed.packed[1][0])} == {torch.uint8}


def test_a_voice_says_its_codes_about_as_likely_from_four_bits():
    """The change that the benchmark measures on a test set, here on one utterance of the voice that comes along."""
    speak = Speaker.from_pretrained("mini")
    model, options = speak.corelm, DecodeOptions("parallel", min_frames=40)
    made = speak.codes(["a"], ["two red dogs and one blue cat"], [None], options)
    mode = speak.text_mode(False)
    conditions = mode.conditions(speak, ["a"], *starts_of(speak, mode, "two red dogs and one blue cat", options))
    nats = []
    for policy in (EXACT, Gear()):
        targets = model.targets(made.codes, made.lengths)
        steps, _ = model.inputs(targets, model.spec.bos_id)
        with torch.no_grad():
            state = model.prefill(conditions, targets.shape[1], policy)
            hidden = torch.stack([model.step(codes, state) for codes in steps.unbind(1)], dim=1)[0]
            logits = model.heads["parallel"](model.heads.inputs(model.heads["parallel"], hidden), targets[0]).logits
        nats.append(float(-logits.log_softmax(-1).gather(-1, targets[0][..., None]).mean()))
    assert 0 < abs(nats[1] - nats[0]) < 0.005


def starts_of(speak, mode, text, options):
    requests = [speak._request(mode, None, text)]
    return requests, mode.starts(speak, ["a"], requests, options)


# --- what makes steps faster ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("primary", ["cross_attention", "prefix_learned"])
def test_graphs_go_on_without_and_say_so_once(primary, caplog):
    fallback._tell.cache_clear()
    ask = partial(asked, shared_model(primary), "local_ar", "guided", cache=Gear(**SMALL))
    right, graphs = generate(*ask()), uncaptured()
    with caplog.at_level(logging.WARNING):
        made = [generate(*ask(step=graphs)) for _ in range(2)]
    assert all(torch.equal(one.codes, right.codes) for one in made) and not graphs.steps
    assert [record.message for record in caplog.records if record.message.startswith("graphs: going on without")] == [
        "graphs: going on without: it reads keys and values that are kept as they are, with cache exact"
    ]


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("primary", ["cross_attention", "prefix_learned"])
def test_packed_models_go_with_packed_caches(primary, native):
    model = tiny_model(primary, conditioning_dropout=0.1).float()
    ask = partial(asked, model, "local_ar", "guided", cache=Gear(**SMALL))
    right = generate(*ask())
    accelerate(model, FastOptions("float32", native=native))
    made = generate(*ask(most_rows=3))
    assert torch.equal(made.codes, right.codes) and torch.equal(made.lengths, right.lengths)


@pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler")
@pytest.mark.parametrize("primary", ["cross_attention", "prefix"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64], ids=str)
def test_what_the_native_kernel_cannot_read_is_left_to_torch(primary, dtype, caplog):
    """A policy of another package may keep keys and values so; the kernel would take their bytes for float32."""

    class Kept(Exact):
        def new(self, shape, _, device):
            return super().new(shape, dtype, device)

    fallback._tell.cache_clear()
    model = tiny_model(primary).float()
    fast = deepcopy(model)
    accelerate(fast, FastOptions("float32", native=True))
    how = ragged_batch(), "local_ar", SAMPLING["greedy"], 12
    with caplog.at_level("WARNING"):
        right, made = (decode(one, *how, cache=Kept()) for one in (model, fast))
    assert torch.equal(right.codes, made.codes)
    torch.testing.assert_close(right.logprobs, made.logprobs, rtol=1e-4, atol=1e-4)
    told = f"it reads keys and values in one of ['torch.float32', 'torch.bfloat16'], got {dtype}"
    assert [told in record.message for record in caplog.records] == [True]


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({"cache": "snug"}, r"cache must be one of \['exact', 'gear'\], got 'snug'"),
        ({"cache": 3}, "cache must be the name of a cache policy, got 3"),
        ({"cache_conf": [1]}, r"cache_conf must be names and values, got \[1\]"),
        ({"cache_conf": {"bits": 4}}, r"cache_conf of exact must be among \[\], got \['bits'\]"),
        ({"cache": "gear", "cache_conf": {"bit": 4}}, r"cache_conf of gear must be among \['bits', .*got \['bit'\]"),
        ({"cache": "gear", "cache_conf": {"bits": 3}}, r"bits must be one of \[2, 4\], got 3"),
        ({"cache": "gear", "cache_conf": {"bits": "4"}}, "bits must be an integer, got '4'"),
        ({"cache": "gear", "cache_conf": {"rank": -1}}, "rank must be at least 0, got -1"),
        ({"cache": "gear", "cache_conf": {"sparse": 80}}, r"sparse must be in \[0, 50\], got 80"),
        ({"cache": "gear", "cache_conf": {"group": 0}}, "group must be at least 1, got 0"),
        ({"cache": "gear", "cache_conf": {"buffer": 18}}, "buffer must be a multiple of 4, got 18"),
        ({"cache": "gear", "cache_conf": {"buffer": 2}}, r"buffer must be in \[4, 1024\], got 2"),
    ],
)
@pytest.mark.parametrize("kind", [DecodeOptions, GPSTDecodeOptions])
def test_a_policy_that_there_is_not_is_refused_with_those_there_are(kind, conf, message):
    with pytest.raises(UserError, match=message):
        kind.from_mapping(conf)


def test_a_rank_above_the_width_of_the_heads_is_refused_before_anything_is_decoded():
    model = shared_model("prefix")
    options = DecodeOptions(cache="gear", cache_conf={"rank": 17, "buffer": 32})
    message = r"rank must be in \[0, 16\] with heads 16 wide and a buffer of 32, got 17"
    with pytest.raises(UserError, match=message):
        options.check(model)
    with pytest.raises(UserError, match=message):
        decode(model, ragged_batch(), "parallel", cache=options.caching)
    with pytest.raises(UserError, match=message):
        model.prefill(ragged_batch().conditions(model), 4, options.caching)
    options.changed(cache_conf={"rank": 16, "buffer": 32}).check(model)


@pytest.mark.parametrize("objective", ["masked", "window"])
def test_a_cache_that_packs_is_refused_before_masked_steps_are_decoded(objective):
    model = shared_model(objective=objective)
    message = rf"cache must be one of \['exact'.*\] with a model of objective {objective}, got Gear\(bits=4"
    options = DecodeOptions(order=objective, cache="gear")
    with pytest.raises(UserError, match=message):
        options.check(model)
    options.changed(cache="exact").check(model)


def test_the_cache_of_old_results_is_not_told():
    options = DecodeOptions()
    assert options.caching == EXACT and not {"cache", "cache_conf"} & {*options.given(), *options.complete()}
    other = options.changed(cache="gear")
    assert other != options and other.complete()["cache_conf"] == {
        "bits": 4, "group": 64, "rank": 1, "sparse": 1.0, "buffer": 16
    }  # fmt: skip
    assert DecodeOptions(cache="gear", cache_conf={"bits": 2}).changed(cache="exact").cache_conf == {}


def test_units_of_gpst_are_kept_as_its_codes_are():
    options = GPSTDecodeOptions(cache="gear", cache_conf={"bits": 2})
    assert options.units.caching == options.caching == Gear(2)


def test_the_command_line_chooses_a_cache(tmp_path):
    config = tmp_path / "decode.yaml"
    config.write_text("cache: gear\ncache_conf: {bits: 2}\n")
    parser = ArgumentParser()
    add_sampling_options(parser)
    args = parser.parse_args(["--inference_config", str(config)])
    assert decode_options(args, DecodeOptions).caching == Gear(2)
    args.cache = "gear"
    assert decode_options(args, DecodeOptions).caching == Gear(2)
    args.cache = "exact"
    assert decode_options(args, DecodeOptions).caching == EXACT
    args.cache = "snug"
    with pytest.raises(UserError, match="cache must be one of"):
        decode_options(args, DecodeOptions)


# --- rounding ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("primary", ["cross_attention", "prefix"])
def test_rounded_keys_do_not_depend_on_the_padding_that_others_need(primary):
    """As the native kernel keeps them: turned by positions that count padding, they would be rounded elsewhere."""
    model = tiny_model(primary).float()
    model.step_transformers()[0].cache_dtype = torch.bfloat16
    batch = ragged_batch()
    state, codes = model.prefill(batch.conditions(model), 4), codes_of(model)
    for step in codes[:, :4].unbind(1):
        model.step(step, state)
    for row in range(3):
        alone = model.prefill(batch.row(row).conditions(model), 4)
        for step in codes[row : row + 1, :4].unbind(1):
            model.step(step, alone)
        held = int(alone.cache.key_mask[0, : alone.cache.length].sum())
        among, single = (
            one.keys[0, at, :, one.length - held : one.length] for one, at in ((state.cache, row), (alone.cache, 0))
        )
        assert (among == single).double().mean() > 0.99
