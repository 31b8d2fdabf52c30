"""Codec `espnet`: the generator of any model trained by ESPnet's GANCodecTask."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from espnet_ext.codes import CodecSpec
from espnet_ext.errors import UserError, needs_package
from espnet_ext.options import check_flag
from espnet_ext.storage.torchaudio_shim import import_torchaudio
from espnet_ext.storage.yaml_files import read_yaml
from espnet_ext.tokenizers.codec.base import register_codec
from espnet_ext.tokenizers.codec.neural import NeuralCodec, Parts, build_seeded
from espnet_ext.tokenizers.codec.residual import Branch, Layer
from espnet_ext.tokenizers.codec.weights import load_strictly, one_line, read_weights

_GENERATOR = "codec.generator."  # of the names in a checkpoint; the discriminator is not needed
_BEST = "train.total_count.best.pth"  # of the weights in an experiment those that ESPnet's own recipe decodes with


def _codec_classes() -> dict[str, Any]:
    """The codecs of GANCodecTask by name; its own table would come with a text preprocessor that wants NLTK's data."""
    with needs_package("codec espnet", "espnet einops"):
        import_torchaudio()
        from espnet2.gan_codec.dac.dac import DAC
        from espnet2.gan_codec.encodec.encodec import Encodec
        from espnet2.gan_codec.funcodec.funcodec import FunCodec
        from espnet2.gan_codec.soundstream.soundstream import SoundStream
    return {"dac": DAC, "encodec": Encodec, "funcodec": FunCodec, "soundstream": SoundStream}


def _build(name: object, conf: Mapping[str, Any], described_by: str) -> tuple[Any, int]:
    """A codec's generator, and the samples of a frame."""
    classes = _codec_classes()
    if name not in classes:
        raise UserError(f"codec in {described_by} must be one of {list(classes)}, got {name!r}")
    try:
        codec = classes[str(name)](**copy.deepcopy(dict(conf)))  # ESPnet adds the sample rate to what it is given
    except Exception as error:  # typeguard, torch and plain Python each refuse in their own way
        raise UserError(f"codec_conf in {described_by} must be options of {name}, got {one_line(error)}") from None
    if name == "funcodec":  # ESPnet's own number is a tuple here
        hop = codec.generator.domain_conf.get("hop_length", 160) * codec.generator.encoder.hop_length
        return codec.generator, int(hop)
    return codec.generator, int(codec.frame_shift)


def _layer(layer: Any) -> Layer:
    def project(residual: Tensor) -> Tensor:
        return layer.project_in(residual.transpose(1, 2)).transpose(1, 2)

    return Layer(layer.encode, layer.decode, project, lambda: layer._codebook.embed)


def _parts(generator: Any, hop: int) -> Parts:
    layers = [_layer(layer) for layer in generator.quantizer.vq.layers]
    if not hasattr(generator, "time_to_freq_transfer"):
        return Parts(generator.encoder, [Branch(layers)], generator.decoder)

    # FunCodec works on spectrograms, which have one column more than there are frames
    def encoder(wav: Tensor) -> Tensor:
        return generator.encoder(generator.time_to_freq_transfer(wav)[0])[..., : wav.shape[-1] // hop]

    def decoder(latent: Tensor) -> Tensor:
        wav = generator.freq_to_time_transfer(generator.decoder(torch.cat([latent, latent[..., -1:]], dim=-1)))
        return wav.reshape(len(latent), 1, -1)[..., : latent.shape[-1] * hop]

    return Parts(encoder, [Branch(layers)], decoder)


@register_codec("espnet")
class EspnetCodec(NeuralCodec):
    """SoundStream, EnCodec, DAC or FunCodec as trained by ESPnet; rates and sizes are those of its configuration.

    Args:
        generator: encoder, quantiser and decoder
        hop_samples: samples of a frame
        config: name and options that the generator was built from, kept in the weights file
    """

    license = "Apache-2.0 (ESPnet); the weights have terms of their own"

    def __init__(self, generator: Any, hop_samples: int, config: dict[str, Any]) -> None:
        quantizer, rate = generator.quantizer, generator.sample_rate
        spec = CodecSpec(quantizer.n_q, quantizer.bins, rate / hop_samples, rate)
        super().__init__(generator, _parts(generator, hop_samples), spec, config)

    @classmethod
    def create(
        cls,
        waveforms: Iterable[np.ndarray],
        seed: int,
        config: str | Mapping[str, Any] | None = None,
        checkpoint: str | None = None,
        pretrained: bool = True,
    ) -> EspnetCodec:
        """The codec of a GANCodecTask experiment.

        Args:
            waveforms: not used, nothing is learned here
            seed: of random weights
            config: the experiment's config.yaml, or its `codec` and `codec_conf`; without it the one beside the
                checkpoint
            checkpoint: the experiment's directory, or other weights in it than train.total_count.best.pth
            pretrained: false gives random weights, which is good for tests only

        Returns:
            The codec.

        Raises:
            UserError: if an option has an impossible value, a package is missing, or the checkpoint does not fit
            FileNotFoundError: if a file is missing
        """
        check_flag("pretrained", pretrained)
        if checkpoint is None and (pretrained or config is None):
            raise UserError(
                "checkpoint must be given: --codec_conf checkpoint=PATH, and --codec_conf config=PATH "
                "unless config.yaml lies beside it"
            )
        if checkpoint is not None and Path(str(checkpoint)).is_dir():
            checkpoint = str(Path(str(checkpoint)) / _BEST)
        if isinstance(config, Mapping):
            path, content = "config", config
        else:
            path = str(config or Path(str(checkpoint)).parent / "config.yaml")
            content = read_yaml(Path(path), "config of codec espnet")
        kept = {"codec": content.get("codec", "soundstream"), "codec_conf": content.get("codec_conf") or {}}
        generator, hop = build_seeded(lambda: _build(kept["codec"], kept["codec_conf"], path), seed)
        if checkpoint is None:
            codec = cls(generator, hop, kept)
            codec.draw(seed)
            return codec
        state, _ = read_weights(Path(str(checkpoint)))
        mine = {name.removeprefix(_GENERATOR): tensor for name, tensor in state.items() if name.startswith(_GENERATOR)}
        load_strictly(generator, mine, f"the {kept['codec']} of {path}", checkpoint)
        return cls(generator, hop, kept)

    @classmethod
    def load(cls, checkpoint: Path) -> EspnetCodec:
        """The codec stored in a file written by `save`."""
        state, config = read_weights(checkpoint)
        if config is None:
            raise UserError(f"codec file must hold a configuration: {checkpoint}")
        generator, hop = _build(config["codec"], config["codec_conf"], str(checkpoint))
        load_strictly(generator, state, str(config["codec"]), checkpoint)
        return cls(generator, hop, config)
