"""The loop's edges, with models that do as they are told."""

from dataclasses import dataclass
from unittest.mock import patch

import pytest
import torch
from conftest import NAMES, SAMPLING, SPEC, VARIANTS, ragged_batch, tiny_model

from espnet_ext.codes import StepLayout
from espnet_ext.decoding import (
    DecodingStrategy,
    Filled,
    build_strategy,
    generate,
    generate_stream,
    plain_step,
    same_passes,
    strategies,
)
from espnet_ext.decoding.rows import legal_ids
from espnet_ext.decoding.sampling import Sampler, SamplingOptions, row_generators
from espnet_ext.errors import UserError
from espnet_ext.model.heads import ParallelHeads

GREEDY = Sampler(SamplingOptions(0.0))


@dataclass(frozen=True)
class Scripted(DecodingStrategy):
    """Plays frames from a script per row; "." is a frame of code 1, "E" the end."""

    script: tuple[str, ...]
    head_types = (ParallelHeads,)

    def decode_step(self, heads, hidden, sampler):
        slots = heads.of(ParallelHeads).slots
        stacking = slots // SPEC.num_codebooks
        played[0] += 1
        start = (played[0] - 1) * stacking
        frames = [[row[start + i] if start + i < len(row) else "." for i in range(stacking)] for row in self.script]
        codes = torch.tensor([[[SPEC.eos_id if f == "E" else 1] * SPEC.num_codebooks for f in row] for row in frames])
        return Filled(codes.flatten(1), torch.full((len(frames), slots), -1.0), same_passes(hidden, 1))


played = [0]


def play(stacking, *script, max_frames=8):
    played[0] = 0
    model = tiny_model(stacking=stacking)
    # the script knows its rows by their places
    with patch("espnet_ext.decoding.batch.COMPACT_BELOW", 0.0):
        return generate(model, ragged_batch().conditions(model), Scripted(script), GREEDY, max_frames)


@pytest.mark.parametrize("stacking", [1, 2, 3, 4])
def test_rows_end_where_their_eos_is(stacking):
    result = play(stacking, "..E", "E", ".......")
    assert result.lengths.tolist() == [2, 0, 8]
    assert result.has_eos.tolist() == [True, True, False]
    assert result.steps.tolist() == [2 // stacking + 1, 1, -(-8 // stacking)]


@pytest.mark.parametrize("stacking", [1, 2, 4])
def test_the_loop_stops_when_all_rows_have_ended(stacking):
    result = play(stacking, "...E", ".E", "E", max_frames=100)
    assert result.steps.tolist() == [3 // stacking + 1, 1 // stacking + 1, 1]
    assert result.codes.shape == (3, 3, SPEC.num_codebooks)


def test_frames_behind_an_eos_inside_a_step_are_dropped():
    result = play(4, ".E..", ".E.E", "...E", max_frames=20)
    assert result.lengths.tolist() == [1, 1, 3]


def test_an_eos_behind_the_limit_does_not_count():
    result = play(4, "..E", "...", "E", max_frames=2)
    assert result.lengths.tolist() == [2, 2, 0]
    assert result.has_eos.tolist() == [False, False, True]


def test_every_kept_code_and_the_eos_are_scored():
    result = play(2, "..E.", ".E..", "...E", max_frames=20)
    assert result.logprobs.tolist() == [-7.0, -4.0, -10.0]  # N codes a frame, the EOS as one


def test_nothing_but_ends_gives_no_frames():
    result = play(1, "E", "E", "E")
    assert result.codes.shape == (3, 0, SPEC.num_codebooks) and result.steps.tolist() == [1, 1, 1]


def test_eos_is_legal_in_codebook_0_after_min_frames_only():
    legal = legal_ids(SPEC, StepLayout(SPEC.num_codebooks, 3), step=1, min_frames=4).unflatten(
        0, (3, SPEC.num_codebooks)
    )
    assert legal[..., SPEC.eos_id].tolist() == [[False] * 3, [True, False, False], [True, False, False]]
    assert not legal[..., [SPEC.bos_id, SPEC.mask_id]].any()
    assert legal[..., : SPEC.codebook_size].all()


@pytest.mark.parametrize("window", [1, 3, 5])
@pytest.mark.parametrize(("stacking", "delays"), [(1, ()), (2, ()), (4, ()), (1, (0, 2, 1))])
def test_repetition_is_counted_in_the_last_codes_of_each_codebook(stacking, delays, window):
    model, seen = tiny_model("prefix", stacking, "none", delays=delays), []

    class Counting(DecodingStrategy):
        """Fills step l with the code l modulo 8, and keeps what it could have counted."""

        head_types = (ParallelHeads,)

        def decode_step(self, heads, hidden, sampler):
            codes = torch.full((len(hidden), model.slots), len(seen) % 8)
            seen.append(sampler.history)
            return Filled(codes, torch.zeros(codes.shape), same_passes(hidden, 1))

    sampler = Sampler(SamplingOptions(repetition_window=window), row_generators(0, ["a", "b", "c"]))
    generate(model, ragged_batch().conditions(model), Counting(), sampler, 8)
    for step, history in enumerate(seen):
        expected = [[place // stacking % 8] * 3 for place in range(step * stacking)][-window:]
        assert (history is None and not expected) or history.tolist() == [expected] * 3


def test_sampling_without_a_generator_per_row_is_refused():
    model = tiny_model()
    with pytest.raises(ValueError, match="generators must be one per row = 3, got 0"):
        generate(model, ragged_batch().conditions(model), Scripted(("", "", "")), Sampler(SamplingOptions()), 5)


def test_a_prefix_longer_than_the_learned_positions_is_refused():
    model, batch = tiny_model("prefix_learned"), ragged_batch()
    long = batch._replace(text=batch.text.repeat(1, 10), text_lengths=batch.text_lengths * 10)
    with pytest.raises(ValueError, match="max_positions must be at least 80 .*, got 64"):
        generate(model, long.conditions(model), Scripted(("", "", "")), GREEDY, 5)


def test_a_batch_fits_into_the_learned_positions_where_each_of_its_rows_does():
    """Bug: a long prompt with a short text and a long text without a prompt were added up."""
    model, batch = tiny_model("prefix_learned"), ragged_batch()
    text, prompt = batch.text.repeat(1, 7)[:2], batch.prompt.repeat(1, 9, 1)[:2]  # 49 and 45 of the 64 positions
    lengths = torch.tensor([49, 2]), torch.tensor([1, 45])
    conditions = model.conditions(text, lengths[0], prompt, lengths[1])
    together = generate(model, conditions, build_strategy("local_ar"), GREEDY, 10)
    for row in range(2):
        u, k = int(lengths[0][row]), int(lengths[1][row])
        alone = model.conditions(
            text[row : row + 1, :u], lengths[0][row : row + 1], prompt[row : row + 1, :k], lengths[1][row : row + 1]
        )
        codes = generate(model, alone, build_strategy("local_ar"), GREEDY, 10).codes[0]
        assert torch.equal(together.codes[row, : len(codes)], codes)
    frames = torch.randint(SPEC.codebook_size, (2, 16, 3)), torch.tensor([10, 16])
    scores = model(text, lengths[0], *frames, prompt, lengths[1])
    assert all(bool(head.logits.isfinite().all()) for head in scores.heads.values())


def test_a_limit_below_min_frames_is_refused():
    model = tiny_model()
    with pytest.raises(ValueError, match="max_frames must be at least min_frames = 4, got 3"):
        generate(model, ragged_batch().conditions(model), Scripted(("", "", "")), GREEDY, 3, min_frames=4)


@pytest.mark.parametrize("sampling", ["greedy", "sampled", "guided"])
@pytest.mark.parametrize(("strategy", "conf"), [*((name, {}) for name in strategies), *VARIANTS])
def test_logits_that_are_no_numbers_are_refused_with_step_and_utterance(strategy, conf, sampling):
    """One NaN in the weights gave seconds of speech that looked like any other."""
    model = tiny_model(conditioning_dropout=0.1)
    model.heads["parallel"].heads.weight.data[0, 0] = torch.nan
    for name in ("ar", "maskgit"):
        model.heads[name].position.data[0, 0] = torch.nan
    sampler = Sampler(SAMPLING[sampling], row_generators(0, NAMES))
    given = (model, ragged_batch().conditions(model), build_strategy(strategy, **conf), sampler, 12)
    with pytest.raises(UserError, match="logits must be finite, got NaN in the first step of utterance a"):
        generate(*given, names=NAMES)
    with pytest.raises(UserError, match="in the first step of row 0"):
        list(generate_stream(*given))


def test_a_row_of_logits_that_are_no_numbers_is_the_one_that_is_named():
    model, step = tiny_model(), []

    def overflow(*given):
        filled = plain_step(*given)
        step.append(filled)
        filled.logprobs[1, 0] = torch.nan if len(step) == 3 else -1.0
        return filled

    given = (model, ragged_batch().conditions(model), build_strategy("parallel"), GREEDY, 6, 6)
    with pytest.raises(UserError, match="got NaN in one of the 6 steps of utterance b"):
        generate(*given, step=overflow, names=NAMES)
