"""What a masked model is for, in seconds: it fills a gap from what is around it; rounds make frames fit each other."""

from functools import cache

import pytest
import torch
from conftest import SPEC, TEXT_VOCAB
from test_learning import CHANCE, PERMUTATIONS, batches, conditions_of
from training import train

from espnet_ext.decoding import Masked, Window, build_strategy, generate
from espnet_ext.decoding.sampling import Sampler, SamplingOptions, row_generators
from espnet_ext.model.core_lm import TextCoreLM

FRAMES, UPDATES, CODES = 7, 150, SPEC.codebook_size


def code_language(rows, generator):
    """One frame again and again, of a code and its permutations; which one differs from utterance to utterance."""
    first = torch.randint(CODES, (rows, 1), generator=generator).expand(-1, FRAMES)
    return PERMUTATIONS[:, first].permute(1, 2, 0).contiguous()


@cache
def trained(objective="masked"):
    torch.manual_seed(0)
    model = TextCoreLM(
        SPEC,
        TEXT_VOCAB,
        primary_conf={"width": 48, "layers": 1, "heads": 2, "text_layers": 1, "context_layers": 0, "dropout": 0.0},
        local="ar",
        local_conf={"width": 48, "heads": 2},
        objective=objective,
        mask_conf={"span": 4 if objective == "window" else 1},
    ).train()
    for parameter in (model.embedding.table.weight, model.heads["ar"].position):
        parameter.data *= 10.0  # codes and slots differ from the start
    train(model, batches(code_language, FRAMES), UPDATES, lr=4e-3)
    return model


def fill(anew, strategy="local_ar", rounds=FRAMES, rows=64):
    """True codes, and what is made of them where some frames are to be made anew."""
    model, text = trained(), conditions_of(rows)
    codes = code_language(rows, torch.Generator().manual_seed(2))
    known = codes.masked_fill(torch.tensor(anew, dtype=torch.bool)[None, :, None], SPEC.mask_id)
    conditions = model.conditions(*text)._replace(known=known, known_lengths=torch.full((rows,), FRAMES))
    sampler = Sampler(SamplingOptions(), row_generators(0, [str(row) for row in range(rows)]))
    made = generate(model, conditions, build_strategy(strategy), sampler, FRAMES + 1, order=Masked(rounds))
    return codes, made.codes


def share(same):
    return float(same.all(-1).double().mean())


def test_a_gap_is_filled_from_what_is_beside_it():
    codes, made = fill([0, 0, 1, 1, 0, 0, 0], "parallel")
    right = share((codes == made)[:, 2:4])
    assert right > 0.95, f"frames that follow from those beside them are right in {right:.3f} of the cases"


@pytest.mark.parametrize(("strategy", "least", "most"), [("local_ar", 0.9, 1.0), ("parallel", 0.0, 5 * CHANCE)])
def test_the_codes_of_a_step_fit_if_a_local_transformer_fills_it(strategy, least, most):
    made = fill([1] * FRAMES, strategy, rounds=1)[1]
    fit = share(made == PERMUTATIONS[:, made[..., 0]].permute(1, 2, 0))
    assert least <= fit <= most, f"{strategy}: {fit:.3f} of the steps"


def test_utterances_are_as_long_as_those_of_the_training_where_nobody_says_how_long():
    model, rows = trained(), 64
    sampler = Sampler(SamplingOptions(), row_generators(0, [str(row) for row in range(rows)]))
    conditions = model.conditions(*conditions_of(rows))
    made = generate(model, conditions, build_strategy("local_ar"), sampler, 4 * FRAMES, order=Masked())
    assert set(made.lengths.tolist()) == {FRAMES} and bool(made.has_eos.all())


def test_with_more_rounds_frames_fit_each_other():
    made = {rounds: fill([1] * FRAMES, rounds=rounds)[1] for rounds in (1, 2, FRAMES)}
    alike = [share(codes[:, 1:] == codes[:, :-1]) for codes in made.values()]
    assert alike[0] < 0.25 and alike[0] + 0.1 < alike[1] < alike[2] - 0.1 and alike[2] > 0.9, alike


def test_a_window_keeps_several_steps_of_a_pass_where_they_follow_from_known_ones():
    model, rows = trained("window"), 64
    conditions = model.conditions(*conditions_of(rows))
    alike, passes = {}, {}
    for threshold in (0.0, 0.9):
        sampler = Sampler(SamplingOptions(), row_generators(0, [str(row) for row in range(rows)]))
        order = Window(width=4, threshold=threshold)
        made = generate(model, conditions, build_strategy("local_ar"), sampler, FRAMES, FRAMES, order=order)
        alike[threshold] = share(made.codes[:, 1:] == made.codes[:, :-1])
        passes[threshold] = float(made.primary_passes.sum() / made.steps.sum())
    assert alike[0.9] > 0.9 and alike[0.0] < alike[0.9] - 0.2, alike
    assert passes[0.0] < passes[0.9] < 0.7, passes
