"""Speculation over steps: exact where it says so, and wrong versions of it are caught."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from conftest import SAMPLING, ragged_batch, tiny_model

from espnet_ext.decoding import CAUSAL, build_order, build_strategy, drafters, speculative
from espnet_ext.decoding.acceptance import Exact, acceptances
from espnet_ext.decoding.drafters import Histories, Jacobi
from espnet_ext.decoding.options import DecodeOptions
from espnet_ext.decoding.rows import Rows
from espnet_ext.decoding.sampling import Sampler, SamplingOptions, row_generators
from espnet_ext.errors import UserError
from espnet_ext.model.heads import Codebooks
from espnet_ext.model.primary import PrimaryState
from espnet_ext.testing.exactness import enumerable_model, exact_distribution, total_variation
from espnet_ext.testing.models import decode, shared_model
from espnet_ext.testing.order import ORDER_CONTRACT
from espnet_ext.testing.speculation import (
    ACCEPTANCE_CONTRACT,
    DRAFTER_CONTRACT,
    assert_distribution_of_causal,
    judged,
    order_of,
    random_drafts,
)

LIMITS = torch.tensor([7, 15, 11])


@pytest.mark.parametrize("clause", DRAFTER_CONTRACT, ids=lambda clause: clause.__name__)
@pytest.mark.parametrize("name", list(drafters))
def test_every_drafter_keeps_its_contract(name, clause):
    clause(name, {})


@pytest.mark.parametrize("clause", ACCEPTANCE_CONTRACT, ids=lambda clause: clause.__name__)
@pytest.mark.parametrize("name", list(acceptances))
def test_every_acceptance_keeps_its_contract(name, clause):
    clause(name, {})


@pytest.mark.parametrize("clause", ORDER_CONTRACT, ids=lambda clause: clause.__name__)
@pytest.mark.parametrize("conf", [{"drafter": "ngram"}, {"width": 2, "drafter": "repeat"}], ids=str)
def test_speculation_with_other_drafters_keeps_the_contract_of_orders(conf, clause):
    clause("speculative", 1, conf)


@pytest.mark.parametrize("drafter", list(drafters))
@pytest.mark.parametrize("primary", ["cross_attention_annealed", "prefix_learned"])
@pytest.mark.parametrize("delays", [(), (0, 1, 2)])
def test_codes_are_those_of_causal_whatever_the_primary_and_the_delays(drafter, primary, delays):
    model = shared_model(primary, 1, delays)
    how = model, ragged_batch(), "local_ar", SAMPLING["guided, no repetition"], LIMITS
    plain, drafted = (decode(*how, seed=5, steps=order) for order in (CAUSAL, order_of(drafter, width=4)))
    assert torch.equal(plain.codes, drafted.codes) and torch.equal(plain.lengths, drafted.lengths)
    torch.testing.assert_close(plain.logprobs, drafted.logprobs)


@pytest.mark.parametrize("acceptance", ["exact", "block"])
@pytest.mark.parametrize("strategy", ["parallel", "local_ar"])
@pytest.mark.parametrize("delays", [(), (0, 1)])
def test_speculation_over_steps_has_the_distribution_of_causal(acceptance, strategy, delays):
    """Width 3, with ends within a draft, and codebooks that come late."""
    model, sampling = enumerable_model(delays=delays), SamplingOptions(0.8, top_k=2)
    plain = exact_distribution(model, build_strategy(strategy), sampling, 3)
    order = build_order("speculative", drafter="jacobi", acceptance=acceptance, width=3)
    found = exact_distribution(model, build_strategy(strategy), sampling, 3, order=order)
    assert abs(found.mass - 1) < 1e-12
    assert total_variation(plain, found) < 1e-12
    assert found.branches > plain.branches > 4, "nothing was truly random"


def test_speculation_within_speculation_has_the_distribution_of_causal():
    """Over steps by rejection, and the rest of the step that does not hold by the same over its slots."""
    model, sampling = enumerable_model(), SamplingOptions(0.8)
    plain = exact_distribution(model, build_strategy("local_ar"), sampling, 2)
    strategy, order = build_strategy("local_speculative", acceptance="exact"), order_of("repeat", "exact", 2)
    assert total_variation(plain, exact_distribution(model, strategy, sampling, 2, order=order)) < 1e-12


@pytest.mark.parametrize("strategy", ["local_maskgit", "local_maskgit_adaptive"])
def test_the_same_noise_has_the_distribution_of_causal_for_strategies_without_an_order_of_slots(strategy):
    assert_distribution_of_causal(order_of("jacobi", "gumbel", 2), strategy)


def test_lossy_acceptances_are_told_from_exact_ones():
    model, sampling = enumerable_model(), SamplingOptions(0.8)
    plain = exact_distribution(model, build_strategy("local_ar"), sampling, 3)
    for name, conf in (("tolerance", {"delta": 0.6}), ("lantern", {"delta": 0.6}), ("pcg", {"groups": 1})):
        order = order_of("repeat", name, 2, acceptance_conf=conf)
        assert (
            total_variation(plain, exact_distribution(model, build_strategy("local_ar"), sampling, 3, order=order))
            > 0.01
        )


def test_similar_codes_may_be_those_of_the_codec():
    """Over steps and over slots; codebooks of vectors in which other codes are near each other let others pass."""
    model = tiny_model(conditioning_dropout=0.1)
    line = torch.linspace(0, 1, model.spec.codebook_size)[None, :, None].expand(model.spec.num_codebooks, -1, 1)
    model.heads.code_vectors["codec"] = Codebooks(lambda: line)
    for name, conf in (("lantern", {"k": 3, "delta": 0.7}), ("pcg", {"groups": 3})):
        made = []
        for whose in ("model", "codec"):
            how = {"acceptance_conf": {**conf, "vectors": whose}}
            orders = order_of("repeat", name, **how), CAUSAL
            for strategy, order, more in (
                ("local_ar", orders[0], {}),
                ("local_speculative", orders[1], {"acceptance": name, "exact": False, **how}),
            ):
                made.append(decode(model, ragged_batch(), strategy, SAMPLING["sampled"], LIMITS, steps=order, **more))
        over_steps, over_slots = made[::2], made[1::2]
        for one, other in (over_steps, over_slots):
            same = one.codes.shape == other.codes.shape and torch.equal(one.codes, other.codes)
            assert not same, f"{name} does not read the codec's vectors"


def test_a_codec_is_asked_for_its_vectors_once():
    asked = []
    books = Codebooks(lambda: asked.append(1) or torch.rand(3, 8, 2))
    drafts = random_drafts()._replace(vectors={"codec": books})
    for _ in range(2):
        judged("pcg", {"groups": 3, "vectors": "codec"}, drafts)
        judged("lantern", {"k": 3, "vectors": "codec"}, drafts)
    assert asked == [1]


NO_LENIENCE = {"tolerance": {"delta": 0.0}, "lantern": {"delta": [0.0, 0.0, 0.0]}, "pcg": {"groups": 8}}


@pytest.mark.parametrize(("name", "conf"), NO_LENIENCE.items(), ids=str)
def test_without_lenience_a_lossy_acceptance_is_exact(name, conf):
    drafts = random_drafts()
    right, found = judged("exact", {}, drafts), judged(name, conf, drafts)
    assert torch.equal(found.accepted, right.accepted)
    torch.testing.assert_close(found.instead, right.instead)


@pytest.mark.parametrize(
    ("name", "mild", "strong"),
    [
        ("tolerance", {"delta": 0.1}, {"delta": 0.9}),
        ("lantern", {"delta": 0.05, "k": 4}, {"delta": 0.5, "k": 7}),
        ("pcg", {"groups": 6}, {"groups": 2}),
    ],
)
def test_more_lenience_lets_more_drafts_stay(name, mild, strong):
    drafts = random_drafts()
    exact, little, much = (judged(*how, drafts).accepted.sum() for how in (("exact", {}), (name, mild), (name, strong)))
    assert exact <= little < much


def test_groups_have_the_distribution_of_the_models():
    """What a drawn draft and its correction make of a code: group by group the p of the group."""
    drafts = random_drafts()
    p, q = drafts.verified[0, 0], drafts.drafted_from[0, 0]
    rows = 200_000
    codes = torch.multinomial(q, rows, replacement=True)[:, None]
    again = drafts._replace(
        codes=codes,
        known=torch.zeros(rows, dtype=torch.int64),
        drafted_from=q.expand(rows, 1, -1),
        verified=p.expand(rows, 1, -1),
    )
    sampler = Sampler(SamplingOptions(), (torch.Generator().manual_seed(0),))
    from espnet_ext.decoding.lenient import groups_of

    group = groups_of(drafts.vectors["model"].vectors(), 3)[0]
    verdict = acceptances.build("pcg", groups=3).judge(again, _AsOne(sampler, rows))
    made = torch.where(
        verdict.accepted == 1, codes[:, 0], torch.multinomial(verdict.instead[0, 0], rows, replacement=True)
    )
    found = torch.zeros(3).index_add(0, group[made], torch.full((rows,), 1 / rows))
    expected = torch.zeros(3, dtype=torch.float64).index_add(0, group, p)
    torch.testing.assert_close(found.double(), expected, atol=0.005, rtol=0)


@dataclass(frozen=True)
class _AsOne:
    """Draws for many rows from one generator, which is quicker than one for each."""

    sampler: Sampler
    rows: int

    def categorical(self, probs: torch.Tensor) -> torch.Tensor:
        return torch.multinomial(probs[:, 0], 1, generator=self.sampler.generators[0])


def test_blocks_never_keep_fewer_codes_than_single_ones():
    """In expectation, by the probabilities themselves."""
    seeds = range(40)
    drafts = random_drafts()
    kept = {}
    for name in ("exact", "block"):
        total = 0
        for seed in seeds:
            sampler = Sampler(SamplingOptions(), row_generators(seed, list(map(str, range(64)))))
            total += int(acceptances.build(name).judge(drafts._replace(known=drafts.known * 0), sampler).accepted.sum())
        kept[name] = total / len(seeds)
    assert kept["block"] > kept["exact"]


@pytest.mark.parametrize("acceptance", ["gumbel", "exact"])
def test_the_samplers_of_a_window_are_made_one_from_the_other(acceptance, monkeypatch):
    """Not each from the beginning: what W steps say of the next ones is W - 1 steps of bookkeeping, and W are kept."""
    counts = {"turns": 0, "steps": 0}
    take, advance = Rows._take, speculative.Speculative.advance

    def counted(self: Any, *given: Any) -> Any:
        counts["steps"] += 1
        return take(self, *given)

    def turn(self: Any, *given: Any) -> Any:
        counts["turns"] += 1
        return advance(self, *given)

    monkeypatch.setattr(Rows, "_take", counted)
    monkeypatch.setattr(speculative.Speculative, "advance", turn)
    decode(shared_model(), ragged_batch(), "local_ar", steps=order_of("repeat", acceptance, width=8))
    assert 0 < counts["steps"] <= (2 * 8 - 1) * counts["turns"]


# planted bugs


def keep_all(advance: Any) -> Any:
    """Keeps steps behind a rejected one."""

    def wrong(self: Any, turn: Any, draft: Any, hidden: Any, samplers: Any) -> Any:
        made = advance(self, turn, draft, hidden, samplers)
        return made._replace(kept=torch.full_like(made.kept, self.width))

    return wrong


@pytest.mark.parametrize("acceptance", ["gumbel", "exact"])
def test_stale_steps_behind_a_rejected_one_are_caught(acceptance, monkeypatch):
    name = "_fill" if acceptance == "gumbel" else "_verify"
    monkeypatch.setattr(speculative.Speculative, name, keep_all(getattr(speculative.Speculative, name)))
    with pytest.raises(AssertionError, match="must have the distribution of causal"):
        assert_distribution_of_causal(order_of("repeat", acceptance, 2))


def test_a_state_that_is_not_taken_back_is_caught(monkeypatch):
    """Neither cache nor the prior's place in the text."""
    monkeypatch.setattr(PrimaryState, "accept", lambda self, kept, count: None)
    model = shared_model()
    how = model, ragged_batch(), "local_ar", SAMPLING["sampled"], LIMITS
    plain, wrong = (decode(*how, steps=order) for order in (CAUSAL, order_of("repeat")))
    assert not torch.equal(plain.codes, wrong.codes)


def test_drafts_that_are_warped_otherwise_than_the_target_are_caught(monkeypatch):
    draft = Jacobi.draft

    def warped(self: Any, turn: Any, own: Any, count: int, draws: bool) -> Any:
        made = draft(self, turn, own, count, draws)
        if made.probs is None:
            return made
        flat = made.probs.sqrt()
        return made._replace(probs=flat / flat.sum(-1, keepdim=True))

    monkeypatch.setattr(Jacobi, "draft", warped)
    with pytest.raises(AssertionError, match="must have the distribution of causal"):
        assert_distribution_of_causal(order_of("jacobi", "exact", 2))


def test_a_residual_that_is_the_target_itself_is_caught(monkeypatch):
    judge = Exact.judge
    monkeypatch.setattr(
        Exact, "judge", lambda self, drafts, sampler: judge(self, drafts, sampler)._replace(instead=drafts.verified)
    )
    with pytest.raises(AssertionError, match="must have the distribution of causal"):
        assert_distribution_of_causal(order_of("repeat", "exact", 2))


def test_a_joining_row_that_reads_its_neighbours_history_is_caught(monkeypatch):
    """It guesses otherwise; with the same noise its codes stay, and its costs tell."""
    from espnet_ext.testing.speculation import a_row_that_joins_is_what_it_is_alone

    monkeypatch.setattr(Histories, "put", lambda self, rows, other: None)
    with pytest.raises(AssertionError, match="has other codes where it joins"):
        a_row_that_joins_is_what_it_is_alone("ngram", {})


# one pass for several steps


@pytest.mark.parametrize("stacking", [1, 2])
@pytest.mark.parametrize("primary", ["cross_attention", "cross_attention_annealed", "prefix", "prefix_learned"])
def test_several_steps_in_one_pass_are_those_of_one_after_the_other(primary, stacking):
    model, batch = shared_model(primary, stacking), ragged_batch()
    codes = torch.randint(8, (3, 5, model.slots), generator=torch.Generator().manual_seed(0))
    states = [model.prefill(batch.conditions(model), 12) for _ in range(2)]
    first = [model.step(codes[:, 0], state) for state in states]
    assert torch.equal(*first)
    with torch.no_grad():
        one_by_one = torch.stack([model.step(codes[:, place], states[0]) for place in range(1, 5)], dim=1)
        at_once = model.extend(codes[:, 1:], states[1])
    torch.testing.assert_close(at_once, one_by_one)
    for state in states:
        state.accept(torch.tensor([2, 4, 1]), 4)
    torch.testing.assert_close(
        model.extend(codes[:, :3], states[1]), torch.stack([model.step(codes[:, n], states[0]) for n in range(3)], 1)
    )


# what is refused


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({"width": 1}, r"width must be in \[2, 64\], got 1"),
        ({"width": 1000}, r"width must be .*64"),
        ({"drafter": "oracle"}, r"drafter must be one of \[.*'heads', .*'jacobi', .*'repeat'\], got 'oracle'"),
        ({"drafter_conf": {"n": 3}}, r"drafter_conf of jacobi must be among \[\], got \['n'\]"),
        ({"drafter_conf": [3]}, r"drafter_conf must be names and values, got \[3\]"),
        (
            {"acceptance": "lantern"},
            r"acceptance must be one of \['block', 'exact', 'gumbel'\] with exact true, got 'lantern'",
        ),
        ({"acceptance": "tolerance", "exact": False, "acceptance_conf": {"delta": 2}}, r"delta must be"),
        ({"acceptance": "pcg", "exact": False, "acceptance_conf": {"groups": 0}}, r"groups must be"),
        ({"exact": "yes"}, r"exact must be"),
        ({"acceptance": "pcg", "exact": False, "acceptance_conf": {"vectors": "mine"}}, r"vectors must be one of"),
    ],
    ids=str,
)
def test_what_a_speculative_order_cannot_be_is_refused_in_one_line(conf, message):
    with pytest.raises(UserError, match=message):
        DecodeOptions.from_mapping({"order": "speculative", "order_conf": conf})


@pytest.mark.parametrize("name", ["lantern", "pcg"])
def test_vectors_of_a_codec_that_is_not_there_are_refused_in_one_line(name):
    message = r"vectors must be one of \['model'\] with this model, got 'codec'"
    conf = {"acceptance_conf": {"vectors": "codec"}}
    with pytest.raises(UserError, match=message):
        decode(shared_model(), ragged_batch(), "local_ar", steps=order_of("repeat", name, **conf))
    with pytest.raises(UserError, match=message):
        decode(shared_model(), ragged_batch(), "local_speculative", acceptance=name, exact=False, **conf)


def test_similar_codes_of_a_model_without_code_tables_are_refused_in_one_line():
    with pytest.raises(UserError, match="acceptance must be one that asks for no similar codes with a model without"):
        acceptances.build("pcg").check(())


def test_an_acceptance_that_scores_codes_refuses_strategies_that_cannot():
    order = build_order("speculative", acceptance="exact")
    message = r"decoding must be one of \['local_ar', 'local_spec.*'\] with acceptance 'exact', got 'local_maskgit'"
    with pytest.raises(UserError, match=message):
        decode(shared_model(), ragged_batch(), "local_maskgit", steps=order)


def test_a_delta_for_each_codebook_wants_as_many_as_there_are():
    order = order_of("repeat", "tolerance", acceptance_conf={"delta": [0.1, 0.2]})
    with pytest.raises(
        UserError, match=r"delta must be a number or 3 of them, one for each codebook, got \[0.1, 0.2\]"
    ):
        decode(shared_model(), ragged_batch(), "local_ar", steps=order)


def test_learned_positions_have_room_for_the_window():
    model = tiny_model("prefix_learned")
    with pytest.raises(UserError, match="max_positions must be at least"):
        decode(model, ragged_batch(), "parallel", max_frames=52, steps=order_of(width=64))


def test_what_an_order_was_told_is_complete_in_a_report():
    """Options that are mappings have a new one as their default, which a signature does not show."""
    told = DecodeOptions(order="speculative", order_conf={"width": 2}).complete()["order_conf"]
    assert json.loads(json.dumps(told)) == {
        "width": 2,
        "drafter": "jacobi",
        "drafter_conf": {},
        "acceptance": "gumbel",
        "acceptance_conf": {},
        "exact": True,
    }


def test_old_options_of_packed_voices_mean_what_they_meant():
    """Experiments have decode yamls of their own, tuned ones too."""
    for old, new in (("gumbel", "gumbel"), ("rejection", "exact")):
        options = DecodeOptions.from_mapping({"decoding": "local_speculative", "decoding_conf": {"coupling": old}})
        assert options.strategy == build_strategy("local_speculative", acceptance=new)
