"""A MaskGIT local transformer with the weights of the AR one."""

import copy

import pytest
import torch

from espnet_ext.errors import UserError
from espnet_ext.fast import FastOptions, accelerate
from espnet_ext.model.heads import ARLocalTransformer, MaskGITLocalTransformer
from espnet_ext.testing.models import SAMPLING, decode, ragged_batch, tiny_model
from espnet_ext.testing.part import tiny_gpst

SIZES = {"width": 16, "heads": 2, "residual": True}
BOTH = {"ar": SIZES, "maskgit": {**SIZES, "weights": "ar"}}


def heads_of(model):
    return model.heads.of(ARLocalTransformer), model.heads.of(MaskGITLocalTransformer)


def test_the_checkpoint_has_shared_weights_once():
    model = tiny_model(local_conf=BOTH)
    own = [name for name in model.state_dict() if name.startswith("heads.maskgit.")]
    assert own == ["heads.maskgit.position", "heads.maskgit.adds_to_parallel"]
    assert len(list(model.heads["maskgit"].parameters())) == 1


def test_both_are_trained_on_the_same_tensors():
    model = tiny_model(local_conf=BOTH)
    ar, maskgit = heads_of(model)
    hidden, codes = torch.randn(5, model.primary.width).double(), torch.randint(4, (5, model.slots))
    maskgit(model.heads.inputs(maskgit, hidden), codes).logits.sum().backward()
    assert ar.transformer.blocks[0].feed_forward.up.weight.grad.abs().sum() > 0
    assert ar.position.grad is None and maskgit.position.grad is not None


def test_slot_m_is_predicted_where_slot_m_minus_1_is_read_as_the_ar_one_does():
    """With a causal mask, and masks from some slot on, the first masked slot is what the AR one says of it."""
    model = tiny_model(local_conf=BOTH)
    ar, maskgit = heads_of(model)
    maskgit.position.data[:-1] = ar.position.data
    hidden, codes = torch.randn(5, model.primary.width).double(), torch.randint(4, (5, model.slots))
    inputs, plain = model.heads.inputs(ar, hidden), ar.transformer.forward

    def causal(x, mask):
        return plain(x, torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril())

    for known in range(model.slots):
        expected = ar.logits(inputs, codes[:, :known])[:, known]
        ar.transformer.forward = causal
        masked = codes.masked_fill(torch.arange(model.slots) >= known, model.spec.mask_id)
        found = maskgit.logits(inputs, masked)[:, known]
        ar.transformer.forward = plain
        torch.testing.assert_close(found, expected)


def test_a_copy_shares_with_its_own():
    model = tiny_model(local_conf=BOTH)
    ar, maskgit = heads_of(copy.deepcopy(model))
    assert maskgit.transformer is ar.transformer and maskgit.transformer is not model.heads["ar"].transformer


@pytest.mark.parametrize("stacking", [1, 2])
def test_accelerated_it_makes_the_same_codes(stacking):
    model = tiny_model(stacking=stacking, local_conf=BOTH).float()
    limits = torch.tensor([7, 12, 9])
    for strategy in ("local_maskgit", "local_ar"):
        plain = decode(model, ragged_batch(), strategy, SAMPLING["greedy"], limits)
        fast = copy.deepcopy(model)
        accelerate(fast, FastOptions(precision="float32", compile=False))
        assert torch.equal(decode(fast, ragged_batch(), strategy, SAMPLING["greedy"], limits).codes, plain.codes)


def test_other_sizes_than_those_of_the_ar_one_are_refused():
    with pytest.raises(UserError, match=r"same sizes for maskgit with weights ar as for ar, got width 8 and 16"):
        tiny_model(local_conf={"ar": SIZES, "maskgit": {**SIZES, "width": 8, "weights": "ar"}})
    with pytest.raises(UserError, match="got heads 4 and 2"):
        tiny_model(local_conf={"ar": SIZES, "maskgit": {**SIZES, "heads": 4, "weights": "ar"}})
    with pytest.raises(UserError, match="got dropout 0.5 and 0.0"):
        tiny_model(local_conf={"ar": SIZES, "maskgit": {**SIZES, "dropout": 0.5, "weights": "ar"}})
    with pytest.raises(UserError, match="got residual False and True"):
        tiny_model(local_conf={"ar": SIZES, "maskgit": {**SIZES, "residual": False, "weights": "ar"}})


def test_nobody_to_share_with_is_refused():
    with pytest.raises(UserError, match=r"local must contain ar for maskgit with weights ar, got \['maskgit'\]"):
        tiny_model(local="maskgit", local_conf={**SIZES, "weights": "ar"})
    alone = {"local": "maskgit", "local_conf": {"width": 16, "heads": 2, "weights": "ar"}, "parallel_heads": False}
    with pytest.raises(UserError, match=r"local must contain ar for maskgit with weights ar, got \['maskgit'\]"):
        tiny_gpst(**alone)
    with pytest.raises(UserError, match=r"weights must be one of \['own', 'ar'\], got 'all'"):
        tiny_model(local="maskgit", local_conf={**SIZES, "weights": "all"})


def test_weights_trained_otherwise_are_refused():
    apart = tiny_model(local_conf={"ar": SIZES, "maskgit": SIZES})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*heads\.maskgit\.transformer"):
        tiny_model(local_conf=BOTH).load_state_dict(apart.state_dict())
