"""The core language model: embeds codes, runs the primary transformer, scores with its heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from espnet_ext.alignment import Alignment
from espnet_ext.codes import CodecSpec, StepLayout, length_mask, num_steps, stack_frames
from espnet_ext.local_transformer import (
    Heads,
    LocalOutput,
    MaskGITLocalTransformer,
    ParallelHeads,
    SlotEmbedding,
    local_transformers,
)
from espnet_ext.options import check_number
from espnet_ext.primary import Conditions, PrimaryState, primaries
from espnet_ext.registry import Registry


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
        local: name of the local transformer beside the parallel heads, or several names; "none" for no other head.
        local_conf: its options; with several local transformers, the options of each by its name.
        frame_stacking_factor: S.
        delays: frames by which each codebook comes late, for S = 1; none for all at once.
        code_corruption: probability that a step's input codes are replaced by random ones in training, so that
            the model learns to trust the text more than its own past.
        conditioning_dropout: probability that an utterance is trained without text and prompt, which
            classifier-free guidance needs.

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
        local: str | Sequence[str] = "ar",
        local_conf: Mapping[str, object] | None = None,
        frame_stacking_factor: int = 1,
        delays: Sequence[int] = (),
        code_corruption: float = 0.0,
        conditioning_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        for name, value in (("code_corruption", code_corruption), ("conditioning_dropout", conditioning_dropout)):
            check_number(name, value, least=0, below=1)
        self.spec, self.code_corruption, self.conditioning_dropout = spec, code_corruption, conditioning_dropout
        if not isinstance(delays, Sequence) or isinstance(delays, str):
            raise ValueError(f"delays must be a list of {spec.num_codebooks} whole numbers, got {delays!r}")
        self.layout = StepLayout(spec.num_codebooks, frame_stacking_factor, tuple(delays))
        primary_conf = primary_conf or {}
        primaries.check_options(primary, primary_conf, given=2)
        self.primary = primaries[primary](text_vocab_size, frame_stacking_factor, **primary_conf)
        self.embedding = SlotEmbedding(self.slots, spec.vocab_size, self.primary.width)
        self.heads = Heads({"parallel": ParallelHeads(self.slots, spec.vocab_size, self.primary.width)})
        for name, conf in local_options(local, local_conf or {}).items():
            build = local_transformers[name]
            self.heads[name] = build(self.embedding, spec, self.slots, self.primary.width, **conf)
            if self.layout.max_delay and isinstance(self.heads[name], MaskGITLocalTransformer):
                raise ValueError(f"local must not contain maskgit with delays {list(delays)}, got {local!r}")

    @property
    def stacking(self) -> int:
        """S, frames of one step."""
        return self.layout.stacking

    @property
    def slots(self) -> int:
        """M, codes of one step."""
        return self.layout.slots

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
        targets = self.layout.to_steps(frames, self.spec.bos_id, self.spec.eos_id)  # (B, L, M)
        step_lengths = self.layout.num_steps(code_lengths + 1)
        bos = torch.full_like(targets[:, :1], self.spec.bos_id)
        inputs = torch.cat((bos, self._corrupt(targets[:, :-1])), dim=1)
        conditions = self._drop_conditions(self.conditions(text, text_lengths, prompt, prompt_lengths))
        embedded = self.embedding.step(inputs), self.embedding.step(targets)
        hidden, alignment = self.primary(conditions, *embedded, step_lengths)
        # from here on only steps that exist, so no head ever sees padding
        valid = length_mask(step_lengths, targets.shape[1])
        existing = length_mask(code_lengths + 1, frames.shape[1])[..., None].expand_as(frames)
        counted = self.layout.to_steps(existing.long(), before_id=0, after_id=0)[valid].bool()  # (P, M)
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
        given = torch.ones_like(text_lengths, dtype=torch.bool)
        return Conditions(
            text, text_lengths, self.embedding.step(steps), num_steps(prompt_lengths, self.stacking), given
        )

    def _drop_conditions(self, conditions: Conditions) -> Conditions:
        if not self.training or self.conditioning_dropout == 0.0:
            return conditions
        draw = torch.rand(conditions.given.shape, device=conditions.given.device)
        return conditions._replace(given=draw >= self.conditioning_dropout)

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

    def prefill(self, conditions: Conditions, max_steps: Tensor | int) -> PrimaryState:
        """The state before the first step; `max_steps` is one number or one per row, see `Primary.prefill`."""
        return self.primary.prefill(conditions, torch.as_tensor(max_steps).expand(len(conditions.text)))

    def step(self, codes: Tensor, state: PrimaryState) -> Tensor:
        """Hidden vector (B, D) that predicts the next step, given the codes (B, M) of the last one."""
        return self.primary.step(self.embedding.step(codes), state)


def local_options(local: str | Sequence[str], conf: Mapping[str, object]) -> dict[str, Mapping[str, object]]:
    """Name → checked options of every local transformer.

    Args:
        local: a name, several names, or "none".
        conf: options of the one, or options by name.

    Returns:
        The options.

    Raises:
        ValueError: if a name or an option is unknown, or a name comes twice.

    >>> local_options(["ar", "maskgit"], {"ar": {"layers": 2}})
    {'ar': {'layers': 2}, 'maskgit': {}}
    """
    if local == "none":
        if conf:
            raise ValueError(f"local_conf must be empty with local none, got {sorted(conf)}")
        return {}
    names = [local] if isinstance(local, str) else list(local) if isinstance(local, (list, tuple)) else []
    if not names or not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise ValueError(f"local must be one or several of {list(local_transformers)}, each once, got {local!r}")
    if not isinstance(conf, Mapping):
        raise ValueError(f"local_conf must be names and values, got {conf!r}")
    by_name = not isinstance(local, str) or isinstance(conf.get(local), Mapping)
    options: dict[str, Mapping[str, object]] = {}
    for name in names:
        own = conf.get(name, {}) if by_name else conf
        if not isinstance(own, Mapping):
            raise ValueError(f"local_conf must hold options by name for local {names}, got {name}: {own!r}")
        local_transformers.check_options(name, own, given=4)
        options[name] = own
    strangers = sorted(set(conf) - set(names), key=str) if by_name else []
    if strangers:
        raise ValueError(f"local_conf must have keys among {names}, got {strangers}")
    return options
