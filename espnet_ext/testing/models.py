"""Tiny models of all heads, a ragged batch and ways of sampling: what a strategy is tried with."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from espnet_ext.codes import CodecSpec
from espnet_ext.decoding import CAUSAL, FULL, Depth, Generation, Order, build_strategy, generate
from espnet_ext.decoding.sampling import Sampler, SamplingOptions, row_generators
from espnet_ext.model.caches import EXACT, CachePolicy
from espnet_ext.model.core_lm import TextCoreLM
from espnet_ext.model.parts import parts
from espnet_ext.model.primary import Conditions, Primary, PrimaryOutput, PrimaryState

SPEC = CodecSpec(num_codebooks=3, codebook_size=8, frame_rate_hz=25.0, sample_rate_hz=16000)
TEXT_VOCAB = 10
PRIMARIES: dict[str, dict[str, Any]] = {
    "cross_attention": {"width": 32, "layers": 2, "heads": 2, "text_layers": 1, "context_layers": 1},
    # without window and with the annealing over, so that decoding has the numbers of training
    "cross_attention_annealed": {
        "width": 32,
        "layers": 2,
        "heads": 2,
        "text_layers": 1,
        "context_layers": 1,
        "prior": "annealed",
        "prior_conf": {"anneal_from": 0, "anneal_until": 0, "floor": 1.0},
    },
    "prefix": {"width": 32, "layers": 2, "heads": 2},
    "prefix_learned": {"width": 32, "layers": 2, "heads": 2, "position": "learned", "max_positions": 64},
}
NAMES = ["a", "b", "c"]  # of the rows of `ragged_batch`
# what decides over a code; S > 1 with CFG and repetition-aware sampling is the hardest of them
SAMPLING = {
    "greedy": SamplingOptions(temperature=0.0),
    "sampled": SamplingOptions(temperature=0.8, top_k=6),
    "guided": SamplingOptions(temperature=0.9, top_p=0.9, cfg_scale=2.0),
    "greedy guided": SamplingOptions(temperature=0.0, cfg_scale=1.7),
    "no repetition": SamplingOptions(repetition_window=4, repetition_threshold=0.2),
    "guided, no repetition": SamplingOptions(cfg_scale=1.5, repetition_window=3, repetition_threshold=0.3),
    "a temperature per codebook": SamplingOptions(temperature=[0.0, 0.7, 1.3], top_k=6, cfg_scale=1.5),
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
        parts: list[Tensor] = []
        for values, lengths in ((self[0], self[1]), (self[2], self[3]), (self[4], self[5])):
            parts += [values[index : index + 1, : int(lengths[index])], lengths[index : index + 1]]
        return Batch(*parts)

    def conditions(self, model: TextCoreLM) -> Conditions:
        """Text and prompt of every row, as the model reads them."""
        return model.conditions(self.text, self.text_lengths, self.prompt, self.prompt_lengths)


def tiny_model(
    primary: str = "cross_attention",
    stacking: int = 1,
    local: str | list[str] = "all",
    seed: int = 0,
    **options: Any,
) -> TextCoreLM:
    """A random model with all heads in float64 and eval mode, its weights large enough for decisions to differ.

    With an even number of frames a step has residual local transformers of the same weights and tied tables unless the
    options say otherwise, so that whatever runs at several S runs on both kinds.

    Args:
        primary: a key of PRIMARIES.
        stacking: S.
        local: local transformers beside the parallel heads.
        seed: of the weights.
        **options: further ones of the core LM.

    Returns:
        The model.
    """
    torch.manual_seed(seed)
    even = stacking % 2 == 0
    small = {"width": 16, "heads": 2, "residual": even}
    options.setdefault("frame_tables", "tied" if even else "own")
    local = ["ar", "maskgit"] if local == "all" else local
    several: dict[str, Any] = (
        {} if local == "none" else small if isinstance(local, str) else dict.fromkeys(local, small)
    )
    if even and {"ar", "maskgit"} <= set(several):
        several["maskgit"] = {**small, "weights": "ar"}
    options.setdefault("local_conf", several)
    model = TextCoreLM(
        SPEC,
        TEXT_VOCAB,
        primary=primary.removesuffix("_learned").removesuffix("_annealed"),
        primary_conf={**PRIMARIES[primary], "dropout": 0.0},
        local=local,
        frame_stacking_factor=stacking,
        **options,
    )
    enliven(model)
    return model.double().eval()


@torch.no_grad()
def enliven(model: TextCoreLM, scale: float = 5.0) -> None:
    """Larger weights, with which decisions differ; those that begin at zero become as large as the others."""
    head: Any
    for head in model.heads.values():
        if head.residual:
            head.heads.weight.normal_(std=0.02)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.mul_(scale)


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


@cache
def shared_model(
    primary: str = "cross_attention", stacking: int = 1, delays: tuple[int, ...] = (), objective: str = "causal"
) -> TextCoreLM:
    """A `tiny_model` that knows guidance and has all parts, for tests that leave it as it is."""
    local = "ar" if any(delays) else "all"
    how: dict[str, Any] = {"delays": delays, "conditioning_dropout": 0.1, "objective": objective}
    if objective == "window":
        how["mask_conf"] = {"span": 64}
    return with_parts(tiny_model(primary, stacking, local, **how))


class PlainPrimary(Primary):
    """Another primary transformer without what it can do besides.

    Args:
        inner: the other one.
    """

    def __init__(self, inner: Primary) -> None:
        super().__init__()
        self.inner, self.width = inner, inner.width

    def forward(self, *given: Any) -> PrimaryOutput:  # noqa: D102 (inherited)
        output: PrimaryOutput = self.inner(*given)
        return output

    def prefill(self, *given: Any) -> PrimaryState:  # noqa: D102 (inherited)
        return self.inner.prefill(*given)

    def step(self, x: Tensor, state: PrimaryState) -> Tensor:  # noqa: D102 (inherited)
        return self.inner.step(x, state)


@torch.no_grad()
def with_parts(model: TextCoreLM, std: float = 0.3) -> TextCoreLM:
    """The model with all parts that go beside it, of random weights; neither its own nor random numbers change.

    Args:
        model: in float64 and eval mode.
        std: of the weights.

    Returns:
        The same model.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        heads = model.heads.values()
        able = [
            name
            for name in parts
            if (needs := parts[name].needs) is None or any(isinstance(one, needs) for one in heads)
            if model.objective in parts[name].objectives
        ]
        model.add_parts({name: {} for name in able})
        for parameter in model.parts.parameters():
            parameter.normal_(std=std)
    return model.double().eval()


@torch.no_grad()
def make_ends_likely(model: TextCoreLM, hidden: Tensor) -> None:
    """Biases with which greedy heads that know nothing end about half of some steps, S = 1: exactly half of them."""
    end = SPEC.eos_id
    head: Any
    for head in model.heads.values():
        nothing = torch.full((len(hidden), model.slots), SPEC.mask_id)
        logits = head(model.heads.inputs(head, hidden), nothing).logits
        first_books = logits[:, :: SPEC.num_codebooks]
        margin = (first_books[..., end] - first_books[..., : SPEC.codebook_size].amax(-1)).quantile(
            1 - 1 / (model.stacking + 1), dim=0
        )
        bias = head.heads.bias.view(-1, SPEC.vocab_size)
        # tied classifiers have one bias for all frames
        bias[:: SPEC.num_codebooks, end] -= margin if len(bias) == model.slots else margin.mean()


def decode(
    model: TextCoreLM,
    batch: Batch,
    name: str,
    options: SamplingOptions = SAMPLING["sampled"],
    max_frames: Tensor | int = 10,
    names: Sequence[str] = NAMES,
    seed: int = 0,
    min_frames: int = 1,
    steps: Order = CAUSAL,
    cache: CachePolicy = EXACT,
    most_rows: int | None = None,
    depth: Depth = FULL,
    **conf: Any,
) -> Generation:
    """What a strategy makes of a batch.

    Args:
        model: what is decoded.
        batch: its inputs.
        name: of the strategy.
        options: of the sampler.
        max_frames: most frames of an utterance.
        names: of the rows, from which their generators come.
        seed: of the draws.
        min_frames: fewest frames of an utterance.
        steps: the order in which they follow each other.
        cache: how keys and values are kept.
        most_rows: how many rows are generated at once.
        depth: which layers each row uses.
        **conf: options of the strategy.

    Returns:
        Codes, lengths and costs.
    """
    strategy, sampler = build_strategy(name, **conf), Sampler(options, row_generators(seed, names))
    how: dict[str, Any] = {"order": steps, "cache": cache, "most_rows": most_rows, "depth": depth}
    return generate(model, batch.conditions(model), strategy, sampler, max_frames, min_frames, **how)


def assert_rows_are_their_own(
    model: TextCoreLM,
    name: str,
    options: SamplingOptions,
    steps: Order = CAUSAL,
    cache: CachePolicy = EXACT,
    most_rows: int | None = None,
    **conf: Any,
) -> None:
    """Every row of the ragged batch is, code by code, what it is alone; its costs are too."""
    batch, limits = ragged_batch(), torch.tensor([9, 20, 14])
    how: dict[str, Any] = {"seed": 7, "steps": steps, "cache": cache, **conf}
    together = decode(model, batch, name, options, limits, most_rows=most_rows, **how)
    for row in range(len(NAMES)):
        given = model, batch.row(row), name, options, limits[row], NAMES[row : row + 1]
        alone = decode(*given, **how)
        same = torch.equal(together.codes[row, : together.lengths[row]], alone.codes[0])
        assert same, f"row {row} of a batch has other codes than alone, with {options}"
        for field in ("lengths", "has_eos", "steps", "local_passes", "primary_passes"):
            among, single = getattr(together, field)[row], getattr(alone, field)[0]
            assert among == single, f"{field} of row {row} is {among} in a batch and {single} alone, with {options}"
        torch.testing.assert_close(together.logprobs[row], alone.logprobs[0], rtol=1e-4, atol=1e-4)
