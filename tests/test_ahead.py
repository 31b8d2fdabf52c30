"""Positions behind steps: what comes out there, in training and in decoding, and the drafters that guess with it."""

from __future__ import annotations

import pytest
import torch
from conftest import PRIMARIES, ragged_batch, tiny_model
from test_gpst import ragged, tiny_gpst

from espnet_ext.model.ahead import Ahead

VECTORS = torch.randn(2, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def as_steps(model, state, vectors):
    """Vectors as the input of steps, one after the other: (B, k, D); the slow and obvious way."""
    made = []
    for vector in vectors:
        x = vector.expand(3, -1)
        if hasattr(model, "units"):
            x = x[:, None]
            made.append(model.primary.advance(x, state, model._coming(state, 1))[:, 0])
        elif hasattr(model.primary, "segment"):
            made.append(model.primary.advance(x[:, None], state)[:, 0])
        else:
            made.append(model.primary.step(x, state))
    return torch.stack(made, dim=1)


def models(stacking):
    plain = {primary: tiny_model(primary, stacking) for primary in PRIMARIES}
    return {**plain, **{f"gpst {positions}": tiny_gpst(positions, stacking) for positions in ("rope", "anew")}}


def conditions_of(model):
    if hasattr(model, "units"):
        batch = ragged()
        nothing = batch["codes"][:, :0], torch.zeros(3, dtype=torch.int64)
        return model.conditions(batch["semantic"], batch["semantic_lengths"], *nothing)
    return ragged_batch().conditions(model)


NAMES = [*PRIMARIES, "gpst rope", "gpst anew"]


@pytest.mark.parametrize("stacking", [1, 2])
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_what_stands_behind_steps_is_as_if_it_were_their_input_and_leaves_nothing(name, stacking):
    model = models(stacking)[name]
    codes = torch.randint(8, (3, 9, model.slots), generator=torch.Generator().manual_seed(0))
    here, plain = (model.prefill(conditions_of(model), 16) for _ in range(2))
    for state in (here, plain):
        model.extend(codes[:, :2], state)
        state.accept(torch.tensor([2, 1, 2]), 2)  # rows have clocks of their own
    expected_steps, expected = [], []
    for place in range(2, 5):
        expected_steps.append(model.step(codes[:, place], plain))
        expected.append(as_steps(model, plain.gather(torch.arange(3)), VECTORS))
    steps, behind = model.extend_ahead(codes[:, 2:5], here, Ahead(VECTORS))
    torch.testing.assert_close(steps, torch.stack(expected_steps, 1))
    if "annealed" not in name:  # behind a step it looks where the step looks
        torch.testing.assert_close(behind, torch.stack(expected, 1))
    assert here.steps.tolist() == plain.steps.tolist()
    torch.testing.assert_close(model.step(codes[:, 5], here), model.step(codes[:, 5], plain))


@pytest.mark.parametrize("stacking", [1, 2])
@pytest.mark.parametrize("name", ["cross_attention_annealed", "prefix", "prefix_learned", "gpst rope", "gpst anew"])
def test_what_stands_behind_steps_in_training_is_what_stands_there_in_decoding(name, stacking):
    """But for a prior that reads the codes in training, and predicts their path in decoding."""
    model = models(stacking)[name]
    seen = {}

    def scores(hidden, *_, further, **__):
        seen.update(hidden=hidden, behind=further(Ahead(VECTORS), torch.tensor([0, 1, 3])))

    model.scores = scores
    type(model).asks_further = property(lambda self: True)
    try:
        with torch.no_grad():
            if hasattr(model, "units"):
                batch = ragged()
                model(**{key: value for key, value in batch.items() if key != "language"})
            else:
                model(*ragged_batch())
    finally:
        del type(model).asks_further
