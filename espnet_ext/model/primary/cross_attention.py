"""The encoder-decoder primary: steps attend to the encoded text, helped by a prior along a monotonic alignment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from espnet_ext.codes import length_mask
from espnet_ext.errors import UserError
from espnet_ext.model.ahead import Ahead, AheadCache, Further, Recorded, apart, put_behind
from espnet_ext.model.alignment import at_least_float32
from espnet_ext.model.cache import Memory
from espnet_ext.model.caches import EXACT, CachePolicy
from espnet_ext.model.layers import LayerPass, RowLayers
from espnet_ext.model.primary.abilities import FillsSteps, LooksAhead, RunsSomeLayers
from espnet_ext.model.primary.attention_prior import Reading, attention_priors
from espnet_ext.model.primary.base import (
    PrimaryOutput,
    close_gaps,
    register_primary,
    summary_of,
    visible_mask,
)
from espnet_ext.model.primary.conditions import Conditions
from espnet_ext.model.primary.known_path import Known
from espnet_ext.model.primary.state import PrimaryState
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
class CrossAttentionPrimary(LooksAhead, RunsSomeLayers, FillsSteps):
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
        return self._forward(conditions, steps, targets, step_lengths, layers=layers)[0]

    def forward_masked(  # noqa: D102
        self, conditions: Conditions, steps: Tensor, targets: Tensor, step_lengths: Tensor
    ) -> PrimaryOutput:
        return self._forward(conditions, steps, targets, step_lengths, causal=False)[0]

    def forward_ahead(  # noqa: D102
        self, conditions: Conditions, steps: Tensor, targets: Tensor, step_lengths: Tensor
    ) -> tuple[PrimaryOutput, Further]:
        output, further = self._forward(conditions, steps, targets, step_lengths, ahead=True)
        assert further is not None
        return output, further

    def _forward(
        self,
        conditions: Conditions,
        steps: Tensor,
        targets: Tensor,
        step_lengths: Tensor,
        causal: bool = True,
        ahead: bool = False,
        layers: LayerPass | None = None,
    ) -> tuple[PrimaryOutput, Further | None]:
        reading, memory, prompt, seen = self._read(conditions)
        # a pass that says how it goes through the layers is one more over a batch that there was
        ask = self.prior if layers is None else self.prior.again
        with torch.autocast(steps.device.type, enabled=False):  # paths and their losses need float32
            prior, alignment = ask(reading.float(), at_least_float32(targets), step_lengths)
        if prior is not None:
            # the prompt attends to the text as well, without a preference
            entering = 0 if layers is None else layers.ahead
            if layers is not None and self.prior.reads_attention:
                layers = replace(layers, same_prior=True)  # as `_looks` has it
            prior = nn.functional.pad(prior.to(steps.dtype), (0, 0, prompt.shape[1], entering))
        if causal:
            mask = visible_mask(torch.cat((seen, seen.new_ones(steps.shape[:2])), dim=1))
        else:
            mask = filling_mask(seen, length_mask(step_lengths, steps.shape[1]))
        scores: list[Tensor] | None = [] if self.prior.reads_attention else None
        x = torch.cat((prompt, steps), dim=1)
        kept = Recorded.of(mask, prompt.shape[1]) if ahead else None
        hidden = self.decoder(x, mask, cache=kept, memory=memory, prior=prior, scores=scores, layers=layers)
        if scores:
            mean = torch.stack(scores).mean(0)[:, :, prompt.shape[1] :]
            alignment = self.prior.alignment_of(mean, reading, step_lengths)
        behind = None if kept is None else partial(self._further, kept, memory, prior)
        return PrimaryOutput(hidden[:, prompt.shape[1] :], alignment), behind

    def _further(self, kept: Recorded, memory: Memory, prior: Tensor | None, ahead: Ahead, places: Tensor) -> Tensor:
        """Hidden vectors (B, A, k, D) of positions behind recorded steps, whose prior (B, S, P + L, U) is known."""
        cache, x = put_behind(kept, ahead, places=places)
        if prior is not None:
            prior = prior[:, :, self._looks(cache).clamp_max(prior.shape[2] - 1)]
        adapt = ahead.gated(0)
        hidden = self.decoder(x, cache.visible(), cache=cache, memory=memory, prior=prior, adapt=adapt)
        return apart(hidden, 0, ahead)[1]

    def _looks(self, cache: AheadCache) -> Tensor:
        """Whose prior each position of a pass has, among all that may come: (W + A * k,) int64."""
        steps, behind = cache.index[: cache.steps], cache.places.repeat_interleave(cache.count)
        # where the prior follows what was read nobody knows more than the step in front
        return torch.cat((steps, behind)) if self.prior.reads_attention else cache.index

    def prefill(  # noqa: D102
        self,
        conditions: Conditions,
        max_steps: Tensor,
        cache: CachePolicy = EXACT,
        layers: RowLayers | None = None,
    ) -> PrimaryState:
        reading, memory, prompt, seen = self._read(conditions)
        steps = int(max_steps.max())
        state = PrimaryState(
            self.decoder.new_cache(len(prompt), prompt.shape[1] + steps, cache),
            memory,
            self.prior.start(reading, steps * self.stacking),
            end_guard=self.prior.end_guard,
            guard=self.prior.guard,
            layers=layers,
        )
        self._keep_prompt(state, prompt, seen)
        return state

    def _keep_prompt(self, state: PrimaryState, prompt: Tensor, seen: Tensor) -> None:
        """Put the prompt into the state's empty cache."""
        kept, width = state.cache, prompt.shape[1]
        if width:
            kept.hide(seen)
            self.decoder(prompt, visible_mask(seen), cache=kept, memory=state.memory, layers=state.layer_pass())
        kept.prefix = width

    def prefill_masked(  # noqa: D102
        self, conditions: Conditions, known: Known, max_frames: Tensor, cache: CachePolicy = EXACT
    ) -> PrimaryState:
        reading, memory, prompt, seen = self._read(conditions)
        path, lengths = self.prior.plan(reading, known, max_frames)
        room = prompt.shape[1] + path.shape[1] // self.stacking
        state = PrimaryState(self.decoder.new_cache(len(prompt), room, cache), memory, path, lengths=lengths)
        self._keep_prompt(state, prompt, seen)
        if not state.cache.plain:
            raise UserError(f"cache must be exact with objective masked, whose steps are not kept, got {cache}")
        return state

    def fill(self, x: Tensor, step_lengths: Tensor, state: PrimaryState) -> Tensor:  # noqa: D102
        cache, memory, path, count = state.cache, state.memory, state.path, x.shape[1]
        assert memory is not None and path is not None
        state.make_room(count)
        frames = torch.arange(count * self.stacking, device=x.device)[None].clamp_max(path.shape[1] - 1)
        prior = self.prior.step(path, frames, memory.mask).to(x.dtype)
        exists = length_mask(step_lengths, count)
        mask = torch.cat((cache.key_mask[:, : cache.length], exists), dim=1)[:, None, None]
        hidden = self.decoder(x, mask, cache=cache, memory=memory, prior=prior)
        state.accept(torch.zeros_like(step_lengths), count)  # the next round writes at the same places
        return hidden

    def step(self, x: Tensor, state: PrimaryState) -> Tensor:  # noqa: D102
        return self._at_once(x[:, None], state)[:, 0]

    def extend(self, x: Tensor, state: PrimaryState, layers: LayerPass | None = None) -> Tensor:  # noqa: D102
        if not self.prior.reads_attention:
            return self._at_once(x, state, layers)
        # where a prior looks in a step depends on what the one in front of it has read
        made = [self._at_once(one, state, layers) for one in x.split(1, dim=1)]
        return torch.cat([one[:, :1] for one in made] + [one[:, 1:] for one in made], dim=1)

    def extend_ahead(self, x: Tensor, state: PrimaryState, ahead: Ahead) -> tuple[Tensor, Tensor]:  # noqa: D102
        # as in `extend`
        parts = x.split(1, dim=1) if self.prior.reads_attention else [x]
        made = [apart(self._at_once(one, state, ahead=ahead), one.shape[1], ahead) for one in parts]
        return torch.cat([steps for steps, _ in made], dim=1), torch.cat([behind for _, behind in made], dim=1)

    def _at_once(
        self, x: Tensor, state: PrimaryState, layers: LayerPass | None = None, ahead: Ahead | None = None
    ) -> Tensor:
        """Hidden vectors of W steps, and then of what enters or is behind them; of one step with a prior that reads."""
        cache, memory, path, count = state.cache, state.memory, state.path, x.shape[1]
        assert memory is not None and path is not None
        cache.check_room(count)
        if not self.prior.reads_attention:
            count += (0 if layers is None else layers.ahead) + (0 if ahead is None else len(ahead.vectors))
        frames = state.steps[:, None] * self.stacking + torch.arange(count * self.stacking, device=x.device)
        frames = frames.clamp_max(path.shape[1] - 1)  # a row that has ended, and is still there, may be beyond
        prior = self.prior.step(path, frames, memory.mask).to(x.dtype)
        adapt = None
        if ahead is not None:
            adapt = ahead.gated(x.shape[1])
            cache, x = put_behind(cache, ahead, x)
            prior = prior[:, :, self._looks(cache)]
        mask, layers = cache.visible(x.shape[1]), state.layer_pass(layers)
        scores: list[Tensor] | None = [] if self.prior.reads_attention else None
        hidden = self.decoder(
            x, mask, cache=cache, memory=memory, prior=prior, scores=scores, adapt=adapt, layers=layers
        )
        if scores is not None:
            # what was read, unlike what the loss of the alignment is about, is read with the prior
            read = ((layers or LayerPass()).mean(scores) + prior if scores else prior)[:, :, :1]
            guided = read.masked_fill(~memory.mask[:, None, None], -torch.inf)
            self.prior.observe(path, frames, guided, memory.mask)
        return hidden

    def forward_window(  # noqa: D102
        self, conditions: Conditions, steps: Tensor, masked: Tensor, targets: Tensor, step_lengths: Tensor, sees: Tensor
    ) -> PrimaryOutput:
        reading, memory, prompt, seen = self._read(conditions)
        with torch.autocast(steps.device.type, enabled=False):
            prior, alignment = self.prior(reading.float(), at_least_float32(targets), step_lengths)
        (batch, width, _), length = prompt.shape, steps.shape[1]
        if prior is not None:
            prior = nn.functional.pad(torch.cat((prior, prior), dim=2).to(steps.dtype), (0, 0, width, 0))
        known = visible_mask(torch.cat((seen, seen.new_ones(batch, length)), dim=1))[:, 0]
        mask = nn.functional.pad(known, (0, length))
        mask = torch.cat((mask, torch.cat((seen[:, None].expand(-1, length, -1), sees), dim=2)), dim=1)
        places = torch.arange(width + length, device=steps.device)
        positions = torch.cat((places, places[width:])).expand(batch, -1)
        x = torch.cat((prompt, steps, masked), dim=1)
        hidden = self.decoder(x, mask[:, None], memory=memory, prior=prior, positions=positions)
        return PrimaryOutput(hidden[:, width + length :], alignment)

    def extend_at(self, x: Tensor, steps: Tensor, exists: Tensor, state: PrimaryState) -> Tensor:  # noqa: D102
        cache, memory, path, count = state.cache, state.memory, state.path, x.shape[1]
        assert memory is not None and path is not None
        state.make_room(count)
        frames = steps[..., None] * self.stacking + torch.arange(self.stacking, device=x.device)
        prior = self.prior.step(path, frames.flatten(1).clamp_max(path.shape[1] - 1), memory.mask).to(x.dtype)
        visible = cache.visible(count)
        assert visible is not None, "of several positions the later ones are not visible to all"
        keys = torch.cat((exists.new_ones(len(x), cache.length), exists), dim=1)
        itself = torch.ones(count, cache.length + count, dtype=torch.bool, device=x.device).triu(cache.length)
        mask = (visible & keys[:, None, None]) | (visible & itself)
        positions = cache.rotary_positions(x.dtype, steps=steps)
        return self.decoder(x, mask, cache=cache, memory=memory, prior=prior, positions=positions)

    def summary(self, conditions: Conditions) -> Tensor:  # noqa: D102
        return summary_of(self.text_encoder.embedding(conditions.text), conditions)

    def step_transformers(self) -> list[Transformer]:  # noqa: D102
        return [self.decoder]


def filling_mask(prompt: Tensor, steps: Tensor) -> Tensor:
    """What prompt and steps may look at where steps see each other: (B, 1, P + L, P + L) bool.

    The prompt sees what is in front of it, as where it is put into a cache.

    Args:
        prompt: (B, P) bool, True where it has something.
        steps: (B, L) bool, likewise.

    Returns:
        The mask.
    """
    keys = torch.cat((prompt, steps), dim=1)
    is_step = torch.arange(keys.shape[1], device=keys.device) >= prompt.shape[1]
    return visible_mask(keys) | (keys[:, None] & is_step[:, None])[:, None]
