"""The paper's claim in seconds: parallel heads cannot see dependence within a step, a local transformer can."""

from functools import cache

import pytest
import torch
from conftest import SPEC, TEXT_VOCAB
from training import train

from espnet_ext.decoding import build_strategy, generate
from espnet_ext.decoding.sampling import Sampler, SamplingOptions, row_generators
from espnet_ext.model.core_lm import TextCoreLM

FRAMES, ROWS, UPDATES = 6, 24, 300  # frames of an utterance, utterances of an update
CHANCE = 1 / SPEC.codebook_size**2  # of two independent codes both obeying their rule
PERMUTATIONS = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7], [3, 0, 6, 1, 7, 2, 4, 5], [5, 7, 1, 6, 0, 4, 3, 2]])


def code_language(rows, generator):
    """Codebook 0 uniform, codebooks 1 and 2 fixed permutations of it: (rows, FRAMES, 3)."""
    first = torch.randint(SPEC.codebook_size, (rows, FRAMES), generator=generator)
    return PERMUTATIONS[:, first].permute(1, 2, 0).contiguous()


def conditions_of(rows):
    ones = torch.ones(rows, dtype=torch.long)
    text = torch.arange(TEXT_VOCAB)[:4].expand(rows, -1)
    return text, ones * 4, torch.zeros(rows, 0, 3, dtype=torch.long), ones * 0


def batches(language, frames):
    """What a training is given, utterance after utterance of a language."""
    generator = torch.Generator().manual_seed(1)
    text, text_lengths, prompt, prompt_lengths = conditions_of(ROWS)

    def batch():
        codes = language(ROWS, generator)
        return text, text_lengths, codes, torch.full((ROWS,), frames), prompt, prompt_lengths

    return batch


def new_model(stacking):
    """A model with every head, whose codes and slots differ from the start.

    With the usual small tables and positions the same is learnt, but unmasking takes it several times as long.
    """
    torch.manual_seed(0)
    local = {"width": 48, "heads": 2}
    model = TextCoreLM(
        SPEC,
        TEXT_VOCAB,
        primary="prefix",
        primary_conf={"width": 48, "layers": 1, "heads": 2, "dropout": 0.0},
        local=["ar", "maskgit"],
        local_conf={"ar": local, "maskgit": local},
        frame_stacking_factor=stacking,
    )
    for parameter in (model.embedding.table.weight, model.heads["ar"].position, model.heads["maskgit"].position):
        parameter.data *= 10.0
    return model.train()


@cache
def trained(stacking):
    """The model, and the statistics of its last update."""
    model = new_model(stacking)
    return model, train(model, batches(code_language, FRAMES), UPDATES, lr=5e-3)


def sample(model, strategy, **conf):
    """Share of the sampled frames whose three codes fit together, and local passes per step."""
    text, text_lengths, prompt, prompt_lengths = conditions_of(64)
    conditions = model.conditions(text, text_lengths, prompt, prompt_lengths)
    sampler = Sampler(SamplingOptions(), row_generators(0, [str(row) for row in range(64)]))
    result = generate(model, conditions, build_strategy(strategy, **conf), sampler, FRAMES, min_frames=FRAMES)
    obeys = (result.codes == PERMUTATIONS[:, result.codes[..., 0]].permute(1, 2, 0)).all(-1)
    return float(obeys.double().mean()), float(result.local_passes.sum() / result.steps.sum())


stackings = pytest.mark.parametrize("stacking", [1, 2])


@stackings
def test_parallel_heads_learn_the_marginals_and_cannot_learn_more(stacking):
    model, stats = trained(stacking)
    obeys, passes = sample(model, "parallel")
    assert obeys < 5 * CHANCE, f"parallel heads obey in {obeys:.3f} of the frames, chance is {CHANCE:.3f}"
    assert passes == 1
    # they are not untrained: the marginals are uniform, and one of seven frames is the EOS they are sure of
    assert float(stats["loss_parallel"]) == pytest.approx(torch.tensor(8.0).log().item() * 6 / 7, abs=0.1)


@stackings
@pytest.mark.parametrize(
    ("strategy", "conf"),
    [
        ("local_ar", {}),
        ("local_maskgit", {"n_rounds": 99}),
        ("local_maskgit", {"n_rounds": 99, "order": "confidence"}),
        ("local_maskgit", {"n_rounds": 99, "order": "frames"}),
        ("local_maskgit", {"n_rounds": 99, "order": "left_to_right"}),
        ("local_maskgit_adaptive", {"threshold": 0.99, "n_rounds": 99}),
        ("local_speculative", {"acceptance": "gumbel"}),
        ("local_speculative", {"acceptance": "exact"}),
    ],
)
def test_local_transformers_learn_what_parallel_heads_cannot(stacking, strategy, conf):
    model, _ = trained(stacking)
    obeys, passes = sample(model, strategy, **conf)
    assert obeys > 0.95, f"{strategy} obeys in {obeys:.3f} of the frames"
    if strategy in ("local_speculative", "local_maskgit_adaptive"):
        # one of a frame's three codes is free, and the other two follow from it in one pass
        assert passes < 0.9 * model.slots, f"{strategy} needs {passes:.2f} passes for {model.slots} codes"


@stackings
@pytest.mark.parametrize(
    ("strategy", "conf"), [("local_maskgit", {"n_rounds": 1}), ("local_maskgit_adaptive", {"threshold": 0.0})]
)
def test_one_round_of_unmasking_is_as_blind_as_parallel_heads(stacking, strategy, conf):
    obeys, passes = sample(trained(stacking)[0], strategy, **conf)
    assert obeys < 5 * CHANCE and passes == 1


def test_more_rounds_obey_more_often():
    obeys = [sample(trained(2)[0], "local_maskgit", n_rounds=rounds)[0] for rounds in (1, 3, 6)]
    assert obeys[0] + 0.2 < obeys[1] < obeys[2] - 0.2
