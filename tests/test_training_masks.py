"""Which slots of a step the training of MaskGIT masks."""

import math
from pathlib import Path

import pytest
import torch
from conftest import SPEC, decode, ragged_batch, tiny_model

from espnet_ext.codes import CodecSpec
from espnet_ext.errors import UserError
from espnet_ext.model.heads import MaskGITLocalTransformer, Slots
from espnet_ext.model.heads.maskgit import MASKS
from espnet_ext.model.loss import LossWeights, codec_loss

CPU = torch.device("cpu")
MINI_README = Path(__file__).parent.parent / "egs2" / "mini_libritts" / "codec_lm1" / "README.md"


def head_of(mask, stacking=2, num_codebooks=SPEC.num_codebooks):
    """In eval mode, in which heads of all masks draw the same random numbers."""
    spec = CodecSpec(num_codebooks=num_codebooks, codebook_size=8, frame_rate_hz=25.0, sample_rate_hz=16000)
    slots = Slots(spec, stacking * num_codebooks)
    return MaskGITLocalTransformer(None, slots, 8, False, width=8, heads=2, mask=mask).eval()


def is_framed(masked, stacking):
    """Whether a step's frames are known, then one partly, then none: (P,) bool."""
    frames = masked.unflatten(1, (stacking, -1))
    return (~frames.any(2)[:, :-1] | frames.all(2)[:, 1:]).all(1)


def test_masks_of_frames_are_what_decoding_frame_after_frame_sees(stacking):
    masked = head_of("frames", stacking).draw_mask(2_000, CPU)
    assert bool(is_framed(masked, stacking).all()) and masked.any(1).all()
    partly = masked.unflatten(1, (stacking, -1)).double().mean(2)
    current = ((partly > 0) & (partly < 1)).double().mean(0)
    assert bool((current > 0.05).all()), "every frame is the current one now and then"
    everywhere = head_of("slots", stacking).draw_mask(2_000, CPU)
    assert stacking == 1 or not is_framed(everywhere, stacking).all()


def test_as_many_slots_are_masked_wherever_they_are(stacking):
    counts = [head_of(mask, stacking).draw_mask(2_000, CPU).sum(1) for mask in (*MASKS, list(MASKS))]
    assert all(torch.equal(counts[0], others) for others in counts[1:])


def test_masks_from_left_to_right_leave_the_first_slots_known(stacking):
    masked = head_of("left_to_right", stacking).draw_mask(2_000, CPU)
    assert bool((masked[:, 1:] >= masked[:, :-1]).all()) and masked.any(1).all()
    assert set(masked.sum(1).tolist()) == set(range(1, masked.shape[1] + 1))


@pytest.mark.parametrize("mask", [[], ["slots", "all"], "most", 3])
def test_masks_of_other_names_are_refused(mask):
    with pytest.raises(UserError, match="mask must be"):
        head_of(mask)


def test_the_old_name_of_two_masks_still_serves():
    assert head_of("mixed").masks == head_of(["slots", "frames"]).masks


def test_with_one_frame_per_step_masks_of_frames_are_those_of_slots():
    assert torch.equal(head_of("frames", 1).draw_mask(500, CPU), head_of("slots", 1).draw_mask(500, CPU))


@pytest.mark.parametrize("other", ["frames", "left_to_right"])
def test_a_step_of_two_masks_is_one_of_either_kind_half_the_time(stacking, other):
    """2,000 steps: a false alarm at 5 standard errors has a probability below 1e-5."""
    kinds = (head_of(mask, stacking).draw_mask(2_000, CPU) for mask in ("slots", other, ["slots", other]))
    slots, others, mixed = kinds
    of_slots, of_others = (mixed == slots).all(1), (mixed == others).all(1)
    assert bool((of_slots | of_others).all())
    differ = (slots != others).any(1)
    if differ.any():
        share = float(of_others[differ].double().mean())
        assert share == pytest.approx(0.5, abs=5 * 0.5 / int(differ.sum()) ** 0.5)


@pytest.mark.parametrize("mask", ["slots", "frames", ["slots", "frames"]])
def test_validations_have_the_same_masks_and_no_slot_of_a_frame_is_preferred(mask):
    head = head_of(mask)
    assert torch.equal(head.draw_mask(50, CPU), head.draw_mask(50, CPU))
    steps = 40_000
    per_slot = head.train().draw_mask(steps, CPU).double().mean(0).view(2, -1)
    assert bool((per_slot.amax(1) - per_slot.amin(1) < 5 * (0.5 / steps) ** 0.5).all())
    assert not torch.equal(head.draw_mask(50, CPU), head.draw_mask(50, CPU))


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(("stacking", "percent"), [(1, "32.2"), (2, "22.6"), (4, "16.0")])
def test_of_a_step_of_eight_codebooks_nothing_is_known_as_often_as_is_said(stacking, percent, mask):
    """The share is what the docstring of the local transformer says, and at S = 2 the README of the mini recipe."""
    torch.manual_seed(0)
    head, steps = head_of(mask, stacking, num_codebooks=8).train(), 40_000
    expected = 2 / math.pi * math.acos((head.slots - 1) / head.slots)
    share = float(head.draw_mask(steps, CPU).all(1).double().mean())
    assert share == pytest.approx(expected, abs=5 * (expected * (1 - expected) / steps) ** 0.5)
    assert f"{100 * expected:.1f}" == percent and percent in (MaskGITLocalTransformer.__doc__ or "")
    assert stacking != 2 or f"in {percent} % of its training" in " ".join(MINI_README.read_text().split())


@pytest.mark.parametrize("mask", ["frames", ["slots", "left_to_right"]])
def test_models_with_other_masks_train_and_decode(stacking, mask):
    conf = {"width": 16, "heads": 2, "mask": mask}
    model, batch = tiny_model(stacking=stacking, local="maskgit", local_conf=conf).train(), ragged_batch()
    loss = codec_loss(model(*batch), SPEC.num_codebooks, LossWeights())
    loss.total.backward()
    assert bool(loss.total.isfinite())
    assert all(bool(p.grad.isfinite().all()) for p in model.heads["maskgit"].parameters() if p.grad is not None)
    SPEC.check(decode(model.eval(), batch, "local_maskgit", order="frames").codes)
