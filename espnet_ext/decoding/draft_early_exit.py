"""The drafter `early_exit`: the model's own first layers guess; how many of them, and how far, is found on the way."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from espnet_ext.decoding.drafters import Draft, Drafter, Seen, register_drafter
from espnet_ext.decoding.order import Turn
from espnet_ext.decoding.tokens_per_layer import Held
from espnet_ext.errors import UserError
from espnet_ext.model.core_lm import StepModel
from espnet_ext.model.heads import ParallelHeads
from espnet_ext.model.layers import LayerPass
from espnet_ext.model.parts import EarlyExit
from espnet_ext.model.parts.early_exit import exits_of
from espnet_ext.model.primary import PrimaryState
from espnet_ext.options import check_number

AUTO = "auto"


@register_drafter("early_exit")
@dataclass(frozen=True)
class DraftEarlyExit(Drafter):
    """What the heads make of the hidden vector in front of a layer, one step after the other; nothing of it is kept.

    The codes are those of the parallel heads, in one product for all slots. A part `early_exit` of the model, if there
    is one, makes the hidden vector fit them better. A pass that verifies is as wide as it may be, however few steps
    were guessed; the others are the last guess again.

    Attributes:
        exit_layer: number of the layer in front of which the model is left, or "auto" for the one that, with the
            number of guesses, gives most steps for each layer that is run, by what was kept so far, row by row.
        memory: turns for which that is remembered.

    Reference:
        DEL, Entezari Zarch et al. 2025, arXiv:2504.05598: tokens per layer. There all exits are judged in every turn by
        what they would have guessed; here one, by what was kept of its guesses, whatever the acceptance.
    """

    goes_through = True

    exit_layer: str | int = AUTO
    memory: int = 32

    def __post_init__(self) -> None:
        if self.exit_layer != AUTO:
            check_number("exit_layer", self.exit_layer, least=0, whole=True)
        check_number("memory", self.memory, least=1, whole=True)

    def check(self, model: StepModel, count: int) -> None:  # noqa: D102 (inherited)
        super().check(model, count)
        model.heads.of(ParallelHeads)
        self._exits(model)

    def _exits(self, model: StepModel) -> list[int]:
        """Layers in front of which it may leave."""
        exits = list(exits_of(model.layers))
        if self.exit_layer == AUTO:
            return exits
        if self.exit_layer not in exits:
            raise UserError(f"exit_layer must be auto or one of {exits}, got {self.exit_layer}")
        return [int(self.exit_layer)]

    def begin(self, model: StepModel, conditions: Any) -> Held:  # noqa: D102 (inherited)
        rows = torch.zeros_like(conditions.given, dtype=torch.int64)
        nothing = torch.zeros(len(rows), len(self._exits(model)), dtype=torch.float64, device=rows.device)
        return Held(nothing, nothing, rows, rows)

    def observe(self, own: Held, seen: Seen) -> None:  # noqa: D102 (inherited)
        own.learn(seen.kept, self.memory)

    def draft(self, turn: Turn, own: Held, count: int, draws: bool) -> Draft:  # noqa: D102 (inherited)
        exits, state = self._exits(turn.model), turn.state
        cost = torch.stack([state.layers_run(one) for one in exits], dim=1)
        own.choose(cost, state.layers_run(), count)
        run = own.length * cost.gather(1, own.exit[:, None])[:, 0]
        # what a prior reads of guesses is forgotten with them
        ahead = replace(state, path=None if state.path is None else state.path.clone())
        made: list[Draft] = []
        with state.cache.taken_back():
            for place in range(int(own.length.max())):
                going = (own.length > place).nonzero()[:, 0]
                last = made[-1].codes if made else turn.codes
                hidden = self._leave(turn.model, last, ahead, [exits[one] for one in own.exit.tolist()], going)
                made.append(_guess(turn, [one.codes for one in made], hidden, going, draws))
        if made:
            state.accept(torch.zeros_like(own.length), len(made))
        last = made[-1].codes if made else turn.codes
        codes = torch.stack([*(one.codes for one in made), *[last] * (count - len(made))], dim=1)
        if not draws or not made:
            return Draft(codes, None, run)
        probs = [one.probs for one in made if one.probs is not None]
        probs += [nn.functional.one_hot(last, probs[0].shape[-1]).to(probs[0].dtype)] * (count - len(made))
        return Draft(codes, torch.stack(probs, dim=1), run)

    def _leave(self, model: StepModel, codes: Tensor, state: PrimaryState, layers: list[int], rows: Tensor) -> Tensor:
        """Hidden vectors (R', D) of the next step of some rows, each of the layer that it leaves in front of."""
        mine = [layers[row] for row in rows.tolist()]
        taps = tuple(sorted(set(mine)))
        through = LayerPass(until=taps[-1], taps=taps)
        model.extend(codes[:, None], state, through)
        taken = torch.stack([self._fitted(model, one, through.hidden(one)[rows, 0]) for one in taps])
        place = torch.tensor([taps.index(one) for one in mine], device=rows.device)
        return taken[place, torch.arange(len(mine), device=rows.device)]

    def _fitted(self, model: StepModel, layer: int, hidden: Tensor) -> Tensor:
        part = next((one for one in model.parts.values() if isinstance(one, EarlyExit)), None)
        return hidden if part is None else part.leave(layer, hidden)


def _guess(turn: Turn, made: list[Tensor], hidden: Tensor, rows: Tensor, draws: bool) -> Draft:
    """One more step (R, M), from hidden vectors of some rows; of the others the last one again."""
    sampler = turn.sampler(made).for_rows(rows)
    _, probs = sampler.distribution(turn.model.heads.of(ParallelHeads).logits(hidden))
    drawn = sampler.categorical(probs) if draws else probs.argmax(-1)
    codes = (made[-1] if made else turn.codes).index_copy(0, rows, drawn)
    if not draws:
        return Draft(codes)
    point = nn.functional.one_hot(codes, probs.shape[-1]).to(probs.dtype)
    return Draft(codes, point.index_copy(0, rows, probs))
