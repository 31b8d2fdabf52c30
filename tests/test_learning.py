"""The paper's claim in seconds: parallel heads cannot see dependence within a step, a local transformer can."""

import pytest
import torch
from conftest import SPEC, TEXT_VOCAB

from espnet_ext.core_lm import CoreLM
from espnet_ext.decoding import build_strategy, generate
from espnet_ext.loss import LossWeights, codec_loss
from espnet_ext.sampling import Sampler, SamplingOptions, row_generators

FRAMES, ROWS, UPDATES = 6, 24, 220
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


def train(stacking):
    torch.manual_seed(0)
    model = CoreLM(
        SPEC,
        TEXT_VOCAB,
        primary_conf={"width": 48, "layers": 1, "heads": 2, "text_layers": 1, "context_layers": 1, "dropout": 0.0},
        local_conf={"width": 48, "heads": 2},
        frame_stacking_factor=stacking,
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(1)
    text, text_lengths, prompt, prompt_lengths = conditions_of(ROWS)
    lengths = torch.full((ROWS,), FRAMES)
    for _ in range(UPDATES):
        output = model(text, text_lengths, code_language(ROWS, generator), lengths, prompt, prompt_lengths)
        loss = codec_loss(output, 3, stacking, LossWeights())
        optimizer.zero_grad()
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval(), loss.stats


def share_that_obeys(model, strategy):
    """Of sampled frames, those whose three codes fit together."""
    text, text_lengths, prompt, prompt_lengths = conditions_of(64)
    conditions = model.conditions(text, text_lengths, prompt, prompt_lengths)
    generators = row_generators(0, [str(row) for row in range(64)])
    sampler = Sampler(SamplingOptions(), generators)
    codes = generate(model, conditions, build_strategy(strategy), sampler, FRAMES, min_frames=FRAMES).codes
    return float((codes == PERMUTATIONS[:, codes[..., 0]].permute(1, 2, 0)).all(-1).double().mean())


@pytest.mark.parametrize("stacking", [1, 2])
def test_local_ar_learns_what_parallel_heads_cannot(stacking):
    model, stats = train(stacking)
    parallel, local_ar = share_that_obeys(model, "parallel"), share_that_obeys(model, "local_ar")
    assert parallel < 5 * CHANCE, f"parallel heads obey in {parallel:.3f} of the frames, chance is {CHANCE:.3f}"
    assert local_ar > 0.9, f"local_ar obeys in {local_ar:.3f} of the frames"
    # the parallel heads are not untrained: they know the marginals, which are uniform
    assert float(stats["loss_parallel"]) == pytest.approx(torch.tensor(8.0).log().item() * 6 / 7, abs=0.25)
