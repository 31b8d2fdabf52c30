"""The loss counts each code once and no padding; its alignment part equals brute force."""

import itertools
import math

import pytest
import torch
from conftest import SPEC, ragged_batch, tiny_model

from espnet_ext.model.alignment import best_path, forward_sum_loss, path_log_prior, path_of
from espnet_ext.model.core_lm import HeadScores
from espnet_ext.model.loss import LossWeights, alignment_losses, codec_loss, head_loss
from espnet_ext.model.primary import CrossAttentionPrimary


def test_head_loss_equals_the_naive_loop():
    logits, targets = torch.randn(5, 6, 11), torch.randint(11, (5, 6))
    mask = torch.rand(5, 6) < 0.7
    mean, stats = head_loss(HeadScores(logits, targets, mask.float(), mask.sum()), codebooks=3)
    nats = {
        (p, m): -float(logits[p, m].log_softmax(-1)[targets[p, m]]) for p in range(5) for m in range(6) if mask[p, m]
    }
    assert float(mean) == pytest.approx(sum(nats.values()) / len(nats), rel=1e-5)
    for book in range(3):
        own = [value for (_, m), value in nats.items() if m % 3 == book]
        assert float(stats[f"loss_cb{book}"]) == pytest.approx(sum(own) / len(own), rel=1e-5)


def test_a_head_that_counts_no_code_has_no_loss_and_no_gradient():
    """A batch of one short utterance may leave a slot, or all of them, without a masked code."""
    logits = torch.randn(2, 3, 11, requires_grad=True)
    scores = HeadScores(logits, torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3), torch.tensor(0.0))
    mean, stats = head_loss(scores, codebooks=3)
    mean.backward()
    assert (
        float(mean.detach()) == 0.0 and not logits.grad.any() and all(float(value) == 0.0 for value in stats.values())
    )


def test_every_code_and_one_eos_frame_count_for_every_length(stacking):
    model, batch = tiny_model(stacking=stacking), ragged_batch()
    loss = codec_loss(model(*batch), 3, LossWeights())
    assert int(loss.codes) == int((batch.code_lengths + 1).sum()) * SPEC.num_codebooks


def test_weights_scale_their_part():
    model, batch = tiny_model(), ragged_batch()
    with torch.no_grad():
        output = model(*batch)
    zero = {"parallel": 0.0, "local": 0.0, "alignment": 0.0, "frames": 0.0}
    parts = {name: float(codec_loss(output, 3, LossWeights(**{**zero, name: 1.0})).total) for name in zero}
    total = codec_loss(output, 3, LossWeights(0.5, 2.0, 3.0, 4.0)).total
    expected = sum(weight * parts[name] for name, weight in zip(zero, (0.5, 2.0, 3.0, 4.0), strict=True))
    assert float(total) == pytest.approx(expected, rel=1e-5)


def test_every_local_transformer_weighs_the_same():
    model, batch = tiny_model(), ragged_batch()
    with torch.no_grad():
        output = model(*batch)
    total = codec_loss(output._replace(alignment=None), 3, LossWeights(0.0, 2.0)).total
    expected = 2.0 * sum(head_loss(output.heads[name], 3)[0] for name in ("ar", "maskgit"))
    assert float(total) == pytest.approx(float(expected), rel=1e-6)


def brute_force_forward_sum(log_attention, frames, tokens, blank):
    """Sum over all labellings of the frames that collapse to 1 … tokens."""
    scores = torch.cat((torch.full((frames, 1), blank), log_attention[:frames, :tokens]), dim=1).log_softmax(-1)
    total = 0.0
    for path in itertools.product(range(tokens + 1), repeat=frames):
        collapsed = [label for label, _ in itertools.groupby(path) if label]
        if collapsed == list(range(1, tokens + 1)):
            total += math.exp(sum(float(scores[t, label]) for t, label in enumerate(path)))
    return -math.log(total) / tokens


def test_forward_sum_equals_brute_force():
    log_attention = torch.randn(2, 5, 3).log_softmax(-1)
    lengths, tokens = torch.tensor([5, 4]), torch.tensor([3, 2])
    log_attention[1, :, 2] = -torch.inf
    expected = [brute_force_forward_sum(log_attention[b], int(lengths[b]), int(tokens[b]), -1.0) for b in range(2)]
    assert float(forward_sum_loss(log_attention, lengths, tokens)) == pytest.approx(sum(expected) / 2, rel=1e-5)


def test_the_alignment_loss_prefers_a_diagonal_attention():
    diagonal = torch.eye(6).mul(8).log_softmax(-1)[None]
    lengths = torch.tensor([6])
    assert forward_sum_loss(diagonal, lengths, lengths) < forward_sum_loss(diagonal.flip(1), lengths, lengths)


def test_an_utterance_with_more_tokens_than_frames_does_not_count():
    log_attention = torch.zeros(1, 2, 4).log_softmax(-1)
    assert float(forward_sum_loss(log_attention, torch.tensor([2]), torch.tensor([4]))) == 0.0


def brute_force_path(log_attention, frames, tokens):
    """The best of all monotonic paths that visit every token."""
    paths = [p for p in itertools.product(range(tokens), repeat=frames) if p[0] == 0 and p[-1] == tokens - 1]
    paths = [p for p in paths if all(b - a in (0, 1) for a, b in itertools.pairwise(p))]
    return max(paths, key=lambda p: sum(float(log_attention[t, u]) for t, u in enumerate(p)))


@pytest.mark.parametrize("seed", range(5))
def test_the_best_path_equals_brute_force(seed):
    log_attention = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(seed))
    frames, tokens = torch.tensor([6, 5]), torch.tensor([3, 4])
    path = best_path(log_attention, frames, tokens)
    for row in range(2):
        expected = brute_force_path(log_attention[row], int(frames[row]), int(tokens[row]))
        assert path[row, : frames[row]].tolist() == list(expected)


def test_the_best_path_is_the_diagonal_where_no_path_exists():
    path = best_path(torch.randn(1, 3, 6), torch.tensor([3]), torch.tensor([6]))
    assert path.tolist() == [[0, 2, 4]]


def test_a_path_and_its_frames_are_each_other_s_inverse():
    path = best_path(torch.randn(1, 9, 4), torch.tensor([9]), torch.tensor([4]))
    frames = torch.zeros(1, 4).scatter_add_(1, path, torch.ones(1, 9))
    assert torch.equal(path_of(frames, torch.tensor([4]), 9), path)


def test_the_prior_of_a_frame_is_highest_on_its_token_and_falls_beside_it(stacking):
    path = torch.arange(2 * stacking)[None] + 1
    prior = path_log_prior(path, stacking, tokens=2 * stacking + 3, width=1.0)
    assert prior.shape == (1, stacking, 2, 2 * stacking + 3)
    for step in range(2):
        for frame in range(stacking):
            token = 1 + step * stacking + frame
            assert prior[0, frame, step, token - 1 : token + 3].tolist() == [-0.5, 0.0, -0.5, -2.0][: 3 + 1]


def test_frames_are_counted_over_existing_frames_only(stacking):
    model, batch = tiny_model(stacking=stacking), ragged_batch()
    alignment = model(*batch).alignment
    assert torch.equal(alignment.spoken.sum(1), alignment.frame_lengths.double())
    assert (alignment.spoken >= 0).all()


def test_predicted_frames_are_learned():
    """The error of the prediction has a gradient for the predictor and for nothing else."""
    model, batch = tiny_model(), ragged_batch()
    error = alignment_losses(model(*batch).alignment)["frames"]
    error.backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert with_gradient and all("frame_predictor" in name for name in with_gradient)


def test_a_prior_without_width_is_refused():
    with pytest.raises(ValueError, match="spread must be above 0"):
        CrossAttentionPrimary(10, 1, prior_conf={"spread": 0})
