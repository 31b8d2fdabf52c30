"""The core language model that is given its text: embeds codes, runs the primary transformer, scores with its heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from espnet_ext.codes import CodecSpec, StepLayout, length_mask, num_steps, stack_frames
from espnet_ext.errors import UserError
from espnet_ext.model.ahead import Ahead
from espnet_ext.model.alignment import best_path
from espnet_ext.model.caches import EXACT, CachePolicy
from espnet_ext.model.core_lm.base import CoreLM, CoreLMOutput, register_corelm
from espnet_ext.model.heads import (
    Heads,
    MaskGITLocalTransformer,
    ParallelHeads,
    SlotEmbedding,
)
from espnet_ext.model.primary import Conditions, PrimaryState, primaries
from espnet_ext.model.transformer import Transformer


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
        inputs, true = self.inputs(targets, self.spec.bos_id)
        conditions = self.conditions(text, text_lengths, prompt, prompt_lengths)
        conditions = conditions._replace(given=self.draw_given(len(text), text.device))
        read, further = self._read(conditions, inputs, targets, codes_lengths), None
        if self.asks_further:
            (hidden, alignment), further = self.primary.forward_ahead(*read)
        else:
            hidden, alignment = self.primary(*read)
        return self.scores(hidden, targets, codes_lengths, alignment=alignment, true=true, further=further)

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
        inputs, _ = self.inputs(targets, self.spec.bos_id)
        conditions = self.conditions(text, text_lengths, prompt, prompt_lengths)
        _, alignment = self.primary(*self._read(conditions, inputs, targets, codes_lengths))
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

    def conditions(self, text: Tensor, text_lengths: Tensor, prompt: Tensor, prompt_lengths: Tensor) -> Conditions:
        """Text and embedded prompt; the arguments are those of `forward`."""
        # a prompt's last step may reach into its padding, which must not depend on the batch
        padding = ~length_mask(prompt_lengths, prompt.shape[1])[..., None]
        steps = stack_frames(prompt.masked_fill(padding, self.spec.bos_id), self.stacking, self.spec.bos_id)
        given = torch.ones_like(text_lengths, dtype=torch.bool)
        return Conditions(
            text, text_lengths, self.embedding.step(steps), num_steps(prompt_lengths, self.stacking), given
        )

    def first_codes(self, conditions: Conditions) -> Tensor:  # noqa: D102 (inherited)
        given = conditions.given
        return torch.full((len(given), self.slots), self.spec.bos_id, device=given.device)

    def prefill(  # noqa: D102 (inherited)
        self, conditions: Conditions, max_steps: Tensor | int, cache: CachePolicy = EXACT
    ) -> PrimaryState:
        return self.primary.prefill(conditions, torch.as_tensor(max_steps).expand(len(conditions.text)), cache)

    def step(self, codes: Tensor, state: PrimaryState) -> Tensor:  # noqa: D102 (inherited)
        return self.primary.step(self.embedding.step(codes), state)

    def extend(self, codes: Tensor, state: PrimaryState) -> Tensor:  # noqa: D102 (inherited)
        return self.primary.extend(self.embedding.step(codes), state)

    def extend_ahead(self, codes: Tensor, state: PrimaryState, ahead: Ahead) -> tuple[Tensor, Tensor]:  # noqa: D102
        return self.primary.extend_ahead(self.embedding.step(codes), state, ahead)

    def step_transformers(self) -> list[Transformer]:  # noqa: D102 (inherited)
        return self.primary.step_transformers()
