"""The core LM as ESPnet's trainer wants it: a batch → loss, statistics, weight."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from espnet2.train.abs_espnet_model import AbsESPnetModel
from torch import Tensor

from espnet_ext.model.core_lm import CoreLM
from espnet_ext.model.loss import LossWeights, codec_loss
from espnet_ext.model.text_gain import gain_statistics, text_nats


class ESPnetCodecLMModel(AbsESPnetModel):
    """Trains a core LM.

    Args:
        corelm: the model.
        weights: what each part of the loss counts.
        autocast: whether layers compute in bfloat16 in training, where the device has instructions for it; the sums of
            the loss, validation and decoding do not.
    """

    # shapes of the batch are all that collect_stats needs; there are no features to extract
    extract_feats_in_collect_stats = False

    def __init__(self, corelm: CoreLM, weights: LossWeights, autocast: bool = False) -> None:
        super().__init__()
        self.corelm, self.weights, self.autocast = corelm, weights, autocast

    def forward(self, utt_id: list[str] | None = None, **batch: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Loss, statistics and the number of codes they are means over, (1,) each; the batch goes to the core LM.

        Outside of training the statistics include the wrong-text gain, which takes a second pass.
        """
        device = next(self.corelm.parameters()).device.type
        autocast = self.autocast and self.training and has_bf16(device)
        # without a context of its own what ESPnet's use_amp has set stays
        with torch.autocast(device, dtype=torch.bfloat16) if autocast else nullcontext():
            output = self.corelm(**batch)
        # of several processes each counts by its codes, also where a loss is a mean over units or tokens
        loss = codec_loss(output, self.corelm.spec.num_codebooks, self.weights)
        if not self.training:
            loss.stats.update(gain_statistics(text_nats(self.corelm, batch, output)))
        # with several processes the trainer sums over these, and insists on a dimension to sum over
        return loss.total[None], {name: value[None] for name, value in loss.stats.items()}, loss.codes[None]

    def collect_feats(self, **batch: Tensor) -> dict[str, Tensor]:
        """Nothing: codes are not features.

        Args:
            **batch: a collated batch.

        Returns:
            An empty dict.
        """
        return {}


def has_bf16(device: str) -> bool:
    """Whether products in bfloat16 are faster than in float32 there, "cpu" or "cuda"."""
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # which torch before 2.6 does not have
    return device == "cpu" and any(getattr(torch.cpu, name, bool)() for name in asked)
