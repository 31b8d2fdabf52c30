"""Frames, steps and ids: integers in, integers out."""

import pytest
import torch

from espnet_ext.codes import CodecSpec, StepLayout, length_mask, num_steps, stack_frames, unstack_frames


@pytest.mark.parametrize("frames", range(1, 9))
def test_unstacking_inverts_stacking_up_to_the_fill(frames, stacking):
    codes = torch.randint(100, (2, frames, 3))
    steps = stack_frames(codes, stacking, fill_id=-1)
    back = unstack_frames(steps, stacking)
    assert torch.equal(back[:, :frames], codes)
    assert (back[:, frames:] == -1).all()
    assert steps.shape[1] == int(num_steps(torch.tensor(frames), stacking))


def test_slots_are_frame_major(stacking):
    codes = torch.arange(stacking * 3).view(1, stacking, 3)
    assert stack_frames(codes, stacking, 0).flatten().tolist() == list(range(stacking * 3))


def test_stacking_by_less_than_one_is_refused():
    with pytest.raises(ValueError, match="frame_stacking_factor must be at least 1, got 0"):
        stack_frames(torch.zeros(1, 1, 1, dtype=torch.long), 0, 0)


@pytest.mark.parametrize("factor", [0, -2])
def test_a_layout_without_frames_in_a_step_is_refused(factor):
    with pytest.raises(ValueError, match=f"frame_stacking_factor must be at least 1, got {factor}"):
        StepLayout(3, factor)


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("frames", [1, 4, 7, 8, 9])
def test_every_code_has_one_slot_and_every_other_slot_is_filled(factor, frames):
    layout, codes = StepLayout(3, factor), torch.arange(frames * 3).view(1, frames, 3)
    steps = layout.to_steps(codes, before_id=-1, after_id=-2)
    assert steps.shape == (1, int(layout.num_steps(torch.tensor(frames))), layout.slots)
    placed = steps.flatten().tolist()
    assert placed == [*range(frames * 3), *[-2] * (len(placed) - frames * 3)]
    of_frame = torch.cat([layout.frames(step) for step in range(steps.shape[1])])
    assert of_frame.tolist() == [place // 3 for place in range(len(placed))]
    assert torch.equal(layout.to_frames(steps)[:, :frames], codes)


def test_special_ids_follow_the_codes_and_differ():
    spec = CodecSpec(8, 256, 25.0, 16000)
    ids = [spec.bos_id, spec.eos_id, spec.mask_id]
    assert ids == list(range(256, 259)) and spec.vocab_size == 259


@pytest.mark.parametrize("field", ["num_codebooks", "codebook_size", "frame_rate_hz", "sample_rate_hz"])
def test_a_codec_without_extent_is_refused(field):
    facts = {"num_codebooks": 8, "codebook_size": 256, "frame_rate_hz": 25.0, "sample_rate_hz": 16000, field: 0}
    with pytest.raises(ValueError, match=f"{field} must be in "):
        CodecSpec(**facts)


def test_codes_of_another_codec_are_refused():
    spec = CodecSpec(2, 4, 25.0, 16000)
    spec.check(torch.tensor([[0, 3]]))
    with pytest.raises(ValueError, match="2 codebooks"):
        spec.check(torch.zeros(1, 3, dtype=torch.long))
    with pytest.raises(ValueError, match=r"\[0, 4\), got \[0, 4\]"):
        spec.check(torch.tensor([[0, 4]]))


def test_length_mask_counts_positions():
    assert length_mask(torch.tensor([0, 2, 5]), 5).sum(1).tolist() == [0, 2, 5]
