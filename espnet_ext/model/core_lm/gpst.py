"""GPST: semantic units and acoustic codes in one causal sequence, and a local transformer over the codes of a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from espnet_ext.codes import CodecSpec, StepLayout, length_mask, num_steps, stack_frames
from espnet_ext.errors import UserError
from espnet_ext.model.ahead import Ahead, Recorded
from espnet_ext.model.caches import EXACT, CachePolicy
from espnet_ext.model.core_lm.base import CoreLM, CoreLMOutput, parted, register_corelm
from espnet_ext.model.core_lm.unit_stage import UnitStage
from espnet_ext.model.heads import Heads, HeadScores, LocalInput, ParallelHeads, SlotEmbedding
from espnet_ext.model.layers import LayerPass, RowLayers
from espnet_ext.model.parts import Again
from espnet_ext.model.primary import PrefixPrimary, PrimaryState, close_gaps, primaries
from espnet_ext.model.primary.base import mean_of
from espnet_ext.model.transformer import Transformer
from espnet_ext.options import check_number


class JointConditions(NamedTuple):
    """What a batch of utterances is generated from.

    Attributes:
        units: (B, U) int64 semantic units, right-padded with any id.
        unit_lengths: (B,) int64.
        prompt: (B, K, M) int64 steps of the acoustic prompt, right-padded.
        prompt_lengths: (B,) int64 steps; 0 for a row without prompt.
        language: (B,) int64; 0 for a language that is not told.
        given: (B,) bool, False for a row whose units and prompt the model must not see.
    """

    units: Tensor
    unit_lengths: Tensor
    prompt: Tensor
    prompt_lengths: Tensor
    language: Tensor
    given: Tensor


@register_corelm("gpst")
class GPST(CoreLM):
    """p(semantic units) p(codes | semantic units), one decoder-only transformer for both.

    The sequence is ``[EOS] s_1 … s_U [step of EOS] a_1 … a_L``; each position predicts the next: the units through a
    linear head, the codes of a step through the heads, the hidden vector of position l - 1 being all that they know of
    the steps before l. It ends with a frame of EOS.

    Args:
        spec: the codec's facts.
        semantic: those of the semantic tokenizer, one codebook.
        primary: "prefix", the only decoder-only one.
        primary_conf: its options.
        local: name of the local transformer, or several names; "none" for no other head than the parallel ones. It
            has code tables of its own.
        local_conf: its options; with several local transformers, the options of each by its name.
        frame_stacking_factor: S; the paper has 1.
        parallel_heads: whether there are parallel heads beside the local transformer; the paper has none.
        shared_head: whether one classifier serves all codebooks; otherwise each has its own.
        units_per_frame: units, as the model reads them, that pass in one frame. The positions of the codes then begin
            anew and advance by so many per frame, so that a unit and its sound have nearly the same position, which a
            short training needs to find the one by the other. 0: they go on behind the units, as in the paper.
        languages: names of languages; with any, a position in front of all others tells which one it is.
        **shared: options of every `CoreLM`.

    Attributes:
        depth: (2,) float, N and S, so that weights tell them.

    Raises:
        UserError: if a name is unknown or an option is out of range.

    Reference:
        Zhu et al. 2024, arXiv:2406.00976. Stacking, parallel heads, corruption, guidance and rotary positions are
        additions.
    """

    reads = "semantic"
    goes_through = True
    depth: Tensor

    def __init__(
        self,
        spec: CodecSpec,
        semantic: CodecSpec,
        primary: str = "prefix",
        primary_conf: dict[str, object] | None = None,
        local: str | Sequence[str] = "ar",
        local_conf: Mapping[str, object] | None = None,
        frame_stacking_factor: int = 1,
        *,
        parallel_heads: bool = True,
        shared_head: bool = True,
        units_per_frame: float = 0.0,
        languages: Sequence[str] = (),
        **shared: Any,
    ) -> None:
        layout = StepLayout(spec.num_codebooks, frame_stacking_factor)
        super().__init__(spec, layout, **shared)
        # N books of S frames may have the shapes of other numbers; float, as ESPnet adds integers up where it averages
        self.register_buffer("depth", torch.tensor([spec.num_codebooks, frame_stacking_factor], dtype=torch.float32))
        _check(primary, local, parallel_heads, languages)
        check_number("units_per_frame", units_per_frame, least=0)
        self.semantic, self.languages, self.units_per_frame = semantic, tuple(languages), units_per_frame
        primary_conf = primary_conf or {}
        primaries.check_options(primary, primary_conf)
        self.primary = PrefixPrimary(semantic.vocab_size, frame_stacking_factor, **primary_conf)  # type: ignore[arg-type]
        if units_per_frame and self.primary.position is not None:
            raise UserError(f"units_per_frame must be 0 with position learned, got {units_per_frame}")
        slots, width = self.step_slots, self.primary.width
        self.embedding = SlotEmbedding(slots, width, reduction="sum")
        self.language_embedding = nn.Embedding(len(languages) + 1, width) if languages else None
        self.unit_heads = Heads({"parallel": ParallelHeads(1, semantic.vocab_size, width)})
        heads = ParallelHeads(slots.count, spec.vocab_size, width, slots.tied_frames) if parallel_heads else None
        self.heads = Heads({} if heads is None else {"parallel": heads})
        self.add_local(local, local_conf or {}, lambda kind, conf: kind(None, slots, width, shared_head, **conf))

    @property
    def units(self) -> UnitStage:
        """The semantic stage, for `generate`."""
        return UnitStage(self.semantic, self.primary, self.unit_heads, self.language_embedding)

    def forward(
        self,
        semantic: Tensor,
        semantic_lengths: Tensor,
        codes: Tensor,
        codes_lengths: Tensor,
        language: Tensor | None = None,
    ) -> CoreLMOutput:
        """Teacher-forced scores of every unit, every code and the ends of both.

        Args:
            semantic: (B, U) int64 units, right-padded.
            semantic_lengths: (B,) int64.
            codes: (B, T, N) int64, right-padded.
            codes_lengths: (B,) int64 frames.
            language: (B,) int64, 0 for one that is not told; None for all of them so.

        Returns:
            The scores; a row that is trained without its units has none for them.
        """
        given = self.draw_given(len(codes), codes.device)
        prefix, keep = self.units.embed(semantic, semantic_lengths * given, language)
        prefix, mask = close_gaps(prefix, keep)
        targets = self.targets(codes, codes_lengths)
        step_lengths = self.layout.num_steps(codes_lengths + 1)
        inputs, true = self.inputs(targets, self.spec.eos_id)
        steps = self.embedding.step(inputs)
        positions = self._positions(keep, steps.shape[1])
        if positions is not None:
            positions = torch.cat(
                (close_gaps(positions[:, : keep.shape[1]], keep)[0], positions[:, keep.shape[1] :]), dim=1
            )
        kept = self.primary.record(mask, steps.shape[1]) if self.asks_further else None
        read = partial(self._read, prefix, mask, steps, step_lengths, positions)
        hidden = read(kept=kept)
        # where the prefix was moved to, its targets are moved as well
        next_units, counted = self.units.targets(semantic, semantic_lengths, keep.shape[1])
        moved, _ = close_gaps(torch.stack((next_units, (counted & given[:, None]).long()), dim=-1), keep)
        units: HeadScores | None = None
        if not self.only_parts_learn:
            units = self._score_units(hidden[:, : prefix.shape[1]], moved[..., 0], moved[..., 1].bool() & mask)

        def run(layers: LayerPass) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
            return parted(read(layers)[:, prefix.shape[1] :], layers, steps.shape[1])

        again = Again(run, lambda: self._mean(semantic, semantic_lengths, given))
        further = None if kept is None else partial(self._further, kept)
        hidden = hidden[:, prefix.shape[1] :]
        return self.scores(hidden, targets, codes_lengths, units=units, true=true, further=further, again=again)

    def _read(
        self,
        prefix: Tensor,
        mask: Tensor,
        steps: Tensor,
        step_lengths: Tensor,
        positions: Tensor | None,
        layers: LayerPass | None = None,
        kept: Recorded | None = None,
    ) -> Tensor:
        """As `PrefixPrimary.read`, where positions go on behind the last step for what enters on the way."""
        if positions is not None and layers is not None and layers.ahead:
            behind = torch.arange(1, layers.ahead + 1, device=steps.device) * self._advance
            positions = torch.cat((positions, positions[:, -1:] + behind), dim=1)
        return self.primary.read(prefix, mask, steps, step_lengths, positions, kept, layers)

    def _further(self, kept: Recorded, ahead: Ahead, places: Tensor) -> Tensor:
        """Hidden vectors (B, A, k, D) of positions behind recorded steps."""
        positions = None
        if self.units_per_frame:
            steps = places[:, None] + torch.arange(1, len(ahead.vectors) + 1, device=places.device)
            positions = (steps.double() * self._advance).flatten().expand(len(kept.seen), -1)
        return self.primary.further(kept, ahead, places, positions)

    def _score_units(self, hidden: Tensor, targets: Tensor, counted: Tensor) -> HeadScores:
        targets = targets[counted][:, None]
        logits, mask = self.unit_heads["parallel"](LocalInput(hidden[counted]), targets)
        weights = mask.to(torch.promote_types(hidden.dtype, torch.float32))
        return HeadScores(logits, targets, weights, weights.sum())

    def conditions(
        self,
        semantic: Tensor,
        semantic_lengths: Tensor,
        prompt: Tensor,
        prompt_lengths: Tensor,
        language: Tensor | None = None,
    ) -> JointConditions:
        """What codes are generated from.

        Args:
            semantic: (B, U) int64 units of prompt and speech, right-padded.
            semantic_lengths: (B,) int64.
            prompt: (B, T', N) int64 codes that the speech begins with, right-padded.
            prompt_lengths: (B,) int64 frames, multiples of S.
            language: (B,) int64, 0 for one that is not told; None for all of them so.

        Returns:
            The conditions.

        Raises:
            UserError: if a prompt does not fill its last step.
        """
        if bool((prompt_lengths % self.stacking).any()):
            raise UserError(f"prompts must have a multiple of {self.stacking} frames, got {prompt_lengths.tolist()}")
        steps = stack_frames(prompt, self.stacking, self.spec.eos_id)
        language = torch.zeros_like(semantic_lengths) if language is None else language
        given = torch.ones_like(semantic_lengths, dtype=torch.bool)
        lengths = num_steps(prompt_lengths, self.stacking)
        return JointConditions(semantic, semantic_lengths, steps, lengths, language, given)

    def room(self, conditions: JointConditions) -> Tensor:
        """Frames that still fit into the context: (B,) int64."""
        seen = conditions.unit_lengths + conditions.prompt_lengths
        always = 1 if self.language_embedding is None else 2  # EOS, and the language; the rest is not always given
        return self.primary.room(always + seen * conditions.given) * self.stacking

    def first_codes(self, conditions: JointConditions) -> Tensor:
        """The last step of the prompt, or the one of EOS that stands before all: (B, M) int64."""
        last = (conditions.prompt_lengths * conditions.given)[:, None, None].expand(-1, 1, self.slots)
        return self._acoustic(conditions).gather(1, last)[:, 0]

    def prefill(  # noqa: D102 (inherited)
        self,
        conditions: JointConditions,
        max_steps: Tensor | int,
        cache: CachePolicy = EXACT,
        layers: RowLayers | None = None,
    ) -> PrimaryState:
        prefix, mask, positions = self._prefix(conditions)
        max_steps = torch.as_tensor(max_steps).expand(len(prefix))
        state = self.primary.start(prefix, mask, max_steps, positions, cache, layers)
        if positions is not None:
            state.first_position = (conditions.prompt_lengths * conditions.given).double() * self._advance
        return state

    def step(self, codes: Tensor, state: PrimaryState) -> Tensor:  # noqa: D102 (inherited)
        return self.extend(codes[:, None], state)[:, 0]

    def extend(  # noqa: D102 (inherited)
        self, codes: Tensor, state: PrimaryState, layers: LayerPass | None = None
    ) -> Tensor:
        x, coming = self.primary.embed_steps(self.embedding.step(codes)), codes.shape[1]
        coming += 0 if layers is None else layers.ahead
        return self.primary.advance(x, state, self._coming(state, coming), layers=layers)

    def extend_ahead(self, codes: Tensor, state: PrimaryState, ahead: Ahead) -> tuple[Tensor, Tensor]:  # noqa: D102
        x, coming = self.primary.embed_steps(self.embedding.step(codes)), codes.shape[1] + len(ahead.vectors)
        return self.primary.advance_ahead(x, state, ahead, self._coming(state, coming))

    def _coming(self, state: PrimaryState, count: int) -> Tensor | None:
        """Rotary positions of the coming steps (B, count); None for those behind the last one."""
        first = state.first_position
        if first is None:
            return None
        steps = state.steps[:, None] + torch.arange(count, device=first.device)
        return first[:, None] + steps.double() * self._advance

    def summary(self, conditions: JointConditions) -> Tensor:  # noqa: D102 (inherited)
        return self._mean(conditions.units, conditions.unit_lengths, conditions.given)

    def _mean(self, units: Tensor, lengths: Tensor, given: Tensor) -> Tensor:
        """Embedded units on average, and zeros for the prompt, (B, 2 * D): in training nobody sees one."""
        of_units = mean_of(self.primary.embed_text(units), lengths) * given[:, None]
        return torch.cat((of_units, torch.zeros_like(of_units)), dim=1)

    def step_transformers(self) -> list[Transformer]:  # noqa: D102 (inherited)
        return self.primary.step_transformers()

    @property
    def _advance(self) -> float:
        """Positions from one step to the next, where those of the codes begin anew."""
        return self.stacking * self.units_per_frame

    def _positions(self, units: Tensor, steps: int) -> Tensor | None:
        """Rotary positions of units (B, P) and steps where they stand before gaps are closed: (B, P + L)."""
        if self.units_per_frame == 0.0:
            return None
        first = -1 if self.language_embedding is not None else 0  # EOS has 0
        both = (
            torch.arange(first, first + units.shape[1], device=units.device),
            torch.arange(steps, device=units.device, dtype=torch.float64) * self._advance,
        )
        return torch.cat(both).expand(len(units), -1)

    def _acoustic(self, conditions: JointConditions) -> Tensor:
        """The step of EOS and the prompt: (B, 1 + K, M)."""
        return nn.functional.pad(conditions.prompt, (0, 0, 1, 0), value=self.spec.eos_id)

    def _prefix(self, conditions: JointConditions) -> tuple[Tensor, Tensor, Tensor | None]:
        """Everything before the first step's input, left-padded, its mask and its positions."""
        units, keep = self.units.embed(
            conditions.units, conditions.unit_lengths * conditions.given, conditions.language
        )
        steps = self.primary.embed_steps(self.embedding.step(self._acoustic(conditions)))
        before = length_mask(conditions.prompt_lengths * conditions.given, steps.shape[1])
        joined, kept = torch.cat((units, steps), dim=1), torch.cat((keep, before), dim=1)
        positions = self._positions(keep, steps.shape[1])
        return *close_gaps(joined, kept), None if positions is None else close_gaps(positions, kept)[0]


def _check(primary: str, local: str | Sequence[str], parallel_heads: bool, languages: Sequence[str]) -> None:
    if primary != "prefix":
        raise UserError(f"primary must be prefix with corelm gpst, got {primary!r}")
    if local == "none" and not parallel_heads:
        raise UserError("parallel_heads must be true with local none, got false: nothing could predict a code")
    if isinstance(languages, str) or not all(isinstance(name, str) and name for name in languages):
        raise UserError(f"languages must be a list of names, got {languages!r}")
    if len(set(languages)) != len(languages):
        raise UserError(f"languages must differ from each other, got {list(languages)}")
