"""Codecs `mimi`, `dac` and `encodec_hf`: models of the `transformers` package, an optional extra.

The networks are taken apart here, because merging needs the latents; the modules' names are those of 5.23.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from espnet_ext.codes import CodecSpec
from espnet_ext.errors import UserError
from espnet_ext.tokenizers.codec.base import register_codec
from espnet_ext.tokenizers.codec.hub import HubModel, plain_config
from espnet_ext.tokenizers.codec.neural import NeuralCodec, Parts
from espnet_ext.tokenizers.codec.residual import Branch, Layer, unchanged
from espnet_ext.tokenizers.codec.weights import load_strictly, read_weights

_OPTION = "--codec_conf checkpoint"


class TransformersCodec(NeuralCodec):
    """A codec of the `transformers` package; rates and sizes are those of the model's configuration.

    Args:
        model: the network, with its configuration

    Attributes:
        hub: where the network comes from.
        default_codebooks: number in use unless the user wants another; None for all.
    """

    license = "Apache-2.0 (transformers); the weights have terms of their own"
    extra = "hf"

    hub: ClassVar[HubModel]
    default_codebooks: ClassVar[int | None] = None

    def __init__(self, model: Any) -> None:
        config, parts = model.config, self.take_apart(model)
        hop = self.hop_of(config)
        used = min(self.default_codebooks or parts.num_codebooks, parts.num_codebooks)
        rate = config.sampling_rate
        super().__init__(model, parts, CodecSpec(used, config.codebook_size, rate / hop, rate), plain_config(model))

    @staticmethod
    @abstractmethod
    def take_apart(model: Any) -> Parts:
        """The parts of the network.

        Args:
            model: an instance of the class in `transformers`

        Returns:
            The parts, which share its weights.

        Raises:
            UserError: if it is not a mono codec
        """

    @staticmethod
    @abstractmethod
    def hop_of(config: Any) -> int:
        """Samples of a frame.

        Args:
            config: the model's configuration

        Returns:
            Their number.
        """

    @classmethod
    def create(
        cls,
        waveforms: Iterable[np.ndarray],
        seed: int,
        checkpoint: str | None = None,
        pretrained: bool = True,
        config: Mapping[str, object] | None = None,
    ) -> Self:
        """The codec with the weights of a local directory or of the hub, or with random weights.

        Args:
            waveforms: not used, nothing is learned here
            seed: of random weights
            checkpoint: directory with config.json and weights, or a name on the hub (a download); without it the
                published weights
            pretrained: false gives random weights, which is good for tests only
            config: fields of the configuration of a network with random weights

        Returns:
            The codec.

        Raises:
            UserError: if an option has an impossible value, the package is missing or the checkpoint is of
                another architecture
            OSError: if the checkpoint is missing or cannot be downloaded
        """
        codec = cls(cls.hub.network(seed, checkpoint, pretrained, config))
        if not pretrained and checkpoint is None:
            codec.draw(seed)
        return codec

    @classmethod
    def load(cls, checkpoint: Path) -> Self:
        """The codec stored in a file written by `save`."""
        state, config = read_weights(checkpoint)
        model = cls.hub.rebuild(checkpoint, config)
        load_strictly(model, state, type(model).__name__, checkpoint)
        return cls(model)


def _euclidean(layer: Any, table: str) -> Layer:
    """A codebook of Mimi or EnCodec."""
    return Layer(layer.encode, layer.decode, unchanged, lambda: getattr(layer.codebook, table))


@register_codec("mimi")
class MimiCodec(TransformersCodec):
    """Mimi: 24 kHz, 12.5 frames per second; the first codebook is semantic, the others quantise the latents afresh."""

    hub = HubModel("codec mimi", "Mimi", "mimi", "kyutai/mimi", _OPTION)
    default_codebooks = 8
    context_sec = 10.0  # its attention sees that far in each layer

    @staticmethod
    def take_apart(model: Any) -> Parts:
        """Two branches: codebooks distilled from semantic features, and acoustic ones."""
        split = model.quantizer
        quantisers = (split.semantic_residual_vector_quantizer, split.acoustic_residual_vector_quantizer)
        branches = []
        for quantiser in quantisers:
            layers = [_euclidean(layer, "embed_sum") for layer in quantiser.layers]
            projected = quantiser.input_proj is not None
            branches.append(
                Branch(layers, quantiser.input_proj, quantiser.output_proj) if projected else Branch(layers)
            )
        return Parts(
            lambda wav: model.encoder(wav).latents, branches, lambda latent: model.decoder(latent).audio_values
        )

    @staticmethod
    def hop_of(config: Any) -> int:
        """Samples of a frame."""
        return round(config.sampling_rate / config.frame_rate)

    def to(self, device: torch.device | str) -> Self:
        """This codec, its network moved to a device."""
        super().to(device)
        for module in self.network.modules():
            if hasattr(module, "_embed"):
                vars(module)["_embed"] = None  # a table computed once and not a buffer: it would stay where it is
        return self


@register_codec("dac")
class DacCodec(TransformersCodec):
    """DAC, the Descript Audio Codec: 16, 24 or 44.1 kHz, convolutions only."""

    hub = HubModel("codec dac", "Dac", "dac", "descript/dac_24khz", _OPTION)
    context_sec = 1.0  # its convolutions see less

    @staticmethod
    def take_apart(model: Any) -> Parts:
        """One branch of codebooks that are looked up in a small space of their own."""

        def layer_of(quantiser: Any) -> Layer:
            def encode(residual: Tensor) -> Tensor:
                return quantiser.decode_latents(quantiser.in_proj(residual))[1]

            def decode(codes: Tensor) -> Tensor:
                return quantiser.out_proj(quantiser.codebook(codes).transpose(1, 2))

            return Layer(encode, decode, quantiser.in_proj, lambda: quantiser.codebook.weight)

        return Parts(model.encoder, [Branch([layer_of(one) for one in model.quantizer.quantizers])], model.decoder)

    @staticmethod
    def hop_of(config: Any) -> int:
        """Samples of a frame."""
        return int(config.hop_length)


@register_codec("encodec_hf")
class EncodecHfCodec(TransformersCodec):
    """EnCodec 24 kHz as `transformers` has it, 75 frames per second."""

    hub = HubModel("codec encodec_hf", "Encodec", "encodec", "facebook/encodec_24khz", _OPTION)
    default_codebooks = 8

    @staticmethod
    def take_apart(model: Any) -> Parts:
        """One branch; the 48 kHz model is stereo and rescales every second, so it is refused."""
        config = model.config
        if config.audio_channels != 1 or config.normalize or config.chunk_length_s is not None:
            raise UserError(
                "checkpoint of codec encodec_hf must be mono without normalisation like facebook/encodec_24khz, "
                f"got {config.audio_channels} channels, normalize {config.normalize}"
            )
        layers = [_euclidean(layer, "embed") for layer in model.quantizer.layers]
        return Parts(model.encoder, [Branch(layers)], model.decoder)

    @staticmethod
    def hop_of(config: Any) -> int:
        """Samples of a frame."""
        return int(config.hop_length)
