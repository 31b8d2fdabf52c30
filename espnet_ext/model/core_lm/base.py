"""What every core language model is made of: embedded codes, a primary transformer, heads that score each step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from espnet_ext.codes import CodecSpec, StepLayout, length_mask
from espnet_ext.errors import UserError
from espnet_ext.model.ahead import Further
from espnet_ext.model.alignment import Alignment
from espnet_ext.model.core_lm.local_drop import local_drop
from espnet_ext.model.core_lm.step_model import StepModel
from espnet_ext.model.heads import (
    MODEL,
    CodeVectors,
    Head,
    HeadScores,
    LocalInput,
    SlotEmbedding,
    Slots,
    local_transformers,
)
from espnet_ext.model.layers import LayerPass
from espnet_ext.model.parts import Again, Part, Parts, PartScores, Taught
from espnet_ext.model.parts.base import build_parts
from espnet_ext.model.primary import LooksAhead
from espnet_ext.options import check_choice, check_number
from espnet_ext.registry import Registry


class CoreLMOutput(NamedTuple):
    """Teacher-forced scores of a batch.

    Attributes:
        heads: by name of the head; P differs where steps were dropped. While parts alone are trained there are none,
            and neither alignment nor units.
        targets: (P, M) int64 of all steps.
        codes: how many of them belong to a frame, a scalar.
        alignment: of steps and text, for its losses; None for a model that has none.
        units: scores of the semantic units, M = 1; None for a model that is given its text.
        parts: by name, what is trained beside the model.
    """

    heads: dict[str, HeadScores]
    targets: Tensor
    codes: Tensor
    alignment: Alignment | None = None
    units: HeadScores | None = None
    parts: Mapping[str, PartScores] = {}


class CoreLM(nn.Module, StepModel):
    """p(codes | conditions) with N codebooks per frame and S frames per step.

    It scores and steps; the loss is in `loss`, the loop over time in `decoding.generate`. `model.build` hands the
    constructor of one the codec's facts, ids of the text or the facts of the units, and by their names `primary`,
    `primary_conf`, `local`, `local_conf` and `frame_stacking_factor`; its keyword-only parameters are `corelm_conf`.

    Args:
        spec: the codec's facts.
        layout: of frames in steps.
        code_corruption: probability that a step's input codes are replaced by random ones in training, so that the
            model learns to trust its conditions more than its own past.
        conditioning_dropout: probability that an utterance is trained without its conditions, which classifier-free
            guidance needs.
        local_drop: share of an utterance's steps that the local transformers do not see in training, see `local_drop`;
            0.9375 leaves one of sixteen, as the Conversational Speech Model (Sesame, 2025) does.
        frame_tables: "tied": the frames of a step share one table and one classifier per codebook, which see all
            data; "own": every slot has its own, as published. The same at S = 1.

    Attributes:
        reads: "text" or "semantic", what the model is given besides codes; a batch has it under this name, with
            `{reads}_lengths`.
        embedding: of steps.
        step_slots: the slots of a step, with what `frame_tables` says of them.
        trained_parts: names of the parts that are trained while all else stays as it is; none where everything is
            trained.

    Raises:
        UserError: if an option is out of range.
    """

    reads: ClassVar[str]
    embedding: SlotEmbedding
    trained_parts: tuple[str, ...]

    def __init__(
        self,
        spec: CodecSpec,
        layout: StepLayout,
        *,
        code_corruption: float = 0.0,
        conditioning_dropout: float = 0.0,
        local_drop: float = 0.0,
        frame_tables: str = "own",
    ) -> None:
        super().__init__()
        self.spec, self.layout = spec, layout
        self.code_corruption, self.local_drop = code_corruption, local_drop
        self.conditioning_dropout = conditioning_dropout
        for name in ("code_corruption", "conditioning_dropout", "local_drop"):
            check_number(name, getattr(self, name), least=0, below=1)
        check_choice("frame_tables", frame_tables, ("own", "tied"))
        self.parts, self.trained_parts = Parts(), ()
        self.step_slots = Slots(spec, layout.slots, layout.stacking if frame_tables == "tied" else 1)

    @property
    def stacking(self) -> int:
        """S, frames of one step."""
        return self.layout.stacking

    @property
    def slots(self) -> int:
        """M, codes of one step."""
        return self.layout.slots

    @property
    def code_vectors(self) -> Mapping[str, CodeVectors]:
        """The model's own, those that steps are embedded with, and what else is known of the codes."""
        return {MODEL: self.embedding, **self.heads.code_vectors}

    @property
    def layers(self) -> int:  # noqa: D102 (inherited)
        return len(self.step_transformers()[0].blocks)

    def targets(self, codes: Tensor, lengths: Tensor) -> Tensor:
        """Steps of the codes and of the frame that ends each utterance: (B, L, M); arguments as in `scores`."""
        frames = nn.functional.pad(codes, (0, 0, 0, 1), value=self.spec.eos_id)
        frames = frames.masked_fill(~length_mask(lengths, frames.shape[1])[..., None], self.spec.eos_id)
        return self.layout.to_steps(frames, self.spec.bos_id, self.spec.eos_id)

    def inputs(self, targets: Tensor, first_id: int) -> tuple[Tensor, Tensor]:
        """Steps that predict the targets, a step of `first_id` and then each target's predecessor, and which are true.

        Args:
            targets: (B, L, M) int64.
            first_id: fills the first step.

        Returns:
            (B, L, M) int64, and (B, L) bool, False where the predecessor was replaced by random codes.
        """
        steps = targets[:, :-1]
        true = torch.ones(targets.shape[:2], dtype=torch.bool, device=targets.device)
        if self.training and self.code_corruption > 0.0:
            random = torch.randint_like(steps, self.spec.codebook_size)
            true[:, 1:] = torch.rand(steps.shape[:2], device=steps.device) >= self.code_corruption
            steps = torch.where(true[:, 1:, None], steps, random)
        return torch.cat((torch.full_like(targets[:, :1], first_id), steps), dim=1), true

    def scores(
        self,
        hidden: Tensor,
        targets: Tensor,
        lengths: Tensor,
        alignment: Alignment | None = None,
        units: HeadScores | None = None,
        true: Tensor | None = None,
        further: Further | None = None,
        learned: Tensor | None = None,
        again: Again | None = None,
    ) -> CoreLMOutput:
        """Scores of every head, with the other parts of the output.

        Only steps that exist reach a head, so none ever sees padding; a local transformer sees those that `local_drop`
        leaves and that follow a true one: behind random codes it would learn to distrust its hidden vector.

        Args:
            hidden: (B, L, D).
            targets: (B, L, M) int64, from `targets`.
            lengths: (B,) int64 frames.
            alignment: of steps and text.
            units: scores of the semantic units.
            true: (B, L) bool, steps whose predecessors are true ones; the local transformers learn from these alone.
            further: makes hidden vectors of positions behind steps, for the parts that ask for them.
            learned: (B, L, M) bool, codes that a masked model predicts; None for all.
            again: another pass over the same batch, for parts.

        Returns:
            The scores.
        """
        starts = torch.arange(targets.shape[1], device=targets.device) * self.stacking
        frames = starts[:, None] + self.layout.frames(0, targets.device)  # (L, M)
        counted = (frames >= 0) & (frames <= lengths[:, None, None])  # the frame that ends an utterance counts
        codes = (lengths + 1).sum() * self.spec.num_codebooks
        if learned is not None:
            counted = counted & learned
            codes = counted.sum()
        step_lengths = self.layout.num_steps(lengths + 1)
        exists = length_mask(step_lengths, targets.shape[1])
        true = exists if true is None else true
        heads: dict[str, HeadScores] = {}
        if self.only_parts_learn:
            alignment = units = None
        else:
            heads = self._score_heads(hidden, targets, counted, codes, step_lengths, true)
        if self.asks_further and further is None:
            raise UserError(f"parts must be without those that look ahead with this core LM, got {list(self.parts)}")
        taught = Taught(hidden, targets, exists, counted, true, self.heads, self.embedding, further, again)
        parts = {name: part(taught) for name, part in self.parts.items()}
        return CoreLMOutput(heads, targets[exists], codes, alignment, units, parts)

    def _score_heads(
        self, hidden: Tensor, targets: Tensor, counted: Tensor, codes: Tensor, step_lengths: Tensor, true: Tensor
    ) -> dict[str, HeadScores]:
        exists, ones = length_mask(step_lengths, targets.shape[1]), torch.ones_like(step_lengths)
        seen, weight = exists, ones
        if self.training and self.local_drop > 0.0:
            seen, weight = local_drop(step_lengths, targets.shape[1], self.local_drop)
        clean = seen & true
        # of few steps that local-drop leaves all may follow a replaced one; an utterance never goes without any
        clean = clean.where(clean.any(dim=1, keepdim=True), seen)
        heads = {}
        residual = any(head.residual for head in self.heads.values())
        base = self.heads.base(hidden[exists]) if residual else None  # once for all that need them
        for name, head in self.heads.items():
            chosen, stands, learned = (exists, ones, exists) if name == "parallel" else (seen, weight, clean)
            inputs = LocalInput(hidden[chosen], base if base is None or chosen is exists else base[chosen[exists]])
            logits, mask = head(inputs, targets[chosen])
            asked = (counted * stands[:, None, None]).to(torch.promote_types(hidden.dtype, torch.float32))
            # what local-drop leaves out the other steps stand for; steps behind replaced ones are left out of the mean
            stands_for = codes / asked[chosen].sum()
            # they go through the head all the same: their number differs in every batch, and kernels are made for one
            # shape each
            weights = asked[chosen] * mask * learned[chosen][:, None]
            heads[name] = HeadScores(logits, targets[chosen], weights, weights.sum() * stands_for)
        return heads

    def add_parts(self, conf: Mapping[str, Mapping[str, object]]) -> None:
        """Add parts that are trained beside the model.

        Args:
            conf: name → options.

        Raises:
            UserError: if a name or an option is unknown, or a part needs what the model does not have.
        """
        # what stands behind a step predicts those to come: of a causal model
        looks = isinstance(getattr(self, "primary", None), LooksAhead) and self.objective == "causal"
        layers, width = self.layers if self.goes_through else 0, self.embedding.table.embedding_dim
        built = build_parts(conf, self.step_slots, width, self.heads, looks, layers, self.objective)
        for name, part in built.items():
            assert isinstance(part, Part)
            part.join(self.step_transformers())
            self.parts[name] = part.train(self.training)
        self.heads.know(self.parts)

    @property
    def only_parts_learn(self) -> bool:
        """Whether parts are in training beside frozen heads, which then score nothing; in evaluation they do."""
        return any(self.parts[name].training for name in self.trained_parts)

    @property
    def asks_further(self) -> bool:
        """Whether a part asks for positions behind steps."""
        return any(isinstance(part, Part) and part.looks_ahead for part in self.parts.values())

    def train_only(self, names: Sequence[str]) -> None:
        """Freeze all but some parts: without dropout and corruption, too, so that they see what decoding sees.

        Args:
            names: of the parts; none to freeze nothing.

        Raises:
            UserError: if the model does not have one of them.
        """
        if not isinstance(names, (list, tuple)) or not all(name in list(self.parts) for name in names):
            raise UserError(f"train_only must be names among those of parts {list(self.parts)}, got {names!r}")
        if not names:
            return
        self.trained_parts = tuple(names)
        self.requires_grad_(False)
        for name in names:
            self.parts[name].requires_grad_(True)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Training mode, of the parts alone where all else is frozen."""
        super().train(mode and not self.trained_parts)
        for name in self.trained_parts:
            self.parts[name].train(mode)
        return self

    def add_local(self, local: str | Sequence[str], conf: Mapping[str, object], build: Callable[..., Any]) -> None:
        """Add the local transformers to the heads.

        Args:
            local: a name, several names, or "none".
            conf: options of the one, or options by name.
            build: makes one of its class and its options.

        Raises:
            UserError: if a name or an option is unknown, a residual one has nothing to add to, or one has nobody to
                share with.
        """
        for name, own in local_options(local, conf).items():
            head = self.heads[name] = build(local_transformers[name], own)
            if head.residual and "parallel" not in self.heads:
                raise UserError(f"residual must be false with parallel_heads false, got true for local {name}")
        for head in self.heads.values():
            assert isinstance(head, Head)
            head.share(self.heads)

    def draw_given(self, rows: int, device: torch.device) -> Tensor:
        """Rows that are trained with their conditions: (B,) bool."""
        if not self.training or self.conditioning_dropout == 0.0:
            return torch.ones(rows, dtype=torch.bool, device=device)
        return torch.rand(rows, device=device) >= self.conditioning_dropout


def parted(made: Tensor, layers: LayerPass, steps: int) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
    """What `Again.run` gives.

    Args:
        made: (B, L + P * K, D), the steps and then what has entered behind each of P positions, the steps the last.
        layers: how the pass went.
        steps: L.

    Returns:
        Hidden vectors of the steps, of what has entered, and of what was taken out.
    """
    entered = made[:, steps:].unflatten(1, (-1, layers.ahead))[:, -steps:] if layers.ahead else made[:, :0, None]
    return made[:, :steps], entered, {layer: layers.hidden(layer)[:, -steps:] for layer in layers.taken}


corelms: Registry[type[CoreLM]] = Registry("corelm", "espnet_ext.corelm")
register_corelm = corelms.register


def local_options(local: str | Sequence[str], conf: Mapping[str, object]) -> dict[str, Mapping[str, object]]:
    """Name → checked options of every local transformer.

    Args:
        local: a name, several names, or "none".
        conf: options of the one, or options by name.

    Returns:
        The options.

    Raises:
        UserError: if a name or an option is unknown, or a name comes twice.

    >>> local_options(["ar", "maskgit"], {"ar": {"layers": 2}})
    {'ar': {'layers': 2}, 'maskgit': {}}
    """
    if local == "none":
        if conf:
            raise UserError(f"local_conf must be empty with local none, got {sorted(conf)}")
        return {}
    names = [local] if isinstance(local, str) else list(local) if isinstance(local, (list, tuple)) else []
    if not names or not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise UserError(f"local must be one or several of {list(local_transformers)}, each once, got {local!r}")
    if not isinstance(conf, Mapping):
        raise UserError(f"local_conf must be names and values, got {conf!r}")
    by_name = not isinstance(local, str) or isinstance(conf.get(local), Mapping)
    options: dict[str, Mapping[str, object]] = {}
    for name in names:
        own = conf.get(name, {}) if by_name else conf
        if not isinstance(own, Mapping):
            raise UserError(f"local_conf must hold options by name for local {names}, got {name}: {own!r}")
        local_transformers.check_options(name, own)
        options[name] = own
    strangers = sorted(set(conf) - set(names), key=str) if by_name else []
    if strangers:
        raise UserError(f"local_conf must have keys among {names}, got {strangers}")
    return options
