"""Low-rank additions to the linear maps of a transformer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from espnet_ext.model.transformer import Transformer

# input and output of each map as multiples of D
MAPS = {"qkv": (1, 3), "out": (1, 1), "up": (1, 4), "down": (4, 1)}


class LoRA(nn.Module):
    """B A x for every map of self-attention and feed-forward of every layer; it begins with nothing to add.

    Args:
        transformer: whose maps they are; it is not kept.
        rank: of each.

    Reference:
        Hu et al. 2021, arXiv:2106.09685.
    """

    def __init__(self, transformer: Transformer, rank: int) -> None:
        super().__init__()
        layers, width = len(transformer.blocks), transformer.width
        self.down, self.up = nn.ParameterDict(), nn.ParameterDict()
        for name, (into, out) in MAPS.items():
            self.down[name] = nn.Parameter(torch.empty(layers, into * width, rank).normal_(std=(into * width) ** -0.5))
            self.up[name] = nn.Parameter(torch.zeros(layers, rank, out * width))

    def forward(self, layer: int, name: str, x: Tensor) -> Tensor:
        """What is added to what a map gives: (…, in) → (…, out)."""
        return x @ self.down[name][layer] @ self.up[name][layer]
