"""Delay patterns: where codes lie, how they are trained, and that decoding says the same."""

from unittest.mock import patch

import pytest
import torch
from conftest import (
    NAMES,
    SAMPLING,
    SPEC,
    assert_rows_are_their_own,
    decode,
    ragged_batch,
    shared_model,
    tiny_model,
)

from espnet_ext.codes import StepLayout
from espnet_ext.decoding import DecodingStrategy, Filled, build_strategy, generate, same_passes
from espnet_ext.decoding.rows import legal_ids
from espnet_ext.decoding.sampling import Sampler, SamplingOptions, row_generators
from espnet_ext.model.heads import ParallelHeads
from espnet_ext.model.loss import LossWeights, codec_loss

DELAYS = [(0, 1, 2), (0, 2, 1), (0, 0, 3), (0, 1, 1)]
BEFORE, AFTER = SPEC.bos_id, SPEC.eos_id

every_pattern = pytest.mark.parametrize("delays", DELAYS, ids=str)


def naive_steps(codes, delays):
    """One utterance (T, N), slot by slot: rows of the (L, M) matrix."""
    frames, last = len(codes), max(delays)
    return [
        [BEFORE if l < d else codes[l - d][n] if l - d < frames else AFTER for n, d in enumerate(delays)]
        for l in range(frames + last)  # noqa: E741
    ]


# --- where codes lie -------------------------------------------------------------------------------------------------


@every_pattern
@pytest.mark.parametrize("frames", [1, 2, 3, 6])
def test_steps_equal_the_naive_loop_and_frames_invert_them(delays, frames):
    layout, codes = StepLayout(3, delays=delays), torch.randint(8, (2, frames, 3))
    steps = layout.to_steps(codes, BEFORE, AFTER)
    assert steps.tolist() == [naive_steps(row.tolist(), delays) for row in codes]
    assert torch.equal(layout.to_frames(steps), codes)
    assert steps.shape[1] == int(layout.num_steps(torch.tensor(frames)))


@every_pattern
def test_every_slot_knows_its_frame(delays):
    layout = StepLayout(3, delays=delays)
    assert [layout.frames(step).tolist() for step in range(4)] == [[step - d for d in delays] for step in range(4)]


def test_stacked_slots_know_their_frame_too(stacking):
    frames = StepLayout(3, stacking).frames(2).tolist()
    assert frames == [2 * stacking + s for s in range(stacking) for _ in range(3)]


@every_pattern
@pytest.mark.parametrize("steps", [1, 2])
def test_too_few_steps_hold_no_complete_frame(delays, steps):
    layout = StepLayout(3, delays=delays)
    frames = layout.to_frames(torch.zeros(2, steps, 3, dtype=torch.long))
    assert frames.shape == (2, max(steps - max(delays), 0), 3)


@pytest.mark.parametrize("delays", [(), (0, 0, 0)])
def test_without_a_delay_the_layout_is_the_plain_one(delays, stacking):
    layout, codes = StepLayout(3, stacking, delays), torch.randint(8, (2, 5, 3))
    steps = layout.to_steps(codes, BEFORE, AFTER)
    assert torch.equal(steps, StepLayout(3, stacking).to_steps(codes, BEFORE, AFTER)) and layout.max_delay == 0
    assert torch.equal(layout.to_frames(steps)[:, :5], codes)


@pytest.mark.parametrize(
    ("stacking", "delays", "message"),
    [
        (2, (0, 1, 2), r"frame_stacking_factor must be 1 with delays \[0, 1, 2\], got 2"),
        (1, (0, 1), r"delays must be 3 whole numbers, the first 0 and none negative, got \[0, 1\]"),
        (1, (0, 1, 2, 3), r"delays must be 3 whole numbers, .*, got \[0, 1, 2, 3\]"),
        (1, (1, 1, 2), r"delays must be 3 whole numbers, .*, got \[1, 1, 2\]"),
        (1, (0, -1, 2), r"delays must be 3 whole numbers, .*, got \[0, -1, 2\]"),
        (1, (0, 0.5, 1), r"delays must be 3 whole numbers, .*, got \[0, 0.5, 1\]"),
        (1, (0, "1", 2), r"delays must be 3 whole numbers, .*, got \[0, '1', 2\]"),
    ],
)
def test_delays_that_make_no_sense_are_refused_in_one_line(stacking, delays, message):
    with pytest.raises(ValueError, match=message) as refusal:
        tiny_model(stacking=stacking, local="ar", delays=delays)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("local", ["maskgit", ["ar", "maskgit"]])
def test_a_maskgit_local_transformer_with_delays_is_refused(local):
    with pytest.raises(ValueError, match=r"local must not contain maskgit with delays \[0, 1, 2\], got"):
        tiny_model(local=local, delays=(0, 1, 2), local_conf={})


# --- training --------------------------------------------------------------------------------------------------------


@every_pattern
def test_every_code_and_one_eos_frame_count_once(delays):
    model, batch = shared_model(delays=delays), ragged_batch()
    output = model(*batch)
    counted = output.heads["parallel"].loss_mask
    assert int(counted.sum()) == int((batch.code_lengths + 1).sum()) * SPEC.num_codebooks
    expected, start = [], 0
    for row, length in enumerate((batch.code_lengths + 1).tolist()):
        steps = length + max(delays)
        targets, mask = (part[start : start + steps] for part in (output.targets, counted))
        start += steps
        frames = torch.cat((batch.codes[row, : length - 1], torch.full((1, 3), SPEC.eos_id)))
        expected = [frames[:, n].tolist() for n in range(3)]
        assert [targets[mask[:, n], n].tolist() for n in range(3)] == expected
    assert start == len(output.targets)


@every_pattern
def test_delayed_codes_are_trained_on_and_nothing_else_is(delays):
    model, batch = tiny_model(local="ar", delays=delays).train(), ragged_batch()
    output = model(*batch)
    for head in output.heads.values():
        head.logits.retain_grad()
    codec_loss(output, 3, LossWeights()).total.backward()
    for head in output.heads.values():
        assert torch.equal(head.logits.grad.any(-1), head.loss_mask)


def test_zero_delays_are_no_delays(primary):
    plain, zero, batch = (
        tiny_model(primary, local="ar"),
        tiny_model(primary, local="ar", delays=(0, 0, 0)),
        ragged_batch(),
    )
    losses = [codec_loss(model(*batch), 3, LossWeights()).total for model in (plain, zero)]
    assert torch.equal(*losses)
    for name in ("parallel", "local_ar"):
        first, second = (decode(model, batch, name) for model in (plain, zero))
        assert torch.equal(first.codes, second.codes) and torch.equal(first.logprobs, second.logprobs)


@every_pattern
def test_scores_of_a_row_do_not_depend_on_its_batch(delays):
    model, batch, start = shared_model(delays=delays), ragged_batch(), 0
    together = model(*batch)
    for row in range(3):
        alone = model(*batch.row(row))
        end = start + len(alone.targets)
        assert torch.equal(together.targets[start:end], alone.targets)
        for name, head in alone.heads.items():
            torch.testing.assert_close(together.heads[name].logits[start:end], head.logits, rtol=1e-9, atol=1e-9)
        start = end


@every_pattern
def test_a_step_cannot_see_itself_or_later_steps(delays):
    """A late code is an input one step after its own slot, whatever frame it belongs to."""
    model, batch, book, frame = tiny_model("prefix", local="ar", delays=delays), ragged_batch().row(0), 2, 3
    changed = batch._replace(codes=batch.codes.clone())
    changed.codes[:, frame, book] = (changed.codes[:, frame, book] + 1) % SPEC.codebook_size
    before, after = (model(*each).heads["parallel"].logits for each in (batch, changed))
    first = frame + delays[book] + 1
    torch.testing.assert_close(after[:first], before[:first], rtol=0, atol=1e-12)
    assert not torch.allclose(after[first], before[first])


# --- decoding --------------------------------------------------------------------------------------------------------


@every_pattern
def test_step_by_step_equals_teacher_forced(delays):
    model, batch = tiny_model("prefix", local="ar", delays=delays), ragged_batch().row(0)
    output = model(*batch)
    state = model.prefill(batch.conditions(model), len(output.targets))
    codes = torch.full((1, 3), SPEC.bos_id)
    for step, target in enumerate(output.targets):
        hidden = model.step(codes, state)
        for name, head in model.heads.items():
            logits = head(model.heads.inputs(head, hidden), target[None]).logits[0]
            torch.testing.assert_close(logits, output.heads[name].logits[step], rtol=1e-9, atol=1e-9)
        codes = target[None]


@pytest.mark.parametrize("name", ["parallel", "local_ar", "local_speculative"])
@pytest.mark.parametrize("sampling", SAMPLING)
def test_a_generated_row_does_not_depend_on_its_batch(name, sampling):
    assert_rows_are_their_own(shared_model(delays=(0, 2, 1)), name, SAMPLING[sampling])


@every_pattern
@pytest.mark.parametrize("name", ["parallel", "local_ar", "local_speculative"])
def test_a_row_with_any_delays_does_not_depend_on_its_batch(delays, name):
    assert_rows_are_their_own(shared_model("prefix", delays=delays), name, SAMPLING["guided, no repetition"])


@every_pattern
@pytest.mark.parametrize("name", ["parallel", "local_ar", "local_speculative"])
@pytest.mark.parametrize("max_frames", [1, 2, 7])
def test_rows_keep_their_limits(delays, name, max_frames):
    model = shared_model("prefix", delays=delays)
    result = decode(model, ragged_batch(), name, SamplingOptions(2.0), max_frames, min_frames=min(2, max_frames))
    SPEC.check(result.codes)
    assert int(result.lengths.max()) <= max_frames and int(result.lengths.min()) >= min(2, max_frames)
    assert bool((result.has_eos | (result.lengths == max_frames)).all())
    assert bool((result.steps >= result.lengths + max(delays)).all())


played: list[torch.Tensor] = []


def play(delays, lengths, max_frames):
    """Decode a script that ends row b after lengths[b] frames; returns the result and what was fed back."""

    class Scripted(DecodingStrategy):
        head_types = (ParallelHeads,)

        def decode_step(self, heads, hidden, sampler):
            step = len(played)
            played.append(sampler.legal.expand(3, -1, -1))
            frame = step - torch.tensor(delays)
            codes = (frame % 8).expand(3, -1).where(frame >= 0, torch.tensor(SPEC.bos_id)).clone()
            for row, length in enumerate(lengths):
                codes[row, frame >= length] = SPEC.eos_id
            return Filled(codes, torch.full(codes.shape, -1.0), same_passes(hidden, 1))

    played.clear()
    model = shared_model("prefix", delays=delays)
    # the script knows its rows by their places
    with patch("espnet_ext.decoding.batch.COMPACT_BELOW", 0.0):
        return generate(model, ragged_batch().conditions(model), Scripted(), Sampler(SAMPLING["greedy"]), max_frames)


@every_pattern
def test_a_row_goes_on_until_its_late_codebooks_are_out(delays):
    result = play(delays, [4, 0, 99], max_frames=6)
    late = max(delays)
    assert result.lengths.tolist() == [4, 0, 6] and result.has_eos.tolist() == [True, True, False]
    assert result.steps.tolist() == [4 + late, late, 6 + late] if late > 1 else [5, 1, 7]
    for row, length in enumerate((4, 0, 6)):
        assert result.codes[row, :length].tolist() == [[frame] * 3 for frame in range(length)]
    # every kept code once, and an EOS once
    assert result.logprobs.tolist() == [-13.0, -1.0, -18.0]


@every_pattern
def test_slots_before_the_first_and_behind_the_last_frame_are_forced(delays):
    play(delays, [2, 99, 99], max_frames=5)
    for step, legal in enumerate(played):
        for row, length in enumerate((2, 5, 5)):
            for book, delay in enumerate(delays):
                ids = legal[row, book].nonzero()[:, 0].tolist()
                frame = step - delay
                known_end = step > length if row == 0 else step >= length
                if frame < 0:
                    assert ids == [SPEC.bos_id]
                elif known_end and frame >= length:
                    assert ids == [SPEC.eos_id]
                elif step <= length:
                    eos = [SPEC.eos_id] if book == 0 and frame >= 1 else []
                    assert ids == [*range(SPEC.codebook_size), *eos]


@every_pattern
def test_legal_ids_of_the_first_steps(delays):
    legal = legal_ids(SPEC, StepLayout(3, delays=delays), step=1, min_frames=1)
    for book, delay in enumerate(delays):
        expected = [*range(SPEC.codebook_size), *([SPEC.eos_id] if book == 0 else [])]
        assert legal[book].nonzero()[:, 0].tolist() == ([SPEC.bos_id] if delay > 1 else expected)


@every_pattern
@pytest.mark.parametrize("sampling", ["greedy", "sampled"])
def test_speculation_with_delays_gives_the_codes_of_local_ar(delays, sampling):
    model, options = shared_model(delays=delays), SAMPLING[sampling]
    expected = decode(model, ragged_batch(), "local_ar", options)
    result = decode(model, ragged_batch(), "local_speculative", options)
    assert torch.equal(result.codes, expected.codes) and torch.equal(result.lengths, expected.lengths)
    torch.testing.assert_close(result.logprobs, expected.logprobs, rtol=1e-4, atol=1e-4)


@every_pattern
def test_generated_codes_are_scored_as_in_training(delays):
    """The log-probabilities of decoding are those that a teacher-forced pass gives to the same codes.

    Training knows what EOS in codebook 0 implies only from data, so the scores are compared over the ids that were
    legal; rows that end at their limit, whose last frame needs no EOS.
    """
    model, batch = shared_model("prefix", delays=delays), ragged_batch().row(0)
    sampler = Sampler(SamplingOptions(), row_generators(0, NAMES[:1]))
    result = generate(model, batch.conditions(model), build_strategy("parallel"), sampler, 5, min_frames=5)
    with torch.no_grad():
        output = model(*batch._replace(codes=result.codes, code_lengths=result.lengths))
    total = 0.0
    for step, (logits, targets) in enumerate(zip(output.heads["parallel"].logits, output.targets, strict=True)):
        legal = legal_ids(SPEC, model.layout, step, min_frames=5)
        frames = model.layout.frames(step)
        scores = logits.masked_fill(~legal, -torch.inf).log_softmax(-1).gather(-1, targets[:, None])[:, 0]
        total += float(scores[(frames >= 0) & (frames < 5)].sum())
    assert float(result.logprobs) == pytest.approx(total, rel=1e-5)
