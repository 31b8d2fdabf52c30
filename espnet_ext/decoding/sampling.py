"""From logits to codes: the only place where a distribution is guided, warped or drawn from."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from espnet_ext.errors import UserError
from espnet_ext.options import check_number

MOST_TEMPERATURE, MOST_CFG_SCALE = 10, 20  # what is above either makes noise


@cache  # one command builds its options several times
def warn_of_no_conditions() -> None:
    """A warning, the first time in a process, that the model will not see what it is to say."""
    warnings.warn(
        "cfg_scale 0 leaves text and prompt out: the speech is of nothing in particular; 1 is without guidance",
        stacklevel=4,
    )


@dataclass(frozen=True)
class SamplingOptions:
    """How a distribution is sharpened before a code is drawn.

    Attributes:
        temperature: divides the logits, at most `MOST_TEMPERATURE`; 0 takes the most likely code. A list has one for
            each codebook: slot m has entry m % N.
        top_k: keeps the k most likely codes; 0 keeps all.
        top_p: keeps the smallest set of codes whose probabilities reach p; 1 keeps all.
        cfg_scale: weight s of classifier-free guidance, s * conditional + (1 - s) * unconditional logits; 1 for none,
            at most `MOST_CFG_SCALE`.
        repetition_window: last codes of a codebook, those of earlier steps, that are counted for repetition-aware
            sampling; 0 for none.
        repetition_threshold: share of that window above which a drawn code is drawn again, from the distribution
            before temperature and truncation.

    Raises:
        UserError: naming the option, its value and what is allowed.

    Reference:
        Guidance: Ho & Salimans 2022, arXiv:2207.12598, in the form of arXiv:2509.19592. Repetition-aware sampling:
        Chen et al. 2024, VALL-E 2, arXiv:2406.05370, algorithm 1.
    """

    temperature: float | Sequence[float] = 1.0
    top_k: int = 0
    top_p: float = 1.0
    cfg_scale: float = 1.0
    repetition_window: int = 0
    repetition_threshold: float = 0.1

    def __post_init__(self) -> None:
        if isinstance(self.temperature, (list, tuple)):
            if not self.temperature:
                raise UserError("temperature must be a number or one for each codebook, got an empty list")
            for place, value in enumerate(self.temperature):
                check_number(f"temperature[{place}]", value, least=0, most=MOST_TEMPERATURE)
            object.__setattr__(self, "temperature", tuple(self.temperature))  # to be a key, as the rest is
        else:
            check_number("temperature", self.temperature, least=0, most=MOST_TEMPERATURE)
        check_number("top_k", self.top_k, least=0, whole=True)
        check_number("cfg_scale", self.cfg_scale, least=0, most=MOST_CFG_SCALE)
        check_number("repetition_window", self.repetition_window, least=0, whole=True)
        check_number("repetition_threshold", self.repetition_threshold, least=0, most=1)
        check_number("top_p", self.top_p, above=0, most=1)
        if self.repetition_window and 0 in self.temperatures:
            raise UserError(f"repetition_window must be 0 with temperature 0, got {self.repetition_window}")
        if self.cfg_scale == 0:
            warn_of_no_conditions()

    @property
    def guided(self) -> bool:
        """Whether every row needs its unconditional twin."""
        return self.cfg_scale != 1

    @property
    def temperatures(self) -> tuple[float, ...]:
        """That of each codebook, or the one of all."""
        return self.temperature if isinstance(self.temperature, tuple) else (self.temperature,)

    @property
    def is_greedy(self) -> bool:
        """Whether nothing is drawn at random."""
        return not any(self.temperatures)

    def check(self, codebooks: int, option: str = "temperature") -> None:
        """Refuse temperatures of another number of codebooks.

        Args:
            codebooks: N of the model.
            option: what the user calls the temperature.

        Raises:
            UserError: if there is neither one for all nor one for each.
        """
        if isinstance(self.temperature, tuple) and len(self.temperature) != codebooks:
            told = f"a number or {codebooks} of them, one for each codebook of the model"
            raise UserError(f"{option} must be {told}, got {list(self.temperature)}")


class Draw(NamedTuple):
    """Codes and what the model thought of them.

    Attributes:
        codes: (R, m) int64.
        logprobs: (R, m), of the codes under the legal ids' distribution, before temperature and truncation.
        probs: (R, m, V), the distributions that the codes were drawn from.
    """

    codes: Tensor
    logprobs: Tensor
    probs: Tensor


def warp(logits: Tensor, options: SamplingOptions, codebook: int = 0) -> Tensor:
    """Probabilities after temperature, top-k and top-p, in this order: (…, V).

    Args:
        logits: (…, V), -inf where an id is illegal.
        options: the sharpening; temperature 0 puts everything on the most likely id.
        codebook: whose temperature counts, where there are several.

    Returns:
        Probabilities that sum to 1.
    """
    temperature = options.temperatures[codebook]
    if temperature == 0:
        return torch.zeros_like(logits).scatter(-1, logits.argmax(-1, keepdim=True), 1.0)
    if temperature < 1e-3:  # the most likely id at 0, or the quotient would overflow
        logits = logits - logits.amax(dim=-1, keepdim=True)
    if 0 < options.top_k < logits.shape[-1]:
        # exactly k, also where several have the same logit
        most, ids = logits.topk(options.top_k, dim=-1)
        probs = torch.zeros_like(logits).scatter_(-1, ids, (most / temperature).softmax(dim=-1))
    else:
        probs = (logits / temperature).softmax(dim=-1)
    if options.top_p < 1:
        ordered, order = probs.sort(dim=-1, descending=True, stable=True)
        before = ordered.cumsum(dim=-1) - ordered
        probs = torch.zeros_like(probs).scatter(-1, order, ordered.masked_fill(before >= options.top_p, 0.0))
        probs = probs / probs.sum(dim=-1, keepdim=True)
    return probs


def warp_slots(logits: Tensor, options: SamplingOptions, first_slot: int = 0) -> Tensor:
    """`warp` with the temperature of each slot's codebook: (R, m, V).

    Args:
        logits: (R, m, V) of slots first_slot …, -inf where an id is illegal.
        options: the sharpening.
        first_slot: the slot of logits[:, 0].

    Returns:
        Probabilities that sum to 1.
    """
    books = len(options.temperatures)
    if books == 1:
        return warp(logits, options)
    probs = torch.empty_like(logits)
    for place in range(min(books, logits.shape[1])):
        part = slice(place, None, books)  # slots of a codebook are N apart
        probs[:, part] = warp(logits[:, part], options, (first_slot + place) % books)
    return probs


def avoid_repetition(probs: Tensor, plain: Tensor, share: Tensor, threshold: float) -> Tensor:
    """The distribution of a code that is drawn again if it was frequent lately: (…, V).

    Drawing again is itself a change of the distribution, so every strategy can use it, the lossless ones too.

    Args:
        probs: (…, V) of the first draw.
        plain: (…, V) of the second.
        share: (…, V), of the last frames that have this code.
        threshold: share above which a code is drawn again.

    Returns:
        Probabilities that sum to 1.
    """
    repeated = share > threshold
    again = probs.masked_fill(~repeated, 0.0).sum(dim=-1, keepdim=True)
    return probs.masked_fill(repeated, 0.0) + again * plain


@dataclass(frozen=True)
class Sampler:
    """Draws codes: ban, guide, temperature, top-k, top-p, repetition, draw.

    Logits come in R rows, one per utterance. With guidance there are two, all conditional rows and then all
    unconditional ones in the same order; both then receive the same codes, so nobody else has to know of it.
    Every random number comes from an utterance's own generator, so its codes do not depend on its batch-mates.

    Attributes:
        options: how distributions are sharpened.
        generators: one per utterance.
        legal: (1 or B, M, V) bool, True for ids a slot of the current step may take; None for all.
        history: (B, K, N) int64, the last codes of every codebook; None in the first step and where nobody asks for it.
        noise: (B, M, V) arrival times that every draw of the step uses, see `with_fixed_noise`; None for fresh ones.
    """

    options: SamplingOptions
    generators: tuple[Generator, ...] = ()
    legal: Tensor | None = None
    history: Tensor | None = None
    noise: Tensor | None = None

    def for_step(self, legal: Tensor, history: Tensor | None = None) -> Sampler:
        """The same sampler with another step's legal ids and last frames."""
        return replace(self, legal=legal, history=history, noise=None)

    def for_rows(self, rows: Tensor) -> Sampler:
        """The sampler of some rows of the logits, (R',) int64, in their order; with guidance, of pairs of them."""
        rows = self._once(rows)
        return replace(
            self,
            generators=tuple(self.generators[row] for row in rows.tolist()) if self.generators else (),
            legal=self.legal if self.legal is None or len(self.legal) == 1 else self.legal[rows],
            history=None if self.history is None else self.history[rows],
            noise=None if self.noise is None else self.noise[rows],
        )

    def repeated(self, times: int) -> Sampler:
        """The sampler of so many logits for every row, one after the other."""
        parts = {name: getattr(self, name) for name in ("legal", "history", "noise")}
        return replace(
            self,
            generators=tuple(generator for generator in self.generators for _ in range(times)),
            **{
                name: part if part is None or len(part) == 1 else part.repeat_interleave(times, dim=0)
                for name, part in parts.items()
            },
        )

    def rows_of(self, mask: Tensor) -> Tensor:
        """Rows that a pass is for, those of the mask (R,), or more of them: (R',) int64."""
        return mask.nonzero()[:, 0]

    def without(self, banned_id: int) -> Sampler:
        """The same sampler with one id illegal in every slot."""
        assert self.legal is not None, "legal ids come with the step"
        legal = self.legal.clone()
        legal[..., banned_id] = False
        return replace(self, legal=legal)

    def with_fixed_noise(self, slots: int, vocab_size: int, device: torch.device) -> Sampler:
        """The same sampler with its randomness fixed: a slot drawn from the same distribution gets the same code."""
        if self.options.is_greedy:
            return self
        return replace(self, noise=self._arrivals((slots, vocab_size), device))

    def __call__(self, logits: Tensor, first_slot: int = 0) -> Draw:
        """Codes of slots first_slot … drawn from their logits.

        Args:
            logits: (R, m, V).
            first_slot: the slot of logits[:, 0].

        Returns:
            The codes, their log-probabilities and their distributions.
        """
        logprobs, probs = self.distribution(logits, first_slot)
        codes = self.categorical(probs, first_slot)
        return Draw(codes, logprobs.gather(-1, codes[..., None])[..., 0], probs)

    def distribution(self, logits: Tensor, first_slot: int = 0) -> tuple[Tensor, Tensor]:
        """What codes of slots first_slot … would be drawn from, before and after warping.

        Args:
            logits: (R, m, V).
            first_slot: the slot of logits[:, 0].

        Returns:
            Log-probabilities over the legal ids, and probabilities after temperature, truncation and the avoidance
            of repetition: both (R, m, V).
        """
        logits = self._guide(logits if logits.dtype == torch.float64 else logits.float())
        slots = slice(first_slot, first_slot + logits.shape[1])
        if self.legal is not None:
            logits = torch.where(self.legal[:, slots], logits, -torch.inf)
        probs, logprobs = warp_slots(logits, self.options, first_slot), logits.log_softmax(-1)
        if self.history is not None and self.options.repetition_window:
            share = self._share(logits.shape[-1], slots, probs.dtype)
            probs = avoid_repetition(probs, logprobs.exp(), share, self.options.repetition_threshold)
        return self._spread(logprobs), self._spread(probs)

    def categorical(self, probs: Tensor, first_slot: int = 0) -> Tensor:
        """One id per distribution: (R, m, V) probabilities of slots first_slot … → (R, m) int64.

        A race of exponentials: id v arrives at time Exp(1) / p_v and the first one wins. It is the Gumbel trick without
        logarithms: argmax(log p + G) with G = -log Exp(1).
        """
        probs = self._once(probs)
        if self.options.is_greedy:
            return self._spread(probs.argmax(dim=-1))
        if self.noise is None:
            noise = self._arrivals(tuple(probs.shape[1:]), probs.device)
        else:
            noise = self.noise[:, first_slot : first_slot + probs.shape[1]]
        return self._spread((noise / probs).argmin(dim=-1))

    def uniform(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """Uniform numbers in [0, 1): (R, *shape) float64."""
        return self._spread(self.draw_uniform(shape, device))

    def draw_uniform(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """The same of every utterance, (B, *shape): all that is random comes through here."""
        if not self.generators:
            raise UserError("generators must be one per row to draw at random, got none")
        # float32 is 0 once in 2^24 draws, and an arrival at time 0 would win whatever its probability
        rows = [torch.rand((1, *shape), generator=g, device=g.device, dtype=torch.float64) for g in self.generators]
        return (rows[0] if len(rows) == 1 else torch.cat(rows)).to(device)

    def _arrivals(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        # not 0, so that an id of probability 0 never arrives
        arrivals = self.draw_uniform(shape, device).neg_().log1p_().neg_()
        return arrivals.clamp_min_(torch.finfo(torch.float64).tiny)

    def _share(self, vocab_size: int, slots: slice, dtype: torch.dtype) -> Tensor:
        """Of the last frames, the share that has each code: (B, m, V)."""
        assert self.history is not None
        counts = nn.functional.one_hot(self.history, vocab_size).sum(1)  # (B, N, V)
        codebooks = torch.arange(slots.start, slots.stop, device=counts.device) % counts.shape[1]
        return counts[:, codebooks].to(dtype) / self.options.repetition_window

    def _guide(self, logits: Tensor) -> Tensor:
        if not self.options.guided:
            return logits
        conditional, unconditional = logits.chunk(2)
        return unconditional + self.options.cfg_scale * (conditional - unconditional)

    def _once(self, x: Tensor) -> Tensor:
        return x[: len(x) // 2] if self.options.guided else x

    def _spread(self, x: Tensor) -> Tensor:
        return torch.cat((x, x)) if self.options.guided else x


def window_of(samplers: Sequence[Sampler], rows: int, nothing: int) -> Sampler:
    """The sampler of several steps of the same rows: of W logits for every row, one after the other.

    Args:
        samplers: of each step.
        rows: utterances.
        nothing: an id that nobody draws, in front of histories that are shorter than others.

    Returns:
        The sampler.
    """
    legal = [one.legal.expand(rows, -1, -1) for one in samplers if one.legal is not None]
    history = [one.history for one in samplers if one.history is not None]
    if history:
        frames, shape = max(part.shape[1] for part in history), (rows, 0, history[0].shape[2])
        every = [history[0].new_zeros(shape) if one.history is None else one.history for one in samplers]
        history = [nn.functional.pad(part, (0, 0, frames - part.shape[1], 0), value=nothing) for part in every]
    return replace(
        samplers[0].repeated(len(samplers)),
        legal=torch.stack(legal, dim=1).flatten(0, 1) if legal else None,
        history=torch.stack(history, dim=1).flatten(0, 1) if history else None,
    )


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
