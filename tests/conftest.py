"""Tiny models and batches that every test file builds on."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from espnet_ext.codes import CodecSpec
from espnet_ext.core_lm import CoreLM
from espnet_ext.primary import Conditions

pytest_plugins = ["fabricated"]

SPEC = CodecSpec(num_codebooks=3, codebook_size=8, frame_rate_hz=25.0, sample_rate_hz=16000)
TEXT_VOCAB = 10
PRIMARIES = {
    "cross_attention": {"width": 32, "layers": 2, "heads": 2, "text_layers": 1, "context_layers": 1},
    "prefix": {"width": 32, "layers": 2, "heads": 2},
    "prefix_learned": {"width": 32, "layers": 2, "heads": 2, "position": "learned", "max_positions": 64},
}


class Batch(NamedTuple):
    """Arguments of `CoreLM.forward`."""

    text: Tensor
    text_lengths: Tensor
    codes: Tensor
    code_lengths: Tensor
    prompt: Tensor
    prompt_lengths: Tensor

    def row(self, index: int) -> Batch:
        """One utterance alone, without its padding."""
        parts = []
        for values, lengths in ((self[0], self[1]), (self[2], self[3]), (self[4], self[5])):
            parts += [values[index : index + 1, : int(lengths[index])], lengths[index : index + 1]]
        return Batch(*parts)

    def conditions(self, model: CoreLM) -> Conditions:
        return model.conditions(self.text, self.text_lengths, self.prompt, self.prompt_lengths)


def tiny_model(
    primary: str = "cross_attention",
    stacking: int = 1,
    local: str | list[str] = "all",
    seed: int = 0,
    **options: object,
) -> CoreLM:
    """A random model with all heads in float64 and eval mode, its weights large enough for decisions to differ."""
    torch.manual_seed(seed)
    small = {"width": 16, "heads": 2}
    local = ["ar", "maskgit"] if local == "all" else local
    several = {} if local == "none" else small if isinstance(local, str) else dict.fromkeys(local, small)
    options.setdefault("local_conf", several)
    model = CoreLM(
        SPEC,
        TEXT_VOCAB,
        primary=primary.removesuffix("_learned"),
        primary_conf={**PRIMARIES[primary], "dropout": 0.0},
        local=local,
        frame_stacking_factor=stacking,
        **options,
    )
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data *= 5.0
    return model.double().eval()


def ragged_batch(seed: int = 0) -> Batch:
    """Three utterances whose texts, codes and prompts all differ in length; one has no prompt."""
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        torch.randint(TEXT_VOCAB, (3, 7), generator=generator),
        torch.tensor([7, 4, 5]),
        torch.randint(SPEC.codebook_size, (3, 9, 3), generator=generator),
        torch.tensor([9, 3, 6]),
        torch.randint(SPEC.codebook_size, (3, 5, 3), generator=generator),
        torch.tensor([5, 2, 0]),
    )


@pytest.fixture(params=list(PRIMARIES))
def primary(request: pytest.FixtureRequest) -> str:
    """Every primary transformer, learned positions included."""
    return str(request.param)


@pytest.fixture(params=[1, 2, 3, 4])
def stacking(request: pytest.FixtureRequest) -> int:
    """Frames per step."""
    return int(request.param)
