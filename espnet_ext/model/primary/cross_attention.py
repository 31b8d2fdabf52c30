"""The encoder-decoder primary: steps attend to the encoded text, helped by a prior along a monotonic alignment."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from espnet_ext.codes import length_mask
from espnet_ext.model.alignment import at_least_float32
from espnet_ext.model.cache import Memory
from espnet_ext.model.caches import EXACT, CachePolicy
from espnet_ext.model.layers import LayerPass, RowLayers
from espnet_ext.model.primary.attention_prior import Reading, attention_priors
from espnet_ext.model.primary.base import (
    Conditions,
    Primary,
    PrimaryOutput,
    PrimaryState,
    close_gaps,
    mean_of,
    register_primary,
    visible_mask,
)
from espnet_ext.model.transformer import Transformer
from espnet_ext.options import check_number


class TextEncoder(nn.Module):
    """Bidirectional transformer over text tokens whose feed-forward sees neighbouring tokens."""

    def __init__(self, vocab_size: int, width: int, layers: int, heads: int, dropout: float, kernel_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.transformer = Transformer(width, layers, heads, dropout, kernel_size=kernel_size)

    def forward(self, text: Tensor, mask: Tensor) -> Tensor:
        """Encoded tokens (B, U, D) of text (B, U) int64; `mask` (B, U) is True where a token exists."""
        return self.transformer(self.embedding(text), mask[:, None, None], valid=mask)


@register_primary("cross_attention")
class CrossAttentionPrimary(Primary):
    """Text encoder, context encoder and a causal decoder whose layers attend to the text.

    The context encoder reads the speaker prompt; its output stands in front of the steps. The cross-attention
    has one head per frame of a step, each with a prior over the tokens. Positions are rotary, so the left padding of
    prompts costs no position.

    Args:
        text_vocab_size: ids of the text.
        stacking: S.
        width: D.
        layers: decoder blocks.
        heads: self-attention heads.
        text_layers: blocks of the text encoder.
        context_layers: blocks of the context encoder.
        dropout: probability of dropping, in training.
        prior: name of the prior of the cross-attention: "path" is quick to learn, "annealed" is the published one.
        prior_conf: its options.

    Reference:
        Base model of arXiv:2509.19592, §2. Unlike its published implementation this one has rotary instead of learned
        positions, a bidirectional text encoder, no convolution in the context encoder's feed-forward, a cross-attention
        head per frame of a step (there one, as here at S = 1), and besides its prior the prior "path".
    """

    goes_through = True

    def __init__(
        self,
        text_vocab_size: int,
        stacking: int,
        *,
        width: int = 256,
        layers: int = 4,
        heads: int = 4,
        text_layers: int = 2,
        context_layers: int = 1,
        dropout: float = 0.1,
        prior: str = "path",
        prior_conf: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__()
        check_number("width", width, least=1, whole=True)
        prior_conf = prior_conf or {}
        attention_priors.check_options(prior, prior_conf)
        self.width, self.stacking = width, stacking
        self.text_encoder = TextEncoder(text_vocab_size, width, text_layers, heads, dropout, kernel_size=3)
        self.context_encoder = Transformer(width, context_layers, heads, dropout)
        self.prior = attention_priors[prior](width, stacking, **prior_conf)
        self.decoder = Transformer(width, layers, heads, dropout, cross_heads=stacking)

    def _encode_prompt(self, conditions: Conditions) -> tuple[Tensor, Tensor]:
        prompt = conditions.prompt
        prompt, mask = close_gaps(prompt, length_mask(conditions.prompt_lengths, prompt.shape[1]))
        if prompt.shape[1] == 0:
            return prompt, mask
        itself = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
        encoded = self.context_encoder(prompt, (mask[:, None] | itself)[:, None], valid=mask)
        return encoded, mask

    def _read(self, conditions: Conditions) -> tuple[Reading, Memory, Tensor, Tensor]:
        """Text and prompt for the prior, the text for the decoder, the encoded prompt and its mask.

        For the decoder a row without conditions has one token, of zeros, and no prompt.
        """
        text_mask = length_mask(conditions.text_lengths, conditions.text.shape[1])
        encoded = self.text_encoder(conditions.text, text_mask)
        prompt, mask = self._encode_prompt(conditions)
        mean = (prompt * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp_min(1)
        embedded = self.text_encoder.embedding(conditions.text)
        reading = Reading(embedded, encoded, conditions.text_lengths, mean, conditions.given)
        given = conditions.given[:, None]
        first = torch.arange(text_mask.shape[1], device=text_mask.device) == 0
        memory = self.decoder.read(encoded * given[..., None], text_mask & (given | first))
        return reading, memory, prompt, mask & given

    def forward(  # noqa: D102
        self,
        conditions: Conditions,
        steps: Tensor,
        targets: Tensor,
        step_lengths: Tensor,
        layers: LayerPass | None = None,
    ) -> PrimaryOutput:
        reading, memory, prompt, seen = self._read(conditions)
        with torch.autocast(steps.device.type, enabled=False):  # paths and their losses need float32
            prior, alignment = self.prior(reading.float(), at_least_float32(targets), step_lengths)
        if prior is not None:
            # the prompt attends to the text as well, without a preference
            ahead = 0 if layers is None else layers.ahead
            prior = nn.functional.pad(prior.to(steps.dtype), (0, 0, prompt.shape[1], ahead))
        keys = torch.cat((seen, seen.new_ones(steps.shape[:2])), dim=1)
        scores: list[Tensor] | None = [] if self.prior.reads_attention else None
        x = torch.cat((prompt, steps), dim=1)
        hidden = self.decoder(x, visible_mask(keys), memory=memory, prior=prior, scores=scores, layers=layers)
        if scores:
            mean = torch.stack(scores).mean(0)[:, :, prompt.shape[1] :]
            alignment = self.prior.alignment_of(mean, reading, step_lengths)
        return PrimaryOutput(hidden[:, prompt.shape[1] :], alignment)

    def prefill(  # noqa: D102
        self,
        conditions: Conditions,
        max_steps: Tensor,
        cache: CachePolicy = EXACT,
        layers: RowLayers | None = None,
    ) -> PrimaryState:
        reading, memory, prompt, seen = self._read(conditions)
        batch, width, _ = prompt.shape
        steps = int(max_steps.max())
        kept = self.decoder.new_cache(batch, width + steps, cache)
        path = self.prior.start(reading, steps * self.stacking)
        state = PrimaryState(kept, memory, path, None, self.prior.end_guard, self.prior.guard, layers)
        if width:
            kept.hide(seen)
            self.decoder(prompt, visible_mask(seen), cache=kept, memory=memory, layers=state.layer_pass())
        kept.prefix = width
        return state

    def step(self, x: Tensor, state: PrimaryState) -> Tensor:  # noqa: D102
        return self._at_once(x[:, None], state)[:, 0]

    def extend(self, x: Tensor, state: PrimaryState, layers: LayerPass | None = None) -> Tensor:  # noqa: D102
        if not self.prior.reads_attention:
            return self._at_once(x, state, layers)
        # where a prior looks in a step depends on what the one in front of it has read
        made = [self._at_once(one, state, layers) for one in x.split(1, dim=1)]
        return torch.cat([one[:, :1] for one in made] + [one[:, 1:] for one in made], dim=1)

    def _at_once(self, x: Tensor, state: PrimaryState, layers: LayerPass | None = None) -> Tensor:
        """Hidden vectors (B, W, D) of W steps, for a prior that reads its attention of one."""
        cache, memory, path, count = state.cache, state.memory, state.path, x.shape[1]
        assert memory is not None and path is not None
        cache.check_room(count)
        if layers is not None and not self.prior.reads_attention:
            count += layers.ahead
        frames = state.steps[:, None] * self.stacking + torch.arange(count * self.stacking, device=x.device)
        frames = frames.clamp_max(path.shape[1] - 1)  # a row that has ended, and is still there, may be beyond
        prior = self.prior.step(path, frames, memory.mask).to(x.dtype)
        mask, layers = cache.visible(x.shape[1]), state.layer_pass(layers)
        scores: list[Tensor] | None = [] if self.prior.reads_attention else None
        hidden = self.decoder(x, mask, cache=cache, memory=memory, prior=prior, scores=scores, layers=layers)
        if scores:
            # what was read, unlike what the loss of the alignment is about, is read with the prior
            guided = (torch.stack(scores).mean(0) + prior).masked_fill(~memory.mask[:, None, None], -torch.inf)
            self.prior.observe(path, frames, guided, memory.mask)
        return hidden

    def summary(self, conditions: Conditions) -> Tensor:  # noqa: D102
        text = mean_of(self.text_encoder.embedding(conditions.text), conditions.text_lengths)
        prompt = mean_of(conditions.prompt, conditions.prompt_lengths)
        return torch.cat((text, prompt), dim=1) * conditions.given[:, None]

    def step_transformers(self) -> list[Transformer]:  # noqa: D102
        return [self.decoder]
