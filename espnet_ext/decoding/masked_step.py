"""A step whose slots become known round by round; what the MaskGIT strategies share."""

from __future__ import annotations

import torch
from torch import Tensor

from espnet_ext.decoding.base import Filled
from espnet_ext.decoding.sampling import Draw, Sampler
from espnet_ext.model.heads import LocalInput, MaskGITLocalTransformer


class MaskedStep:
    """Known codes and masks of one step, for every row.

    Args:
        local: predicts masked slots.
        inputs: of the step, R rows.
        sampler: draws codes.

    Attributes:
        known: (R, M) bool.
    """

    def __init__(self, local: MaskGITLocalTransformer, inputs: LocalInput, sampler: Sampler) -> None:
        self.local, self.inputs, self.sampler = local, inputs, sampler
        hidden = inputs.hidden
        self.codes = torch.full((len(hidden), local.slots), local.spec.mask_id, device=hidden.device)
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        self.logprobs = torch.zeros(self.codes.shape, dtype=dtype, device=hidden.device)
        self.known = torch.zeros_like(self.codes, dtype=torch.bool)
        self.passes = torch.zeros_like(self.codes[:, 0])
        self._counted = torch.ones_like(self.known[:, 0])

    def rows_below(self, count: int) -> Tensor:
        """Rows that a pass is for, those of which fewer codes are known: (R',) int64."""
        below = self.known.sum(dim=1) < count
        self._counted = below
        return self.sampler.rows_of(below)

    def begin_round(self) -> Sampler:
        """The sampler of a round that every row draws for.

        A row that sits a round out draws as well: what it draws later is then the same as in a step of fixed
        operations, in which no row can.
        """
        return self.sampler.with_fixed_noise(self.local.slots, self.local.spec.vocab_size, self.codes.device)

    def predict(self, rows: Tensor, sampler: Sampler | None = None) -> Draw:
        """A code for every slot of the given rows, known ones included; counts as one pass.

        Args:
            rows: (R',) int64.
            sampler: of the round; None for one that only these rows draw from.

        Returns:
            The codes, whose values in known slots mean nothing.
        """
        self.passes[rows] += self._counted[rows]
        return (sampler or self.sampler).for_rows(rows)(self.local.logits(self.inputs.rows(rows), self.codes[rows]))

    def reveal(self, rows: Tensor, draw: Draw, chosen: Tensor) -> None:
        """Make predicted codes known; slots that were known before stay what they are.

        Args:
            rows: (R',) int64.
            draw: from `predict` for these rows.
            chosen: (R', M) bool.
        """
        new = chosen & ~self.known[rows]
        self.codes[rows] = draw.codes.where(new, self.codes[rows])
        self.logprobs[rows] = draw.logprobs.to(self.logprobs.dtype).where(new, self.logprobs[rows])
        self.known[rows] |= new

    def decide_end(self, draw: Draw, shown: bool = True) -> None:
        """Let the first round alone say whether and where the utterance ends, from the step without known codes.

        The frame that ends an utterance is EOS in all codebooks, but only codebook 0 may say so. Were another
        codebook's code revealed first, the step would look like one that goes on, and hardly any utterance would
        end. So an EOS of the first round stands, whatever its confidence; its frame and those behind it become EOS,
        as in training, and later rounds cannot draw it.

        Args:
            draw: the first round's, for all rows.
            shown: whether later rounds see it. Frame after frame they must not: everything behind the frame that is
                being filled is masked there, also in the training that goes with it.
        """
        spec = self.local.spec
        codebook = torch.arange(self.local.slots, device=draw.codes.device) % spec.num_codebooks
        says_end = (draw.codes == spec.eos_id) & (codebook == 0)
        ended = says_end.long().cumsum(dim=1) > 0  # slots are frame-major: everything behind the first EOS
        if shown:
            self.codes.masked_fill_(ended, spec.eos_id)
        self.logprobs = torch.where(says_end, draw.logprobs.to(self.logprobs.dtype), self.logprobs)
        self.known |= ended
        self.sampler = self.sampler.without(spec.eos_id)

    def confidence(self, draw: Draw, purity: bool) -> Tensor:
        """How sure the model is of each slot: (R', M).

        Args:
            draw: from `predict`.
            purity: take the probability of the most likely code instead of that of the drawn one.

        Returns:
            Probabilities after warping; greedy codes are all certain after it, so for them those before.
        """
        if self.sampler.options.is_greedy:
            return draw.logprobs.exp()
        return draw.probs.amax(-1) if purity else draw.probs.gather(-1, draw.codes[..., None])[..., 0]

    def filled(self) -> Filled:
        """The step, when everything is known."""
        spec = self.local.spec  # what is known and still masked is an end that was not shown
        codes = self.codes.masked_fill(self.known & (self.codes == spec.mask_id), spec.eos_id)
        return Filled(codes, self.logprobs, self.passes)


def rank(priority: Tensor) -> Tensor:
    """Place of each slot when sorted by falling priority, equal ones from left to right: (R, M) int64."""
    return priority.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
