"""Cross-entropy over all heads and codebooks, with the statistics worth a curve each."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from espnet_ext.alignment import forward_sum_loss
from espnet_ext.core_lm import CoreLMOutput
from espnet_ext.local_transformer import LocalOutput


@dataclass(frozen=True)
class LossWeights:
    """What each part of the loss counts.

    Attributes:
        parallel: the parallel heads.
        local: the local transformer.
        alignment: the forward-sum loss of the cross-attention; 0 leaves it out.
    """

    parallel: float = 1.0
    local: float = 1.0
    alignment: float = 0.0


@dataclass
class Loss:
    """A scalar to minimise, and detached statistics.

    Attributes:
        total: the weighted sum.
        stats: per head mean loss (nats per code) and accuracy, also per codebook.
        codes: number of codes that counted, the weight of the statistics.
    """

    total: Tensor
    stats: dict[str, Tensor] = field(default_factory=dict)
    codes: Tensor = field(default_factory=lambda: torch.zeros(()))


def codec_loss(output: CoreLMOutput, codebooks: int, stacking: int, text_lengths: Tensor, weights: LossWeights) -> Loss:
    """The training loss of a batch.

    Args:
        output: scores of the core LM.
        codebooks: N.
        stacking: S.
        text_lengths: (B,) int64.
        weights: what each part counts.

    Returns:
        The weighted sum over heads of the mean cross-entropy per code, and statistics.
    """
    total = output.targets.new_zeros((), dtype=torch.float32)
    loss = Loss(total)
    for name, head in output.heads.items():
        mean, stats = head_loss(head, output.targets, codebooks)
        loss.stats.update({f"{key}_{name}": value for key, value in stats.items()})
        loss.total = loss.total + (weights.parallel if name == "parallel" else weights.local) * mean
        loss.codes = head.loss_mask.sum()
    if weights.alignment > 0 and output.alignment is not None:
        log_attention = output.alignment.log_softmax(dim=-1)
        alignment = forward_sum_loss(log_attention, output.step_lengths, text_lengths, stacking)
        loss.stats["loss_alignment"] = alignment.detach()
        loss.total = loss.total + weights.alignment * alignment
    loss.stats["loss"] = loss.total.detach()
    return loss


def head_loss(head: LocalOutput, targets: Tensor, codebooks: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean cross-entropy per counted code, and detached statistics.

    Args:
        head: logits (P, M, V) and mask (P, M).
        targets: (P, M) int64.
        codebooks: N; slot m belongs to codebook m mod N.

    Returns:
        The mean in nats; statistics `loss`, `acc` and `loss_cb{n}`, `acc_cb{n}` of every codebook.
    """
    nats = F.cross_entropy(head.logits.flatten(0, 1).float(), targets.flatten(), reduction="none").view(targets.shape)
    nats = nats * head.loss_mask
    mean = nats.sum() / head.loss_mask.sum().clamp_min(1)
    with torch.no_grad():
        hits = (head.logits.argmax(-1) == targets) & head.loss_mask
        per_book = [x.unflatten(1, (-1, codebooks)).sum((0, 1)) for x in (nats, hits, head.loss_mask)]
        count = per_book[2].clamp_min(1)
        stats = {"loss": mean.detach(), "acc": hits.sum() / head.loss_mask.sum().clamp_min(1)}
        for n in range(codebooks):
            stats[f"loss_cb{n}"] = per_book[0][n] / count[n]
            stats[f"acc_cb{n}"] = per_book[1][n] / count[n]
    return mean, stats
