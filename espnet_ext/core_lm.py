"""The core language model: embeds codes, runs the primary transformer, scores with its heads."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from espnet_ext.alignment import Alignment
from espnet_ext.codes import CodecSpec, length_mask, num_steps, stack_frames
from espnet_ext.local_transformer import LocalOutput, LocalTransformer, ParallelHeads, SlotEmbedding, local_transformers
from espnet_ext.primary import Conditions, PrimaryState, primaries
from espnet_ext.registry import Registry

LocalT = TypeVar("LocalT", bound=LocalTransformer)


class CoreLMOutput(NamedTuple):
    """Teacher-forced scores of a batch.

    Attributes:
        heads: per head name the logits (P, M, V) and the mask of the codes that count (P, M).
        targets: (P, M) int64.
        alignment: of steps and text, for its losses; None for a primary that has none.
    """

    heads: dict[str, LocalOutput]
    targets: Tensor
    alignment: Alignment | None


corelms: Registry[type[CoreLM]] = Registry("corelm")


@corelms.register("codec_lm")
class CoreLM(nn.Module):
    """p(codes | text, prompt) with N codebooks per frame and S frames per step.

    It scores and steps; the loss is in `loss`, the loop over time in `decoding.generate`.

    Args:
        spec: the codec's facts.
        text_vocab_size: ids of the text.
        primary: name of the primary transformer.
        primary_conf: its options.
        local: name of the local transformer beside the parallel heads; "none" for no other head.
        local_conf: its options.
        frame_stacking_factor: S.
        code_corruption: probability that a step's input codes are replaced by random ones in training, so that
            the model learns to trust the text more than its own past.

    Raises:
        ValueError: if a name is unknown or an option is out of range.

    Reference:
        arXiv:2509.19592; special ids and the mean over slots are decisions stated in `codes` and
        `local_transformer`.
    """

    def __init__(
        self,
        spec: CodecSpec,
        text_vocab_size: int,
        primary: str = "cross_attention",
        primary_conf: dict[str, object] | None = None,
        local: str = "ar",
        local_conf: dict[str, object] | None = None,
        frame_stacking_factor: int = 1,
        code_corruption: float = 0.0,
    ) -> None:
        super().__init__()
        if frame_stacking_factor < 1:
            raise ValueError(f"frame_stacking_factor must be at least 1, got {frame_stacking_factor}")
        if not 0.0 <= code_corruption < 1.0:
            raise ValueError(f"code_corruption must be in [0, 1), got {code_corruption}")
        self.spec, self.stacking, self.code_corruption = spec, frame_stacking_factor, code_corruption
        slots = spec.num_codebooks * frame_stacking_factor
        primary_conf, local_conf = primary_conf or {}, local_conf or {}
        primaries.check_options(primary, primary_conf, given=2)
        self.primary = primaries[primary](text_vocab_size, frame_stacking_factor, **primary_conf)
        width = self.primary.width
        self.embedding = SlotEmbedding(slots, spec.vocab_size, width)
        self.heads = nn.ModuleDict({"parallel": ParallelHeads(slots, spec.vocab_size, width)})
        if local != "none":
            local_transformers.check_options(local, local_conf, given=4)
            build_local = local_transformers[local]
            self.heads[local] = build_local(self.embedding, slots, spec.vocab_size, width, **local_conf)
        elif local_conf:
            raise ValueError(f"local_conf must be empty with local none, got {sorted(local_conf)}")

    @property
    def slots(self) -> int:
        """M, codes of one step."""
        return self.spec.num_codebooks * self.stacking

    def head_of(self, local_type: type[LocalT]) -> LocalT:
        """The model's head of a class.

        Args:
            local_type: class of the head a strategy needs.

        Returns:
            The head.

        Raises:
            ValueError: if the model has none; the message lists those it has.
        """
        for head in self.heads.values():
            if isinstance(head, local_type):
                return head
        raise ValueError(f"this model has no {local_type.__name__}; its heads are {list(self.heads)}")

    def forward(
        self,
        text: Tensor,
        text_lengths: Tensor,
        codes: Tensor,
        code_lengths: Tensor,
        prompt: Tensor,
        prompt_lengths: Tensor,
    ) -> CoreLMOutput:
        """Teacher-forced scores of every code and of the frame that ends each utterance.

        Args:
            text: (B, U) int64, right-padded.
            text_lengths: (B,) int64.
            codes: (B, T, N) int64, right-padded.
            code_lengths: (B,) int64 frames.
            prompt: (B, T', N) int64 codes of the speaker prompt, right-padded.
            prompt_lengths: (B,) int64 frames.

        Returns:
            The scores.
        """
        frames = self._append_eos(codes, code_lengths)
        targets = stack_frames(frames, self.stacking, self.spec.eos_id)  # (B, L, M)
        step_lengths = num_steps(code_lengths + 1, self.stacking)
        bos = torch.full_like(targets[:, :1], self.spec.bos_id)
        inputs = torch.cat((bos, self._corrupt(targets[:, :-1])), dim=1)
        conditions = self.conditions(text, text_lengths, prompt, prompt_lengths)
        embedded = self.embedding.step(inputs), self.embedding.step(targets)
        hidden, alignment = self.primary(conditions, *embedded, step_lengths)
        # from here on only steps that exist, so no head ever sees padding
        valid = length_mask(step_lengths, targets.shape[1])
        counted = stack_frames(length_mask(code_lengths + 1, frames.shape[1])[..., None], self.stacking, fill_id=0)
        counted = counted[valid].repeat_interleave(self.spec.num_codebooks, dim=1)  # (P, M)
        kept_hidden, kept_targets = hidden[valid], targets[valid]
        heads = {}
        for name, head in self.heads.items():
            logits, loss_mask = head(kept_hidden, kept_targets)
            heads[name] = LocalOutput(logits, loss_mask & counted)
        return CoreLMOutput(heads, kept_targets, alignment)

    def conditions(self, text: Tensor, text_lengths: Tensor, prompt: Tensor, prompt_lengths: Tensor) -> Conditions:
        """Text and embedded prompt; the arguments are those of `forward`."""
        # a prompt's last step may reach into its padding, which must not depend on the batch
        padding = ~length_mask(prompt_lengths, prompt.shape[1])[..., None]
        steps = stack_frames(prompt.masked_fill(padding, self.spec.bos_id), self.stacking, self.spec.bos_id)
        return Conditions(text, text_lengths, self.embedding.step(steps), num_steps(prompt_lengths, self.stacking))

    def _append_eos(self, codes: Tensor, lengths: Tensor) -> Tensor:
        """One frame of EOS after each utterance, and EOS in the padding: (B, T + 1, N)."""
        frames = nn.functional.pad(codes, (0, 0, 0, 1), value=self.spec.eos_id)
        return frames.masked_fill(~length_mask(lengths, frames.shape[1])[..., None], self.spec.eos_id)

    def _corrupt(self, steps: Tensor) -> Tensor:
        if not self.training or self.code_corruption == 0.0:
            return steps
        random = torch.randint_like(steps, self.spec.codebook_size)
        chosen = torch.rand(steps.shape[:2], device=steps.device) < self.code_corruption
        return torch.where(chosen[..., None], random, steps)

    def prefill(self, conditions: Conditions, max_steps: int) -> PrimaryState:
        """The state before the first step; see `Primary.prefill`."""
        return self.primary.prefill(conditions, max_steps)

    def step(self, codes: Tensor, state: PrimaryState) -> Tensor:
        """Hidden vector (B, D) that predicts the next step, given the codes (B, M) of the last one."""
        return self.primary.step(self.embedding.step(codes), state)
