"""GPST: teacher forcing, steps with a cache and batches agree; the future is not seen; every strategy and S works."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from conftest import NAMES, SAMPLING, SPEC, enliven, registered

from espnet_ext.codes import CodecSpec, stack_frames
from espnet_ext.decoding import build_strategy, generate
from espnet_ext.decoding.sampling import Sampler, SamplingOptions, row_generators
from espnet_ext.model.core_lm import GPST
from espnet_ext.model.loss import LossWeights, codec_loss

UNITS = CodecSpec(num_codebooks=1, codebook_size=7, frame_rate_hz=50.0, sample_rate_hz=16000)
POSITIONS = {"rope": {}, "anew": {}, "learned": {"position": "learned", "max_positions": 64}}


def tiny_gpst(positions="rope", stacking=1, local=("ar", "maskgit"), seed=0, scale=5.0, **options):
    """A random model in float64 and eval mode, its weights large enough for decisions to differ.

    As `tiny_model`, with an even number of frames a step it is residual and its tables are tied.
    """
    torch.manual_seed(seed)
    even = stacking % 2 == 0
    residual = even and options.get("parallel_heads", True)
    options.setdefault("frame_tables", "tied" if even else "own")
    options.setdefault("units_per_frame", 0.8 if positions == "anew" else 0.0)
    model = GPST(
        SPEC,
        UNITS,
        primary_conf={"width": 32, "layers": 2, "heads": 2, "dropout": 0.0, **POSITIONS[positions]},
        local=list(local),
        local_conf={name: {"width": 16, "heads": 2, "residual": residual} for name in local},
        frame_stacking_factor=stacking,
        conditioning_dropout=0.1,
        **options,
    )
    enliven(model, scale)
    return model.double().eval()


@cache
def shared_gpst(positions="rope", stacking=1):
    """A `tiny_gpst` for tests that leave it as it is."""
    return tiny_gpst(positions, stacking, languages=("en", "zh"))


def ragged(seed=0):
    """Units, codes and languages of three utterances of different lengths, with their lengths."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "semantic": torch.randint(UNITS.codebook_size, (3, 6), generator=generator),
        "semantic_lengths": torch.tensor([6, 2, 4]),
        "codes": torch.randint(SPEC.codebook_size, (3, 9, 3), generator=generator),
        "codes_lengths": torch.tensor([9, 3, 6]),
        "language": torch.tensor([1, 0, 2]),
    }


def one(batch, row):
    """One utterance alone, without its padding."""
    units, frames = int(batch["semantic_lengths"][row]), int(batch["codes_lengths"][row])
    alone = {name: values[row : row + 1] for name, values in batch.items()}
    return {**alone, "semantic": alone["semantic"][:, :units], "codes": alone["codes"][:, :frames]}


def conditions_of(model, batch, prompt_steps=(0, 0, 0)):
    """Units of the batch, and the first steps of its codes as acoustic prompt."""
    frames = torch.tensor(prompt_steps[: len(batch["codes"])]) * model.stacking
    prompt = batch["codes"][:, : int(frames.max())]
    return model.conditions(batch["semantic"], batch["semantic_lengths"], prompt, frames, batch["language"])


def speak(model, conditions, name, options=SAMPLING["sampled"], names=NAMES, limit=8, seed=0, **conf):
    sampler = Sampler(options, row_generators(seed, names))
    return generate(model, conditions, build_strategy(name, **conf), sampler, limit)


@pytest.fixture(params=list(POSITIONS))
def positions(request):
    """Rotary positions, those of the codes going on or beginning anew, and learned ones."""
    return request.param


def hidden_one_by_one(model, batch, row):
    """Hidden vectors of one utterance's steps, from `prefill` and `step`."""
    alone = one(batch, row)
    targets = model.targets(alone["codes"], alone["codes_lengths"])
    steps, _ = model.inputs(targets, SPEC.eos_id)
    state = model.prefill(conditions_of(model, alone), steps.shape[1])
    assert torch.equal(model.first_codes(conditions_of(model, alone)), steps[:, 0])
    return torch.stack([model.step(steps[:, index], state) for index in range(steps.shape[1])], dim=1)


@torch.no_grad()
def test_incremental_equals_teacher_forced(positions, stacking):
    model, batch = shared_gpst(positions, stacking), ragged()
    rows = [hidden_one_by_one(model, batch, row)[0] for row in range(3)]
    for name in ("parallel", "ar"):
        scores = model(**batch).heads[name]
        head = model.heads[name]
        expected = head(model.heads.inputs(head, torch.cat(rows)), scores.targets).logits
        torch.testing.assert_close(scores.logits, expected, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_units_step_by_step_equal_units_teacher_forced(positions):
    model, batch = shared_gpst(positions), ragged()
    output = model(**batch).units
    logits = []
    for row in range(3):
        alone = one(batch, row)
        empty = torch.zeros(1, dtype=torch.long)
        conditions = model.units.conditions(alone["semantic"][:, :0], empty, alone["language"])
        state = model.units.prefill(conditions, 20)
        codes = model.units.first_codes(conditions)
        for unit in [*alone["semantic"][0].tolist(), None]:
            logits.append(model.unit_heads["parallel"].logits(model.units.step(codes, state))[0])
            codes = torch.tensor([[unit]]) if unit is not None else codes
    torch.testing.assert_close(output.logits, torch.stack(logits), rtol=1e-9, atol=1e-9)
    ends = [UNITS.eos_id] * 3
    expected = [unit for row in range(3) for unit in [*one(batch, row)["semantic"][0].tolist(), ends[row]]]
    assert output.targets.flatten().tolist() == expected


@torch.no_grad()
def test_a_frame_is_predicted_without_itself_and_without_the_future(stacking):
    """The leak that a published review suspected: the vector that predicts a frame would have to know the frame."""
    model, batch = tiny_gpst("rope", stacking, scale=2.0), one(ragged(), 0)  # larger weights saturate attention
    before = model(**batch)
    for frame in range(9):
        codes = batch["codes"].clone()
        codes[:, frame] = (codes[:, frame] + 1) % SPEC.codebook_size
        after = model(**{**batch, "codes": codes})
        step = frame // stacking
        for name in ("parallel", "ar", "maskgit"):
            same = (after.heads[name].logits == before.heads[name].logits).all(-1)
            assert same[:step].all(), "steps before it"
            assert step + 1 == len(same) or not same[step + 1].all(), "the step behind it knows it"
        assert torch.equal(after.heads["parallel"].logits[step], before.heads["parallel"].logits[step])
        slot = frame % stacking * 3  # within its step only codes behind a code may know it
        assert torch.equal(after.heads["ar"].logits[step, : slot + 1], before.heads["ar"].logits[step, : slot + 1])
        assert torch.equal(after.units.logits, before.units.logits)


@torch.no_grad()
def test_a_unit_changes_what_follows_it_and_nothing_before(stacking):
    model, batch = shared_gpst("rope", stacking), one(ragged(), 0)
    before = model(**batch)
    for index in range(6):
        units = batch["semantic"].clone()
        units[:, index] = (units[:, index] + 1) % UNITS.codebook_size
        after = model(**{**batch, "semantic": units})
        same = (after.units.logits == before.units.logits).all(-1)[:, 0]
        assert same[: index + 1].all() and not same[index + 1 :].any()
        assert not (after.heads["parallel"].logits == before.heads["parallel"].logits).all(-1).any()


@torch.no_grad()
def test_rows_of_a_batch_score_as_if_alone(positions, stacking):
    model, batch = shared_gpst(positions, stacking), ragged()
    together = model(**batch)
    start, unit_start = 0, 0
    for row in range(3):
        alone = model(**one(batch, row))
        end, unit_end = start + len(alone.targets), unit_start + len(alone.units.targets)
        for name in ("parallel", "ar"):
            logits = together.heads[name].logits[start:end]
            torch.testing.assert_close(logits, alone.heads[name].logits, rtol=1e-9, atol=1e-9)
        units = together.units.logits[unit_start:unit_end]
        torch.testing.assert_close(units, alone.units.logits, rtol=1e-9, atol=1e-9)
        start, unit_start = end, unit_end
    assert start == len(together.targets) and unit_start == len(together.units.targets)


@registered
@pytest.mark.parametrize(
    ("options", "positions"), [(SAMPLING["sampled"], "learned"), (SAMPLING["guided"], "anew")], ids=["learned", "anew"]
)
def test_every_strategy_speaks_with_a_ragged_batch_as_with_each_row_alone(name, options, positions, stacking):
    model, batch, prompts = shared_gpst(positions, stacking), ragged(), (2, 0, 1)
    limits = torch.tensor([9, 14, 11])
    together = speak(model, conditions_of(model, batch, prompts), name, options, limit=limits)
    for row in range(3):
        conditions = conditions_of(model, one(batch, row), prompts[row : row + 1])
        alone = speak(model, conditions, name, options, NAMES[row : row + 1], limits[row])
        assert torch.equal(together.codes[row, : together.lengths[row]], alone.codes[0])
        assert together.has_eos[row] == alone.has_eos[0]


def test_units_are_drawn_with_a_ragged_batch_as_with_each_row_alone(positions):
    model, batch = shared_gpst(positions), ragged()
    lengths = torch.tensor([3, 0, 1])
    units = model.units
    conditions = units.conditions(batch["semantic"], lengths, batch["language"])
    together = speak(units, conditions, "parallel", SamplingOptions(), limit=12)
    assert together.codes.shape[2] == 1 and int(together.codes.max()) < UNITS.codebook_size
    for row in range(3):
        alone = units.conditions(
            batch["semantic"][row : row + 1, : lengths[row]], lengths[row : row + 1], batch["language"][row : row + 1]
        )
        result = speak(units, alone, "parallel", SamplingOptions(), NAMES[row : row + 1], 12)
        assert torch.equal(together.codes[row, : together.lengths[row]], result.codes[0])


@torch.no_grad()
def test_a_prompt_is_what_the_model_would_have_said_itself(positions, stacking):
    """Going on behind a prompt equals teacher forcing over prompt and speech."""
    model, batch = shared_gpst(positions, stacking), one(ragged(), 0)
    result = speak(model, conditions_of(model, batch, (2,)), "parallel", SAMPLING["greedy"], NAMES[:1], 6)
    spoken = torch.cat((batch["codes"][:, : 2 * stacking], result.codes), dim=1)
    forced = model(**{**batch, "codes": spoken, "codes_lengths": torch.tensor([spoken.shape[1]])})
    best = forced.heads["parallel"].logits[..., : SPEC.codebook_size].argmax(-1)
    expected = stack_frames(spoken, stacking, SPEC.eos_id)[0]
    steps = result.codes.shape[1] // stacking
    assert torch.equal(best[2 : 2 + steps], expected[2 : 2 + steps])


def test_a_language_changes_everything_and_an_unknown_one_is_its_own():
    model, batch = shared_gpst(), ragged()
    told = [model(**{**batch, "language": torch.full((3,), index)}).units.logits for index in range(3)]
    assert not any(torch.equal(told[a], told[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    assert torch.equal(told[0], model(**{**batch, "language": None}).units.logits)


def test_a_model_without_languages_ignores_them():
    model, batch = tiny_gpst(), ragged()
    assert torch.equal(model(**batch).units.logits, model(**{**batch, "language": None}).units.logits)


def test_the_loss_is_the_mean_over_units_plus_the_mean_over_codes():
    model, batch = tiny_gpst(local=("ar",), parallel_heads=False), ragged()
    with torch.no_grad():
        output = model(**batch)
    smooth = 0.1

    def by_hand(scores):
        logprobs = scores.logits.double().log_softmax(-1)
        true = logprobs.gather(-1, scores.targets[..., None])[..., 0]
        smoothed = (1 - smooth) * true + smooth * logprobs.mean(-1)
        return -float(smoothed[scores.loss_mask].mean())

    total = float(codec_loss(output, 3, LossWeights(label_smoothing=smooth)).total)
    assert total == pytest.approx(by_hand(output.units) + by_hand(output.heads["ar"]), rel=1e-5)


def test_the_units_of_an_utterance_without_conditions_are_not_trained():
    model, batch = tiny_gpst().train(), ragged()
    model.conditioning_dropout = 0.999999
    assert len(model(**batch).units.targets) == 0
    loss = codec_loss(model(**batch), 3, LossWeights()).total
    loss.backward()
    assert torch.isfinite(loss)
    model.conditioning_dropout = 0.0
    assert len(model(**batch).units.targets) == int((batch["semantic_lengths"] + 1).sum())


def test_one_head_serves_all_codebooks_unless_each_is_to_have_its_own():
    shared, own = (tiny_gpst(shared_head=value, local=("ar",)).heads["ar"] for value in (True, False))
    assert shared.heads.weight.shape == (SPEC.vocab_size, 16)
    assert own.heads.weight.shape == (3, 16, SPEC.vocab_size)


def test_the_local_transformer_has_tables_of_its_own():
    model = tiny_gpst()
    assert model.heads["ar"].embedding is not model.embedding
    assert model.heads["ar"].embedding is not model.heads["maskgit"].embedding


def test_room_is_what_the_learned_context_leaves(stacking):
    model, batch = tiny_gpst("learned", stacking, languages=("en", "zh")), ragged()
    room = model.room(conditions_of(model, batch, (2, 0, 1)))
    assert room.tolist() == [(64 - 2 - 6 - 2) * stacking, (64 - 2 - 2) * stacking, (64 - 2 - 4 - 1) * stacking]
    for surplus in (0, 1):
        limit = int(room[0]) + surplus * stacking
        conditions = conditions_of(model, one(batch, 0), (2,))
        if surplus:
            with pytest.raises(ValueError, match="max_positions must be at least 65"):
                model.prefill(conditions, limit // stacking)
        else:
            model.prefill(conditions, limit // stacking)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"primary": "cross_attention"}, "primary must be prefix with corelm gpst, got 'cross_attention'"),
        ({"local": "none", "parallel_heads": False}, "parallel_heads must be true with local none"),
        (
            {"units_per_frame": 0.5, "primary_conf": {"position": "learned"}},
            "units_per_frame must be 0 with position learned, got 0.5",
        ),
        ({"languages": "en"}, "languages must be a list of names, got 'en'"),
        ({"languages": ["en", "en"]}, "languages must differ from each other"),
        ({"local_drop": 1.0}, r"local_drop must be in \[0, 1\), got 1.0"),
        ({"local_conf": {"wide": 3}}, "local_conf of ar must be among"),
    ],
)
def test_options_that_cannot_work_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        GPST(SPEC, UNITS, **options)


def test_a_prompt_that_does_not_fill_its_last_step_is_refused():
    model, batch = shared_gpst("rope", 2), ragged()
    with pytest.raises(ValueError, match=r"prompts must have a multiple of 2 frames, got \[3, 0, 2\]"):
        model.conditions(batch["semantic"], batch["semantic_lengths"], batch["codes"][:, :3], torch.tensor([3, 0, 2]))


def test_routers_are_told_of_no_prompt_as_in_training():
    model, batch = shared_gpst(), ragged()
    told = [model.summary(conditions_of(model, batch, steps)) for steps in ((0, 0, 0), (2, 0, 1))]
    assert torch.equal(*told)
