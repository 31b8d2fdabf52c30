"""Residual vector quantisation with the codebooks of any neural codec: latents to codes and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from torch import Tensor

from espnet_ext.tokenizers.codec.merge import Merge, group_means, hold


@dataclass(frozen=True)
class Layer:
    """One codebook.

    Attributes:
        encode: (B, D, T) residuals to (B, T) codes.
        decode: (B, T) codes to (B, D, T) vectors.
        project: (B, D, T) residuals to (B, d, T), the space of the table's entries.
        table: gives the (codebook_size, d) entries themselves, not a copy.
    """

    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    project: Callable[[Tensor], Tensor]
    table: Callable[[], Tensor]


def unchanged(values: Tensor) -> Tensor:
    """The projection of quantisers that have none."""
    return values


@dataclass(frozen=True)
class Branch:
    """Codebooks that quantise one projection of the latents, each one what those before it left over.

    Attributes:
        layers: the codebooks in order.
        project_in: latents to the residual space.
        project_out: sum of the layers' vectors to latents.
    """

    layers: Sequence[Layer]
    project_in: Callable[[Tensor], Tensor] = unchanged
    project_out: Callable[[Tensor], Tensor] = unchanged


def quantise(latent: Tensor, branches: Sequence[Branch], count: int, merge: Merge | None = None) -> Tensor:
    """Codes of latents: (B, T, count) int64.

    Args:
        latent: (B, D, T) float.
        branches: the codec's codebooks; those of the first branch come first.
        count: N, the first ones are used.
        merge: codebooks that keep one code per group of frames.

    Returns:
        The codes.
    """
    codes: list[Tensor] = []
    for branch in branches:
        residual = branch.project_in(latent)
        for layer in branch.layers[: count - len(codes)]:
            if merge is not None and len(codes) in merge.codebooks:
                found = hold(layer.encode(group_means(residual, merge.rate)), merge.rate, latent.shape[-1])
            else:
                found = layer.encode(residual)
            residual = residual - layer.decode(found)
            codes.append(found)
    return torch.stack(codes, dim=-1)


def dequantise(codes: Tensor, branches: Sequence[Branch]) -> Tensor:
    """Latents that codes stand for: (B, D, T) float.

    Args:
        codes: (B, T, N) int64, of the first N codebooks.
        branches: the codec's codebooks.

    Returns:
        The latents.
    """
    parts, start = [], 0
    for branch in branches:
        used = branch.layers[: codes.shape[-1] - start]
        if used:
            vectors = (layer.decode(codes[..., start + index]) for index, layer in enumerate(used))
            parts.append(branch.project_out(reduce(add, vectors)))
            start += len(used)
    return reduce(add, parts)


def draw_codebooks(latent: Tensor, branches: Sequence[Branch], generator: torch.Generator) -> None:
    """Give an untrained model codebooks of different entries that its encoder reaches; libraries leave zeros there.

    Args:
        latent: (1, D, T) float, what the encoder makes of something.
        branches: the codec's codebooks; their tables are overwritten.
        generator: of the entries.
    """
    for branch in branches:
        residual = branch.project_in(latent)
        for layer in branch.layers:
            reached = layer.project(residual)[0]  # (d, T)
            table = layer.table()
            noise = torch.randn(table.shape, generator=generator)
            table.copy_(reached.mean(1) + reached.std(1) * noise)
            residual = residual - layer.decode(layer.encode(residual))
