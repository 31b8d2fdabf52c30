"""What a row carries from step to step, and where it may end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from espnet_ext.errors import UserError
from espnet_ext.model.cache import KVCache, Memory, with_rows
from espnet_ext.model.layers import LayerPass, RowLayers


class Ending(NamedTuple):
    """Which rows may end their utterance in the coming step, and which have to.

    Attributes:
        possible: (B,) bool.
        due: (B,) bool.
    """

    possible: Tensor
    due: Tensor


# of the tokens of the frames (B, frames), the number of steps done (1 or B,), and the mask of the tokens (B, U)
EndGuard = Callable[[Tensor, Tensor, Tensor], Ending]
Guard = Callable[[int], EndGuard | None]  # of the steps behind the text's end after which a row must end


@dataclass
class PrimaryState:
    """Everything a row carries from step to step.

    Attributes:
        cache: keys and values of the prompt and the steps so far.
        memory: the text, for a primary with cross-attention.
        path: (B, frames), where each frame is in the text as its prior expects or has seen it, likewise.
        first_position: (B,) rotary position of the first step's input; None where positions are places in the cache.
        end_guard: tells from the path where a row may end; None where it may everywhere.
        guard: makes an end guard; None where no path is known.
        lengths: (B,) int64 frames that each row will have, for a masked model.
        layers: those that each row uses; None for all.
    """

    cache: KVCache
    memory: Memory | None = None
    path: Tensor | None = None
    first_position: Tensor | None = None
    end_guard: EndGuard | None = None
    guard: Guard | None = None
    lengths: Tensor | None = None
    layers: RowLayers | None = None

    def guard_ends(self, steps: int) -> None:
        """Forbid the end before that of the text, and force it so many steps behind that; 0 for no guard.

        Args:
            steps: behind the text's end.

        Raises:
            UserError: if the model knows nothing of the text's end.
        """
        self.end_guard = self.guard(steps) if steps and self.guard is not None else None
        if steps and self.end_guard is None:
            raise UserError("end_guard must be 0 with a model that does not follow its text, which has no such guard")

    @property
    def steps(self) -> Tensor:
        """Steps done: (1,) int64 where all rows have done as many, else (B,)."""
        return self.cache.next_step()

    def ending(self, steps: Tensor | None = None) -> Ending | None:
        """Which rows may or must end in a step; None where all may and none must.

        Args:
            steps: (1 or B,) int64, those in front of it; None for the coming one.

        Returns:
            The rows.
        """
        if self.end_guard is None:
            return None
        assert self.path is not None and self.memory is not None
        return self.end_guard(self.path, self.steps if steps is None else steps, self.memory.mask)

    def layer_pass(self, given: LayerPass | None = None) -> LayerPass | None:
        """How a pass goes through the layers: as it is given, and no row through layers that it does not use."""
        if self.layers is None or all(self.layers.every):
            return given
        return replace(given or LayerPass(), rows=self.layers)

    def layers_run(self, until: int | None = None) -> Tensor:
        """How many of the first `until` layers a step of each row runs, of all with None: (B,) int64."""
        if self.layers is not None:
            return self.layers.count(until)
        layers, rows = len(self.cache.keys), len(self.cache.key_mask)
        return torch.full((rows,), layers if until is None else min(layers, until), device=self.cache.keys.device)

    def make_room(self, count: int, least: int = 0) -> None:
        """See that so many more steps fit, if at `least` so many places are filled, whatever holes rows have left."""
        if not self.cache.has_room(count, least):
            self._let_go()
            self.cache.make_room(count, least)

    def _let_go(self) -> None:
        """Have tensors of its own, where those that it has are to stay what they are."""
        if self.cache.stays:
            vars(self).update(vars(self.gather(torch.arange(len(self.cache.key_mask), device=self.steps.device))))

    def accept(self, kept: Tensor, count: int) -> None:
        """Keep some of the last steps of each row, and take the others back.

        Args:
            kept: (B,) int64, how many leading ones of these steps.
            count: how many steps these are.
        """
        self.cache.accept(kept, count)

    def put(self, rows: Tensor, other: PrimaryState) -> None:
        """Begin some rows anew; there is room for what they hold, and steps have to have it made when they come.

        Args:
            rows: (K,) int64, whose old content is gone.
            other: what they get, of K rows.
        """
        self._let_go()
        self.make_room(0, other.cache.length)
        self.cache.put(rows, other.cache)
        self.cache.close_holes()
        if self.memory is not None and other.memory is not None:
            self.memory = self.memory.put(rows, other.memory)
        if self.path is not None and other.path is not None:
            self.path = with_rows(self.path, other.path, rows)
        if self.first_position is not None and other.first_position is not None:
            self.first_position = with_rows(self.first_position, other.first_position, rows)
        if self.lengths is not None and other.lengths is not None:
            self.lengths = with_rows(self.lengths, other.lengths, rows)
        if self.layers is not None and other.layers is not None:
            self.layers = RowLayers(with_rows(self.layers.used, other.layers.used, rows))

    def keep(self, rows: Tensor) -> None:
        """Go on with the given rows only, (B',) int64 rising indices; the cache is compacted in place."""
        self.cache.keep(rows)
        vars(self).update(self._other_parts(rows))

    def gather(self, rows: Tensor) -> PrimaryState:
        """A new state with only the given rows, (B',) int64 indices, in their order."""
        return replace(self, cache=self.cache.gather(rows), **self._other_parts(rows))

    def _other_parts(self, rows: Tensor) -> dict[str, Any]:
        memory, path, first, lengths = self.memory, self.path, self.first_position, self.lengths
        return {
            "memory": None if memory is None else memory.gather(rows),
            "path": None if path is None else path[rows],
            "first_position": None if first is None else first[rows],
            "lengths": None if lengths is None else lengths[rows],
            "layers": None if self.layers is None else RowLayers(self.layers.used[rows]),
        }
