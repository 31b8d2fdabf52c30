"""Codec `encodec`: the 24 kHz EnCodec model through the `encodec` package, an optional extra.

The package and its weights are licensed CC-BY-NC 4.0: not for commercial use. Nothing of it is part of this project.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from espnet_ext.codec.base import Codec, register_codec
from espnet_ext.codes import CodecSpec
from espnet_ext.torchaudio_shim import import_torchaudio

_CODEBOOKS_OF_BANDWIDTH = {1.5: 2, 3.0: 4, 6.0: 8, 12.0: 16, 24.0: 32}  # kbit/s
_HOP = 320


def _import_encodec() -> ModuleType:
    try:
        import_torchaudio()
        return importlib.import_module("encodec")
    except ModuleNotFoundError as error:
        raise ValueError(f"codec encodec needs the encodec package: pip install encodec ({error})") from None


def _read_state(checkpoint: Path) -> dict[str, Tensor]:
    """Weights from our npz file or from a torch file such as EnCodec's own."""
    if not checkpoint.is_file():
        raise FileNotFoundError(f"codec file not found: {checkpoint}")
    try:
        if checkpoint.suffix == ".npz":
            with np.load(checkpoint, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        state: dict[str, Tensor] = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and numpy raise a dozen kinds for damaged files, all of them mean the same
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"codec file cannot be read: {checkpoint} ({type(error).__name__}: {reason})") from None
    return state


def _load_strictly(model: torch.nn.Module, state: Mapping[str, Tensor], checkpoint: Path) -> None:
    try:
        model.load_state_dict(state, strict=True)
    except (RuntimeError, TypeError, AttributeError) as error:  # the latter where the file holds no mapping of tensors
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"codec file must hold the weights of EnCodec 24 kHz, got {checkpoint} ({reason})") from None


def _draw_codebooks(model: Any, seed: int) -> None:
    """Give an untrained model codebooks of different entries that its encoder reaches; the package has zeros there."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        latent = model.encoder(torch.randn(1, 1, 24000, generator=generator))[0].T  # (75, 128)
    centre, spread = latent.mean(0), latent.std(0)
    for layer in model.quantizer.vq.layers:
        table = layer._codebook.embed
        table.copy_(centre + spread * torch.randn(table.shape, generator=generator))
        centre = torch.zeros_like(centre)  # residuals follow


@register_codec("encodec")
class EncodecCodec(Codec):
    """Residual vector quantisation of a neural auto-encoder, 24 kHz, 75 frames per second, 1024 entries.

    Args:
        model: EnCodec 24 kHz
        num_codebooks: N, the first ones are used
    """

    sample_rate_hz = 24000

    def __init__(self, model: Any, num_codebooks: int) -> None:
        self.model = model.eval().requires_grad_(False)
        self.options: dict[str, object] = {"num_codebooks": num_codebooks}
        self.spec = CodecSpec(num_codebooks, codebook_size=1024, frame_rate_hz=75.0, sample_rate_hz=self.sample_rate_hz)

    @classmethod
    def create(
        cls,
        waveforms: Iterable[np.ndarray],
        seed: int,
        bandwidth_kbps: float = 6.0,
        num_codebooks: int | None = None,
        checkpoint: str | None = None,
        pretrained: bool = True,
    ) -> EncodecCodec:
        """EnCodec with the weights of a file, with its published weights (a download), or with random weights.

        Args:
            waveforms: not used, nothing is learned here
            seed: of random weights
            bandwidth_kbps: 1.5, 3, 6, 12 or 24: sets the number of codebooks
            num_codebooks: sets it directly, 1 to 32
            checkpoint: weights file, a torch state dict or an npz file written by `save`
            pretrained: without a checkpoint, download the published weights; false gives random weights, which
                is good for tests only

        Returns:
            The codec.

        Raises:
            ValueError: if an option has an impossible value or the file is not EnCodec's
            FileNotFoundError: if the file is missing
            OSError: if the download fails
        """
        if not isinstance(bandwidth_kbps, int | float) or bandwidth_kbps not in _CODEBOOKS_OF_BANDWIDTH:
            raise ValueError(f"bandwidth_kbps must be one of {list(_CODEBOOKS_OF_BANDWIDTH)}, got {bandwidth_kbps!r}")
        count = _CODEBOOKS_OF_BANDWIDTH[float(bandwidth_kbps)] if num_codebooks is None else num_codebooks
        if not isinstance(count, int) or not 1 <= count <= 32:
            raise ValueError(f"num_codebooks must be in [1, 32], got {count!r}")
        if not isinstance(pretrained, bool):
            raise ValueError(f"pretrained must be true or false, got {pretrained!r}")
        if checkpoint is not None:
            return cls.load(Path(str(checkpoint)), num_codebooks=count)
        build = _import_encodec().EncodecModel.encodec_model_24khz
        if pretrained:
            try:
                return cls(build(pretrained=True), count)
            except OSError as error:
                raise OSError(f"encodec weights: {error}; or name a file: --codec_conf checkpoint=PATH") from None
        logging.warning("codec encodec has random weights: its speech is noise")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build(pretrained=False)
        _draw_codebooks(model, seed)
        return cls(model, count)

    @classmethod
    def load(cls, checkpoint: Path, num_codebooks: int = 8) -> EncodecCodec:
        """The codec stored in a weights file.

        Args:
            checkpoint: a torch state dict, or an npz file written by `save`
            num_codebooks: N

        Returns:
            The codec.
        """
        model = _import_encodec().EncodecModel.encodec_model_24khz(pretrained=False)
        _load_strictly(model, _read_state(checkpoint), checkpoint)
        return cls(model, num_codebooks)

    def save(self, checkpoint: Path) -> None:
        """Write the state dict as an uncompressed npz file."""
        np.savez(
            checkpoint, allow_pickle=False, **{name: tensor.numpy() for name, tensor in self.model.state_dict().items()}
        )

    # Utterances go through the network one by one, although it takes batches: convolution libraries choose other
    # algorithms for other shapes, the last bits differ, and near a cell border another code wins. Padding would
    # also reach into the last frames.
    def encode_utterance(self, wav: Tensor) -> Tensor:
        """Codes of one utterance: (T, N) int64."""
        whole = torch.nn.functional.pad(wav.cpu().float(), (0, -len(wav) % _HOP))
        latent = self.model.encoder(whole[None, None])
        return self.model.quantizer.vq.encode(latent, n_q=self.spec.num_codebooks)[:, 0].T.contiguous()

    def dequantise(self, codes: Tensor) -> Tensor:
        """Sums of codebook entries, the decoder's input: (T, 128) float32."""
        return self.model.quantizer.decode(codes.cpu().T[:, None])[0].T.contiguous()

    def decode_utterance(self, codes: Tensor) -> Tensor:
        """Waveform of one utterance: (T * 320,) float32."""
        latent = self.dequantise(codes).T[None]
        return self.model.decoder(latent)[0, 0, : len(codes) * _HOP]
