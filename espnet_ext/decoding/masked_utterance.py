"""Whole utterances whose codes become known round by round."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from espnet_ext.codes import unstack_frames
from espnet_ext.decoding.base import Filled
from espnet_ext.decoding.order import Turn
from espnet_ext.decoding.sampling import Sampler


class MaskedUtterances:
    """Known codes and masks of whole utterances, for every row; with guidance rows come in pairs, which stay alike.

    Args:
        turn: what they are made from.
        known: (R, T, N) int64 codes, MASK where there is to be something new.
        known_lengths: (R,) int64 frames; 0 where nothing is known.

    Attributes:
        codes: (R, W, M) int64, MASK where a code is not known, EOS behind a row's last frame.
        step_lengths: (R,) int64, with the frame that ends an utterance.
        logprobs: (R, W, M), 0 of codes that were given.
        primary_passes: (R,) int64.
        local_passes: (R,) int64; steps of a row that are filled together take part in the same passes.
    """

    def __init__(self, turn: Turn, known: Tensor, known_lengths: Tensor) -> None:
        self.turn, self.spec, self.layout = turn, turn.model.spec, turn.model.layout
        lengths, limits = turn.state.lengths, turn.limits
        assert lengths is not None and limits is not None
        lengths = lengths.clamp_min(turn.min_frames).minimum(limits)
        if turn.sampler(()).options.guided:  # the same sums in other rows may be rounded otherwise
            lengths = lengths[: len(lengths) // 2].repeat(2)
        lengths = torch.where(known_lengths > 0, known_lengths, lengths)
        self.step_lengths = self.layout.num_steps(lengths + 1)
        frames = torch.arange(int(self.step_lengths.max()) * self.layout.stacking, device=lengths.device)
        codes = torch.full((len(lengths), len(frames), self.spec.num_codebooks), self.spec.mask_id, device=known.device)
        given = known[:, : len(frames)]
        is_given = frames[: given.shape[1]] < known_lengths[:, None]
        codes[:, : given.shape[1]] = given.where(is_given[..., None], self.spec.mask_id)
        codes = codes.masked_fill((frames >= lengths[:, None])[..., None], self.spec.eos_id)
        self.codes = self.layout.to_steps(codes, self.spec.bos_id, self.spec.eos_id)
        self.logprobs = torch.zeros(self.codes.shape, dtype=torch.float64, device=codes.device)
        self.primary_passes = torch.zeros_like(lengths)
        self.local_passes = torch.zeros_like(lengths)

    @property
    def unknown(self) -> Tensor:
        """Codes that are yet to be made: (R, W, M) bool."""
        return self.codes == self.spec.mask_id

    def predict(self, wanted: Tensor) -> tuple[Filled, Tensor, Sampler]:
        """All codes of the steps some of whose codes are wanted; counts as one pass of the rows that have any.

        Args:
            wanted: (R, W, M) bool.

        Returns:
            The codes (P, M) of these steps, the steps' places (P,) among R * W, and their sampler.
        """
        turn, steps = self.turn, wanted.any(-1)
        hidden = turn.model.fill(self.codes, self.step_lengths, turn.state).flatten(0, 1)
        places = steps.flatten().nonzero()[:, 0]
        sampler = self._sampler(places)
        filled = turn.strategy.decode_step(turn.model.heads, hidden[places], sampler)
        self.primary_passes += steps.any(1)
        row = places // self.codes.shape[1]
        self.local_passes += torch.zeros_like(self.local_passes).scatter_reduce(0, row, filled.local_passes, "amax")
        return filled, places, sampler

    def reveal(self, filled: Filled, places: Tensor, chosen: Tensor) -> None:
        """Make predicted codes known.

        Args:
            filled: from `predict`.
            places: likewise.
            chosen: (R, W, M) bool, of codes that are not known yet.
        """
        chosen = chosen.flatten(0, 1)[places]
        for mine, new in ((self.codes, filled.codes), (self.logprobs, filled.logprobs)):
            flat = mine.flatten(0, 1)
            flat[places] = torch.where(chosen, new.to(mine.dtype), flat[places])

    def _sampler(self, places: Tensor) -> Sampler:
        """The sampler of some steps, in which a code that is known is the only one that is legal."""
        sampler = self.turn.sampler(())
        plain = replace(sampler, legal=None, history=None, noise=None)
        of_places = plain.repeated(self.codes.shape[1]).for_rows(places)
        once = places[: len(places) // 2] if sampler.options.guided else places
        codes = self.codes.flatten(0, 1)[once]
        ids = torch.arange(self.spec.vocab_size, device=codes.device)
        free = (codes == self.spec.mask_id)[..., None]
        if bool(free.all()):  # one for all of them
            free, codes = free[:1], codes[:1]
        legal = torch.where(free, ids < self.spec.codebook_size, ids == codes[..., None])
        return of_places.for_step(legal, self._history(once, sampler.options.repetition_window))

    def _history(self, places: Tensor, window: int) -> Tensor | None:
        """The frames in front of some steps, (P, K, N); MASK, which nobody draws, where they are not known."""
        if not window:
            return None
        stacking, width = self.layout.stacking, self.codes.shape[1]
        frames = unstack_frames(self.codes, stacking)
        frames = torch.nn.functional.pad(frames, (0, 0, window, 0), value=self.spec.mask_id)
        first = (places % width) * stacking
        index = first[:, None] + torch.arange(window, device=places.device)
        return frames[(places // width)[:, None], index]
