"""Codec `encodec`: the 24 kHz EnCodec model through the `encodec` package, an optional extra.

The package and its weights are licensed CC-BY-NC 4.0: not for commercial use. Nothing of it is part of this project.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from espnet_ext.codes import CodecSpec
from espnet_ext.errors import UserError, needs_package
from espnet_ext.options import check_flag
from espnet_ext.storage.torchaudio_shim import import_torchaudio
from espnet_ext.tokenizers.codec.base import register_codec
from espnet_ext.tokenizers.codec.neural import NeuralCodec, Parts, build_seeded
from espnet_ext.tokenizers.codec.residual import Branch, Layer, unchanged
from espnet_ext.tokenizers.codec.weights import load_strictly, read_weights

_CODEBOOKS_OF_BANDWIDTH = {1.5: 2, 3.0: 4, 6.0: 8, 12.0: 16, 24.0: 32}  # kbit/s


def _import_encodec() -> ModuleType:
    with needs_package("codec encodec", "'espnet_ext[encodec]'"):
        import_torchaudio()
        return importlib.import_module("encodec")


def _layer(layer: Any) -> Layer:
    return Layer(layer.encode, layer.decode, unchanged, lambda: layer._codebook.embed)


def _build(pretrained: bool) -> Any:
    encodec = _import_encodec()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the package uses an old name of torch's
        return encodec.EncodecModel.encodec_model_24khz(pretrained=pretrained)


@register_codec("encodec")
class EncodecCodec(NeuralCodec):
    """Residual vector quantisation of a neural auto-encoder, 24 kHz, 75 frames per second, 1024 entries.

    Args:
        model: EnCodec 24 kHz
    """

    license = "CC BY-NC 4.0: no commercial use"
    extra = "encodec"

    lookahead_frames = 0  # its networks are causal: samples move by rounding, 1e-7
    lookbehind_frames = 75  # a second; its recurrent layers forget sooner

    def __init__(self, model: Any) -> None:
        codebooks = _CODEBOOKS_OF_BANDWIDTH[6.0]
        rate = model.sample_rate
        spec = CodecSpec(codebooks, model.quantizer.bins, rate / int(model.encoder.hop_length), rate)
        layers = [_layer(layer) for layer in model.quantizer.vq.layers]
        super().__init__(model, Parts(model.encoder, [Branch(layers)], model.decoder), spec)

    @classmethod
    def create(
        cls,
        waveforms: Iterable[np.ndarray],
        seed: int,
        bandwidth_kbps: float = 6.0,
        checkpoint: str | None = None,
        pretrained: bool = True,
    ) -> EncodecCodec:
        """EnCodec with the weights of a file, with its published weights (a download), or with random weights.

        Args:
            waveforms: not used, nothing is learned here
            seed: of random weights
            bandwidth_kbps: 1.5, 3, 6, 12 or 24: sets the number of codebooks
            checkpoint: weights file, a torch state dict or an npz file written by `save`
            pretrained: without a checkpoint, download the published weights; false gives random weights, which
                is good for tests only

        Returns:
            The codec.

        Raises:
            UserError: if an option has an impossible value or the file is not EnCodec's
            FileNotFoundError: if the file is missing
            OSError: if the download fails
        """
        if not isinstance(bandwidth_kbps, int | float) or bandwidth_kbps not in _CODEBOOKS_OF_BANDWIDTH:
            raise UserError(f"bandwidth_kbps must be one of {list(_CODEBOOKS_OF_BANDWIDTH)}, got {bandwidth_kbps!r}")
        check_flag("pretrained", pretrained)
        if checkpoint is not None:
            codec = cls.load(Path(str(checkpoint)))
        elif pretrained:
            try:
                codec = cls(_build(pretrained=True))
            except OSError as error:
                raise OSError(f"encodec weights: {error}; or name a file: --codec_conf checkpoint=PATH") from None
        else:
            codec = cls(build_seeded(lambda: _build(pretrained=False), seed))
            codec.draw(seed)
        codec.configure(num_codebooks=_CODEBOOKS_OF_BANDWIDTH[float(bandwidth_kbps)])
        return codec

    @classmethod
    def load(cls, checkpoint: Path) -> EncodecCodec:
        """The codec stored in a weights file.

        Args:
            checkpoint: a torch state dict, or an npz file written by `save`

        Returns:
            The codec.
        """
        state, _ = read_weights(checkpoint)  # a missing file is said before a missing package
        model = _build(pretrained=False)
        load_strictly(model, state, "EnCodec 24 kHz", checkpoint)
        return cls(model)
