"""A learned schedule of unmasking: what its part learns, what it gains, and that all else stays as it is."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from conftest import NAMES, PRIMARIES, SAMPLING, SPEC, decode, ragged_batch, shared_model, tiny_model
from test_gpst import ragged, tiny_gpst
from test_graphs import uncaptured

from espnet_ext.decoding import Filled, build_strategy, generate
from espnet_ext.decoding.options import DecodeOptions
from espnet_ext.decoding.rows import legal_ids
from espnet_ext.decoding.sampling import Sampler, SamplingOptions, row_generators
from espnet_ext.errors import UserError
from espnet_ext.fast import FastOptions, accelerate
from espnet_ext.model.heads import MaskGITLocalTransformer
from espnet_ext.model.loss import LossWeights, codec_loss
from espnet_ext.model.parts import Taught
from espnet_ext.model.parts.unmasking_filter import taught_codes, traces_of
from espnet_ext.testing.models import with_parts
from espnet_ext.testing.strategy import STRATEGY_CONTRACT

NAME, GREEDY = "local_maskgit_adaptive", SamplingOptions(temperature=0.0)
LEARNED = {"schedule": "learned", "threshold": 0.5}
LIMITS = torch.tensor([9, 15, 12])


def filled(model: Any, hidden: torch.Tensor, options: SamplingOptions = GREEDY, **conf: Any) -> Filled:
    """A step of every row, without an end."""
    sampler = Sampler(options, row_generators(0, [str(row) for row in range(len(hidden))]))
    sampler = sampler.for_step(legal_ids(SPEC, model.layout, 1, 99)[None])
    with torch.no_grad():
        return build_strategy(NAME, n_rounds=99, **conf).decode_step(model.heads, hidden, sampler)


def taught(model: Any, hidden: torch.Tensor) -> Taught:
    """Steps of these hidden vectors, of one utterance."""
    some = torch.ones(1, len(hidden), dtype=torch.bool)
    targets = torch.zeros(1, len(hidden), model.slots, dtype=torch.int64)
    return Taught(hidden[None], targets, some, some[..., None].expand_as(targets), some, model.heads, model.embedding)


# what it learns


class Depends(MaskGITLocalTransformer):
    """Slot 0 is the surest; slot 1 is less sure and says another code once slot 0 is known; slot 2 is what it is."""

    def logits(self, inputs: Any, codes: torch.Tensor) -> torch.Tensor:
        wobble = 0.04 * inputs.hidden[:, 0].tanh()
        knows = codes[:, 0] != self.spec.mask_id
        probs = torch.full((*codes.shape, self.spec.vocab_size), 1e-3, dtype=inputs.hidden.dtype)
        probs[:, 0, 3] = 0.9 + wobble
        probs[:, 1, 4] = torch.where(knows, 0.01, 0.65 + wobble)
        probs[:, 1, 5] = torch.where(knows, 0.95, 0.3)
        probs[:, 2, 6] = 0.5 + wobble
        probs[:, 2, 2] = 0.4
        return probs.log()


def test_a_filter_finds_what_no_threshold_does():
    """Right codes in two rounds; a threshold that lets slot 2 pass lets slot 1 pass too, which is wrong by then."""
    model = tiny_model(local="maskgit")
    model.heads.of(MaskGITLocalTransformer).__class__ = Depends
    model.add_parts({"unmasking_filter": {"temperature": 0.0, "inner": 16}})
    model.double().train_only(["unmasking_filter"])
    hidden = torch.randn(100, 32, generator=torch.Generator().manual_seed(0)).double()
    optimizer = torch.optim.AdamW(model.parts.parameters(), lr=0.02)
    losses = []
    for _ in range(300):
        loss = model.parts["unmasking_filter"](taught(model, hidden)).losses["final"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.05 * losses[0]
    right = filled(model, hidden, threshold=1.1)
    assert right.codes.unique(dim=0).tolist() == [[3, 5, 6]] and set(right.local_passes.tolist()) == {3}
    found = filled(model, hidden, **LEARNED)
    assert torch.equal(found.codes, right.codes) and set(found.local_passes.tolist()) == {2}
    for threshold in (0.1, 0.3, 0.5, 0.6, 0.65, 0.7, 0.8, 0.9):
        other = filled(model, hidden, threshold=threshold)
        is_right = (other.codes == right.codes).all(dim=1)
        assert not bool((is_right & (other.local_passes < 3)).any())


@pytest.mark.parametrize("stacking", [1, 2])
def test_the_teacher_is_one_code_per_round(stacking):
    model = shared_model(stacking=stacking)
    hidden = torch.randn(50, 32, generator=torch.Generator().manual_seed(0)).double()
    local = model.heads.of(MaskGITLocalTransformer)
    inputs = model.heads.inputs(local, hidden)

    @torch.no_grad()
    def predict(codes):
        logits = local.logits(inputs, codes)[..., : SPEC.codebook_size]
        return logits.softmax(-1).amax(-1), logits.argmax(-1)

    masked = torch.full((50, model.slots), SPEC.mask_id)
    slow = filled(model, hidden, threshold=1.1).codes
    assert torch.equal(taught_codes(predict, masked), slow)
    traces = traces_of(predict, masked)
    rounds = len(traces.known) // 50
    known, final = (part.view(rounds, 50, -1) for part in (traces.known, traces.final))
    assert 1 < rounds <= model.slots and not known[0].any()
    for before, right, after in zip(known, final, known[1:], strict=False):
        assert bool((after | ~(before | right)).all()), "what is final becomes known"
        assert bool((after.sum(1) > before.sum(1)).logical_or(before.all(1)).all()), "and a code of every row"
    assert bool(final[-1].logical_or(known[-1]).sum() > final[0].sum())


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_it_learns_alone_and_leaves_the_model_bit_for_bit_as_it_was(temperature):
    model = tiny_model(stacking=2, code_corruption=0.5)
    model.add_parts({"unmasking_filter": {"temperature": temperature}})
    model.double()
    how = ragged_batch(), NAME, SAMPLING["sampled"], LIMITS
    before, weights = decode(model, *how), {name: one.clone() for name, one in model.state_dict().items()}
    model.train_only(["unmasking_filter"])
    optimizer, losses = torch.optim.AdamW(model.parts.parameters(), lr=0.01), []
    torch.manual_seed(0)
    for _ in range(60):
        loss = codec_loss(model.train()(*ragged_batch()), 3, LossWeights())
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        losses.append(float(loss.stats["loss_unmasking_filter_final"]))
    assert losses[-1] < 0.7 * losses[0]
    changed = {name for name, one in model.state_dict().items() if not torch.equal(one, weights[name])}
    assert changed and all(name.startswith("parts.unmasking_filter.") for name in changed)
    assert torch.equal(before.codes, decode(model.eval(), *how).codes)


def test_validations_draw_the_same():
    model = shared_model(stacking=2)
    one, other = (model(*ragged_batch()).parts["unmasking_filter"].losses["final"] for _ in range(2))
    assert float(one) == float(other)


def test_a_batch_without_a_step_that_is_known_teaches_nothing():
    model = shared_model()
    given = taught(model, torch.randn(3, 32).double())
    scores = model.parts["unmasking_filter"](given._replace(true=torch.zeros(1, 3, dtype=torch.bool)))
    assert float(scores.losses["final"]) == 0.0


@pytest.mark.parametrize("stacking", [1, 2])
def test_it_learns_beside_a_gpst(stacking):
    model = tiny_gpst(stacking=stacking)
    model.add_parts({"unmasking_filter": {}})
    codec_loss(model.double().train()(**ragged()), SPEC.num_codebooks, LossWeights()).total.backward()
    assert float(model.parts["unmasking_filter"].outer.weight.grad.abs().sum()) > 0


# what is decoded with it


@pytest.mark.parametrize("clause", STRATEGY_CONTRACT, ids=lambda clause: clause.__name__)
@pytest.mark.parametrize("stacking", [1, 2])
def test_a_learned_schedule_keeps_the_contract_of_strategies(stacking, clause):
    clause(NAME, stacking, LEARNED)


@pytest.mark.parametrize("primary", list(PRIMARIES))
def test_graphs_make_the_same_codes(primary):
    model, batch = shared_model(primary, 2), ragged_batch()
    made = []
    for more in ({}, {"step": uncaptured()}):
        sampler = Sampler(SAMPLING["guided"], row_generators(0, NAMES))
        made.append(generate(model, batch.conditions(model), build_strategy(NAME, **LEARNED), sampler, 12, **more))
    assert torch.equal(made[0].codes, made[1].codes)


@pytest.mark.parametrize("native", [False, True])
def test_packed_weights_make_the_same_codes(native):
    model = with_parts(tiny_model()).float()
    fast = copy.deepcopy(model)
    assert fast.heads.beside is fast.parts and fast.parts is not model.parts
    accelerate(fast, FastOptions("float32", native=native))
    how = ragged_batch(), NAME, SAMPLING["sampled"], LIMITS
    assert torch.equal(decode(model, *how, **LEARNED).codes, decode(fast, *how, **LEARNED).codes)


def test_parts_are_no_heads():
    model = shared_model()
    assert list(model.heads) == ["parallel", "ar", "maskgit"] and list(model.heads.beside) == list(model.parts)
    assert not [name for name in model.state_dict() if name.startswith("heads.") and "filter" in name]


def test_another_temperature_than_the_filter_was_trained_for_is_told():
    """What is sure at one temperature is not at another: the filter reads probabilities that are sharpened by it."""
    message = "temperature must be 0.4, which this model's unmasking_filter was trained for, got 0.8"
    with pytest.warns(UserWarning, match=message):
        decode(shared_model(), ragged_batch(), NAME, SAMPLING["sampled"], 3, **LEARNED)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decode(shared_model(), ragged_batch(), NAME, SamplingOptions(temperature=0.4), 3, **LEARNED)
        decode(shared_model(), ragged_batch(), NAME, SamplingOptions(temperature=[0.4] * 3), 3, **LEARNED)
        decode(shared_model(), ragged_batch(), NAME, SAMPLING["sampled"], 3)


# what is refused


def test_a_model_without_the_part_is_refused_in_one_line():
    message = "schedule must be threshold with a model without part unmasking_filter, got 'learned'"
    with pytest.raises(UserError, match=message):
        decode(tiny_model(), ragged_batch(), NAME, **LEARNED)
    options = DecodeOptions(NAME, {"schedule": "learned"})
    with pytest.raises(UserError, match=message):
        options.check(tiny_model())
    options.check(shared_model())


def test_a_schedule_that_there_is_not_is_refused():
    with pytest.raises(UserError, match=r"schedule must be one of \['threshold', 'learned'\], got 'guessed'"):
        DecodeOptions(NAME, {"schedule": "guessed"})


@pytest.mark.parametrize(
    ("conf", "message"),
    [({"inner": 0}, "inner must be"), ({"temperature": -1}, "temperature must be"), ({"steps": 0}, "steps must be")],
)
def test_what_a_filter_cannot_be_is_refused_in_one_line(conf, message):
    with pytest.raises(UserError, match=message):
        tiny_model().add_parts({"unmasking_filter": conf})


def test_a_filter_needs_a_maskgit():
    message = "parts must be without unmasking_filter, which needs MaskGITLocalTransformer, with heads"
    with pytest.raises(UserError, match=message):
        tiny_model(local="ar").add_parts({"unmasking_filter": {}})
