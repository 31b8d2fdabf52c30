"""Residual local transformers, tables tied over the frames of a step, and a prior that moves through tokens."""

import math

import pytest
import torch
from conftest import SAMPLING, SPEC, decode, ragged_batch, tiny_model

from espnet_ext.model.alignment import path_of, positions_of, within_tokens
from espnet_ext.model.attention import attend
from espnet_ext.model.core_lm import TextCoreLM
from espnet_ext.model.heads import ParallelHeads, SlotClassifiers, SlotEmbedding, Slots, local_transformers
from espnet_ext.model.loss import LossWeights, head_loss
from espnet_ext.tasks.espnet_model import ESPnetCodecLMModel, has_bf16

LOCAL = list(local_transformers)


def fresh(stacking=2, **options):
    """A model as its training begins, in float64."""
    torch.manual_seed(0)
    conf = {"width": 16, "heads": 2, "residual": True}
    return TextCoreLM(
        SPEC,
        10,
        primary_conf={"width": 32, "layers": 1, "heads": 2, "text_layers": 1, "dropout": 0.0},
        local=LOCAL,
        local_conf=dict.fromkeys(LOCAL, conf),
        frame_stacking_factor=stacking,
        **options,
    ).double()


@pytest.mark.parametrize("frame_tables", ["own", "tied"])
def test_a_residual_local_transformer_begins_as_the_parallel_heads(frame_tables, stacking):
    output = fresh(stacking, frame_tables=frame_tables).eval()(*ragged_batch())
    for name in LOCAL:
        assert torch.equal(output.heads[name].logits, output.heads["parallel"].logits)


def test_a_residual_loss_trains_the_parallel_heads_as_well():
    model = fresh()
    scores = model(*ragged_batch()).heads["ar"]
    scores.logits.sum().backward()
    assert float(model.heads.of(ParallelHeads).heads.weight.grad.abs().sum()) > 0


@pytest.mark.parametrize("name", ["local_ar", "local_maskgit", "local_maskgit_adaptive", "local_speculative"])
def test_the_parallel_product_is_made_once_per_step(name, monkeypatch):
    model, calls = tiny_model(stacking=2), []
    logits = ParallelHeads.logits

    def counted(self, hidden):
        calls.append(len(hidden))
        return logits(self, hidden)

    monkeypatch.setattr(ParallelHeads, "logits", counted)
    result = decode(model, ragged_batch(), name, max_frames=8, min_frames=8)
    assert len(calls) == int(result.steps.max())


def test_local_transformers_learn_nothing_behind_a_corrupted_step():
    model = fresh(code_corruption=0.5).train()
    output = model(*ragged_batch())
    asked = {name: int((head.weights > 0).any(1).sum()) for name, head in output.heads.items()}
    assert asked["ar"] < asked["parallel"] and asked["maskgit"] == asked["ar"]
    for name, head in output.heads.items():  # the mean over what is left is no smaller than that over everything
        evenly = head._replace(logits=torch.zeros_like(head.logits))
        assert float(head_loss(evenly, 3)[0]) == pytest.approx(math.log(SPEC.vocab_size)), name
    model.local_drop = 0.9
    for _ in range(20):  # hardly a step is left, and sometimes none that follows a true one
        assert all(bool(head.logits.isfinite().all()) for head in model(*ragged_batch()).heads.values())
    model.eval()
    output = model(*ragged_batch())
    assert len({len(head.targets) for head in output.heads.values()}) == 1


@pytest.mark.parametrize(("first", "count"), [(0, 1), (4, 1), (0, 6), (1, 2), (2, 3), (0, 4), (3, 3)])
def test_tied_classifiers_are_those_of_the_codebooks(first, count):
    slots = Slots(SPEC, 6, tied_frames=2)
    heads, x = SlotClassifiers(slots, 4), torch.randn(5, count, 4)
    expected = [x[:, m] @ heads.weight[(first + m) % 3] + heads.bias[(first + m) % 3] for m in range(count)]
    torch.testing.assert_close(heads(x, first), torch.stack(expected, dim=1))


def test_tied_tables_tell_the_order_of_frames_and_have_no_more_rows_than_one_frame():
    embedding = SlotEmbedding(Slots(SPEC, 6, tied_frames=2), 8)
    codes = torch.tensor([[1, 2, 3, 4, 5, 6]])
    frames = embedding.frames(codes)
    assert torch.equal(frames[:, 0], embedding.frames(codes[:, [3, 4, 5, 0, 1, 2]])[:, 1])
    assert not torch.allclose(embedding.step(codes), embedding.step(codes[:, [3, 4, 5, 0, 1, 2]]))
    assert len(embedding.table.weight) == SPEC.num_codebooks * SPEC.vocab_size


def test_at_one_frame_per_step_tied_and_own_tables_are_the_same_model():
    models = [fresh(1, frame_tables=kind).state_dict() for kind in ("own", "tied")]
    assert models[0].keys() == models[1].keys()
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


@pytest.mark.parametrize("stacking", [2, 4])
def test_every_strategy_runs_with_tied_tables_that_are_not_residual(stacking):
    small = {"width": 16, "heads": 2}
    model = tiny_model(stacking=stacking, frame_tables="tied", local_conf={"ar": small, "maskgit": small})
    plain = decode(model, ragged_batch(), "local_ar", SAMPLING["sampled"])
    quick = decode(model, ragged_batch(), "local_speculative", SAMPLING["sampled"])
    assert torch.equal(plain.codes, quick.codes)


def test_a_frame_table_of_another_name_is_refused():
    with pytest.raises(ValueError, match=r"frame_tables must be one of \['own', 'tied'\], got 'shared'"):
        fresh(frame_tables="shared")


def test_a_path_and_the_positions_within_it_agree_with_whole_durations():
    durations, lengths = torch.tensor([[2.0, 1.0, 3.0], [1.0, 4.0, 0.0]]), torch.tensor([3, 2])
    path = path_of(durations, lengths, 6)
    inside = torch.tensor([[True] * 6, [True] * 5 + [False]])
    frame_lengths = torch.tensor([6, 5])
    torch.testing.assert_close(within_tokens(path, frame_lengths), positions_of(durations, lengths, 6))
    moving = positions_of(durations, lengths, 6)
    assert bool((moving.diff(dim=1) >= 0).all()) and torch.equal(moving.round().long()[inside], path[inside])


@pytest.mark.parametrize("stacking", [1, 2])
def test_a_moving_prior_decodes_rows_as_if_they_were_alone(stacking):
    model = tiny_model(stacking=stacking)
    model.primary.prior.moves = True
    batch = ragged_batch()
    together = decode(model, batch, "local_ar")
    for row in range(3):
        alone = decode(model, batch.row(row), "local_ar", names=["abc"[row]])
        assert torch.equal(together.codes[row, : together.lengths[row]], alone.codes[0])


@pytest.mark.parametrize("stacking", [1, 2])
def test_a_moving_prior_scores_rows_as_if_they_were_alone(stacking):
    """Bug: the last token went on through a row's padding, and the bump moved the slower the longer the batch was."""
    model, batch = tiny_model(stacking=stacking), ragged_batch()
    model.primary.prior.moves = True
    together, start = model(*batch), 0
    for row in range(3):
        alone = model(*batch.row(row))
        part = slice(start, start + len(alone.targets))
        torch.testing.assert_close(together.heads["parallel"].logits[part], alone.heads["parallel"].logits)
        start = part.stop


@pytest.mark.parametrize("keys", [20, 100])
@pytest.mark.parametrize("kind", ["bool", "added", "none"])
def test_attention_in_training_is_the_fused_one(keys, kind):
    q, k, v = (torch.randn(2, 3, length, 8, dtype=torch.float64) for length in (7, keys, keys))
    mask = {"bool": torch.rand(2, 1, 7, keys) < 0.8, "added": torch.randn(2, 1, 7, keys).double(), "none": None}[kind]
    fused = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(attend(q.requires_grad_(), k, v, mask, 0.0), fused)


@pytest.mark.skipif(not has_bf16("cpu"), reason="the processor has no instructions for bfloat16")
def test_layers_compute_in_bfloat16_in_training_alone():
    model = ESPnetCodecLMModel(fresh().float(), LossWeights(), autocast=True)
    batch = ragged_batch()
    names = ("text", "text_lengths", "codes", "codes_lengths", "prompt", "prompt_lengths")
    arguments = dict(zip(names, batch, strict=True))
    seen = []
    model.corelm.heads["parallel"].register_forward_hook(lambda *given: seen.append(given[2].logits.dtype))
    loss, stats, _ = model.train()(**arguments)
    loss.sum().backward()
    assert seen == [torch.bfloat16] and loss.dtype == torch.float32
    exact, _, _ = model.eval()(**arguments)
    assert set(seen[1:]) == {torch.float32} and float(loss) == pytest.approx(float(exact), rel=0.02)
    assert "loss_alignment" in stats
