"""The encoder-decoder primary: steps attend to the encoded text along a monotonic alignment."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from espnet_ext.alignment import Aligner, Alignment, FramePredictor, best_path, path_log_prior, path_of
from espnet_ext.codes import length_mask
from espnet_ext.options import check_number
from espnet_ext.primary.base import Conditions, Primary, PrimaryOutput, PrimaryState, left_pad, primaries, visible_mask
from espnet_ext.transformer import Memory, Transformer


class TextEncoder(nn.Module):
    """Bidirectional transformer over text tokens whose feed-forward sees neighbouring tokens."""

    def __init__(self, vocab_size: int, width: int, layers: int, heads: int, dropout: float, kernel_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.transformer = Transformer(width, layers, heads, dropout, kernel_size=kernel_size)

    def forward(self, text: Tensor, mask: Tensor) -> Tensor:
        """Encoded tokens (B, U, D) of text (B, U) int64; `mask` (B, U) is True where a token exists."""
        return self.transformer(self.embedding(text), mask[:, None, None], valid=mask)


@primaries.register("cross_attention")
class CrossAttentionPrimary(Primary):
    """Text encoder, context encoder and a causal decoder whose layers attend to the text.

    The context encoder reads the speaker prompt; its output stands in front of the steps. The cross-attention
    has one head per frame of a step, each biased towards the token that a monotonic path assigns to its frame.
    When codes are given (training, scoring) the path is the best one through an aligner's similarities; in
    inference it is made of the frames per token that a predictor expects. Positions are rotary, so the left
    padding of prompts costs no position.

    Args:
        text_vocab_size: ids of the text.
        stacking: S.
        width: D.
        layers: decoder blocks.
        heads: self-attention heads.
        text_layers: blocks of the text encoder.
        context_layers: blocks of the context encoder.
        dropout: probability of dropping, in training.
        prior_width: standard deviation of the attention prior beside the path, in tokens.

    Reference:
        Base model of arXiv:2509.19592, §2 (one cross-attention head, as here at S = 1); the aligner, the predicted
        path and the head per frame are ours, for quick learning.
    """

    def __init__(
        self,
        text_vocab_size: int,
        stacking: int,
        width: int = 256,
        layers: int = 4,
        heads: int = 4,
        text_layers: int = 2,
        context_layers: int = 1,
        dropout: float = 0.1,
        prior_width: float = 1.5,
    ) -> None:
        super().__init__()
        check_number("width", width, least=1, whole=True)
        if prior_width <= 0:
            raise ValueError(f"prior_width must be positive, got {prior_width}")
        self.width, self.stacking, self.prior_width = width, stacking, prior_width
        self.text_encoder = TextEncoder(text_vocab_size, width, text_layers, heads, dropout, kernel_size=3)
        self.context_encoder = Transformer(width, context_layers, heads, dropout)
        self.aligner = Aligner(width)
        self.frame_predictor = FramePredictor(width)
        self.decoder = Transformer(width, layers, heads, dropout, cross_heads=stacking)

    def _encode_prompt(self, conditions: Conditions) -> tuple[Tensor, Tensor]:
        prompt, mask = left_pad(conditions.prompt, conditions.prompt_lengths)
        if prompt.shape[1] == 0:
            return prompt, mask
        itself = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
        encoded = self.context_encoder(prompt, (mask[:, None] | itself)[:, None], valid=mask)
        return encoded, mask

    def _read_text(self, encoded: Tensor, text_mask: Tensor, given: Tensor) -> Memory:
        """What the decoder attends to; a row without conditions has one token, of zeros."""
        first = torch.arange(text_mask.shape[1], device=text_mask.device) == 0
        return self.decoder.read(encoded * given[:, None, None], text_mask & (given[:, None] | first))

    def _predict_frames(self, encoded: Tensor, text_mask: Tensor, prompt: Tensor, prompt_mask: Tensor) -> Tensor:
        """Log of the expected frames per token (B, U); the encoders learn from the codes, not from this."""
        mean = (prompt * prompt_mask[..., None]).sum(1) / prompt_mask.sum(1, keepdim=True).clamp_min(1)
        return self.frame_predictor(encoded.detach(), text_mask, mean.detach())

    def _align(self, conditions: Conditions, targets: Tensor, step_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Log-attention of the aligner (B, L, U), and the best path (B, L * S) through it."""
        text = self.text_encoder.embedding(conditions.text)
        log_attention = self.aligner(text, conditions.text_lengths, targets.detach(), step_lengths)
        frames = log_attention.detach().repeat_interleave(self.stacking, dim=1)
        return log_attention, best_path(frames, step_lengths * self.stacking, conditions.text_lengths)

    def forward(  # noqa: D102
        self, conditions: Conditions, steps: Tensor, targets: Tensor, step_lengths: Tensor
    ) -> PrimaryOutput:
        log_attention, path = self._align(conditions, targets, step_lengths)
        text_mask = length_mask(conditions.text_lengths, conditions.text.shape[1])
        encoded = self.text_encoder(conditions.text, text_mask)
        prompt, mask = self._encode_prompt(conditions)
        prior = path_log_prior(path, self.stacking, text_mask.shape[1], self.prior_width).to(steps.dtype)
        # the prompt attends to the text as well, without a preference
        prior = nn.functional.pad(prior, (0, 0, prompt.shape[1], 0))
        seen = mask & conditions.given[:, None]
        keys = torch.cat((seen, mask.new_ones(steps.shape[:2])), dim=1)
        memory = self._read_text(encoded, text_mask, conditions.given)
        hidden = self.decoder(torch.cat((prompt, steps), dim=1), visible_mask(keys), memory=memory, prior=prior)
        existing = length_mask(step_lengths * self.stacking, path.shape[1])
        frames = torch.zeros_like(text_mask, dtype=steps.dtype).scatter_add_(1, path, existing.to(steps.dtype))
        predicted = self._predict_frames(encoded, text_mask, prompt, mask)
        alignment = Alignment(log_attention, frames, predicted, conditions.text_lengths, step_lengths)
        return PrimaryOutput(hidden[:, prompt.shape[1] :], alignment)

    def prefill(self, conditions: Conditions, max_steps: Tensor) -> PrimaryState:  # noqa: D102
        text_mask = length_mask(conditions.text_lengths, conditions.text.shape[1])
        encoded = self.text_encoder(conditions.text, text_mask)
        memory = self._read_text(encoded, text_mask, conditions.given)
        prompt, mask = self._encode_prompt(conditions)
        batch, width, _ = prompt.shape
        steps = int(max_steps.max())
        cache = self.decoder.new_cache(batch, width + steps)
        if width:
            seen = mask & conditions.given[:, None]
            cache.key_mask[:, :width] = seen
            self.decoder(prompt, visible_mask(seen), cache=cache, memory=memory)
        frames = self._predict_frames(encoded, text_mask, prompt, mask).exp()
        path = path_of(frames, conditions.text_lengths, steps * self.stacking)
        return PrimaryState(cache, memory, path, start=width)

    def step(self, x: Tensor, state: PrimaryState) -> Tensor:  # noqa: D102
        cache, memory, path = state.cache, state.memory, state.path
        assert memory is not None and path is not None
        now = path[:, state.step * self.stacking : (state.step + 1) * self.stacking]
        prior = path_log_prior(now, self.stacking, memory.mask.shape[1], self.prior_width).to(x.dtype)
        mask = cache.key_mask[:, None, None, : cache.length + 1]
        hidden = self.decoder(x[:, None], mask, cache=cache, memory=memory, prior=prior)
        return hidden[:, 0]
