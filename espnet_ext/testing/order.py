"""The contract of an order: what the loop over time, streaming and the tables of costs rely on."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from espnet_ext.decoding import Generation, Order, build_order, build_strategy, generate_stream
from espnet_ext.decoding.sampling import Sampler, SamplingOptions, row_generators
from espnet_ext.model.core_lm import TextCoreLM
from espnet_ext.testing.contract import hold_to
from espnet_ext.testing.models import (
    NAMES,
    SAMPLING,
    SPEC,
    assert_rows_are_their_own,
    decode,
    ragged_batch,
    shared_model,
)
from espnet_ext.testing.refusal import assert_no_other_option, assert_refused

Conf = Mapping[str, Any]
Clause = Callable[[str, int, Conf], None]  # of a registered name, S and the options of the order
STRATEGIES = ("parallel", "local_ar", "local_maskgit", "local_speculative")
DELAYS = (0, 1, 2)


def made(order: Order, stacking: int, strategy: str = "local_ar", sampling: str = "sampled", **how: Any) -> Generation:
    """What an order makes of the ragged batch with a tiny model."""
    return decode(model_for(order, stacking), ragged_batch(), strategy, SAMPLING[sampling], steps=order, **how)


def model_for(order: Order, stacking: int, primary: str = "cross_attention") -> TextCoreLM:
    """A tiny model of the objective that the order is for."""
    return shared_model(primary, stacking, objective=order.objective)


def every_strategy_gives_codes_of_the_codec(name: str, stacking: int, conf: Conf) -> None:
    """(B, T, N) int64 codes, as many frames as the longest row has, and none but the codec's."""
    for strategy in STRATEGIES:
        result = made(build_order(name, **conf), stacking, strategy)
        expected = (3, int(result.lengths.max()), SPEC.num_codebooks)
        assert result.codes.shape == expected, f"codes must be (B, T, N) = {expected}, got {tuple(result.codes.shape)}"
        SPEC.check(result.codes)


def the_same_seed_gives_the_same_codes(name: str, stacking: int, conf: Conf) -> None:
    """Nothing is random but the sampler's draws, and an order begins every time anew."""
    order = build_order(name, **conf)
    first, again = (made(order, stacking, seed=1).codes for _ in range(2))
    assert torch.equal(first, again), "the same seed must give the same codes"


def limits_are_kept(name: str, stacking: int, conf: Conf) -> None:
    """A row ends with an EOS or at its limit, and not before its least frames."""
    for most, least in ((1, 1), (5, 1), (7, 6)):
        result = made(build_order(name, **conf), stacking, max_frames=most, min_frames=least)
        lengths = result.lengths.tolist()
        assert least <= min(lengths) and max(lengths) <= most, f"rows must have {least} to {most} frames, got {lengths}"
        assert bool((result.has_eos | (result.lengths == most)).all()), f"a row of {lengths} ends without EOS"


def costs_are_counted_row_by_row(name: str, stacking: int, conf: Conf) -> None:
    """Steps that count are those of the codes; each needs a part of a pass of the primary transformer."""
    result = made(build_order(name, **conf), stacking, sampling="guided")
    frames = result.lengths + result.has_eos
    assert torch.equal(result.steps, -(-frames // stacking)), f"steps must hold the frames, got {result.steps.tolist()}"
    assert result.primary_passes is not None, "passes of the primary transformer must be counted"
    passes = result.primary_passes.tolist()
    assert min(passes) >= 1 and int(result.local_passes.min()) >= 0, f"rows need passes, got {passes}"


def a_row_does_not_depend_on_its_batch(name: str, stacking: int, conf: Conf) -> None:
    """Code by code what it is alone, whatever the primary transformer and however codes are drawn."""
    causal = build_order(name, **conf).objective == "causal"  # few primary transformers can fill masked steps
    others = ("cross_attention_annealed", "prefix", "prefix_learned") if causal else ()
    for primary in ("cross_attention", *others):
        for sampling in ("greedy", "sampled", "guided, no repetition"):
            order = build_order(name, **conf)
            assert_rows_are_their_own(model_for(order, stacking, primary), "local_ar", SAMPLING[sampling], order)


def a_model_of_another_objective_is_refused(name: str, stacking: int, conf: Conf) -> None:
    """With the orders that go with it."""
    order = build_order(name, **conf)
    other = "masked" if order.objective == "causal" else "causal"
    model = shared_model(stacking=stacking, objective=other)
    refusal = rf"order must be one of .* with a model of objective {other}, got '{re.escape(name)}'"
    assert_refused(partial(decode, model, ragged_batch(), "parallel", steps=order), refusal)


def what_is_streamed_is_final(name: str, stacking: int, conf: Conf) -> None:
    """Frames that were there stay as they are; an order that cannot do that refuses, with those that can."""
    order = build_order(name, **conf)
    model = model_for(order, stacking)
    sampler = Sampler(SAMPLING["sampled"], row_generators(0, NAMES))
    stream = generate_stream(
        model, ragged_batch().conditions(model), build_strategy("local_ar"), sampler, 9, order=order
    )
    if not order.streams:
        assert_refused(partial(next, stream), f"order must be one of .* for streaming, got '{re.escape(name)}'")
        return
    *parts, last = stream
    whole = made(order, stacking, max_frames=9)
    assert torch.equal(last.codes, whole.codes), "a stream must end with the codes that are made at once"
    for part in parts:
        for row, length in enumerate(part.lengths.tolist()):
            same = torch.equal(part.codes[row, :length], whole.codes[row, :length])
            assert same, f"frames of row {row} changed after they were handed out"


def delays_are_kept_or_refused(name: str, stacking: int, conf: Conf) -> None:
    """With codebooks that come late rows are independent, too; an order that cannot do that refuses."""
    if stacking > 1:
        return
    order, model = build_order(name, **conf), shared_model(delays=DELAYS)
    if order.delays:
        for sampling in ("greedy", "guided, no repetition"):
            assert_rows_are_their_own(model, "parallel", SAMPLING[sampling], order)
        return
    refusal = rf"order must be one of .* with delays \[0, 1, 2\], got '{re.escape(name)}'"
    assert_refused(partial(decode, model, ragged_batch(), "parallel", steps=order), refusal)


def greedy_codes_need_no_draws(name: str, stacking: int, conf: Conf) -> None:
    """Another seed changes nothing where nothing is drawn."""
    order, greedy = build_order(name, **conf), SamplingOptions(temperature=0.0)
    model = model_for(order, stacking)
    first, other = (decode(model, ragged_batch(), "local_ar", greedy, seed=seed, steps=order).codes for seed in (1, 2))
    assert torch.equal(first, other), "greedy codes must not depend on the seed"


def an_unknown_option_is_refused_with_those_there_are(name: str, stacking: int, conf: Conf) -> None:
    """Options are the fields of the dataclass."""
    assert_no_other_option(build_order, name, conf, "order_conf")


ORDER_CONTRACT: tuple[Clause, ...] = (
    every_strategy_gives_codes_of_the_codec,
    the_same_seed_gives_the_same_codes,
    limits_are_kept,
    costs_are_counted_row_by_row,
    a_row_does_not_depend_on_its_batch,
    a_model_of_another_objective_is_refused,
    what_is_streamed_is_final,
    delays_are_kept_or_refused,
    greedy_codes_need_no_draws,
    an_unknown_option_is_refused_with_those_there_are,
)


def check_order(name: str, conf: Conf | None = None, stackings: Sequence[int] = (1, 2)) -> None:
    """Hold a registered order to its contract, on tiny random models with all heads.

    Args:
        name: registered name.
        conf: its options; None for the defaults.
        stackings: the S to try.

    Raises:
        AssertionError: saying what it does not keep.
    """
    hold_to(ORDER_CONTRACT, name, conf, stackings)
