"""The loss counts each code once and no padding; its alignment part equals brute force."""

import itertools
import math

import pytest
import torch
from conftest import SPEC, ragged_batch, tiny_model

from espnet_ext.alignment import diagonal_log_prior, forward_sum_loss, window_log_prior
from espnet_ext.local_transformer import LocalOutput
from espnet_ext.loss import LossWeights, codec_loss, head_loss


def test_head_loss_equals_the_naive_loop():
    logits, targets = torch.randn(5, 6, 11), torch.randint(11, (5, 6))
    mask = torch.rand(5, 6) < 0.7
    mean, stats = head_loss(LocalOutput(logits, mask), targets, codebooks=3)
    nats = {(p, m): -float(logits[p, m].log_softmax(-1)[targets[p, m]]) for p in range(5) for m in range(6) if mask[p, m]}
    assert float(mean) == pytest.approx(sum(nats.values()) / len(nats), rel=1e-5)
    for book in range(3):
        own = [value for (_, m), value in nats.items() if m % 3 == book]
        assert float(stats[f"loss_cb{book}"]) == pytest.approx(sum(own) / len(own), rel=1e-5)


def test_every_code_and_one_eos_frame_count_for_every_length(stacking):
    model, batch = tiny_model(stacking=stacking), ragged_batch()
    loss = codec_loss(model(*batch), 3, stacking, batch.text_lengths, LossWeights())
    assert int(loss.codes) == int((batch.code_lengths + 1).sum()) * SPEC.num_codebooks


def test_weights_scale_their_part():
    model, batch = tiny_model(), ragged_batch()
    output = model(*batch)
    zero = {"parallel": 0.0, "local": 0.0, "alignment": 0.0}
    parts = {
        name: float(codec_loss(output, 3, 1, batch.text_lengths, LossWeights(**{**zero, name: 1.0})).total)
        for name in zero
    }
    total = codec_loss(output, 3, 1, batch.text_lengths, LossWeights(0.5, 2.0, 3.0)).total
    assert float(total) == pytest.approx(0.5 * parts["parallel"] + 2 * parts["local"] + 3 * parts["alignment"], rel=1e-5)


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


def test_a_stacked_step_may_pass_as_many_tokens_as_it_has_frames():
    log_attention = torch.zeros(1, 2, 4).log_softmax(-1)
    lengths, tokens = torch.tensor([2]), torch.tensor([4])
    assert float(forward_sum_loss(log_attention, lengths, tokens, repeats=1)) == 0.0  # no path
    assert float(forward_sum_loss(log_attention, lengths, tokens, repeats=2)) > 0.0


def test_the_alignment_loss_prefers_a_diagonal_attention():
    diagonal = torch.eye(6).mul(8).log_softmax(-1)[None]
    backwards = diagonal.flip(1)
    lengths = torch.tensor([6])
    assert forward_sum_loss(diagonal, lengths, lengths) < forward_sum_loss(backwards, lengths, lengths)


def test_the_training_prior_peaks_on_the_diagonal():
    prior = diagonal_log_prior(torch.tensor([8, 4]), torch.tensor([4, 4]), width=0.1)
    assert prior[0].argmax(-1).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert prior[1, :4].argmax(-1).tolist() == [0, 1, 2, 3]
    assert (prior <= 0).all()


def test_the_inference_window_follows_the_attended_token():
    prior = window_log_prior(torch.tensor([3]), tokens=8, back=1, ahead=2, floor=-torch.inf)
    assert torch.isfinite(prior[0]).nonzero().flatten().tolist() == [2, 3, 4, 5]


def test_the_training_prior_fades_with_updates():
    model = tiny_model()
    model.primary.prior_updates = (2, 4)
    conditions, lengths = ragged_batch().conditions(model), torch.tensor([5, 5, 5])
    strengths = []
    for update in range(6):
        model.primary.updates.fill_(update)
        prior = model.primary._training_prior(conditions, lengths)
        strengths.append(0.0 if prior is None else float(-prior.min()))
    assert strengths[0] == strengths[1] == strengths[2] > strengths[3] > strengths[4] == strengths[5] == 0.0


def test_updates_are_counted_in_training_and_kept_in_the_checkpoint():
    model = tiny_model().train()
    model(*ragged_batch())
    model.eval()(*ragged_batch())
    assert int(model.state_dict()["primary.updates"]) == 1
