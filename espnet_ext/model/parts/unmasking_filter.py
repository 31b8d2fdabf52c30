"""Which slots of a step have their code already, by how sure the model is of all of them: a learned schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from espnet_ext.model.heads import MaskGITLocalTransformer, Slots
from espnet_ext.model.parts.base import Part, PartScores, Taught, register_part
from espnet_ext.options import check_number

Predict = Callable[[Tensor], tuple[Tensor, Tensor]]  # (P, M) codes or masks → how sure it is of each slot, and its code


class Traces(NamedTuple):
    """Steps on their way from nothing known to everything, round after round.

    Attributes:
        confidence: (K, M), of the most likely code of each slot.
        known: (K, M) bool, slots whose code stands.
        final: (K, M) bool, slots whose code of this round is the one that they have in the end.
    """

    confidence: Tensor
    known: Tensor
    final: Tensor


@register_part("unmasking_filter")
class UnmaskingFilter(Part):
    """Two layers that read how sure the MaskGIT local transformer is of each slot and say which codes are final.

    They learn from its own traces. A teacher makes one code known per round, that of which it is surest. A trace makes
    known in every round what is as the teacher leaves it, and the surest code in any case. Draws have the same noise in
    all rounds, so that a code is another one only where the distribution is.

    Args:
        slots: of a step.
        width: D.
        inner: outputs of the first layer; with 128 and eight slots there are 2184 weights.
        temperature: of the decoding that it is for; 0 for the most likely codes.
        steps: steps of a batch that it learns from, at most.
        weight: of the loss.

    Raises:
        UserError: if an option is out of range.

    Reference:
        Learn2PD, arXiv:2509.25188, over the slots of a step instead of over a block of text. There codes are the most
        likely ones.
    """

    needs = MaskGITLocalTransformer

    def __init__(
        self,
        slots: Slots,
        width: int,
        *,
        inner: int = 128,
        temperature: float = 0.4,
        steps: int = 256,
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        check_number("inner", inner, least=1, whole=True)
        check_number("temperature", temperature, least=0)
        check_number("steps", steps, least=1, whole=True)
        check_number("weight", weight, least=0)
        self.temperature, self.steps, self.weight = temperature, steps, weight
        self.inner, self.outer = nn.Linear(slots.count, inner), nn.Linear(inner, slots.count)

    def logits(self, confidence: Tensor, known: Tensor) -> Tensor:
        """Log-odds that the code of a slot is final, from (P, M) and (P, M) bool; of known slots they mean nothing."""
        certain = confidence.masked_fill(known, 1.0).to(self.inner.weight.dtype)
        final: Tensor = self.outer(nn.functional.silu(self.inner(certain)))
        return final

    def forward(self, taught: Taught) -> PartScores:  # noqa: D102 (inherited)
        local = taught.heads.of(MaskGITLocalTransformer)
        # no special ids: which frame is the last one is not for later rounds to say
        whole = taught.exists & taught.true & (taught.targets < local.spec.codebook_size).all(-1)
        hidden = taught.hidden[whole].detach()
        if not len(hidden):
            return PartScores(losses={"final": 0.0 * self.outer.bias.sum()}, weight=self.weight)
        generator = None if self.training else Generator(hidden.device).manual_seed(0)
        chosen = torch.rand(len(hidden), generator=generator, device=hidden.device).argsort()[: self.steps]
        inputs = taught.heads.inputs(local, hidden[chosen])

        @torch.no_grad()
        def predict(codes: Tensor) -> tuple[Tensor, Tensor]:
            logits = local.logits(inputs, codes)[..., : local.spec.codebook_size] / (self.temperature or 1.0)
            return logits.softmax(-1).amax(-1), (logits + noise).argmax(-1)

        noise = torch.zeros((), device=hidden.device)
        if self.temperature:
            shape = len(chosen), local.slots, local.spec.codebook_size
            noise = -torch.empty(shape, device=hidden.device).exponential_(generator=generator).log()
        masked = torch.full((len(chosen), local.slots), local.spec.mask_id, device=hidden.device)
        traces = traces_of(predict, masked)
        losses = nn.functional.binary_cross_entropy_with_logits(
            self.logits(traces.confidence, traces.known), traces.final.to(self.inner.weight.dtype), reduction="none"
        )
        asked = ~traces.known
        return PartScores(losses={"final": (losses * asked).sum() / asked.sum().clamp_min(1)}, weight=self.weight)


def taught_codes(predict: Predict, masked: Tensor) -> Tensor:
    """Codes of steps in whose every round the surest one becomes known: (P, M) int64.

    Args:
        predict: says them.
        masked: (P, M) int64, MASK everywhere.

    Returns:
        The codes.
    """
    codes, known = masked.clone(), torch.zeros_like(masked, dtype=torch.bool)
    for _ in range(masked.shape[1]):
        confidence, guess = predict(codes)
        surest = confidence.masked_fill(known, -1.0).argmax(1, keepdim=True)
        codes, known = codes.scatter(1, surest, guess.gather(1, surest)), known.scatter(1, surest, True)
    return codes


def traces_of(predict: Predict, masked: Tensor) -> Traces:
    """Every round of steps in which all becomes known that is as the teacher leaves it; as `taught_codes`."""
    codes, known, rounds = taught_codes(predict, masked), torch.zeros_like(masked, dtype=torch.bool), []
    for _ in range(masked.shape[1]):
        confidence, guess = predict(codes.where(known, masked))
        final = guess == codes
        rounds.append((confidence, known, final))
        surest = confidence.masked_fill(known, -1.0).argmax(1, keepdim=True)
        known = (known | final).scatter(1, surest, True)
        if bool(known.all()):
            break
    return Traces(*(torch.cat(parts) for parts in zip(*rounds, strict=True)))
