"""The contract of a primary transformer and its prior: steps one after the other are those of training."""

from __future__ import annotations

import torch

from espnet_ext.codes import length_mask
from espnet_ext.model.core_lm import TextCoreLM
from espnet_ext.testing.models import SPEC, TEXT_VOCAB, ragged_batch


@torch.no_grad()
def check_steps(primary: str, **conf: object) -> None:
    """Hold a registered primary transformer, or the prior in it, to what decoding relies on.

    The hidden vector of every step, made from the state and the step before, is that of the teacher-forced utterance; a
    prior whose path is read off the codes in training and predicted in decoding cannot do that.

    Args:
        primary: registered name.
        **conf: its options, small ones.

    Raises:
        AssertionError: if a hidden vector differs.
    """
    torch.manual_seed(0)
    for stacking in (1, 2):
        model = TextCoreLM(SPEC, TEXT_VOCAB, primary, conf, "none", {}, stacking).double().eval()
        batch = ragged_batch()
        conditions, targets = batch.conditions(model), model.targets(batch.codes, batch.code_lengths)
        inputs, _ = model.inputs(targets, SPEC.bos_id)
        lengths = model.layout.num_steps(batch.code_lengths + 1)
        embedded = model.embedding.step(inputs), model.embedding.frames(targets)
        whole = model.primary(conditions, *embedded, lengths).hidden
        state = model.prefill(conditions, targets.shape[1])
        single = torch.stack([model.step(codes, state) for codes in inputs.unbind(1)], dim=1)
        exists = length_mask(lengths, targets.shape[1])
        message = f"steps of {primary} must have the hidden vectors of training, S = {stacking}"
        torch.testing.assert_close(single[exists], whole[exists], msg=message)
