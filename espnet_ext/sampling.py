"""From logits to codes: the only place where a distribution is warped or drawn from."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import NamedTuple

import torch
from torch import Generator, Tensor


@dataclass(frozen=True)
class SamplingOptions:
    """How a distribution is sharpened before a code is drawn.

    Attributes:
        temperature: divides the logits; 0 takes the most likely code.
        top_k: keeps the k most likely codes; 0 keeps all.
        top_p: keeps the smallest set of codes whose probabilities reach p; 1 keeps all.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        for name, kind, what in (
            ("temperature", Real, "a number"),
            ("top_k", Integral, "an integer"),
            ("top_p", Real, "a number"),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, kind):
                raise ValueError(f"{name} must be {what}, got {value!r}")
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature must be at least 0 and finite, got {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be at least 0, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")


class Draw(NamedTuple):
    """Codes and what the model thought of them.

    Attributes:
        codes: (B, m) int64.
        logprobs: (B, m), of the codes under the legal ids' distribution, before temperature and truncation.
    """

    codes: Tensor
    logprobs: Tensor


def warp(logits: Tensor, options: SamplingOptions) -> Tensor:
    """Probabilities after temperature, top-k and top-p, in this order: (…, V).

    Args:
        logits: (…, V), -inf where an id is illegal.
        options: the sharpening; temperature 0 puts everything on the most likely id.

    Returns:
        Probabilities that sum to 1.
    """
    if options.temperature == 0:
        return torch.zeros_like(logits).scatter(-1, logits.argmax(-1, keepdim=True), 1.0)
    scaled = logits / options.temperature
    if 0 < options.top_k < logits.shape[-1]:
        # by rank, not by threshold: ties at the threshold must not keep more than k
        rank = scaled.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
        scaled = scaled.masked_fill(rank >= options.top_k, -torch.inf)
    probs = scaled.softmax(dim=-1)
    if options.top_p < 1:
        ordered, order = probs.sort(dim=-1, descending=True, stable=True)
        before = ordered.cumsum(dim=-1) - ordered
        probs = torch.zeros_like(probs).scatter(-1, order, ordered.masked_fill(before >= options.top_p, 0.0))
        probs = probs / probs.sum(dim=-1, keepdim=True)
    return probs


@dataclass(frozen=True)
class Sampler:
    """Draws codes: ban, temperature, top-k, top-p, draw.

    Every random number comes from a row's own generator, so a row's codes do not depend on its batch-mates.

    Attributes:
        options: how distributions are sharpened.
        generators: one per row.
        legal: (M, V) bool, True for ids a slot of the current step may take; None for all.
    """

    options: SamplingOptions
    generators: tuple[Generator, ...] = ()
    legal: Tensor | None = None

    def for_step(self, legal: Tensor) -> Sampler:
        """The same sampler with another (M, V) mask of legal ids."""
        return replace(self, legal=legal)

    def __call__(self, logits: Tensor, first_slot: int = 0) -> Draw:
        """Codes of slots first_slot … drawn from their logits.

        Args:
            logits: (B, m, V).
            first_slot: the slot of logits[:, 0].

        Returns:
            The codes and their log-probabilities.
        """
        logits = logits.float()
        if self.legal is not None:
            logits = logits.masked_fill(~self.legal[first_slot : first_slot + logits.shape[1]], -torch.inf)
        codes = logits.argmax(-1) if self.options.temperature == 0 else self.categorical(warp(logits, self.options))
        logprobs = logits.log_softmax(-1).gather(-1, codes[..., None])[..., 0]
        return Draw(codes, logprobs)

    def uniform(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """Uniform numbers in [0, 1), (B, *shape), each row from its own generator."""
        return torch.stack([torch.rand(shape, generator=g, device=g.device) for g in self.generators]).to(device)

    def categorical(self, probs: Tensor) -> Tensor:
        """One id per distribution: (B, m, V) probabilities → (B, m) int64.

        The race of exponentials: id v arrives at time Exp(1) / p_v and the first one wins.
        """
        noise = self.uniform(tuple(probs.shape[1:]), probs.device)
        arrival = -torch.log1p(-noise.double()) / probs.double()
        return arrival.masked_fill(probs == 0, torch.inf).argmin(dim=-1)

    def bernoulli(self, probs: Tensor) -> Tensor:
        """True with the given probabilities: (B, m) → (B, m) bool."""
        return self.uniform(tuple(probs.shape[1:]), probs.device) < probs


def row_generators(seed: int, names: Sequence[str], device: str = "cpu") -> tuple[Generator, ...]:
    """One generator per row, seeded by the row's name and not by its place in a batch.

    Args:
        seed: the run's seed.
        names: utterance ids.
        device: where the generators live.

    Returns:
        The generators.
    """
    digests = [hashlib.sha256(f"{seed} {name}".encode()).digest() for name in names]
    return tuple(Generator(device).manual_seed(int.from_bytes(digest[:8]) >> 1) for digest in digests)
