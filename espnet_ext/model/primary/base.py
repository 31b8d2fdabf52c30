"""What every primary transformer can do: score all steps at once, or one after the other from a state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from espnet_ext.errors import UserError
from espnet_ext.model.ahead import Ahead, Further
from espnet_ext.model.alignment import Alignment
from espnet_ext.model.cache import KVCache, Memory, with_rows
from espnet_ext.model.caches import EXACT, CachePolicy
from espnet_ext.model.transformer import Transformer, causal_mask
from espnet_ext.registry import Registry

ConditionsT = TypeVar("ConditionsT")


class Conditions(NamedTuple):
    """What a batch of utterances is generated from.

    Attributes:
        text: (B, U) int64 token ids, right-padded with any id.
        text_lengths: (B,) int64.
        prompt: (B, K, D) embedded steps of the speaker prompt, right-padded.
        prompt_lengths: (B,) int64 steps; 0 for a row without prompt.
        given: (B,) bool, False for a row whose text and prompt the model must not see.
    """

    text: Tensor
    text_lengths: Tensor
    prompt: Tensor
    prompt_lengths: Tensor
    given: Tensor


def with_unconditional(conditions: ConditionsT) -> ConditionsT:
    """Every row a second time without its conditions, for classifier-free guidance: 2B rows.

    Args:
        conditions: a named tuple of tensors (B, …), one of them `given`.

    Returns:
        The same kind.
    """
    fields: Any = conditions
    given = torch.cat((fields.given, torch.zeros_like(fields.given)))
    return fields._make(torch.cat((part, part)) for part in fields)._replace(given=given)


def rows_of(conditions: ConditionsT, rows: Sequence[int]) -> ConditionsT:
    """Some rows of what a batch is generated from, no wider than they need.

    Args:
        conditions: a named tuple of tensors (B, …).
        rows: their numbers.

    Returns:
        The same kind.
    """
    fields: Any = conditions
    index = torch.tensor(rows, device=fields.given.device)
    parts = {name: part[index] for name, part in fields._asdict().items()}
    for name in fields._fields:
        lengths = parts.get(f"{name}_lengths", parts.get(f"{name.removesuffix('s')}_lengths"))
        if lengths is not None:
            parts[name] = parts[name][:, : int(lengths.max())]
    return fields._make(parts.values())


def rows_together(several: Sequence[ConditionsT]) -> ConditionsT:
    """What several batches are generated from as one batch: named tuples of tensors (B, …), right-padded with zeros."""
    batches: list[Any] = list(several)
    parts: list[Tensor] = []
    for tensors in zip(*batches, strict=True):
        if tensors[0].dim() > 1:
            behind, width = (0, 0) * (tensors[0].dim() - 2), max(part.shape[1] for part in tensors)
            tensors = tuple(nn.functional.pad(part, (*behind, 0, width - part.shape[1])) for part in tensors)
        parts.append(torch.cat(tensors))
    return batches[0]._make(parts)


class PrimaryOutput(NamedTuple):
    """Hidden vectors of all steps.

    Attributes:
        hidden: (B, L, D), hidden[:, l] predicts step l.
        alignment: of steps and text, for its losses; None for a primary that has none.
    """

    hidden: Tensor
    alignment: Alignment | None


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
    """

    cache: KVCache
    memory: Memory | None = None
    path: Tensor | None = None
    first_position: Tensor | None = None
    end_guard: EndGuard | None = None
    guard: Guard | None = None

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

    def make_room(self, count: int) -> None:
        """See that so many more steps fit, whatever holes steps that were taken back have left."""
        self.cache.make_room(0, count)

    def accept(self, kept: Tensor, count: int) -> None:
        """Keep some of the last steps of each row, and take the others back.

        Args:
            kept: (B,) int64, how many leading ones of these steps.
            count: how many steps these are.
        """
        self.cache.accept(kept, count)

    def put(self, rows: Tensor, other: PrimaryState, steps: int) -> None:
        """Begin some rows anew.

        Args:
            rows: (K,) int64, whose old content is gone.
            other: what they get, of K rows.
            steps: most steps that any row has to go.
        """
        if self.cache.stays:
            vars(self).update(vars(self.gather(torch.arange(len(self.cache.key_mask), device=rows.device))))
        self.cache.make_room(other.cache.length, steps)
        self.cache.put(rows, other.cache)
        self.cache.close_holes()
        if self.memory is not None and other.memory is not None:
            self.memory = self.memory.put(rows, other.memory)
        if self.path is not None and other.path is not None:
            self.path = with_rows(self.path, other.path, rows)
        if self.first_position is not None and other.first_position is not None:
            self.first_position = with_rows(self.first_position, other.first_position, rows)

    def keep(self, rows: Tensor) -> None:
        """Go on with the given rows only, (B',) int64 rising indices; the cache is compacted in place."""
        self.cache.keep(rows)
        vars(self).update(self._other_parts(rows))

    def gather(self, rows: Tensor) -> PrimaryState:
        """A new state with only the given rows, (B',) int64 indices, in their order."""
        return replace(self, cache=self.cache.gather(rows), **self._other_parts(rows))

    def _other_parts(self, rows: Tensor) -> dict[str, Any]:
        memory, path, first = self.memory, self.path, self.first_position
        return {
            "memory": None if memory is None else memory.gather(rows),
            "path": None if path is None else path[rows],
            "first_position": None if first is None else first[rows],
        }


class Primary(nn.Module, ABC):
    """The big transformer over steps; its constructor takes the ids of the text and S, and its options by keyword.

    Attributes:
        width: D.
        looks_ahead: whether it has `forward_ahead` and `extend_ahead`.
    """

    width: int
    looks_ahead: ClassVar[bool] = False

    @abstractmethod
    def forward(self, conditions: Conditions, steps: Tensor, targets: Tensor, step_lengths: Tensor) -> PrimaryOutput:
        """Hidden vectors of teacher-forced steps.

        Args:
            conditions: text and prompt.
            steps: (B, L, D) embedded input, BOS and then each step's predecessor, right-padded.
            targets: (B, L, S or 1, D) embedded frames, or embedded steps where the model does not tell frames apart.
                They are aligned with the text, and are for nothing else.
            step_lengths: (B,) int64.

        Returns:
            Hidden vectors and the alignment.
        """

    def forward_ahead(
        self, conditions: Conditions, steps: Tensor, targets: Tensor, step_lengths: Tensor
    ) -> tuple[PrimaryOutput, Further]:
        """What `forward` gives, bit for bit, and what makes hidden vectors of positions behind its steps."""
        raise NotImplementedError(f"{type(self).__name__} does not look ahead")

    @abstractmethod
    def prefill(self, conditions: Conditions, max_steps: Tensor, cache: CachePolicy = EXACT) -> PrimaryState:
        """The state before the first step.

        Args:
            conditions: text and prompt.
            max_steps: (B,) int64, most steps of each row.
            cache: how keys and values are kept, for `Transformer.new_cache`.

        Returns:
            The state.
        """

    @abstractmethod
    def step(self, x: Tensor, state: PrimaryState) -> Tensor:
        """Hidden vector (B, D) of the next step; the state moves on.

        Args:
            x: (B, D) embedding of the step before, BOS for the first one.
            state: what `prefill` or the last `step` left.

        Returns:
            The hidden vector.
        """

    def extend(self, x: Tensor, state: PrimaryState) -> Tensor:
        """Hidden vectors (B, W, D) of the next W steps, each as `step` makes it, in one pass where that is possible.

        Args:
            x: (B, W, D) embedding of the step before each.
            state: what `prefill` or the last step left.

        Returns:
            The hidden vectors.
        """
        return torch.stack([self.step(x[:, place], state) for place in range(x.shape[1])], dim=1)

    def extend_ahead(self, x: Tensor, state: PrimaryState, ahead: Ahead) -> tuple[Tensor, Tensor]:
        """What `extend` gives, (B, W, D), and hidden vectors of positions behind each of the steps, (B, W, k, D).

        They are as if what stands there were the input of the steps to come; the state does not keep them.

        Args:
            x: (B, W, D) embedding of the step before each.
            state: what `prefill` or the last step left.
            ahead: what stands there.

        Returns:
            The hidden vectors.
        """
        raise NotImplementedError(f"{type(self).__name__} does not look ahead")

    def step_transformers(self) -> list[Transformer]:
        """Those that `step` runs, for `fast`."""
        return []


primaries: Registry[type[Primary]] = Registry("primary", "espnet_ext.primary")
register_primary = primaries.register


def close_gaps(x: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """What is kept of each row at the right edge, in its order, and the mask of it: (B, K, …) and (B, K) bool.

    Prefixes are left-padded so that every row writes the same cache index in every step.

    Args:
        x: (B, K, …).
        keep: (B, K) bool.

    Returns:
        The moved rows, with anything left of what is kept, and the mask.

    >>> close_gaps(torch.tensor([[1, 2, 3, 4]]), torch.tensor([[True, False, True, False]]))[0].tolist()
    [[2, 4, 1, 3]]
    """
    order = keep.to(torch.int8).argsort(dim=1, stable=True)
    index = order.view(*order.shape, *(1,) * (x.dim() - 2)).expand_as(x)
    return x.gather(1, index), keep.gather(1, order)


def visible_mask(keys: Tensor) -> Tensor:
    """Causal mask without the padded ones of the keys (B, length): (B, 1, length, length) bool."""
    length = keys.shape[1]
    # a position always sees itself, so that padding has a finite softmax too
    itself = torch.eye(length, dtype=torch.bool, device=keys.device)
    return ((causal_mask(length, keys.device) & keys[:, None]) | itself)[:, None]
