"""Local-drop: how many steps are kept, and that the expected loss is the loss over all steps."""

from __future__ import annotations

import itertools

import pytest
import torch
from conftest import ragged_batch, tiny_model
from test_gpst import ragged, tiny_gpst

from espnet_ext.codes import length_mask
from espnet_ext.model.core_lm import base
from espnet_ext.model.core_lm.local_drop import kept_steps, local_drop
from espnet_ext.model.loss import LossWeights, codec_loss, head_loss


@pytest.mark.parametrize("drop", [0.0, 0.1, 0.5, 0.75, 0.9, 0.9375])
def test_so_many_steps_are_kept_as_the_paper_says(drop):
    lengths = torch.arange(1, 200)
    expected = [min(int((1 - drop) * length + 1e-9) + 1, length) for length in lengths.tolist()]
    assert kept_steps(lengths, drop).tolist() == expected
    mask, weights = local_drop(lengths, 200, drop)
    assert mask.sum(1).tolist() == expected
    assert not (mask & ~length_mask(lengths, 200)).any()
    torch.testing.assert_close(weights * mask.sum(1), lengths.float())


def test_short_utterances_keep_a_larger_share():
    shares = [float(kept_steps(torch.tensor(length), 0.75)) / length for length in (1, 2, 4, 8, 100, 1000)]
    assert shares == [1.0, 0.5, 0.5, 0.375, 0.26, 0.251]


def test_every_step_is_kept_equally_often():
    """Rate: 5 standard errors, below 1e-5 by chance."""
    torch.manual_seed(0)
    mask, _ = local_drop(torch.full((20000,), 8), 8, 0.75)
    torch.testing.assert_close(mask.double().mean(0), torch.full((8,), 3 / 8).double(), rtol=0, atol=0.018)


def loss_of(model, batch, chosen, head="ar"):
    """Loss of a local transformer when these steps of each row are kept."""
    lengths = model.layout.num_steps(batch[3] + 1) if isinstance(batch, tuple) else None
    lengths = model.layout.num_steps(batch["codes_lengths"] + 1) if lengths is None else lengths
    mask = torch.zeros(len(lengths), int(lengths.max()), dtype=torch.bool)
    for row, steps in enumerate(chosen):
        mask[row, list(steps)] = True
    weights = lengths / mask.sum(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "local_drop", lambda *_: (mask, weights.double()))
        output = model(**batch) if isinstance(batch, dict) else model(*batch)
    return float(head_loss(output.heads[head], 3)[0]), output


@torch.no_grad()
@pytest.mark.parametrize("kind", ["gpst", "codec_lm"])
@pytest.mark.parametrize("stacking", [1, 2, 4])
@pytest.mark.parametrize("drop", [0.5, 0.75])
def test_the_expected_loss_over_all_drops_is_the_full_loss(kind, stacking, drop):
    """Exactly, by enumeration, also where short utterances keep more and where the last step is not full."""
    make = tiny_gpst if kind == "gpst" else tiny_model
    model = make(stacking=stacking, local=["ar"], local_drop=drop).train()
    model.conditioning_dropout = 0.0
    if kind == "gpst":
        batch = ragged()
        batch |= {"codes": batch["codes"][:, :6], "codes_lengths": torch.tensor([6, 1, 3])}
        lengths = batch["codes_lengths"]
    else:
        batch = ragged_batch()
        batch = batch._replace(codes=batch.codes[:, :6], code_lengths=torch.tensor([6, 1, 3]))
        lengths = batch.code_lengths
    steps = model.layout.num_steps(lengths + 1)
    kept = kept_steps(steps, drop)
    subsets = [
        list(itertools.combinations(range(int(count)), int(few))) for count, few in zip(steps, kept, strict=True)
    ]
    # rows are drawn independently and the loss is a sum over rows, so that each row can be enumerated on its own
    first = [options[0] for options in subsets]
    base_loss = loss_of(model, batch, first)[0]
    expected = base_loss
    for row, options in enumerate(subsets):
        alone = [loss_of(model, batch, [*first[:row], option, *first[row + 1 :]])[0] for option in options]
        expected += sum(alone) / len(alone) - base_loss
    model.eval()
    full = model(**batch) if kind == "gpst" else model(*batch)
    assert expected == pytest.approx(float(head_loss(full.heads["ar"], 3)[0]), rel=1e-6)


@pytest.mark.parametrize("stacking", [1, 2])
def test_no_drop_is_the_full_loss_and_validation_never_drops(stacking):
    model = tiny_model(stacking=stacking, local=["ar"]).train()
    full = codec_loss(model(*ragged_batch()), 3, LossWeights()).total
    model.local_drop = 0.75
    dropped = codec_loss(model(*ragged_batch()), 3, LossWeights()).total
    validation = codec_loss(model.eval()(*ragged_batch()), 3, LossWeights()).total
    assert torch.equal(validation, full) and not torch.equal(dropped, full)


def test_the_parallel_heads_and_the_units_see_every_step():
    model, batch = tiny_gpst(local_drop=0.75).train(), ragged()
    model.conditioning_dropout = 0.0
    output = model(**batch)
    steps = int(model.layout.num_steps(batch["codes_lengths"] + 1).sum())
    kept = int(kept_steps(model.layout.num_steps(batch["codes_lengths"] + 1), 0.75).sum())
    assert len(output.heads["parallel"].logits) == len(output.targets) == steps
    assert len(output.heads["ar"].logits) == len(output.heads["maskgit"].logits) == kept < steps
    assert len(output.units.logits) == int((batch["semantic_lengths"] + 1).sum())


@torch.no_grad()
def test_the_expected_loss_of_masked_codes_is_the_full_loss(monkeypatch):
    """Masks are drawn anew for the steps that are kept; where they hide every slot, enumeration is exact again."""
    model = tiny_model(local=["maskgit"], local_drop=0.5).train()
    monkeypatch.setattr(
        type(model.heads["maskgit"]), "draw_mask", lambda self, steps, device: torch.ones(steps, self.slots).bool()
    )
    batch = ragged_batch().row(1)
    losses = [
        loss_of(model, batch, [option], "maskgit")[0]
        for option in itertools.combinations(range(4), int(kept_steps(torch.tensor(4), 0.5)))
    ]
    full = head_loss(model.eval()(*batch).heads["maskgit"], 3)[0]
    assert sum(losses) / len(losses) == pytest.approx(float(full), rel=1e-6)


def test_dropped_steps_get_no_gradient_from_the_local_transformer():
    model, batch = tiny_model(local=["ar"], local_drop=0.75).train(), ragged_batch()
    seen = []
    model.heads["ar"].register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0].hidden)))
    head_loss(model(*batch).heads["ar"], 3)[0].backward()
    assert seen == [int(kept_steps(batch.code_lengths + 1, 0.75).sum())]
