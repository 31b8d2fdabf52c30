"""Cross-entropy over all heads and codebooks, with the statistics worth a curve each."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from espnet_ext.alignment import Alignment, forward_sum_loss
from espnet_ext.codes import length_mask
from espnet_ext.core_lm import CoreLMOutput
from espnet_ext.local_transformer import LocalOutput
from espnet_ext.options import check_number


@dataclass(frozen=True)
class LossWeights:
    """What each part of the loss counts.

    Attributes:
        parallel: the parallel heads.
        local: each local transformer.
        alignment: the forward-sum (CTC) loss of the text alignment, where the primary has one.
        frames: the Poisson loss of the expected frames per token, where they are predicted.
    """

    parallel: float = 1.0
    local: float = 1.0
    alignment: float = 1.0
    frames: float = 1.0

    def __post_init__(self) -> None:
        for part in fields(self):
            check_number(part.name, getattr(self, part.name), least=0)


@dataclass
class Loss:
    """A scalar to minimise, and detached statistics.

    Attributes:
        total: the weighted sum.
        stats: per head mean loss (nats per code) and accuracy, also per codebook.
        codes: number of codes of the batch, the weight of the statistics.
    """

    total: Tensor
    stats: dict[str, Tensor] = field(default_factory=dict)
    codes: Tensor = field(default_factory=lambda: torch.zeros(()))


def codec_loss(output: CoreLMOutput, codebooks: int, weights: LossWeights) -> Loss:
    """The training loss of a batch.

    Args:
        output: scores of the core LM.
        codebooks: N.
        weights: what each part counts.

    Returns:
        The weighted sum over heads of the mean cross-entropy per code, and of the alignment losses; statistics.
    """
    loss = Loss(output.targets.new_zeros((), dtype=torch.float32))
    for name, head in output.heads.items():
        mean, stats = head_loss(head, output.targets, codebooks)
        loss.stats.update({f"{key}_{name}": value for key, value in stats.items()})
        loss.total = loss.total + (weights.parallel if name == "parallel" else weights.local) * mean
    loss.codes = output.heads["parallel"].loss_mask.sum()
    if output.alignment is not None:
        for name, value in alignment_losses(output.alignment).items():
            loss.stats[f"loss_{name}"] = value.detach()
            loss.total = loss.total + getattr(weights, name) * value
    loss.stats["loss"] = loss.total.detach()
    return loss


def alignment_losses(alignment: Alignment) -> dict[str, Tensor]:
    """Forward-sum loss of the alignment, and mean Poisson deviance of the expected frames per token if there are some.

    Unlike a squared error of logarithms the deviance is least at the mean, so that utterances keep their length.

    Args:
        alignment: of frames and text.

    Returns:
        Scalars under the names of their weights.
    """
    log_attention, frame_lengths, text_lengths, spoken, predicted = alignment
    losses = {"alignment": forward_sum_loss(log_attention, frame_lengths, text_lengths)}
    if spoken is not None and predicted is not None:
        mask = length_mask(text_lengths, spoken.shape[1])
        deviance = predicted.exp() - spoken - spoken * predicted + torch.xlogy(spoken, spoken)
        losses["frames"] = (deviance * mask).sum() / mask.sum()
    return losses


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
