"""Parts that are trained beside a model: what they learn, and that the model stays what it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import SAMPLING, SPEC, ragged_batch, tiny_model
from test_gpst import UNITS, ragged, tiny_gpst

from espnet_ext.decoding import build_order, build_strategy
from espnet_ext.decoding.options import DecodeOptions
from espnet_ext.decoding.sampling import SamplingOptions
from espnet_ext.errors import UserError
from espnet_ext.model.core_lm import GPST
from espnet_ext.model.loss import LossWeights, codec_loss
from espnet_ext.model.parts import Lookahead, PartScores, Taught, parts
from espnet_ext.testing.exactness import enumerable_model, exact_distribution, total_variation
from espnet_ext.testing.models import decode, shared_model
from espnet_ext.testing.part import PART_CONTRACT, check_part
from espnet_ext.testing.speculation import order_of

LIMITS = torch.tensor([9, 15, 12])
SAMPLED = SamplingOptions(0.8)


def with_lookahead(model: Any, **options: Any) -> Any:
    """The model with a part of new weights."""
    model.add_parts({"lookahead": options})
    return model.double()


# the contract


@pytest.mark.parametrize("stacking", [1, 2])
@pytest.mark.parametrize("clause", PART_CONTRACT, ids=lambda clause: clause.__name__)
@pytest.mark.parametrize("name", list(parts))
def test_every_part_keeps_its_contract(name, clause, stacking):
    clause(name, stacking, {})


def test_the_contract_is_one_call():
    check_part("lookahead", {"steps": 1}, stackings=[1])


def with_padding(taught: Taught) -> Taught:
    return taught._replace(exists=torch.ones_like(taught.exists), counted=torch.ones_like(taught.counted))


def drawn_at_random(taught: Taught) -> Taught:
    return taught._replace(true=taught.true & (torch.rand(taught.true.shape) < 0.9))


def of_changed_heads(taught: Taught) -> Taught:
    with torch.no_grad():
        for head in taught.heads.values():
            head.heads.bias.view(-1)[::2] += 1.0
    return taught


def of_unfrozen_heads(taught: Taught) -> Taught:
    taught.heads.requires_grad_(True)
    return taught


@pytest.mark.parametrize(
    ("flaw", "clause", "message"),
    [
        (with_padding, "padding_teaches_nothing", "must not depend on padding"),
        (drawn_at_random, "in_evaluation_nothing_is_drawn", "must say the same"),
        (of_changed_heads, "the_model_is_bit_for_bit_what_it_is_without", "codes must be bit for bit the same"),
        (of_changed_heads, "alone_it_learns_and_nothing_else_changes", "updates must change part lookahead alone"),
        (of_unfrozen_heads, "alone_it_learns_and_nothing_else_changes", "gradients must reach part lookahead alone"),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_a_part_that_does_not_keep_its_contract_is_caught(flaw, clause, message, monkeypatch):
    right = Lookahead.forward
    monkeypatch.setattr(Lookahead, "forward", lambda self, taught: right(self, flaw(taught)))
    with pytest.raises(AssertionError, match=message):
        next(one for one in PART_CONTRACT if one.__name__ == clause)("lookahead", 1, {})


# what a part learns


def test_a_new_lookahead_says_what_the_parallel_heads_say_of_the_step_before():
    model = with_lookahead(tiny_model())
    batch = ragged_batch()
    output = model(*batch)
    predicted = output.parts["lookahead"].predictions
    assert list(predicted) == ["1", "2", "3"]
    steps = (batch.code_lengths + 1).tolist()
    rows = output.heads["parallel"].logits.split(steps), output.targets.split(steps)
    for ahead in (1, 2, 3):
        scores = predicted[str(ahead)]
        torch.testing.assert_close(scores.logits, torch.cat([row[:-ahead] for row in rows[0]]))
        assert torch.equal(scores.targets, torch.cat([row[ahead:] for row in rows[1]]))
        assert float(scores.total) == scores.targets.numel()


def test_the_loss_has_every_further_step_with_the_weight_of_the_part():
    model = with_lookahead(tiny_model(), steps=2, weight=0.5)
    output = model(*ragged_batch())
    with_part, plain = (codec_loss(one, 3, LossWeights()) for one in (output, output._replace(parts={})))
    for ahead in (1, 2):
        assert 0 <= float(with_part.stats[f"acc_lookahead_{ahead}"]) <= 1
    expected = plain.total + 0.5 * sum(with_part.stats[f"loss_lookahead_{ahead}"] for ahead in (1, 2))
    torch.testing.assert_close(with_part.total, expected)
    assert {name for name in with_part.stats if name not in plain.stats} == {
        f"{kind}_lookahead_{ahead}" for kind in ("loss", "acc") for ahead in (1, 2)
    }


def test_a_part_may_have_a_loss_of_its_own():
    output = tiny_model()(*ragged_batch())
    scores = PartScores(losses={"distance": torch.tensor(3.0)}, weight=2.0)
    plain, found = (codec_loss(output._replace(parts=parts), 3, LossWeights()) for parts in ({}, {"mine": scores}))
    torch.testing.assert_close(found.total, plain.total + 6.0)
    assert float(found.stats["loss_mine_distance"]) == 3.0


def test_steps_behind_random_codes_are_not_learned():
    model = with_lookahead(tiny_model(code_corruption=0.5)).train()
    torch.manual_seed(0)
    for scores in model(*ragged_batch()).parts["lookahead"].predictions.values():
        assert 0 < float(scores.total) < scores.targets.numel()


@pytest.mark.parametrize("stacking", [1, 2])
def test_a_lookahead_learns_beside_a_gpst(stacking):
    model = with_lookahead(tiny_gpst(stacking=stacking)).train()
    loss = codec_loss(model(**ragged()), SPEC.num_codebooks, LossWeights())
    loss.total.backward()
    assert all(float(block.outer.weight.grad.abs().sum()) > 0 for block in list(model.parts["lookahead"].blocks)[:2])


def learned(model: Any, updates: int) -> list[float]:
    """Train on the ragged batch; the losses of the first further step."""
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=0.01)
    losses = []
    for _ in range(updates):
        loss = codec_loss(model(*ragged_batch()), 3, LossWeights())
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        losses.append(float(loss.stats["loss_lookahead_1"]))
    return losses


@pytest.mark.parametrize("primary", ["cross_attention", "prefix"])
def test_what_is_trained_alone_learns_and_leaves_the_model_bit_for_bit_as_it_was(primary):
    model = with_lookahead(tiny_model(primary, code_corruption=0.5, conditioning_dropout=0.5))
    how = ragged_batch(), "local_ar", SAMPLING["guided"], LIMITS
    before, weights = decode(model, *how), {name: one.clone() for name, one in model.state_dict().items()}
    model.train_only(["lookahead"])
    model.train()
    assert model.parts["lookahead"].training and not model.training and not model.primary.training
    losses = learned(model, 60)
    assert losses[-1] < 0.5 * losses[0]
    stats = {mode: codec_loss(model.train(mode)(*ragged_batch()), 3, LossWeights()).stats for mode in (True, False)}
    assert set(stats[True]) == {"loss"} | {one for one in stats[False] if "lookahead" in one}
    assert "loss_ar" in stats[False], "what frozen heads say is of no use in training"
    after = decode(model.eval(), *how)
    assert torch.equal(before.codes, after.codes) and torch.equal(before.logprobs, after.logprobs)
    changed = {name for name, one in model.state_dict().items() if not torch.equal(one, weights[name])}
    assert changed and all(name.startswith("parts.lookahead.") for name in changed)


def test_trained_heads_guess_steps_that_untrained_ones_do_not():
    """Greedily, on codes of which each step tells the next ones; behind 150 updates it hangs on rounding whether."""
    model = tiny_model("prefix", local="none")
    learned_from = torch.tensor([0, 3, 5, 1, 7, 2, 6, 4])
    batch = ragged_batch()
    batch = batch._replace(codes=learned_from[(torch.arange(9)[:, None] + torch.arange(3))[None].expand(3, -1, -1) % 8])
    model = with_lookahead(model).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.005)
    for _ in range(400):
        optimizer.zero_grad()
        codec_loss(model(*batch), 3, LossWeights()).total.backward()
        optimizer.step()
    how = batch, "parallel", SAMPLING["greedy"], batch.code_lengths
    passes = {}
    for name, drafter in (("causal", None), ("heads", "heads"), ("repeat", "repeat")):
        order = build_order("causal") if drafter is None else order_of(drafter, width=4)
        made = decode(model.eval(), *how, steps=order)
        passes[name] = made.codes, int(made.primary_passes.sum())
    assert torch.equal(passes["heads"][0], passes["causal"][0])
    assert passes["heads"][1] < 0.7 * passes["repeat"][1]


# exactness


@pytest.mark.parametrize("acceptance", ["gumbel", "exact", "block"])
@pytest.mark.parametrize(
    ("stacking", "sampling", "least", "most", "width"),
    [(1, SamplingOptions(0.8, top_k=2), 1, 3, 3), (2, SamplingOptions(0.8, top_p=0.8), 3, 4, 2)],
    ids=["S1", "S2"],
)
def test_drafts_of_heads_have_the_distribution_of_causal(acceptance, stacking, sampling, least, most, width):
    """Width 3, with ends within a draft; and two frames in a step."""
    model = enumerable_model(stacking, residual=stacking == 2)
    how = model, build_strategy("local_ar"), sampling, most, least
    plain = exact_distribution(*how)
    order = build_order("speculative", drafter="heads", acceptance=acceptance, width=width)
    found = exact_distribution(*how, order=order)
    assert abs(found.mass - 1) < 1e-12
    assert total_variation(plain, found) < 1e-12
    assert found.branches >= plain.branches > 8, "nothing was truly random"


@pytest.mark.parametrize("acceptance", ["exact", "block"])
def test_heads_of_codebooks_that_come_late_have_the_distribution_of_causal(acceptance):
    model, strategy = enumerable_model(delays=(0, 1)), build_strategy("local_ar")
    order = build_order("speculative", drafter="heads", acceptance=acceptance, width=3)
    plain, found = (exact_distribution(model, strategy, SAMPLED, 2, **how) for how in ({}, {"order": order}))
    assert total_variation(plain, found) < 1e-12


# what is refused


def test_a_model_without_the_part_is_refused_with_the_drafters_that_it_has():
    able = r"\['early_exit', 'jacobi', 'ngram', 'repeat'\]"
    message = f"drafter must be one of {able} with a model without part lookahead, got 'heads'"
    with pytest.raises(UserError, match=message):
        decode(tiny_model(), ragged_batch(), "local_ar", steps=order_of("heads"))
    options = DecodeOptions.from_mapping({"order": "speculative", "order_conf": {"drafter": "heads"}})
    with pytest.raises(UserError, match=message):
        options.check(tiny_model())
    options.check(shared_model())


def test_a_window_that_is_wider_than_the_part_looks_is_refused():
    with pytest.raises(UserError, match="width must be at most 4 with drafter heads and 3 steps of .* got 5"):
        decode(shared_model(), ragged_batch(), "local_ar", steps=order_of("heads", width=5))


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({"lookback": {}}, r"parts must be among \[.*'lookahead'.*\], got 'lookback'"),
        ({"lookahead": 3}, "parts must hold options by name, got lookahead: 3"),
        ({"lookahead": {"depth": 3}}, r"parts_conf of lookahead must be among \['steps', 'weight'\], got \['depth'\]"),
        ({"lookahead": {"steps": 0}}, r"steps must be .*, got 0"),
        ({"lookahead": {"weight": -1}}, "weight must be .*, got -1"),
        ([3], r"parts must be names and their options, got \[3\]"),
    ],
    ids=str,
)
def test_what_parts_cannot_be_is_refused_in_one_line(conf, message):
    with pytest.raises(UserError, match=message):
        tiny_model().add_parts(conf)


@pytest.mark.parametrize("names", ["lookahead", ["primary"], [["lookahead"]], None])
def test_only_parts_that_are_there_can_be_trained_alone(names):
    model = with_lookahead(tiny_model())
    with pytest.raises(UserError, match=r"train_only must be names among those of parts \['lookahead'\], got"):
        model.train_only(names)


def test_lookahead_needs_parallel_heads():
    conf = {"primary_conf": {"width": 32, "layers": 1, "heads": 2}, "local_conf": {"width": 16, "heads": 2}}
    model = GPST(SPEC, UNITS, **conf, parallel_heads=False)
    with pytest.raises(
        UserError, match=r"parts must be without lookahead, which needs ParallelHeads, with heads \['ar"
    ):
        model.add_parts({"lookahead": {}})


@pytest.mark.parametrize("objective", ["masked", "window"])
@pytest.mark.parametrize("part", ["lookahead", "unmasking_filter"])
def test_a_part_that_nobody_asks_of_a_model_that_fills_masked_steps_is_refused(objective, part):
    """Nobody drafts there, and a filter would learn from steps that the model has seen."""
    model = tiny_model(objective=objective, mask_conf={"span": 4})
    message = f"parts must be without {part}, which is for objective causal, with objective {objective}"
    with pytest.raises(UserError, match=message):
        model.add_parts({part: {}})
