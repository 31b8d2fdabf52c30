"""The encoder-decoder primary: steps attend to the encoded text along a guided, monotonic alignment."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from espnet_ext.alignment import diagonal_log_prior, window_log_prior
from espnet_ext.codes import length_mask
from espnet_ext.primary.base import Conditions, Primary, PrimaryOutput, PrimaryState, left_pad, primaries, visible_mask
from espnet_ext.transformer import Memory, Transformer


class TextEncoder(nn.Module):
    """Bidirectional transformer over text tokens whose feed-forward sees neighbouring tokens."""

    def __init__(self, vocab_size: int, width: int, layers: int, heads: int, dropout: float, kernel_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.transformer = Transformer(width, layers, heads, dropout, kernel_size=kernel_size)

    def forward(self, text: Tensor, mask: Tensor) -> Tensor:
        """Encoded tokens (B, U, D) of text (B, U) int64; `mask` (B, U) is True where a token exists."""
        encoded, _ = self.transformer(self.embedding(text), mask[:, None, None], valid=mask)
        return encoded


@primaries.register("cross_attention")
class CrossAttentionPrimary(Primary):
    """Text encoder, context encoder and a causal decoder with one cross-attention head per layer.

    The context encoder reads the speaker prompt; its output stands in front of the steps. In training the
    cross-attention is biased towards the diagonal, fully for the first of `prior_updates` and not at all after the
    last, linearly less in between. In inference it is confined to a window around the token it attended
    to last. Positions are rotary, so the left padding of prompts costs no position.

    Args:
        text_vocab_size: ids of the text.
        width: D.
        layers: decoder blocks.
        heads: self-attention heads.
        text_layers: blocks of the text encoder.
        context_layers: blocks of the context encoder.
        dropout: probability of dropping, in training.
        prior_width: standard deviation of the training prior as a share of the text.
        prior_updates: updates at which the training prior starts to fade and is gone.
        window: tokens before and after the last attended one that inference may attend to; None for all.

    Reference:
        Base model of arXiv:2509.19592, §2.
    """

    updates: Tensor

    def __init__(
        self,
        text_vocab_size: int,
        width: int = 256,
        layers: int = 4,
        heads: int = 4,
        text_layers: int = 2,
        context_layers: int = 1,
        dropout: float = 0.1,
        prior_width: float = 0.1,
        prior_updates: tuple[int, int] = (1000, 2000),
        window: tuple[int, int] | None = (1, 5),
    ) -> None:
        super().__init__()
        self.width = width
        self.prior_width, self.prior_updates, self.window = prior_width, tuple(prior_updates), window
        if not 0 <= prior_updates[0] < prior_updates[1]:
            raise ValueError(f"prior_updates must be two growing numbers, got {list(prior_updates)}")
        self.text_encoder = TextEncoder(text_vocab_size, width, text_layers, heads, dropout, kernel_size=3)
        self.context_encoder = Transformer(width, context_layers, heads, dropout)
        self.decoder = Transformer(width, layers, heads, dropout, cross_width=min(width, 128))
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    def _read_text(self, conditions: Conditions) -> Memory:
        mask = length_mask(conditions.text_lengths, conditions.text.shape[1])
        return self.decoder.read(self.text_encoder(conditions.text, mask), mask)

    def _encode_prompt(self, conditions: Conditions) -> tuple[Tensor, Tensor]:
        prompt, mask = left_pad(conditions.prompt, conditions.prompt_lengths)
        if prompt.shape[1] == 0:
            return prompt, mask
        itself = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
        encoded, _ = self.context_encoder(prompt, (mask[:, None] | itself)[:, None], valid=mask)
        return encoded, mask

    def _training_prior(self, conditions: Conditions, step_lengths: Tensor) -> Tensor | None:
        fade_from, gone_at = self.prior_updates
        strength = 1.0 - (int(self.updates) - fade_from) / (gone_at - fade_from)
        if strength <= 0:
            return None
        return min(strength, 1.0) * diagonal_log_prior(step_lengths, conditions.text_lengths, self.prior_width)

    def forward(self, conditions: Conditions, steps: Tensor, step_lengths: Tensor) -> PrimaryOutput:  # noqa: D102
        memory = self._read_text(conditions)
        prompt, mask = self._encode_prompt(conditions)
        prior = None
        if self.training:
            prior = self._training_prior(conditions, step_lengths)
            self.updates += 1
            if prior is not None:  # the prompt attends to the text as well, without a preference
                prior = torch.cat((prior.new_zeros(prior.shape[0], prompt.shape[1], prior.shape[2]), prior), dim=1)
        keys = torch.cat((mask, mask.new_ones(steps.shape[:2])), dim=1)
        hidden, logits = self.decoder(torch.cat((prompt, steps), dim=1), visible_mask(keys), memory=memory, prior=prior)
        alignment = torch.stack(logits).mean(0)
        if prior is not None:
            alignment = alignment + prior
        alignment = alignment.masked_fill(~memory.mask[:, None], -torch.inf)
        first = prompt.shape[1]
        return PrimaryOutput(hidden[:, first:], alignment[:, first:])

    def prefill(self, conditions: Conditions, max_steps: int) -> PrimaryState:  # noqa: D102
        memory = self._read_text(conditions)
        prompt, mask = self._encode_prompt(conditions)
        batch, width, _ = prompt.shape
        cache = self.decoder.new_cache(batch, width + max_steps)
        if width:
            cache.key_mask[:, :width] = mask
            self.decoder(prompt, visible_mask(mask), cache=cache, memory=memory)
        return PrimaryState(cache, memory, attended=torch.zeros_like(conditions.text_lengths))

    def step(self, x: Tensor, state: PrimaryState) -> Tensor:  # noqa: D102
        cache, memory, attended = state.cache, state.memory, state.attended
        assert memory is not None and attended is not None
        prior = None
        if self.window is not None:
            back, ahead = self.window
            prior = window_log_prior(attended, memory.mask.shape[1], back, ahead, floor=-torch.inf)[:, None]
        mask = cache.key_mask[:, None, None, : cache.length + 1]
        hidden, logits = self.decoder(x[:, None], mask, cache=cache, memory=memory, prior=prior)
        alignment = torch.stack(logits).mean(0)[:, 0]
        alignment = alignment.masked_fill(~memory.mask, -torch.inf)
        if prior is not None:
            alignment = alignment + prior[:, 0]
        state.attended = alignment.argmax(dim=-1)
        state.step += 1
        return hidden[:, 0]
