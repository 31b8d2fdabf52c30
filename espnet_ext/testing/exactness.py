"""Exact output distributions: the real decoding loop, run once for every branch of its random decisions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from espnet_ext.codes import CodecSpec
from espnet_ext.decoding import (
    CAUSAL,
    Advance,
    DecodingStrategy,
    Order,
    Own,
    Turn,
    build_strategy,
    generate,
)
from espnet_ext.decoding.sampling import Sampler, SamplingOptions
from espnet_ext.model.core_lm import StepModel, TextCoreLM
from espnet_ext.model.heads import ARLocalTransformer, MaskGITLocalTransformer
from espnet_ext.model.primary import Conditions
from espnet_ext.testing.models import with_parts

SPEC = CodecSpec(num_codebooks=2, codebook_size=2, frame_rate_hz=25.0, sample_rate_hz=16000)
SMALL = {"width": 8, "layers": 1, "heads": 2, "dropout": 0.0}
TEXT = torch.tensor([[1, 3]])
PROMPT = torch.tensor([[[0, 1]]])

Codes = tuple[tuple[int, ...], ...]  # frames of codes; the number of frames is part of the output
SAME = 1e-12  # of distributions computed in float64
SlotLogits = Callable[[TextCoreLM, Tensor, Tensor], Tensor]


class Exact(NamedTuple):
    """What a strategy does, without sampling error.

    Attributes:
        probabilities: of every output that is possible.
        branches: how often the loop ran.
    """

    probabilities: dict[Codes, float]
    branches: int

    @property
    def mass(self) -> float:
        """The sum of all probabilities, 1 if no branch is missing."""
        return sum(self.probabilities.values())


def enumerable_model(
    stacking: int = 1,
    delays: tuple[int, ...] = (),
    primary: str = "prefix",
    seed: int = 0,
    residual: bool = False,
    frame_tables: str = "own",
) -> TextCoreLM:
    """A random model in float64 with so few codes that all its outputs can be listed, and strong opinions.

    It has all heads and all parts.

    Args:
        stacking: S.
        delays: frames by which each codebook comes late.
        primary: name of the primary transformer.
        seed: of the weights.
        residual: whether the local transformers add to the parallel heads.
        frame_tables: "own" or "tied".

    Returns:
        The model, in eval mode.
    """
    torch.manual_seed(seed)
    extra = {"text_layers": 1, "context_layers": 1} if primary == "cross_attention" else {}
    local = ["ar"] if any(delays) else ["ar", "maskgit"]
    model = TextCoreLM(
        SPEC,
        text_vocab_size=5,
        primary=primary,
        primary_conf={**SMALL, **extra},
        local=local,
        local_conf=dict.fromkeys(local, {**SMALL, "residual": residual}),
        frame_stacking_factor=stacking,
        delays=delays,
        conditioning_dropout=0.1,
        frame_tables=frame_tables,
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.7)
    return with_parts(model.double().eval(), std=0.7)


class Tape:
    """The decisions of all rows of a batch: a prefix of each row is replayed, behind it the likeliest way is taken.

    Args:
        replayed: (B, K) int64, -1 behind a row's prefix; K is the most decisions of a row.
        choices: the most things that a decision is between.

    Attributes:
        taken: (B, K) int64, what was decided.
        probs: (B, K), probability of that; 1 where nothing was decided.
        untaken: (B, K, choices) bool, what else was possible behind the prefix.
        turn: number of the current turn, from 1.
        turns: (B, K) int64, the turn of each decision.
    """

    def __init__(self, replayed: Tensor, choices: int) -> None:
        self.replayed, self.taken = replayed, torch.full_like(replayed, -1)
        self.probs = torch.ones(replayed.shape, dtype=torch.float64)
        self.untaken = torch.zeros(*replayed.shape, choices, dtype=torch.bool)
        self.turn, self.turns = 0, torch.zeros_like(replayed)
        self.count = torch.zeros(len(replayed), dtype=torch.int64)

    def decide(self, rows: Tensor, probs: Tensor) -> Tensor:
        """The next m decisions of the given rows: (R,) and (R, m, V) → (R, m) int64."""
        at = rows[:, None], self.count[rows][:, None] + torch.arange(probs.shape[1])
        self.count[rows] += probs.shape[1]
        replayed = self.replayed[at]
        taken = torch.where(replayed < 0, probs.argmax(dim=-1), replayed)
        self.taken[at], self.turns[at] = taken, self.turn
        self.probs[at] = probs.gather(-1, taken[..., None])[..., 0].double()
        untaken = ((probs > 0) & (replayed < 0)[..., None]).scatter(-1, taken[..., None], False)
        self.untaken[at] = nn.functional.pad(untaken, (0, self.untaken.shape[-1] - probs.shape[-1]))
        return taken

    def finish(self, turns: Tensor) -> tuple[Tensor, Tensor]:
        """What the run leaves behind, without the decisions that a row made when it was finished already.

        Args:
            turns: (B,) int64, turns until each row was finished.

        Returns:
            The probability of each row's branch, (B,), and the prefixes of the branches not taken, (branches, K).
        """
        counts = self.turns <= turns[:, None]
        row, last, choice = (self.untaken & counts[..., None]).nonzero(as_tuple=True)
        prefixes = self.taken[row].masked_fill(torch.arange(self.taken.shape[1]) >= last[:, None], -1)
        prefixes[torch.arange(len(row)), last] = choice
        return self.probs.where(counts, 1.0).prod(dim=1), prefixes


@dataclass(frozen=True, kw_only=True)
class EnumeratingSampler(Sampler):
    """A sampler that decides by a tape; in the place of each row's generator there is the row's number.

    Attributes:
        tape: of the whole batch.
    """

    tape: Tape

    def with_fixed_noise(self, slots: int, vocab_size: int, device: torch.device) -> Sampler:  # noqa: D102 (inherited)
        return self

    def draw_uniform(self, shape: tuple[int, ...], device: torch.device) -> Tensor:  # noqa: D102 (inherited)
        raise NotImplementedError("uniform numbers cannot be enumerated")

    def categorical(self, probs: Tensor, first_slot: int = 0) -> Tensor:  # noqa: D102 (inherited)
        return self._spread(self.tape.decide(torch.tensor(self.generators, dtype=torch.int64), self._once(probs)))


@dataclass(frozen=True)
class Counted(Order):
    """An order that tells a tape of its turns.

    Attributes:
        order: whose turns they are; each is one pass of the primary transformer.
        tape: that is told.
        width: likewise.
    """

    order: Order
    tape: Tape
    width: int

    def begin(self, model: StepModel, conditions: Any) -> Own | None:  # noqa: D102 (inherited)
        return self.order.begin(model, conditions)

    def advance(self, turn: Turn, own: Any) -> Advance:  # noqa: D102 (inherited)
        self.tape.turn += 1
        return self.order.advance(turn, own)


def conditions(model: TextCoreLM, batch: int) -> Conditions:
    """The same utterance so many times."""
    text, prompt = TEXT.expand(batch, -1), PROMPT.expand(batch, -1, -1)
    return model.conditions(text, torch.full((batch,), 2), prompt, torch.full((batch,), 1))


def exact_distribution(
    model: TextCoreLM,
    strategy: DecodingStrategy,
    options: SamplingOptions,
    max_frames: int,
    min_frames: int = 1,
    batch: int = 4096,
    order: Order = CAUSAL,
) -> Exact:
    """The distribution of what `generate` returns, by running it for every branch of its decisions.

    Rows do not depend on their batch-mates, so many branches are run as the rows of one batch.

    Args:
        model: with few codes.
        strategy: the one to look at.
        options: of the sampler.
        max_frames: most frames of an output; the branches grow exponentially with it.
        min_frames: fewest frames.
        batch: most branches that are run at once.
        order: how steps follow each other.

    Returns:
        The distribution.
    """
    steps = int(model.layout.num_steps(torch.tensor(max_frames)))
    # the hungriest strategy drafts M codes and then decides M + 1 times in each of up to M passes, for every step that
    # a turn may keep; an order drafts those, and decides how many codes stay and which one comes instead
    drafted = (order.width - 1) * model.slots
    decisions = steps * (order.width * model.slots * (model.slots + 2) + drafted + 2)
    choices = max(SPEC.vocab_size, model.slots + 1, drafted + 1)
    pending = torch.full((1, decisions), -1)
    probabilities: dict[Codes, float] = {}
    branches = 0
    while len(pending):
        pending, replayed = pending[:-batch], pending[-batch:]
        tape = Tape(replayed, choices)
        rows: tuple[Any, ...] = tuple(range(len(replayed)))
        sampler = EnumeratingSampler(options, rows, tape=tape)
        counted = Counted(order, tape, order.width)
        how = strategy, sampler, max_frames, min_frames
        result = generate(model, conditions(model, len(replayed)), *how, order=counted)
        assert result.primary_passes is not None
        mass, untaken = tape.finish(result.primary_passes)
        for codes, length, probability in zip(
            result.codes.tolist(), result.lengths.tolist(), mass.tolist(), strict=True
        ):
            output = tuple(map(tuple, codes[:length]))
            probabilities[output] = probabilities.get(output, 0.0) + probability
        branches += len(replayed)
        pending = torch.cat((pending, untaken))
    return Exact(probabilities, branches)


def total_variation(first: Exact, second: Exact) -> float:
    """Half the summed difference of two distributions: 0 if they are equal, 1 if they share no output."""
    p, q = first.probabilities, second.probabilities
    return sum(abs(p.get(output, 0.0) - q.get(output, 0.0)) for output in p.keys() | q.keys()) / 2


def check_same_distribution(name: str, other: str, conf: Mapping[str, object] | None = None) -> None:
    """Hold a strategy to the distribution of another one, with its default options, without sampling error.

    Args:
        name: registered name.
        other: that of a strategy whose distribution it claims, such as local_ar.
        conf: options of the first one.

    Raises:
        AssertionError: if the distributions differ, saying by how much.
    """
    warm, cut = SamplingOptions(0.8), SamplingOptions(1.3, top_k=2, cfg_scale=1.7)
    for stacking, options, max_frames in ((1, warm, 3), (1, cut, 3), (2, warm, 2), (2, cut, 2)):
        model = enumerable_model(stacking, residual=stacking == 2)
        found, expected = (
            exact_distribution(model, strategy, options, max_frames)
            for strategy in (build_strategy(name, **(conf or {})), build_strategy(other))
        )
        for who, exact in ((name, found), (other, expected)):
            assert abs(exact.mass - 1) < SAME, f"the probabilities of {who} sum to {exact.mass}"
        apart = total_variation(found, expected)
        assert apart < SAME, f"{name} and {other} must have one distribution, total variation {apart:.3g}, S={stacking}"


def causal_logits(model: TextCoreLM, hidden: Tensor, steps: Tensor) -> Tensor:
    """Logits of each slot given the slots in front of it, from the AR local transformer: (P, M, V)."""
    local = model.heads.of(ARLocalTransformer)
    return local(model.heads.inputs(local, hidden), steps).logits


def all_masked_logits(model: TextCoreLM, hidden: Tensor, steps: Tensor) -> Tensor:
    """Logits of each slot of a step of which nothing is known, from the MaskGIT local transformer: (P, M, V)."""
    local = model.heads.of(MaskGITLocalTransformer)
    return local.logits(model.heads.inputs(local, hidden), torch.full_like(steps, SPEC.mask_id))


def causal_masked_logits(model: TextCoreLM, hidden: Tensor, steps: Tensor) -> Tensor:
    """Logits of each slot given the slots in front of it, from the MaskGIT local transformer: (P, M, V)."""
    local, slot = model.heads.of(MaskGITLocalTransformer), torch.arange(model.slots)
    inputs = model.heads.inputs(local, hidden)
    return torch.stack(
        [local.logits(inputs, steps.masked_fill(slot >= m, SPEC.mask_id))[:, m] for m in range(model.slots)], dim=1
    )


def frame_masked_logits(model: TextCoreLM, hidden: Tensor, steps: Tensor) -> Tensor:
    """Logits of each slot given the frames in front of its own, from the MaskGIT local transformer: (P, M, V)."""
    local, frame = model.heads.of(MaskGITLocalTransformer), torch.arange(model.slots) // SPEC.num_codebooks
    inputs = model.heads.inputs(local, hidden)
    return torch.stack(
        [local.logits(inputs, steps.masked_fill(frame >= frame[m], SPEC.mask_id))[:, m] for m in range(model.slots)], 1
    )


@torch.no_grad()
def closed_form(
    model: TextCoreLM, slot_logits: SlotLogits, max_frames: int, min_frames: int = 1, temperature: float = 1.0
) -> Exact:
    """The distribution of the outputs by multiplying teacher-forced probabilities, without any decoding.

    Args:
        model: with few codes and a primary without alignment.
        slot_logits: of every slot, (P, D) hidden vectors and (P, M) steps → (P, M, V).
        max_frames: most frames of an output.
        min_frames: fewest frames.
        temperature: of the sampler.

    Returns:
        The distribution; its branches are the outputs.
    """
    probabilities: dict[Codes, float] = {}
    for length in range(min_frames, max_frames + 1):
        outputs = list(product(product(range(SPEC.codebook_size), repeat=SPEC.num_codebooks), repeat=length))
        frames = nn.functional.pad(torch.tensor(outputs), (0, 0, 0, 1), value=SPEC.eos_id)  # (B, length + 1, N)
        steps = model.layout.to_steps(frames, SPEC.bos_id, SPEC.eos_id)
        inputs = torch.cat((torch.full_like(steps[:, :1], SPEC.bos_id), steps[:, :-1]), dim=1)
        embedded = model.embedding.step(inputs), model.embedding.frames(steps)
        lengths = torch.full((len(steps),), steps.shape[1])
        hidden, _ = model.primary(conditions(model, len(steps)), *embedded, lengths)
        logits = slot_logits(model, hidden.flatten(0, 1), steps.flatten(0, 1)).unflatten(0, steps.shape[:2])
        # the slots that say something: the codes, and the EOS where the utterance could have gone on
        eos = torch.zeros_like(frames)
        eos[:, length, 0] = length < max_frames
        said = model.layout.to_steps((frames < SPEC.codebook_size) | eos.bool(), False, False)
        may_end = torch.zeros_like(frames)
        may_end[:, min_frames:max_frames, 0] = 1
        legal = torch.ones(logits.shape, dtype=torch.bool)
        legal[..., SPEC.codebook_size :] = False
        legal[..., SPEC.eos_id] = model.layout.to_steps(may_end.bool(), False, False)
        logprobs = (logits / temperature).masked_fill(~legal, -torch.inf).log_softmax(dim=-1)
        said_logprobs = logprobs.gather(-1, steps[..., None])[..., 0].masked_fill(~said, 0.0)
        probabilities |= zip(outputs, said_logprobs.sum(dim=(1, 2)).exp().tolist(), strict=True)
    return Exact(probabilities, len(probabilities))
