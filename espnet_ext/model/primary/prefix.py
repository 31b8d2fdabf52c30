"""The decoder-only primary: prompt, text and steps are one causal sequence."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from espnet_ext.codes import length_mask
from espnet_ext.errors import UserError
from espnet_ext.model.ahead import Ahead, Further, Recorded, apart, put_behind
from espnet_ext.model.cache import KVCache
from espnet_ext.model.caches import EXACT, CachePolicy
from espnet_ext.model.layers import LayerPass, RowLayers
from espnet_ext.model.primary.abilities import LooksAhead, RunsSomeLayers
from espnet_ext.model.primary.base import (
    PrimaryOutput,
    close_gaps,
    register_primary,
    summary_of,
    visible_mask,
)
from espnet_ext.model.primary.conditions import Conditions
from espnet_ext.model.primary.state import PrimaryState
from espnet_ext.model.transformer import Adapt, Transformer
from espnet_ext.options import check_number


@register_primary("prefix")
class PrefixPrimary(LooksAhead, RunsSomeLayers):
    """Prompt steps, then text tokens, then the steps, all in one causal transformer.

    Args:
        text_vocab_size: ids of the text.
        stacking: S; a step is one position whatever it holds.
        width: D.
        layers: number of blocks.
        heads: attention heads.
        dropout: probability of dropping, in training.
        position: "rope" or "learned".
        max_positions: positions of a learned table: prompt, text and steps together.
    """

    def __init__(
        self,
        text_vocab_size: int,
        stacking: int,
        *,
        width: int = 256,
        layers: int = 4,
        heads: int = 4,
        dropout: float = 0.1,
        position: str = "rope",
        max_positions: int = 2048,
    ) -> None:
        super().__init__()
        check_number("width", width, least=1, whole=True)
        self.width = width
        self.text_embedding = nn.Embedding(text_vocab_size, width)
        self.segment = nn.Parameter(torch.empty(3, width).normal_(std=0.5))  # prompt, text, steps
        self.position = nn.Embedding(max_positions, width) if position == "learned" else None
        self.transformer = Transformer(width, layers, heads, dropout, position)

    def _prefix(self, conditions: Conditions) -> tuple[Tensor, Tensor]:
        """Prompt and text joined per row without a gap, left-padded: (B, K + U, D) and its mask."""
        given = conditions.given  # a row without conditions has one text token, of zeros
        prompt = conditions.prompt + self.segment[0]
        text = self.text_embedding(conditions.text) * given[:, None, None] + self.segment[1]
        text_lengths = conditions.text_lengths.where(given, torch.ones_like(conditions.text_lengths))
        keep = length_mask(conditions.prompt_lengths * given, prompt.shape[1]), length_mask(text_lengths, text.shape[1])
        return close_gaps(torch.cat((prompt, text), dim=1), torch.cat(keep, dim=1))

    def _check_lengths(self, mask: Tensor, steps: Tensor) -> None:
        longest = int((mask.sum(dim=1) + steps).max())
        if self.position is not None and longest > self.position.num_embeddings:
            raise UserError(
                f"max_positions must be at least {longest} for prompt, text and speech of this length, "
                f"got {self.position.num_embeddings}"
            )

    def _add_positions(self, x: Tensor, padding: Tensor | None, cache: KVCache | None = None) -> Tensor:
        if self.position is None:
            return x
        count = x.shape[1]
        index = torch.arange(count, device=x.device) if cache is None else cache.next_positions(count)
        index = index if padding is None else index - padding[:, None]
        # outside lie only padding and rows that have ended
        return x + self.position(index.clamp(0, self.position.num_embeddings - 1))

    def forward(  # noqa: D102
        self,
        conditions: Conditions,
        steps: Tensor,
        targets: Tensor,
        step_lengths: Tensor,
        layers: LayerPass | None = None,
    ) -> PrimaryOutput:
        prefix, mask = self._prefix(conditions)
        hidden = self.read(prefix, mask, steps, step_lengths, layers=layers)
        return PrimaryOutput(hidden[:, prefix.shape[1] :], None)

    def forward_ahead(  # noqa: D102
        self, conditions: Conditions, steps: Tensor, targets: Tensor, step_lengths: Tensor
    ) -> tuple[PrimaryOutput, Further]:
        prefix, mask = self._prefix(conditions)
        kept = self.record(mask, steps.shape[1])
        hidden = self.read(prefix, mask, steps, step_lengths, kept=kept)[:, prefix.shape[1] :]
        return PrimaryOutput(hidden, None), partial(self.further, kept)

    def record(self, mask: Tensor, steps: int) -> Recorded:
        """What `read` can keep its keys and values in, of so many steps behind a prefix with this mask (B, P)."""
        return Recorded.of(visible_mask(nn.functional.pad(mask, (0, steps), value=True)), mask.shape[1], (~mask).sum(1))

    def further(self, kept: Recorded, ahead: Ahead, places: Tensor, positions: Tensor | None = None) -> Tensor:
        """Hidden vectors (B, A, k, D) of positions behind steps that `read` has kept.

        Args:
            kept: what it has kept.
            ahead: what stands in these positions.
            places: (A,) int64 numbers of the steps.
            positions: (B, A * k) rotary ones; None for those behind the steps.

        Returns:
            The hidden vectors.
        """
        cache, x = put_behind(kept, ahead, places=places)
        return apart(self.advance(x, PrimaryState(cache), positions, ahead.gated(0)), 0, ahead)[1]

    def read(
        self,
        prefix: Tensor,
        mask: Tensor,
        steps: Tensor,
        step_lengths: Tensor,
        positions: Tensor | None = None,
        kept: Recorded | None = None,
        layers: LayerPass | None = None,
    ) -> Tensor:
        """Hidden vectors of a prefix and the steps behind it, and of positions that enter on the way: (B, P + L, D).

        Args:
            prefix: (B, P, D) embedded, left-padded.
            mask: (B, P) bool, True where the prefix has something.
            steps: (B, L, D) embedded, right-padded.
            step_lengths: (B,) int64.
            positions: (B, P + L) rotary positions; None for one after the other.
            kept: what `record` has made, for `further`.
            layers: as in `forward`.

        Returns:
            The hidden vectors.

        Raises:
            UserError: if learned positions do not suffice.
        """
        self._check_lengths(mask, step_lengths)
        x = self._add_positions(torch.cat((prefix, self.embed_steps(steps)), dim=1), (~mask).sum(1))
        keys = torch.cat((mask, mask.new_ones(steps.shape[:2])), dim=1)
        return self.transformer(x, visible_mask(keys), cache=kept, positions=positions, layers=layers)

    def prefill(  # noqa: D102
        self,
        conditions: Conditions,
        max_steps: Tensor,
        cache: CachePolicy = EXACT,
        layers: RowLayers | None = None,
    ) -> PrimaryState:
        return self.start(*self._prefix(conditions), max_steps, policy=cache, layers=layers)

    def start(
        self,
        prefix: Tensor,
        mask: Tensor,
        max_steps: Tensor,
        positions: Tensor | None = None,
        policy: CachePolicy = EXACT,
        layers: RowLayers | None = None,
    ) -> PrimaryState:
        """The state behind a prefix.

        Args:
            prefix: (B, P, D) embedded, left-padded; P may be 0.
            mask: (B, P) bool, True where the prefix has something.
            max_steps: (B,) int64, most steps of each row.
            positions: (B, P) rotary positions; None for one after the other.
            policy: how keys and values are kept.
            layers: those that each row uses; None for all.

        Returns:
            The state.

        Raises:
            UserError: if learned positions do not suffice.
        """
        batch, width, _ = prefix.shape
        self._check_lengths(mask, max_steps)
        cache = self.transformer.new_cache(batch, width + int(max_steps.max()), policy)
        cache.hide(mask)
        state = PrimaryState(cache, layers=layers)
        if width:
            x, some = self._add_positions(prefix, (~mask).sum(1)), state.layer_pass()
            self.transformer(x, visible_mask(mask), cache=cache, positions=positions, layers=some)
        cache.prefix = width
        return state

    def step(self, x: Tensor, state: PrimaryState) -> Tensor:  # noqa: D102
        return self.extend(x[:, None], state)[:, 0]

    def extend(self, x: Tensor, state: PrimaryState, layers: LayerPass | None = None) -> Tensor:  # noqa: D102
        return self.advance(self.embed_steps(x), state, layers=layers)

    def summary(self, conditions: Conditions) -> Tensor:  # noqa: D102
        return summary_of(self.text_embedding(conditions.text), conditions)

    def extend_ahead(self, x: Tensor, state: PrimaryState, ahead: Ahead) -> tuple[Tensor, Tensor]:  # noqa: D102
        return self.advance_ahead(self.embed_steps(x), state, ahead)

    def advance_ahead(
        self, x: Tensor, state: PrimaryState, ahead: Ahead, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What `advance` gives, (B, W, D), and hidden vectors of positions behind each of the steps, (B, W, k, D).

        Args:
            x: (B, W, D) embedded.
            state: what `start` or the last call left.
            ahead: what stands behind them.
            positions: (B, W + k) rotary ones, of the steps and of what is behind the last one; None as in `advance`.

        Returns:
            The hidden vectors.
        """
        steps = x.shape[1]
        cache, x = put_behind(state.cache, ahead, x)
        positions = None if positions is None else positions[:, cache.index]
        return apart(self.advance(x, replace(state, cache=cache), positions, ahead.gated(steps)), steps, ahead)

    def step_transformers(self) -> list[Transformer]:  # noqa: D102
        return [self.transformer]

    def advance(
        self,
        x: Tensor,
        state: PrimaryState,
        positions: Tensor | None = None,
        adapt: Adapt | None = None,
        layers: LayerPass | None = None,
    ) -> Tensor:
        """Hidden vectors (B, W, D) behind W more positions of any kind; the state moves on.

        Args:
            x: (B, W, D) embedded.
            state: what `start` or the last call left.
            positions: (B, W) rotary ones; None for those behind the last one.
            adapt: as of `Transformer`.
            layers: as in `extend`.

        Returns:
            The hidden vectors.
        """
        cache = state.cache
        x, mask = self._add_positions(x, cache.padding, cache), cache.visible(x.shape[1])
        told = {"adapt": adapt, "layers": state.layer_pass(layers)}
        return self.transformer(x, mask, cache=cache, positions=positions, **told)

    def embed_text(self, ids: Tensor) -> Tensor:
        """Embedded text ids, told apart from prompt and steps: (…) int64 → (…, D)."""
        return self.text_embedding(ids) + self.segment[1]

    def embed_steps(self, x: Tensor) -> Tensor:
        """Embedded steps, told apart from prompt and text, same shape."""
        return x + self.segment[2]

    def room(self, lengths: Tensor) -> Tensor:
        """Steps that fit behind prefixes of so many positions: (B,) int64; without a table more than anybody needs."""
        most = 2**31 if self.position is None else self.position.num_embeddings
        return most - lengths
