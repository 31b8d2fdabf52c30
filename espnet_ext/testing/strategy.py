"""The contract of a decoding strategy: what the loop, the sampler and the tables of speed rely on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from espnet_ext.decoding import Filled, build_strategy, generate, strategies
from espnet_ext.decoding.rows import legal_ids
from espnet_ext.decoding.sampling import Sampler, SamplingOptions, row_generators
from espnet_ext.errors import UserError
from espnet_ext.model.core_lm import TextCoreLM
from espnet_ext.model.heads import ParallelHeads
from espnet_ext.testing.contract import hold_to
from espnet_ext.testing.models import (
    SAMPLING,
    SPEC,
    assert_rows_are_their_own,
    decode,
    make_ends_likely,
    ragged_batch,
    shared_model,
    tiny_model,
    with_parts,
)
from espnet_ext.testing.refusal import assert_no_other_option, assert_refused

Conf = Mapping[str, Any]
Clause = Callable[[str, int, Conf], None]  # of a registered name, S and the options of the strategy
HIDDEN = torch.randn(40, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def fill(
    model: TextCoreLM, name: str, options: SamplingOptions = SAMPLING["sampled"], min_frames: int = 1, **conf: Any
) -> Filled:
    """The second step of forty rows, filled from random hidden vectors.

    Args:
        model: a tiny one.
        name: of the strategy.
        options: of the sampler.
        min_frames: frames that an utterance has at least.
        **conf: options of the strategy.

    Returns:
        The step.
    """
    sampler = Sampler(options, row_generators(0, [str(row) for row in range(len(HIDDEN))]))
    sampler = sampler.for_step(legal_ids(SPEC, model.layout, 1, min_frames)[None])
    with torch.no_grad():
        return build_strategy(name, **conf).decode_step(model.heads, HIDDEN, sampler)


def codes_have_the_codecs_shape_and_ids(name: str, stacking: int, conf: Conf) -> None:
    """(B, T, N) int64 codes of the codec, as many frames as the longest row has."""
    result = decode(shared_model(stacking=stacking), ragged_batch(), name, **conf)
    expected = (3, int(result.lengths.max()), SPEC.num_codebooks)
    assert result.codes.shape == expected, f"codes must be (B, T, N) = {expected}, got {tuple(result.codes.shape)}"
    SPEC.check(result.codes)


def the_same_seed_gives_the_same_codes(name: str, stacking: int, conf: Conf) -> None:
    """Nothing is random but the sampler's draws."""
    model = shared_model(stacking=stacking)
    first, again = (decode(model, ragged_batch(), name, seed=1, **conf).codes for _ in range(2))
    assert torch.equal(first, again), "the same seed must give the same codes"


def no_row_is_longer_than_its_limit(name: str, stacking: int, conf: Conf) -> None:
    """A row ends with an EOS or at its limit."""
    for most in (1, 5, 7):
        result = decode(shared_model(stacking=stacking), ragged_batch(), name, max_frames=most, **conf)
        lengths = result.lengths.tolist()
        assert max(lengths) <= most, f"a row must have at most max_frames = {most} frames, got {lengths}"
        assert bool((result.has_eos | (result.lengths == most)).all()), f"a row of {lengths} ends without EOS"


def min_frames_are_kept(name: str, stacking: int, conf: Conf) -> None:
    """The sampler's bans are kept: there is no EOS where none is legal."""
    model = shared_model(stacking=stacking)
    result = decode(model, ragged_batch(), name, SamplingOptions(2.0), max_frames=12, min_frames=11, **conf)
    assert int(result.lengths.min()) >= 11, f"rows must have at least 11 frames, got {result.lengths.tolist()}"


def model_that_wants_special_ids(stacking: int) -> TextCoreLM:
    """Heads to which illegal ids are the likeliest ones, and EOS where it is legal a likely one."""
    model = with_parts(tiny_model(stacking=stacking))
    make_ends_likely(model, HIDDEN)
    illegal = torch.ones(model.slots, SPEC.vocab_size)
    illegal[:, : SPEC.codebook_size] = 0
    illegal[:: SPEC.num_codebooks, SPEC.eos_id] = 0
    head: Any
    for head in model.heads.values():
        bias = head.heads.bias.data.view(-1, SPEC.vocab_size)
        bias += 20.0 * illegal[: len(bias)]  # of one frame where they are tied
    return model


def in_front_of_the_first_eos_of_a_codebook_0_there_are_codes_only(name: str, stacking: int, conf: Conf) -> None:
    """Nothing but an EOS in codebook 0 ends a row, so every other special id would be a code that no codec has."""
    model = model_that_wants_special_ids(stacking)
    first_book = torch.arange(model.slots) % SPEC.num_codebooks == 0
    for sampling in ("greedy", "sampled"):
        codes = fill(model, name, SAMPLING[sampling], **conf).codes
        behind = ((codes == SPEC.eos_id) & first_book).long().cumsum(dim=1) > 0
        special = ~(behind | (codes < SPEC.codebook_size))
        assert not special.any(), f"special ids {codes[special].unique().tolist()} in front of EOS, {sampling}"


def a_step_without_eos_has_nothing_but_codes(name: str, stacking: int, conf: Conf) -> None:
    """Codes, and log-probabilities that are those of draws."""
    filled = fill(shared_model(stacking=stacking), name, SamplingOptions(3.0), min_frames=99, **conf)
    SPEC.check(filled.codes.unflatten(1, (stacking, -1)))
    possible = (filled.logprobs <= 0) & filled.logprobs.isfinite()
    assert bool(possible.all()), f"logprobs must be finite and at most 0, got {filled.logprobs[~possible].tolist()}"


def local_passes_are_counted_row_by_row(name: str, stacking: int, conf: Conf) -> None:
    """A count of the batch would charge every row with the passes of the slowest."""
    passes = fill(shared_model(stacking=stacking), name, **conf).local_passes
    what = f"{tuple(passes.shape)} {passes.dtype}"
    assert passes.shape == HIDDEN.shape[:1] and passes.dtype == torch.int64, f"passes must be (R,) int64, got {what}"
    assert int(passes.min()) >= 0, f"passes must be at least 0, got {passes.tolist()}"


def a_row_does_not_depend_on_its_batch(name: str, stacking: int, conf: Conf) -> None:
    """Code by code what it is alone, however codes are drawn."""
    for options in SAMPLING.values():
        assert_rows_are_their_own(shared_model(stacking=stacking), name, options, **conf)


def a_row_does_not_depend_on_its_batch_behind_a_prefix(name: str, stacking: int, conf: Conf) -> None:
    """The same where the conditions are a padded prefix of the codes."""
    for primary in ("prefix", "prefix_learned"):
        for sampling in ("greedy", "sampled", "guided, no repetition"):
            assert_rows_are_their_own(shared_model(primary, stacking), name, SAMPLING[sampling], **conf)


def greedy_sampling_needs_no_generators(name: str, stacking: int, conf: Conf) -> None:
    """Nor does it use those that it is given; only a strategy with noise of its own may ask for them."""
    model, batch = shared_model(stacking=stacking), ragged_batch()
    greedy = SAMPLING["greedy"]
    try:
        without = generate(model, batch.conditions(model), build_strategy(name, **conf), Sampler(greedy), 8)
    except UserError as error:
        if "generators must be one per row" in str(error):
            return
        raise
    with_them = decode(model, batch, name, greedy, max_frames=8, **conf)
    assert torch.equal(without.codes, with_them.codes), "greedy codes must not depend on generators"


def sampling_needs_one_generator_per_row(name: str, stacking: int, conf: Conf) -> None:
    """Another number of them is refused."""
    model = shared_model(stacking=stacking)
    for count in (0, 1, 4):
        names = [str(row) for row in range(count)]
        assert_refused(
            partial(decode, model, ragged_batch(), name, names=names, **conf),
            f"generators must be one per row = 3, got {count}",
        )


def a_model_without_its_heads_says_which_there_are(name: str, stacking: int, conf: Conf) -> None:
    """Every model has the parallel heads; each further one of `head_types` may be missing."""
    missing = [kind.__name__ for kind in strategies[name].head_types if kind is not ParallelHeads]
    if missing:
        assert_refused(
            partial(decode, tiny_model(stacking=stacking, local="none"), ragged_batch(), name, **conf),
            rf"no {missing[0]}; its heads are \['parallel'\]",
        )


def an_unknown_option_is_refused_with_those_there_are(name: str, stacking: int, conf: Conf) -> None:
    """Options are the fields of the dataclass."""
    assert_no_other_option(build_strategy, name, conf, "decoding_conf")


STRATEGY_CONTRACT: tuple[Clause, ...] = (
    local_passes_are_counted_row_by_row,
    codes_have_the_codecs_shape_and_ids,
    the_same_seed_gives_the_same_codes,
    no_row_is_longer_than_its_limit,
    min_frames_are_kept,
    in_front_of_the_first_eos_of_a_codebook_0_there_are_codes_only,
    a_step_without_eos_has_nothing_but_codes,
    a_row_does_not_depend_on_its_batch,
    a_row_does_not_depend_on_its_batch_behind_a_prefix,
    greedy_sampling_needs_no_generators,
    sampling_needs_one_generator_per_row,
    a_model_without_its_heads_says_which_there_are,
    an_unknown_option_is_refused_with_those_there_are,
)


def check_strategy(name: str, conf: Conf | None = None, stackings: Sequence[int] = (1, 2, 3)) -> None:
    """Hold a registered strategy to its contract, on tiny random models with all heads.

    Args:
        name: registered name.
        conf: its options; None for the defaults.
        stackings: the S to try.

    Raises:
        AssertionError: saying what it does not keep.
    """
    hold_to(STRATEGY_CONTRACT, name, conf, stackings)
