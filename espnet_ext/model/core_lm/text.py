"""The core language model that is given its text: embeds codes, runs the primary transformer, scores with its heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from espnet_ext.codes import CodecSpec, StepLayout, length_mask, num_steps, stack_frames
from espnet_ext.errors import UserError
from espnet_ext.model.ahead import Ahead
from espnet_ext.model.alignment import Alignment, best_path
from espnet_ext.model.caches import EXACT, CachePolicy
from espnet_ext.model.core_lm.base import CoreLM, CoreLMOutput, parted, register_corelm
from espnet_ext.model.core_lm.masking import Masking, codes_of_frames
from espnet_ext.model.heads import (
    Heads,
    MaskGITLocalTransformer,
    ParallelHeads,
    SlotEmbedding,
)
from espnet_ext.model.layers import LayerPass, RowLayers
from espnet_ext.model.parts import Again
from espnet_ext.model.primary import (
    Conditions,
    FillsSteps,
    Known,
    LooksAhead,
    PrimaryOutput,
    PrimaryState,
    RunsSomeLayers,
    attention_priors,
    primaries,
)
from espnet_ext.model.transformer import Transformer
from espnet_ext.options import check_choice


@register_corelm("codec_lm")
class TextCoreLM(CoreLM):
    """p(codes | text, prompt).

    Args:
        spec: the codec's facts.
        text_vocab_size: ids of the text.
        primary: name of the primary transformer.
        primary_conf: its options.
        local: name of the local transformer beside the parallel heads, or several names; "none" for no other head.
        local_conf: its options; with several local transformers, the options of each by its name.
        frame_stacking_factor: S.
        delays: frames by which each codebook comes late, for S = 1; none for all at once.
        objective: "causal": each step is predicted from those in front of it. "masked": masked steps are predicted from
            all others, for `order: masked`. "window": masked steps of a block are predicted from known ones of the same
            block, whatever their place, and those in front of it, for `order: window`. Both need a primary that fills
            steps, with a prior that plans.
        mask_conf: what is masked in training, see `Masking`; None for its defaults.
        **shared: options of every `CoreLM`.

    Raises:
        UserError: if a name is unknown or an option is out of range.

    Reference:
        arXiv:2509.19592; special ids and the mean over slots are decisions stated in `codes` and
        `local_transformer`.
    """

    reads = "text"

    def __init__(
        self,
        spec: CodecSpec,
        text_vocab_size: int,
        primary: str = "cross_attention",
        primary_conf: dict[str, object] | None = None,
        local: str | Sequence[str] = "ar",
        local_conf: Mapping[str, object] | None = None,
        frame_stacking_factor: int = 1,
        *,
        delays: Sequence[int] = (),
        objective: str = "causal",
        mask_conf: Mapping[str, object] | None = None,
        **shared: Any,
    ) -> None:
        if not isinstance(delays, Sequence) or isinstance(delays, str):
            raise UserError(f"delays must be a list of {spec.num_codebooks} whole numbers, got {delays!r}")
        layout = StepLayout(spec.num_codebooks, frame_stacking_factor, tuple(delays))
        super().__init__(spec, layout, **shared)
        primary_conf = primary_conf or {}
        primaries.check_options(primary, primary_conf)
        self.primary = primaries[primary](text_vocab_size, frame_stacking_factor, **primary_conf)
        slots, width = self.step_slots, self.primary.width
        self.embedding = SlotEmbedding(slots, width)
        self.heads = Heads({"parallel": ParallelHeads(slots.count, spec.vocab_size, width, slots.tied_frames)})
        self.add_local(local, local_conf or {}, lambda kind, conf: kind(self.embedding, slots, width, False, **conf))
        if self.layout.max_delay and any(isinstance(head, MaskGITLocalTransformer) for head in self.heads.values()):
            raise UserError(f"local must not contain maskgit with delays {list(delays)}, got {local!r}")
        check_choice("objective", objective, ("causal", "masked", "window"))
        self.objective, self.masking = objective, Masking.of(mask_conf)
        self.mask_unit, self.mask_span = self.masking.unit, self.masking.span
        if mask_conf is not None and objective == "causal":
            raise UserError(f"mask_conf must be left out with objective causal, got {mask_conf!r}")
        if objective != "causal":
            self._check_masked(primary)

    def _check_masked(self, primary: str) -> None:
        """Refuse what does not go with masked steps."""
        filling = [name for name in primaries if issubclass(primaries[name], FillsSteps)]
        if primary not in filling:
            raise UserError(f"primary must be one of {filling} with objective {self.objective}, got {primary!r}")
        prior: Any = getattr(self.primary, "prior", None)
        if prior is not None and not prior.plans:
            able = [name for name in attention_priors if attention_priors[name].plans]
            mine = next(name for name in attention_priors if attention_priors[name] is type(prior))
            raise UserError(f"prior must be one of {able} with objective {self.objective}, got {mine!r}")
        for name in ("code_corruption", "local_drop"):
            if getattr(self, name):
                raise UserError(f"{name} must be 0 with objective {self.objective}, got {getattr(self, name)}")
        if self.layout.max_delay:
            told = list(self.layout.delays)
            raise UserError(f"delays must be none with objective {self.objective}, got {told}")
        if self.objective == "window" and (self.mask_unit != "steps" or self.masking.stretch):
            raise UserError(f"mask_conf must have a span alone with objective window, got {self.masking}")

    def forward(
        self,
        text: Tensor,
        text_lengths: Tensor,
        codes: Tensor,
        codes_lengths: Tensor,
        prompt: Tensor,
        prompt_lengths: Tensor,
    ) -> CoreLMOutput:
        """Teacher-forced scores of every code and of the frame that ends each utterance.

        Args:
            text: (B, U) int64, right-padded.
            text_lengths: (B,) int64.
            codes: (B, T, N) int64, right-padded.
            codes_lengths: (B,) int64 frames.
            prompt: (B, T', N) int64 codes of the speaker prompt, right-padded.
            prompt_lengths: (B,) int64 frames.

        Returns:
            The scores.
        """
        targets = self.targets(codes, codes_lengths)
        true: Tensor | None = None
        learned: Tensor | None = None
        conditions = self.conditions(text, text_lengths, prompt, prompt_lengths)
        if self.objective == "window":
            conditions = conditions._replace(given=self.draw_given(len(text), text.device))
            hidden, alignment, learned = self._hidden_of_blocks(conditions, targets, codes_lengths)
            return self.scores(hidden, targets, codes_lengths, alignment=alignment, learned=learned)
        if self.objective == "masked":
            books = self.spec.num_codebooks
            exists = codes_of_frames(codes_lengths, targets.shape[1], self.stacking, books)
            hidden_codes, learned = self.masking.draw(exists, books, self.training)
            inputs = targets.masked_fill(hidden_codes, self.spec.mask_id)
        else:
            inputs, true = self.inputs(targets, self.spec.bos_id)
        conditions = conditions._replace(given=self.draw_given(len(text), text.device))
        read, further = self._read(conditions, inputs, targets, codes_lengths), None
        if self.asks_further:
            (hidden, alignment), further = self._looking.forward_ahead(*read)
        else:
            hidden, alignment = self._hidden(*read)

        def run(layers: LayerPass) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
            return parted(self.primary(*read, **_told(layers)).hidden, layers, targets.shape[1])

        again = Again(run, lambda: self.summary(conditions)) if self.goes_through else None
        given = hidden, targets, codes_lengths, alignment
        return self.scores(*given, true=true, further=further, learned=learned, again=again)

    def _hidden_of_blocks(
        self, conditions: Conditions, targets: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Alignment | None, Tensor]:
        """Hidden vectors, alignment and the codes that are learned, (B, L, M) bool, of masked steps of all blocks.

        A step sees all in front of its block; in its block known steps see known ones in front of them, and masked ones
        all known ones and the masked ones in front of them, as if the known ones came first.
        """
        step_lengths, (_, steps, slots) = self.layout.num_steps(lengths + 1), targets.shape
        masked, block = self.masking.draw_blocks(step_lengths, steps, self.training)
        inputs = targets.masked_fill(masked[..., None], self.spec.mask_id)
        rank = torch.arange(steps, device=targets.device) + steps * masked
        exists = length_mask(step_lengths, steps)[:, None]
        before, beside = block[:, None] < block[..., None], block[:, None] == block[..., None]
        in_block = beside & (rank[:, None] <= rank[..., None])
        itself = torch.eye(steps, dtype=torch.bool, device=targets.device)
        sees = torch.cat((before & exists, (in_block & exists) | itself), dim=2)
        embedded = self.embedding.step(targets), self.embedding.step(inputs), self.embedding.frames(targets)
        made = self._filling.forward_window(conditions, *embedded, step_lengths, sees)
        return made.hidden, made.alignment, masked[..., None].expand(-1, -1, slots)

    @torch.no_grad()
    def spoken_at(
        self,
        text: Tensor,
        text_lengths: Tensor,
        codes: Tensor,
        codes_lengths: Tensor,
        prompt: Tensor,
        prompt_lengths: Tensor,
    ) -> Tensor | None:
        """The text token that every frame speaks, on the best monotonic path through the model's own alignment: (B, T).

        None for a model that aligns nothing. The arguments are those of `forward`.
        """
        targets = self.targets(codes, codes_lengths)
        inputs = targets if self.objective != "causal" else self.inputs(targets, self.spec.bos_id)[0]
        conditions = self.conditions(text, text_lengths, prompt, prompt_lengths)
        _, alignment = self._hidden(*self._read(conditions, inputs, targets, codes_lengths))
        if alignment is None:
            return None
        path = best_path(alignment.log_attention, alignment.frame_lengths, alignment.text_lengths)
        return path[:, : codes.shape[1]]

    def _read(
        self, conditions: Conditions, inputs: Tensor, targets: Tensor, lengths: Tensor
    ) -> tuple[Conditions, Tensor, Tensor, Tensor]:
        """What the primary transformer is given."""
        embedded = self.embedding.step(inputs), self.embedding.frames(targets)
        return conditions, *embedded, self.layout.num_steps(lengths + 1)

    def _hidden(self, *read: Any) -> PrimaryOutput:
        """What the primary transformer makes of it."""
        if self.objective == "masked":
            return self._filling.forward_masked(*read)
        output: PrimaryOutput = self.primary(*read)
        return output

    def conditions(self, text: Tensor, text_lengths: Tensor, prompt: Tensor, prompt_lengths: Tensor) -> Conditions:
        """Text and embedded prompt; the arguments are those of `forward`."""
        # a prompt's last step may reach into its padding, which must not depend on the batch
        padding = ~length_mask(prompt_lengths, prompt.shape[1])[..., None]
        steps = stack_frames(prompt.masked_fill(padding, self.spec.bos_id), self.stacking, self.spec.bos_id)
        given = torch.ones_like(text_lengths, dtype=torch.bool)
        conditions = Conditions(
            text, text_lengths, self.embedding.step(steps), num_steps(prompt_lengths, self.stacking), given
        )
        if self.objective != "masked":
            return conditions
        nothing = prompt.new_zeros(len(text), 0, self.spec.num_codebooks)
        return conditions._replace(known=nothing, known_lengths=torch.zeros_like(text_lengths))

    def first_codes(self, conditions: Conditions) -> Tensor:  # noqa: D102 (inherited)
        given = conditions.given
        return torch.full((len(given), self.slots), self.spec.bos_id, device=given.device)

    def prefill(  # noqa: D102 (inherited)
        self,
        conditions: Conditions,
        max_steps: Tensor | int,
        cache: CachePolicy = EXACT,
        layers: RowLayers | None = None,
    ) -> PrimaryState:
        steps = torch.as_tensor(max_steps).expand(len(conditions.text))
        if self.objective != "masked":
            state = self.primary.prefill(conditions, steps, cache, **_told(layers))
            if self.objective == "window" and not state.cache.plain:
                raise UserError(f"cache must be exact with objective window, whose steps lie in any order, got {cache}")
            return state
        assert layers is None, "parts that choose layers are refused with masked steps"
        assert conditions.known is not None and conditions.known_lengths is not None
        targets = self.targets(conditions.known, conditions.known_lengths)
        told = self.embedding.frames(targets)
        is_known = (targets != self.spec.mask_id).unflatten(2, (told.shape[2], -1)).all(-1)
        known = Known(told, is_known, conditions.known_lengths)
        return self._filling.prefill_masked(conditions, known, steps.to(targets.device) * self.stacking, cache)

    def step(self, codes: Tensor, state: PrimaryState) -> Tensor:  # noqa: D102 (inherited)
        return self.primary.step(self.embedding.step(codes), state)

    def extend(  # noqa: D102 (inherited)
        self, codes: Tensor, state: PrimaryState, layers: LayerPass | None = None
    ) -> Tensor:
        return self.primary.extend(self.embedding.step(codes), state, **_told(layers))

    @property
    def goes_through(self) -> bool:  # type: ignore[override]  # noqa: D102 (inherited)
        # which layers masked steps would need nobody has learned
        return isinstance(self.primary, RunsSomeLayers) and self.objective == "causal"

    def summary(self, conditions: Conditions) -> Tensor:  # noqa: D102 (inherited)
        return self._layered.summary(conditions)

    def extend_ahead(self, codes: Tensor, state: PrimaryState, ahead: Ahead) -> tuple[Tensor, Tensor]:  # noqa: D102
        return self._looking.extend_ahead(self.embedding.step(codes), state, ahead)

    def fill(self, codes: Tensor, step_lengths: Tensor, state: PrimaryState) -> Tensor:  # noqa: D102 (inherited)
        return self._filling.fill(self.embedding.step(codes), step_lengths, state)

    def extend_at(self, codes: Tensor, steps: Tensor, exists: Tensor, state: PrimaryState) -> Tensor:  # noqa: D102
        return self._filling.extend_at(self.embedding.step(codes), steps, exists, state)

    @property
    def _filling(self) -> FillsSteps:
        assert isinstance(self.primary, FillsSteps), "others are refused with this objective"
        return self.primary

    @property
    def _looking(self) -> LooksAhead:
        assert isinstance(self.primary, LooksAhead), "parts that look ahead are refused with others"
        return self.primary

    @property
    def _layered(self) -> RunsSomeLayers:
        assert isinstance(self.primary, RunsSomeLayers), "whoever asks has seen that it goes through"
        return self.primary

    def step_transformers(self) -> list[Transformer]:  # noqa: D102 (inherited)
        return self.primary.step_transformers()


def _told(layers: LayerPass | RowLayers | None) -> dict[str, Any]:
    """What a primary transformer is told of layers: nothing where there is nothing, as it may not know of any."""
    return {} if layers is None else {"layers": layers}
