"""The wrong-text gain: nothing for a model that ignores its text, something for one that reads, and always paired."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from conftest import SPEC, TEXT_VOCAB, ragged_batch, tiny_model
from test_gpst import ragged as ragged_units
from test_gpst import tiny_gpst

from espnet_ext.model.core_lm import TextCoreLM
from espnet_ext.model.loss import LossWeights, codec_loss
from espnet_ext.model.text_gain import exchanged, gain_statistics, text_nats

HEADS = ["parallel", "ar", "maskgit"]
ARGUMENTS = ("text", "text_lengths", "codes", "codes_lengths", "prompt", "prompt_lengths")


def text_batch():
    """Arguments of a core LM that reads text, by name."""
    return dict(zip(ARGUMENTS, ragged_batch(), strict=True))


@torch.no_grad()
def gains(model, batch):
    return gain_statistics(text_nats(model, batch, model(**batch)))


@torch.no_grad()
def losses(model, batch):
    return codec_loss(model(**batch), SPEC.num_codebooks, LossWeights()).stats


def rolled(batch, name):
    """The batch with every row's text, or units, replaced by those of the next row."""
    return batch | {key: batch[key].roll(-1, 0) for key in (name, f"{name}_lengths")}


# --- which text is the wrong one -------------------------------------------------------------------------------------


def test_a_row_gets_the_next_text_that_differs_and_none_where_all_are_the_same():
    text = torch.tensor([[1, 2, 3], [1, 2, 9], [4, 5, 6]])  # the last id of the second row is padding
    lengths, room = torch.tensor([2, 2, 3]), torch.tensor([9, 9, 9])
    found, found_lengths, differs = exchanged(text, lengths, room)
    assert found.tolist() == [[4, 5, 6], [4, 5, 6], [1, 2, 3]]
    assert found_lengths.tolist() == [3, 3, 2] and differs.all()
    assert not exchanged(text[:2], lengths[:2], room[:2])[2].any()
    assert not exchanged(text[:1], lengths[:1], room[:1])[2].any()


def test_a_text_that_is_cut_to_the_right_one_is_no_wrong_one():
    text, lengths = torch.tensor([[1, 2, 0], [1, 2, 3]]), torch.tensor([2, 3])
    assert exchanged(text, lengths, torch.tensor([2, 3]))[2].tolist() == [False, True]
    assert exchanged(text, lengths, torch.tensor([3, 3]))[2].tolist() == [True, True]


# --- what is compared ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stacking", [1, 2])
def test_the_gain_is_the_loss_with_another_text_minus_the_loss(primary, stacking):
    model, batch = tiny_model(primary, stacking), text_batch()
    batch["text_lengths"] = torch.tensor([7, 7, 7])  # no text is cut for want of room
    found, right, wrong = gains(model, batch), losses(model, batch), losses(model, rolled(batch, "text"))
    for name in HEADS:
        expected = wrong[f"loss_{name}"] - right[f"loss_{name}"]
        assert float(found[f"gain_{name}"]) == pytest.approx(float(expected), abs=1e-4), name
        assert abs(float(expected)) > 1e-3


def test_the_frames_of_a_step_make_up_the_whole():
    model, batch = tiny_model(stacking=2), text_batch()
    nats = text_nats(model, batch, model(**batch))
    stats = gain_statistics(nats)
    assert set(stats) == {f"gain_{name}{frame}" for name in HEADS for frame in ("", "_frame0", "_frame1")}
    # frames 0, 2, … and 1, 3, … of 9, 3 and 6 frames and one that ends each
    assert nats["ar"].codes.tolist() == [3 * (5 + 2 + 4), 3 * (5 + 2 + 3)]
    for name, sums in nats.items():
        share = sums.codes / sums.codes.sum()
        mean = share[0] * stats[f"gain_{name}_frame0"] + share[1] * stats[f"gain_{name}_frame1"]
        torch.testing.assert_close(mean, stats[f"gain_{name}"])
    assert set(gains(tiny_model(), batch)) == {f"gain_{name}" for name in HEADS}


@pytest.mark.parametrize("stacking", [1, 2])
@pytest.mark.parametrize("primary", ["cross_attention", "prefix"])
def test_a_model_that_ignores_its_text_has_a_gain_of_exactly_nothing(primary, stacking):
    model, batch = tiny_model(primary, stacking), text_batch()
    table = model.primary.text_embedding if primary == "prefix" else model.primary.text_encoder.embedding
    table.weight.data[:] = table.weight.data[:1]  # every token is the same to it, and every text as long
    batch["text_lengths"] = torch.tensor([6, 6, 6])
    assert {float(gain) for gain in gains(model, batch).values()} == {0.0}


def test_the_gain_is_the_same_every_time_whatever_the_state_of_the_generator():
    model, batch = tiny_model(stacking=2), text_batch()
    first = gains(model, batch)
    torch.manual_seed(5)
    assert gains(model, batch) == first
    with pytest.raises(ValueError, match="model must be in eval mode"):
        text_nats(model.train(), batch, model(**batch))


def test_one_utterance_or_one_text_has_no_gain_and_costs_no_second_pass(monkeypatch):
    model, batch = tiny_model(stacking=2), text_batch()
    alone = {name: values[:1] for name, values in batch.items()}
    same = batch | {name: batch[name][:1].expand_as(batch[name]) for name in ("text", "text_lengths")}
    outputs = [model(**alone), model(**same)]
    monkeypatch.setattr(type(model), "forward", None)
    for given, output in zip((alone, same), outputs, strict=True):
        stats = gain_statistics(text_nats(model, given, output))
        assert len(stats) == 9 and all(math.isnan(value) for value in stats.values())


def test_learned_positions_that_suffice_for_the_batch_suffice_for_its_exchanged_texts():
    """The longest speech with the longest text would need more than any utterance does."""
    batch = text_batch() | {"text_lengths": torch.tensor([2, 7, 5])}
    small = {"width": 32, "layers": 1, "heads": 2, "position": "learned", "max_positions": 17}
    model = TextCoreLM(SPEC, TEXT_VOCAB, "prefix", small).eval()  # 5 prompt steps, 2 tokens, 9 steps and the end
    with pytest.raises(ValueError, match="max_positions must be at least"):
        model(**rolled(batch, "text"))
    assert all(math.isfinite(gain) for gain in gains(model, batch).values())


def test_a_model_that_reads_nothing_has_no_gain(monkeypatch):
    model, batch = tiny_model(), text_batch()
    output = model(**batch)
    monkeypatch.setattr(type(model), "reads", "")
    assert text_nats(model, batch, output) == {}


@pytest.mark.parametrize("stacking", [1, 2])
def test_gpst_exchanges_its_units_and_keeps_the_language(stacking):
    model, batch = tiny_gpst(stacking=stacking, languages=("en", "zh")), ragged_units()
    batch["semantic_lengths"] = torch.tensor([6, 6, 6])
    found, right, wrong = gains(model, batch), losses(model, batch), losses(model, rolled(batch, "semantic"))
    for name in HEADS:
        expected = float(wrong[f"loss_{name}"] - right[f"loss_{name}"])
        assert float(found[f"gain_{name}"]) == pytest.approx(expected, abs=1e-4), name
    assert not [name for name in found if "semantic" in name]


# --- a model that learns to read -------------------------------------------------------------------------------------


def spoken(rows, generator):
    """Texts of 4 tokens and their codes: frame t speaks token t, each codebook in its own way."""
    text = torch.randint(SPEC.codebook_size, (rows, 4), generator=generator)
    codes = torch.stack([(text + shift) % SPEC.codebook_size for shift in (0, 3, 5)], dim=-1)
    lengths = torch.full((rows,), 4)
    nobody = torch.zeros(rows, 0, 3, dtype=torch.long), torch.zeros(rows, dtype=torch.long)
    return dict(zip(ARGUMENTS, (text, lengths, codes, lengths, *nobody), strict=True))


@cache
def learnt(stacking, updates=150, residual=False):
    """Gains before and after a short training."""
    torch.manual_seed(0)
    small = {"width": 32, "heads": 2}
    local = {**small, "residual": residual}
    model = TextCoreLM(
        SPEC,
        TEXT_VOCAB,
        primary_conf={**small, "layers": 1, "text_layers": 1, "dropout": 0.0},
        local=["ar", "maskgit"],
        local_conf={"ar": local, "maskgit": local},
        frame_stacking_factor=stacking,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, betas=(0.9, 0.98), fused=True)
    generator, held_out = torch.Generator().manual_seed(1), spoken(32, torch.Generator().manual_seed(2))
    before = gains(model.eval(), held_out)
    model.train()
    for _ in range(updates):
        loss = codec_loss(model(**spoken(24, generator)), 3, LossWeights())
        optimizer.zero_grad()
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return before, gains(model.eval(), held_out)


@pytest.mark.parametrize("stacking", [1, 2])
def test_a_model_that_learns_to_read_gains_by_its_text_and_one_that_has_not_does_not(stacking):
    before, after = learnt(stacking)
    for name in (f"gain_{head}" for head in HEADS):  # of S = 2 the AR head's second frame takes twice as long
        assert abs(float(before[name])) < 0.1 < 0.5 < float(after[name]), name


def test_a_residual_local_transformer_reads_what_another_one_still_ignores():
    """Of the second frame of a step the codes in front of it say as much as the text, and they are learned first."""
    _, plain = learnt(2)
    _, residual = learnt(2, residual=True)
    name = "gain_ar_frame1"
    assert float(plain[name]) < 0.1 and float(residual[name]) > 0.5
