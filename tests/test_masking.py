"""The masked objective: what is hidden in training, what is learned, and what it cannot go with."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import SPEC, ragged_batch, tiny_model

from espnet_ext.errors import UserError
from espnet_ext.model.core_lm.masking import Masking, codes_of_frames
from espnet_ext.model.loss import LossWeights, codec_loss
from espnet_ext.model.text_gain import text_nats


def masked_model(stacking=1, **options):
    return tiny_model(stacking=stacking, objective="masked", **options)


def draw(unit="steps", rows=400, steps=20, training=True, **conf):
    """Masks of rows of all lengths from 1 to `steps` frames, of 3 codebooks, and where there are codes."""
    lengths = torch.arange(rows) % steps + 1
    exists = codes_of_frames(lengths, steps + 1, 1, 3)
    torch.manual_seed(0)
    return Masking(unit, **conf).draw(exists, 3, training), exists, lengths


@pytest.mark.parametrize("unit", ["steps", "codes", "levels"])
@pytest.mark.parametrize("conf", [{}, {"span": 4}, {"stretch": 1.0}, {"span": 3, "stretch": 0.5}])
def test_only_codes_of_frames_are_masked_and_of_every_row_some(unit, conf):
    masks, exists, _ = draw(unit, **conf)
    assert not (masks.hidden & ~exists).any() and not (masks.learned & ~masks.hidden).any()
    assert masks.learned.flatten(1).any(1).all()


def test_whole_steps_are_masked_as_often_as_the_cosine_schedule_says():
    masks, _, lengths = draw(rows=4000, steps=20)
    steps = masks.hidden.any(-1)
    assert torch.equal(masks.hidden, steps[..., None].expand_as(masks.hidden))
    share = steps.sum(1)[lengths == 20] / 20
    assert float(share.mean()) == pytest.approx(2 / math.pi + 1 / 40, abs=0.05)  # rounded up
    assert float((share == 1).double().mean()) == pytest.approx(2 / math.pi * math.acos(19 / 20), abs=0.05)


def test_single_codes_are_masked_where_the_unit_is_codes():
    masks, _, _ = draw("codes")
    partial = masks.hidden.any(-1) & ~masks.hidden.all(-1)
    assert partial.double().mean() > 0.2 and torch.equal(masks.hidden, masks.learned)


def test_of_levels_one_is_learned_those_in_front_are_known_and_those_behind_are_hidden():
    masks, exists, _ = draw("levels")
    for row in range(len(exists)):
        level = int(masks.learned[row].any(0).nonzero()[0, 0])
        assert masks.learned[row].any(0).tolist() == [book == level for book in range(3)]
        assert not masks.hidden[row, :, :level].any()
        assert torch.equal(masks.hidden[row, :, level + 1 :], exists[row, :, level + 1 :])


def runs(mask):
    """Lengths of the stretches of a mask (L,)."""
    edges = torch.diff(mask.long(), prepend=torch.zeros(1).long(), append=torch.zeros(1).long())
    return (edges == -1).nonzero()[:, 0] - (edges == 1).nonzero()[:, 0]


def test_spans_are_masked_together_and_a_stretch_is_one():
    spans, _, lengths = draw(span=5, steps=30, rows=900)
    single, _, _ = draw(steps=30, rows=900)
    stretch, _, _ = draw(stretch=1.0, steps=30, rows=900)
    whole = (lengths == 30).nonzero()[:, 0].tolist()
    mean = [
        float(torch.cat([runs(masks.hidden[row, :, 0]) for row in whole]).double().mean())
        for masks in (single, spans, stretch)
    ]
    assert mean[0] * 1.5 < mean[1] < mean[2]
    assert all(len(runs(stretch.hidden[row, :, 0])) == 1 for row in range(len(lengths)))
    begins = [int(stretch.hidden[row, :, 0].long().argmax()) for row in whole]
    assert min(begins) == 0 and max(begins) > 15


def test_masks_outside_of_training_are_always_the_same():
    (first, *_), (other, *_) = draw(training=False), draw(training=False)
    assert torch.equal(first.hidden, other.hidden)
    (first, *_), _ = draw(), torch.manual_seed(1)
    assert not torch.equal(
        Masking().draw(codes_of_frames(torch.full((9,), 20), 21, 1, 3), 3, True).hidden, first.hidden[:9]
    )


@pytest.mark.parametrize("unit", ["steps", "codes", "levels"])
@pytest.mark.parametrize("stacking", [1, 2, 4])
def test_every_head_learns_from_masked_codes_alone(stacking, unit):
    """The loss is the mean over what is masked; the frame that ends an utterance is given, and counts for nothing."""
    model, batch = masked_model(stacking, mask_conf={"unit": unit}), ragged_batch()
    output = model(*batch)
    steps = model.layout.num_steps(batch.code_lengths + 1)
    exists = codes_of_frames(batch.code_lengths, int(steps.max()), stacking, 3)
    masks = model.masking.draw(exists, 3, training=False)
    learned = torch.cat([masks.learned[row, :length] for row, length in enumerate(steps.tolist())])
    assert int(output.codes) == int(learned.sum())
    for name in ("parallel", "ar"):
        assert torch.equal(output.heads[name].loss_mask, learned)
        assert float(output.heads[name].total) == int(output.codes)
    assert not (output.heads["maskgit"].loss_mask & ~learned).any()
    assert not (output.targets[learned] >= SPEC.codebook_size).any()
    loss = codec_loss(output, 3, LossWeights())
    expected = torch.nn.functional.cross_entropy(output.heads["parallel"].logits[learned], output.targets[learned])
    torch.testing.assert_close(loss.stats["loss_parallel"].double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("stacking", [1, 2])
def test_a_masked_step_sees_both_sides_and_not_itself(stacking):
    model, batch = masked_model(stacking), ragged_batch()
    model.primary.prior.spread = 1e6  # a prior that tells nothing of the codes it was made from
    steps = model.layout.num_steps(batch.code_lengths + 1)
    exists = codes_of_frames(batch.code_lengths, int(steps.max()), stacking, 3)
    hidden = model.masking.draw(exists, 3, training=False).hidden.any(-1)[0]

    def logits(frame=None):
        codes = batch.codes.clone()
        if frame is not None:
            codes[0, frame] = (codes[0, frame] + 1) % SPEC.codebook_size
        return model(*batch._replace(codes=codes)).heads["parallel"].logits[: int(steps[0])]

    plain = logits()
    (masked,) = torch.where(hidden)
    known = [step for step in range(int(steps[0]) - 1) if not hidden[step]]
    assert len(masked) and known, "these masks hide everything or nothing"
    torch.testing.assert_close(logits(int(masked[0]) * stacking), plain)
    for step in (known[0], known[-1]):
        changed = (logits(step * stacking) - plain).abs().amax((1, 2))[masked]
        assert (changed > 1e-6).all(), "a masked step must see every known one, in front of it and behind it"


def test_other_texts_of_a_batch_are_masked_alike_so_that_gains_compare_the_same_codes():
    model, batch = masked_model(), ragged_batch()
    names = ("text", "text_lengths", "codes", "codes_lengths", "prompt", "prompt_lengths")
    nats = text_nats(model, dict(zip(names, batch, strict=True)), model(*batch))
    assert all(sums.codes.sum() > 0 and torch.isfinite(sums.gain) for sums in nats.values())


def test_the_objective_of_today_is_causal():
    model = tiny_model()
    assert model.objective == "causal" and model.conditions(*ragged_batch()[:2], *ragged_batch()[4:]).known is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "diffusion"}, r"objective must be one of \['causal', 'masked', 'window'\], got 'diffusion'"),
        ({"primary": "prefix"}, r"primary must be one of \['cross_attention'\] with objective masked, got 'prefix'"),
        ({"primary": "cross_attention_annealed"}, r"prior must be one of \['path'\] with .* masked, got 'annealed'"),
        ({"code_corruption": 0.1}, "code_corruption must be 0 with objective masked, got 0.1"),
        ({"local_drop": 0.5}, "local_drop must be 0 with objective masked, got 0.5"),
        ({"delays": [0, 1, 2], "local": "ar"}, r"delays must be none with objective masked, got \[0, 1, 2\]"),
        ({"mask_conf": {"unit": "words"}}, r"mask_conf.unit must be one of .*'codes', 'levels'\], got 'words'"),
        ({"mask_conf": {"span": 0}}, "mask_conf.span must be"),
        ({"mask_conf": {"stretch": 2}}, "mask_conf.stretch must be"),
        ({"mask_conf": {"width": 2}}, r"mask_conf must be among \['unit', 'span', 'stretch'\], got \['width'\]"),
        ({"mask_conf": [1]}, r"mask_conf must be names and values, got \[1\]"),
        ({"objective": "window", "mask_conf": {"unit": "codes"}}, "mask_conf must have a span alone"),
        ({"objective": "causal", "mask_conf": {}}, r"mask_conf must be left out with objective causal, got \{\}"),
    ],
)  # fmt: skip
def test_what_a_masked_model_cannot_be_is_refused_in_one_line(options, message):
    with pytest.raises(UserError, match=message):
        tiny_model(**{"objective": "masked", **options})
