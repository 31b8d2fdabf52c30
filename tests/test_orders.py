"""Orders: each registered one keeps its contract, and the loop takes whatever number of steps one offers."""

from __future__ import annotations

from argparse import ArgumentParser
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from conftest import NAMES, SAMPLING, ragged_batch, tiny_model

from espnet_ext.bin.speaking import add_sampling_options
from espnet_ext.codes import StepLayout
from espnet_ext.decoding import (
    CAUSAL,
    Advance,
    Masked,
    Order,
    SpeechLimits,
    Turn,
    Watch,
    build_strategy,
    generate,
    orders,
)
from espnet_ext.decoding.options import DecodeOptions, GPSTDecodeOptions
from espnet_ext.decoding.sampling import Sampler, row_generators
from espnet_ext.errors import UserError
from espnet_ext.inference.options import decode_options, find_voice
from espnet_ext.testing.models import decode, shared_model
from espnet_ext.testing.order import ORDER_CONTRACT, check_order

STRATEGIES = ["parallel", "local_ar", "local_maskgit", "local_maskgit_adaptive", "local_speculative"]


@dataclass(frozen=True)
class Pairs(Order):
    """Two steps in every turn: what `causal` makes in two."""

    width = 2

    def advance(self, turn: Turn, own: Any) -> Advance:
        first = turn.fill(turn.codes, turn.sampler(()))
        # a step that runs as a graph overwrites the last one
        first = type(first)(*(part.clone() for part in first))
        second = turn.fill(first.codes, turn.sampler([first.codes]))
        return both(first, second)


def both(*steps: Any) -> Advance:
    codes, logprobs, passes = (torch.stack(parts, dim=1) for parts in zip(*steps, strict=True))
    count = torch.full_like(passes[:, 0], len(steps))
    return Advance(codes, logprobs, count, passes.sum(1), count)


def assert_same_codes(made: Any, right: Any) -> None:
    for field in ("codes", "lengths", "has_eos", "steps"):
        assert torch.equal(getattr(made, field), getattr(right, field)), field
    torch.testing.assert_close(made.logprobs, right.logprobs)


@pytest.mark.parametrize("stacking", [1, 2])
@pytest.mark.parametrize("clause", ORDER_CONTRACT, ids=lambda clause: clause.__name__)
@pytest.mark.parametrize("name", list(orders))
def test_every_order_keeps_its_contract(name, clause, stacking):
    clause(name, stacking, {})


def test_the_contract_is_one_call():
    check_order("causal", stackings=[1])


@pytest.mark.parametrize("sampling", ["sampled", "greedy guided", "guided, no repetition"])
@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("primary", ["cross_attention_annealed", "prefix_learned"])
@pytest.mark.parametrize("stacking", [1, 2])
def test_several_steps_in_a_turn_are_those_of_several_turns(stacking, primary, name, sampling):
    """With odd numbers of steps, too: then the last turn makes a step that no row needs."""
    model, limits = shared_model(primary, stacking), torch.tensor([7, 20, 13])
    right, pairs = (
        decode(model, ragged_batch(), name, SAMPLING[sampling], limits, seed=3, steps=order)
        for order in (CAUSAL, Pairs())
    )
    assert_same_codes(pairs, right)
    assert bool((pairs.primary_passes >= right.primary_passes).all())


@pytest.mark.parametrize("delays", [(0, 1, 2), (0, 2, 1)])
@pytest.mark.parametrize("sampling", ["sampled", "guided, no repetition"])
def test_several_steps_in_a_turn_wait_for_late_codebooks(delays, sampling):
    """An EOS in the first step of a turn says what is legal in its second."""
    model, limits = shared_model("prefix", 1, delays), torch.tensor([3, 12, 7])
    right, pairs = (
        decode(model, ragged_batch(), "parallel", SAMPLING[sampling], limits, seed=2, steps=order)
        for order in (CAUSAL, Pairs())
    )
    assert_same_codes(pairs, right)


@pytest.mark.parametrize("stacking", [1, 2])
def test_several_steps_in_a_turn_run_away_where_single_ones_do(stacking):
    limits = SpeechLimits(2.0, period=1, repeated=2)
    model = tiny_model(stacking=stacking)
    made = []
    for order in (CAUSAL, Pairs()):
        sampler = Sampler(SAMPLING["greedy"], row_generators(0, NAMES))
        watch = Watch(limits, torch.tensor([30, 30, 30]))
        conditions = ragged_batch().conditions(model)
        made.append(generate(model, conditions, build_strategy("parallel"), sampler, 60, watch=watch, order=order))
    assert_same_codes(*made)
    assert made[0].runaway == made[1].runaway


def test_an_order_that_waits_does_not_stream_and_one_of_whole_frames_has_no_delays():
    with pytest.raises(
        UserError, match=r"order must be one of \['causal', 'speculative', 'window'\] for streaming, got 'Late'"
    ):
        Late().check(StepLayout(3), streaming=True)
    with pytest.raises(
        UserError, match=r"order must be one of \['causal', 'speculative'\] with delays \[0, 1\], got 'Late'"
    ):
        Late().check(StepLayout(2, 1, (0, 1)))
    Late().check(StepLayout(3))


@dataclass(frozen=True)
class Late(Pairs):
    """An order that changes its mind."""

    streams = False
    delays = False


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({"order": "nearest"}, r"order must be one of \['causal', 'masked', 'speculative', 'window'\], got 'nearest'"),
        ({"order": 3}, "order must be the name of an order, got 3"),
        ({"order_conf": {"width": 4}}, r"order_conf of causal must be among \[\], got \['width'\]"),
        ({"order_conf": [1]}, r"order_conf must be names and values, got \[1\]"),
    ],
)
@pytest.mark.parametrize("kind", [DecodeOptions, GPSTDecodeOptions])
def test_an_order_that_there_is_not_is_refused_with_those_there_are(kind, conf, message):
    with pytest.raises(UserError, match=message):
        kind.from_mapping(conf)


def test_the_order_of_old_results_is_not_told():
    options = DecodeOptions()
    assert options.steps == CAUSAL and not {"order", "order_conf"} & {*options.given(), *options.complete()}
    assert hash(options) == hash(DecodeOptions(order="causal"))


def test_a_strategys_own_order_is_the_one_that_is_changed():
    """`local_maskgit` reveals slots in an order; scripts that change it mean that one."""
    options = DecodeOptions("local_maskgit").changed(order="frames")
    assert options.order == "causal" and options.strategy == build_strategy("local_maskgit", order="frames")
    with pytest.raises(UserError, match="order must be one of"):
        DecodeOptions("local_ar").changed(order="frames")


def test_the_order_of_the_command_line_is_that_of_steps(tmp_path):
    config = tmp_path / "decode.yaml"
    config.write_text("decoding: local_maskgit\n")
    parser = ArgumentParser()
    add_sampling_options(parser)
    args = parser.parse_args(["--inference_config", str(config), "--order", "nearest"])
    with pytest.raises(UserError, match="order must be one of"):
        decode_options(args, DecodeOptions)
    args.order = "causal"
    assert decode_options(args, DecodeOptions).steps == CAUSAL


@pytest.mark.parametrize("name", ["decoding", "order", "depth", "cache"])
def test_a_name_that_there_is_not_is_told_before_a_voice_is_fetched(name, tmp_path):
    parser = ArgumentParser()
    add_sampling_options(parser)
    args = parser.parse_args([f"--{name}", "nearest"])
    args.exp = tmp_path / "nothing"
    with pytest.raises(UserError, match=f"{name} must be one of .*, got 'nearest'"):
        find_voice(args)
    setattr(args, name, None)
    with pytest.raises(FileNotFoundError):
        find_voice(args)


def test_an_end_guard_is_refused_where_no_ends_are_decided(tmp_path):
    message = "end_guard must be 0 with order masked, which decides no ends, got 0.5"
    with pytest.raises(UserError, match=message):
        DecodeOptions(order="masked", end_guard=0.5)
    model = shared_model(objective="masked")
    given = ragged_batch().conditions(model), build_strategy("parallel"), Sampler(SAMPLING["greedy"], ())
    with pytest.raises(UserError, match=message):
        generate(model, *given, 8, order=Masked(), end_guard=0.5)
    generate(model, *given, 8, order=Masked(), end_guard=0)
    # what is kept for another order says nothing about the one that is asked for
    config = tmp_path / "decode.yaml"
    config.write_text("order: masked\n")
    parser = ArgumentParser()
    add_sampling_options(parser)
    args = parser.parse_args(["--inference_config", str(config), "--order", "causal", "--end_guard", "0.5"])
    assert decode_options(args, DecodeOptions).end_guard == 0.5
    args.order = None
    with pytest.raises(UserError, match=message):
        decode_options(args, DecodeOptions)
