"""The published rules of the annealed prior in inference: from when on there is a window, and where speech may end."""

import re
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from conftest import NAMES, SPEC, assert_rows_are_their_own, decode, ragged_batch, registered, tiny_model
from test_attention_prior import allowed, with_prior
from test_graphs import assert_same, decoded, uncaptured

from espnet_ext.decoding import build_strategy, generate, generate_stream
from espnet_ext.decoding.batch import guard_ends
from espnet_ext.decoding.sampling import Sampler, SamplingOptions, row_generators
from espnet_ext.model.primary import AnnealedPrior, CrossAttentionPrimary, Ending
from espnet_ext.model.primary.annealed_prior import InferenceRules

GUARD = {"end_guard": True, "end_steps": 4}
SIZES = [7, 4, 5]  # tokens of the rows of `ragged_batch`


def test_no_rules_are_those_of_older_models():
    assert AnnealedPrior(8, 1).rules == AnnealedPrior(8, 1, rules={}).rules == InferenceRules()
    assert AnnealedPrior(8, 1).end_guard is None
    model = with_prior()
    assert model.prefill(ragged_batch().conditions(model), 5).ending() is None


def test_the_page_names_the_rules_with_their_defaults():
    page = (Path(__file__).resolve().parent.parent / "docs" / "priors.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", page, flags=re.MULTILINE))
    assert told == {name: str(value).lower() for name, value in asdict(InferenceRules()).items()}


def test_the_first_steps_have_no_window_and_are_not_looked_at(stacking):
    prior = AnnealedPrior(8, stacking, ahead=1, sink_frames=2, rules={"after_steps": 3})
    first, path = 3 * stacking, torch.zeros(1, 5 * stacking, dtype=torch.int64)
    tokens, scores = torch.ones(1, 9, dtype=torch.bool), torch.zeros(1, stacking, 1, 9)
    scores[..., 6] = 1.0
    for step in range(3):
        frames = torch.arange(step * stacking, (step + 1) * stacking)[None]
        assert (prior.step(path, frames, tokens) == 0).all()
        prior.observe(path, frames, scores, tokens)
    assert not path.any()
    expected = [list(range(2 + frame)) for frame in range(stacking)]
    assert allowed(prior, path[0].tolist(), first, 9) == expected, "the first token was not visited, it is no sink"
    prior.observe(path, torch.arange(first, first + stacking)[None], scores, tokens)
    assert path[0, first : first + stacking].tolist() == [6] * stacking


def test_short_texts_have_no_window():
    prior = AnnealedPrior(8, 1, behind=0, ahead=1, rules={"short_text": 5})
    tokens = torch.arange(7) < torch.tensor([[5], [6]])
    log_prior = prior.step(torch.tensor([[4], [4]]), torch.tensor([[1]]), tokens)[:, 0, 0]
    assert (log_prior[0] == 0).all()
    assert (log_prior[1] == 0).nonzero()[:, 0].tolist() == [4, 5]


def looked_for(scores, sizes, ahead, sink_frames):
    """What frames of single steps attend to by the rule `forward`, in words instead of tensors: (B, F)."""
    rows = []
    for row, size in enumerate(sizes):
        visits, last, path = [0] * size, 0, []
        for frame in scores[row]:
            start = last
            while start < size - 1 and visits[start] >= sink_frames:
                start += 1
            candidates = range(start, min(start + ahead, size - 3))
            last = max(candidates, key=lambda token: frame[token].item()) if candidates else size - 1
            visits[last] += 1
            path.append(last)
        rows.append(path)
    return rows


def test_the_token_attended_to_is_looked_for_forward_and_the_last_ones_are_the_end():
    prior = AnnealedPrior(8, 1, ahead=3, sink_frames=3, rules={"forward": True})
    sizes, frames = [12, 6, 3, 1], 30
    tokens = torch.arange(12) < torch.tensor(sizes)[:, None]
    scores = torch.randn(4, frames, 12, generator=torch.Generator().manual_seed(0))
    path = torch.zeros(4, frames, dtype=torch.int64)
    for frame in range(frames):
        given = scores[:, frame, None, None].masked_fill(~tokens[:, None, None], -torch.inf)
        prior.observe(path, torch.tensor([[frame]]), given, tokens)
    assert path.tolist() == looked_for(scores, sizes, 3, 3)
    assert (path.diff(dim=1) >= 0).all()
    assert path[:, -1].tolist() == [size - 1 for size in sizes]


def test_frames_of_a_step_look_within_their_own_windows():
    prior = AnnealedPrior(8, 3, ahead=1, rules={"forward": True})
    path, scores = torch.zeros(1, 6, dtype=torch.int64), torch.arange(12.0).expand(1, 3, 1, 12)
    prior.observe(path, torch.arange(3)[None], scores, torch.ones(1, 12, dtype=torch.bool))
    assert path[0, :3].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"after": 3}, r"rules of annealed must be among \['after_steps', .*\], got \['after'\]"),
        ({"after_steps": -1}, "rules.after_steps must be at least 0, got -1"),
        ({"end_steps": 0}, "rules.end_steps must be at least 1, got 0"),
        ({"short_text": 2.5}, "rules.short_text must be an integer, got 2.5"),
        ({"end_guard": 1}, "rules.end_guard must be true or false, got 1"),
        ("published", "rules must be names and values, got 'published'"),
    ],
)
def test_impossible_rules_are_refused(rules, message):
    with pytest.raises(ValueError, match=message):
        CrossAttentionPrimary(10, 1, prior="annealed", prior_conf={"rules": rules})


# --- the end ---------------------------------------------------------------------------------------------------------


def reading_along(stacking, eos_bias, **rules):
    """A model that attends to the next token with every second step, and that wants to end always or never."""
    model = with_prior(stacking, rules={**GUARD, **rules})

    def observe(path, frames, scores, tokens):
        token = (frames[:, :1] // stacking // 2).expand(len(path), stacking)
        path.scatter_(1, frames.expand(len(path), -1), token.minimum(tokens.sum(1, keepdim=True) - 1))

    model.primary.prior.observe = observe
    for head in model.heads.values():
        head.heads.bias.data.view(-1, SPEC.vocab_size)[:: SPEC.num_codebooks, SPEC.eos_id] += eos_bias
    return model


def lengths(model, guided, **options):
    sampling = SamplingOptions(0.0, cfg_scale=1.5 if guided else 1.0)
    return decode(model, ragged_batch(), "local_ar", sampling, 99, **options).lengths.tolist()


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("stacking", [1, 2])
def test_an_utterance_cannot_end_before_the_attention_is_near_the_end_of_the_text(stacking, guided):
    expected = [stacking * (2 * (size - 3) + 1) for size in SIZES]  # the step behind the first that is near the end
    assert lengths(reading_along(stacking, 1e4), guided) == expected
    assert lengths(reading_along(stacking, 1e4, end_guard=False), guided) == [1, 1, 1]
    assert lengths(reading_along(stacking, 1e4, after_steps=2), guided) == [1, 1, 1], "the first steps have no guard"


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("stacking", [1, 2])
def test_an_utterance_must_end_some_steps_after_the_attention_is_at_the_end_of_the_text(stacking, guided):
    expected = [stacking * (2 * (size - 2) + 4) for size in SIZES]
    model = reading_along(stacking, -1e4)
    assert lengths(model, guided) == expected
    assert lengths(model, guided, min_frames=20 * stacking)[1] == 20 * stacking, "but not before its shortest length"
    assert lengths(reading_along(stacking, -1e4, end_guard=False), guided) == [99, 99, 99]


def test_an_end_stays_possible_some_steps_after_the_attention_was_at_the_end_of_the_text():
    prior = AnnealedPrior(8, 1, rules={"end_guard": True, "end_steps": 9})
    path, tokens = torch.tensor([[0, 9, *[2] * 20]]), torch.ones(1, 10, dtype=torch.bool)
    told = [prior.end_guard(path, torch.tensor([steps]), tokens) for steps in range(13)]
    assert [bool(ending.possible) for ending in told] == [step in (2, *range(7, 13)) for step in range(13)]
    assert [bool(ending.due) for ending in told] == [step >= 10 for step in range(13)]


def test_a_slot_in_which_only_the_end_is_legal_keeps_it():
    legal = torch.zeros(1, 3, SPEC.vocab_size, dtype=torch.bool)
    legal[0, 0] = legal[0, 1, SPEC.eos_id] = legal[0, 2, 0] = True
    ids = torch.arange(SPEC.vocab_size)
    possible, due = torch.tensor([False, True, True]), torch.tensor([False, False, True])
    early, free, late = guard_ends(SPEC, legal, Ending(possible, due))
    assert torch.equal(early[0], ids != SPEC.eos_id) and torch.equal(late[0], ids == SPEC.eos_id)
    assert torch.equal(early[1:], legal[0, 1:]) and torch.equal(late[1:], legal[0, 1:])
    assert torch.equal(free, legal[0])


RULES = {**GUARD, "forward": True, "after_steps": 1, "short_text": 4}


@registered
@pytest.mark.parametrize("stacking", [1, 2])
def test_a_guarded_row_does_not_depend_on_its_batch_mates(name, stacking):
    model = with_prior(stacking, ahead=1, sink_frames=2, rules=RULES)
    for options in (SamplingOptions(temperature=0.8), SamplingOptions(temperature=0.9, cfg_scale=2.0)):
        assert_rows_are_their_own(model, name, options)


def test_a_guarded_row_with_delays_does_not_depend_on_its_batch_mates():
    model = tiny_model("cross_attention_annealed", 1, "ar", delays=(0, 1, 2), conditioning_dropout=0.1)
    model.primary.prior = AnnealedPrior(model.primary.width, 1, ahead=1, sink_frames=2, rules=RULES)
    assert_rows_are_their_own(model, "local_ar", SamplingOptions(temperature=0.8, cfg_scale=1.5))


@pytest.mark.parametrize("stacking", [1, 2])
def test_a_static_step_and_a_stream_keep_to_the_guard(stacking):
    model, strategy = with_prior(stacking, ahead=1, sink_frames=2, rules=RULES), build_strategy("local_ar")
    right = decoded(model, strategy, "guided", frames=30)
    static = uncaptured()
    for _ in range(2):
        assert_same(decoded(model, strategy, "guided", frames=30, step=static), right)
    assert static.steps
    sampler = Sampler(SamplingOptions(temperature=0.9, top_p=0.9, cfg_scale=2.0), row_generators(3, NAMES))
    *_, last = generate_stream(model, ragged_batch().conditions(model), strategy, sampler, 30)
    assert_same(last, right)
    model.primary.prior = AnnealedPrior(model.primary.width, stacking, ahead=1, sink_frames=2)
    other = decoded(model, strategy, "guided", frames=30)
    assert not torch.equal(other.lengths, right.lengths), "the guard must matter"


def test_strategies_that_look_at_codes_keep_to_the_guard():
    model = reading_along(2, 1e4)
    sampler = Sampler(SamplingOptions(0.0))
    for name in ("parallel", "local_maskgit", "local_speculative"):
        made = generate(model, ragged_batch().conditions(model), build_strategy(name), sampler, 40)
        assert made.lengths.tolist() == [2 * (2 * (size - 3) + 1) for size in SIZES]
