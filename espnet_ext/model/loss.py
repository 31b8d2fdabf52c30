"""Cross-entropy over all heads and codebooks, with the statistics worth a curve each."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from espnet_ext.codes import length_mask
from espnet_ext.model.alignment import Alignment, forward_sum_loss
from espnet_ext.model.core_lm import CoreLMOutput, HeadScores
from espnet_ext.model.parts import PartScores
from espnet_ext.options import check_number


@dataclass(frozen=True)
class LossWeights:
    """What each part of the loss counts.

    Attributes:
        parallel: the parallel heads.
        local: each local transformer.
        alignment: the forward-sum (CTC) loss of the text alignment, where the primary has one.
        frames: the Poisson loss of the expected frames per token, where they are predicted.
        semantic: the semantic units, where the model predicts them.
        label_smoothing: share of every target that is spread evenly over all ids; statistics are without it.
    """

    parallel: float = 1.0
    local: float = 1.0
    alignment: float = 1.0
    frames: float = 1.0
    semantic: float = 1.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        for part in fields(self):
            check_number(part.name, getattr(self, part.name), least=0)
        check_number("label_smoothing", self.label_smoothing, below=1)


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
        The weighted sum over heads of the mean cross-entropy per code, of that per semantic unit, and of the alignment
        losses; statistics.
    """
    loss = Loss(output.targets.new_zeros((), dtype=torch.float32), codes=output.codes)
    for name, head in output.heads.items():
        mean, stats = head_loss(head, codebooks, weights.label_smoothing)
        loss.stats.update({f"{key}_{name}": value for key, value in stats.items()})
        loss.total = loss.total + (weights.parallel if name == "parallel" else weights.local) * mean
    if output.units is not None:
        mean, stats = head_loss(output.units, 1, weights.label_smoothing)
        loss.stats.update({f"{key}_semantic": stats[key] for key in ("loss", "acc")})
        loss.total = loss.total + weights.semantic * mean
    if output.alignment is not None:
        for name, value in alignment_losses(output.alignment).items():
            loss.stats[f"loss_{name}"] = value.detach()
            loss.total = loss.total + getattr(weights, name) * value
    for name, scores in output.parts.items():
        for entry, (value, stats) in part_losses(scores, codebooks).items():
            loss.stats.update({f"{kind}_{name}_{entry}": number for kind, number in stats.items()})
            loss.total = loss.total + scores.weight * value
    loss.stats["loss"] = loss.total.detach()
    return loss


def part_losses(scores: PartScores, codebooks: int) -> dict[str, tuple[Tensor, dict[str, Tensor]]]:
    """What a part that is trained beside the model learns, by the name of the entry.

    Args:
        scores: of the part.
        codebooks: N.

    Returns:
        Each loss, of predictions the mean in nats per code, with detached statistics `loss`, and of predictions `acc`.
    """
    losses = {entry: (value, {"loss": value.detach()}) for entry, value in scores.losses.items()}
    for entry, predicted in scores.predictions.items():
        mean, stats = head_loss(predicted, codebooks)
        losses[entry] = mean, {kind: stats[kind] for kind in ("loss", "acc")}
    return losses


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


def code_nats(head: HeadScores) -> Tensor:
    """Cross-entropy of every code, of those as well that do not count: (P, M) float32."""
    logits = head.logits.flatten(0, 1).float()
    return F.cross_entropy(logits, head.targets.flatten(), reduction="none").view(head.targets.shape)


def head_loss(head: HeadScores, codebooks: int, smoothing: float = 0.0) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean cross-entropy per counted code, and detached statistics.

    Args:
        head: scores of a head.
        codebooks: N; slot m belongs to codebook m mod N.
        smoothing: share of a target that is spread evenly over all ids.

    Returns:
        The mean in nats; statistics `loss` (without smoothing), `acc` and `loss_cb{n}`, `acc_cb{n}` of every codebook.
    """
    targets, total = head.targets, head.total.clamp_min(1)
    plain = code_nats(head) * head.weights
    mean = plain.sum() / total
    if smoothing:
        logits = head.logits.flatten(0, 1).float()
        even = logits.logsumexp(-1) - logits.mean(-1)  # cross-entropy with the same target for every id
        even_mean = (even.view(targets.shape) * head.weights).sum() / total
        mean, plain_mean = (1 - smoothing) * mean + smoothing * even_mean, mean
    else:
        plain_mean = mean
    with torch.no_grad():
        hits = (head.logits.argmax(-1) == targets) * head.weights
        per_book = [x.unflatten(1, (-1, codebooks)).sum((0, 1)) for x in (plain, hits, head.weights)]
        count = per_book[2].clamp_min(1)
        stats = {"loss": plain_mean.detach(), "acc": hits.sum() / head.weights.sum().clamp_min(1)}
        for n in range(codebooks):
            stats[f"loss_cb{n}"] = per_book[0][n] / count[n]
            stats[f"acc_cb{n}"] = per_book[1][n] / count[n]
    return mean, stats
