"""The order `window`: steps in the order in which they become known, each at its own place of the utterance."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import NAMES, SAMPLING, SPEC, ragged_batch

from espnet_ext.codes import length_mask
from espnet_ext.decoding import Window, build_strategy, generate
from espnet_ext.decoding.batch import Batch
from espnet_ext.decoding.rows import Rows
from espnet_ext.decoding.sampling import Sampler, SamplingOptions, row_generators
from espnet_ext.decoding.window import Observed
from espnet_ext.errors import UserError
from espnet_ext.model.caches import build_cache
from espnet_ext.model.core_lm.masking import Masking
from espnet_ext.testing.models import assert_rows_are_their_own, decode, shared_model, tiny_model

GREEDY = SamplingOptions(temperature=0.0)
WIDTH = 4
stackings = pytest.mark.parametrize("stacking", [1, 2])


def window_model(stacking=1, span=WIDTH):
    """A model of which the prior says nothing: in training it is made from the codes."""
    options = {"objective": "window", "conditioning_dropout": 0.1, "mask_conf": {"span": span}}
    model = tiny_model(stacking=stacking, **options)
    model.primary.prior.spread = 1e6
    return model


def hidden_of(model, batch, masked, block, codes=None):
    """Hidden vectors that a training has of given masks, (B, L, D)."""
    model.masking = Given(model.masking.span, masked, block)
    targets = model.targets(batch.codes if codes is None else codes, batch.code_lengths)
    return model._hidden_of_blocks(batch.conditions(model), targets, batch.code_lengths)[0]


class Given:
    """Masks that are not drawn."""

    def __init__(self, span, masked, block):
        self.span, self.masks = span, (masked, block)

    def draw_blocks(self, *_):
        return self.masks


def test_of_every_block_at_least_one_step_is_masked_and_blocks_are_no_longer_than_the_span():
    torch.manual_seed(0)
    lengths = torch.arange(300) % 20 + 1
    masked, block = Masking(span=5).draw_blocks(lengths, 22, training=True)
    exists = length_mask(lengths, 22)
    assert not (masked & ~exists).any()
    shares = []
    for row, length in enumerate(lengths.tolist()):
        numbers = block[row, :length]
        for number in numbers.unique().tolist():
            inside = numbers == number
            assert 1 <= int(inside.sum()) <= 5 and masked[row, :length][inside].any()
            if inside.sum() == 5:
                shares.append(float(masked[row, :length][inside].double().mean()))
        assert (numbers.diff() >= 0).all()
    assert {round(5 * share) for share in shares} == {1, 2, 3, 4, 5}
    assert len(set(block[:, 1].tolist())) > 1, "blocks begin anywhere"
    again = [Masking(span=5).draw_blocks(lengths, 22, training=False).hidden for _ in range(2)]
    assert torch.equal(*again)


@stackings
def test_heads_learn_from_masked_steps_with_the_frame_that_ends_an_utterance(stacking):
    model, batch = window_model(stacking), ragged_batch()
    output = model(*batch)
    steps = model.layout.num_steps(batch.code_lengths + 1)
    masked = model.masking.draw_blocks(steps, int(steps.max()), training=False).hidden
    learned = masked[length_mask(steps, int(steps.max()))]
    for name in ("parallel", "ar"):
        assert torch.equal(output.heads[name].loss_mask.any(1), learned)
    assert int(output.codes) == int(output.heads["parallel"].loss_mask.sum())
    assert (output.targets[output.heads["parallel"].loss_mask] == SPEC.eos_id).any()


@stackings
def test_a_masked_step_sees_blocks_in_front_and_what_is_known_of_its_own(stacking):
    model, batch = window_model(stacking), ragged_batch()
    steps = int(model.layout.num_steps(batch.code_lengths + 1).max())
    block = (torch.arange(steps) // 2).expand(3, -1)
    masked = (torch.arange(steps) % 2 == 0).expand(3, -1)  # the first of two
    plain = hidden_of(model, batch, masked, block)[0]
    for step in range(-(-int(batch.code_lengths[0]) // stacking)):
        codes = batch.codes.clone()
        codes[0, step * stacking] = (codes[0, step * stacking] + 1) % SPEC.codebook_size
        changed = (hidden_of(model, batch, masked, block, codes)[0] - plain).abs().amax(1) > 1e-9
        for other in range(0, steps, 2):
            sees = step < other or step == other + 1
            assert bool(changed[other]) == sees, f"step {other} sees step {step}: {sees}"


@stackings
@pytest.mark.parametrize("name", ["parallel", "local_ar"])
def test_windows_of_which_all_is_kept_are_the_blocks_of_training(stacking, name):
    model, batch = window_model(stacking), ragged_batch()
    sampler = Sampler(GREEDY)
    conditions, frames = batch.conditions(model), 13
    order = Window(WIDTH, threshold=0.0)
    made = generate(model, conditions, build_strategy(name), sampler, frames, frames, order=order)
    steps = model.layout.num_steps(made.lengths)
    assert torch.equal(made.primary_passes, -(-steps // WIDTH))
    whole = batch._replace(codes=made.codes, code_lengths=made.lengths)
    length = int(model.layout.num_steps(made.lengths + 1).max())
    block = (torch.arange(length) // WIDTH).expand(3, -1)
    hidden = hidden_of(model, whole, torch.ones(3, length, dtype=torch.bool), block)
    targets = model.targets(made.codes, made.lengths)
    head = model.heads["ar" if name == "local_ar" else "parallel"]
    for row in range(3):
        logits = head(model.heads.inputs(head, hidden[row]), targets[row]).logits[..., : SPEC.codebook_size]
        is_frame = targets[row] < SPEC.codebook_size
        assert torch.equal(logits.argmax(-1)[is_frame], targets[row][is_frame])


@pytest.mark.parametrize("known", [[1], [3], [0, 2], [1, 2, 3]])
def test_a_step_that_is_known_early_is_put_in_front_and_keeps_its_position(known):
    """What a pass over known steps, in the order of their places, and masks makes is what training has of the block."""
    model, batch = window_model(), ragged_batch()
    masked = torch.ones(3, 10, dtype=torch.bool)
    masked[:, known] = False
    right = hidden_of(model, batch, masked, (torch.arange(10) // WIDTH).expand(3, -1))[:, :WIDTH]
    state = model.prefill(batch.conditions(model), 12)
    codes, masks = model.targets(batch.codes, batch.code_lengths)[:, known], torch.full((3, WIDTH, 3), SPEC.mask_id)
    places = torch.cat((torch.tensor(known), torch.arange(WIDTH))).expand(3, -1)
    exists = torch.cat((torch.ones(3, len(known), dtype=torch.bool), masked[:, :WIDTH]), dim=1)
    half = len(known) // 2  # in two passes, of which the first leaves no masks behind
    if half:
        model.extend_at(codes[:, :half], places[:, :half], exists[:, :half], state)
        codes, places, exists = codes[:, half:], places[:, half:], exists[:, half:]
    hidden = model.extend_at(torch.cat((codes, masks), dim=1), places, exists, state)[:, -WIDTH:]
    lengths = batch.code_lengths + 1
    for row in range(3):
        there = masked[row, :WIDTH] & (torch.arange(WIDTH) < lengths[row])
        torch.testing.assert_close(hidden[row, there], right[row, there])


def test_what_is_observed_slides_with_the_window():
    codes = torch.arange(8).view(1, 4, 2)
    zero = torch.zeros(1, dtype=torch.int64)
    known = torch.tensor([[False, False, True, False]])
    own = Observed(zero + 5, codes, codes.double(), known, codes, codes[..., 0], zero)
    assert own.move_on(torch.tensor([[True, False, False, True]])).tolist() == [1]
    assert own.first.tolist() == [6] and own.known.tolist() == [[False, True, True, False]]
    assert own.codes[0, :3].tolist() == [[2, 3], [4, 5], [6, 7]]
    assert own.count.tolist() == [2] and own.steps[0, :2].tolist() == [5, 8]
    assert own.fresh[0, :2].tolist() == [[0, 1], [6, 7]]
    assert own.move_on(torch.tensor([[True, False, False, False]])).tolist() == [3]
    assert own.first.tolist() == [9] and not own.known.any()


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5, 2.0])
@pytest.mark.parametrize("sampling", ["greedy", "guided, no repetition", "a temperature per codebook"])
def test_a_row_does_not_depend_on_others_however_much_is_sure(threshold, sampling):
    for stacking, strategy in ((1, "local_ar"), (2, "local_maskgit")):
        model = shared_model(stacking=stacking, objective="window")
        assert_rows_are_their_own(model, strategy, SAMPLING[sampling], Window(WIDTH, threshold))


@stackings
def test_a_row_does_not_depend_on_others_where_the_cache_is_rounded(stacking):
    model = copy.deepcopy(shared_model(stacking=stacking, objective="window")).float()
    model.primary.decoder.cache_dtype = torch.bfloat16
    for sampling in ("greedy", "sampled"):
        assert_rows_are_their_own(model, "local_ar", SAMPLING[sampling], Window(WIDTH, threshold=0.3))


@pytest.mark.parametrize("most_rows", [1, 2])
def test_a_row_that_joins_later_is_what_it_is_alone(most_rows):
    model = shared_model(objective="window")
    order = Window(WIDTH, threshold=0.3)
    assert_rows_are_their_own(model, "local_ar", SAMPLING["guided, no repetition"], order, most_rows=most_rows)


@pytest.mark.parametrize("sampling", ["greedy", "sampled", "guided, no repetition"])
def test_samplers_of_a_window_are_made_one_from_the_other_and_are_those_made_from_the_beginning(sampling, monkeypatch):
    taken, take = [0], Rows._take

    def counted(*args):
        taken[0] += 1
        return take(*args)

    def from_the_beginning(batch, made):
        return (batch.sampler_behind(made[:step]) for step in range(len(made) + 1))

    monkeypatch.setattr(Rows, "_take", counted)
    how = shared_model(objective="window"), ragged_batch(), "local_ar", SAMPLING[sampling], 12
    made = decode(*how, steps=Window(WIDTH, threshold=0.3))
    few, taken[0] = taken[0], 0
    monkeypatch.setattr(Batch, "samplers_behind", from_the_beginning)
    same = decode(*how, steps=Window(WIDTH, threshold=0.3))
    assert torch.equal(made.codes, same.codes) and torch.equal(made.logprobs, same.logprobs)
    # of each turn four steps are committed, and three are looked at, or six where each begins anew
    turns = taken[0] // (6 + WIDTH)
    assert few == turns * (3 + WIDTH) < taken[0] == turns * (6 + WIDTH)


def test_more_steps_are_kept_the_less_sure_they_need_to_be_and_one_at_least():
    model, batch = shared_model(objective="window"), ragged_batch()
    passes = {}
    for threshold in (0.0, 0.3, 2.0):
        made = decode(model, batch, "parallel", SAMPLING["sampled"], 30, steps=Window(WIDTH, threshold), min_frames=30)
        passes[threshold] = int(made.primary_passes.sum())
    assert passes[0.0] == 3 * 8 < passes[0.3] < passes[2.0] == 3 * 30


def test_what_a_window_cannot_go_with_is_refused():
    model, batch = window_model(span=3), ragged_batch()
    with pytest.raises(UserError, match=r"width must be at most 3, the steps of a block .* \(mask_conf span\), got 4"):
        decode(model, batch, "parallel", steps=Window(WIDTH))
    with pytest.raises(UserError, match="cache must be exact with objective window"):
        model.prefill(batch.conditions(model), torch.tensor([3, 3, 3]), build_cache("gear", rank=0))
    for conf, message in (({"width": 1}, "width must be"), ({"threshold": -1}, "threshold must be")):
        with pytest.raises(UserError, match=message):
            Window(**conf)


def test_streams_are_final_and_end_with_what_is_made_at_once():
    from espnet_ext.decoding import generate_stream

    model, order = shared_model(objective="window"), Window(WIDTH, threshold=0.3)
    sampler = Sampler(SAMPLING["sampled"], row_generators(0, NAMES))
    conditions = ragged_batch().conditions(model)
    *parts, last = generate_stream(model, conditions, build_strategy("parallel"), sampler, 20, order=order)
    assert parts and all(
        torch.equal(part.codes[row, :length], last.codes[row, :length])
        for part in parts
        for row, length in enumerate(part.lengths.tolist())
    )
