"""Codec `lyra`: the SoundStream of Lyra 1.3.2 through `ai-edge-litert`, an optional extra; it knows speech untrained.

Lyra and its weights are licensed under the Apache License 2.0; nothing of it is part of this project.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from espnet_ext.codes import CodecSpec
from espnet_ext.errors import UserError, needs_package
from espnet_ext.storage.checksums import content_hash
from espnet_ext.storage.download import Source, download
from espnet_ext.tokenizers.codec.base import Codec, register_codec
from espnet_ext.tokenizers.codec.weights import read_weights, write_weights

HOME = "https://github.com/google/lyra/raw/v1.3.2/lyra/model_coeffs/"
ENCODER, QUANTISER, DECODER = "soundstream_encoder.tflite", "quantizer.tflite", "lyragan.tflite"
SHA256 = {
    ENCODER: "237da0b16226fb0a68d49551c81bebf614e42142af72764448359f68581e88f1",
    QUANTISER: "841ee05989687d32d1f616a8ad1419fc7eda37599d3c05c7cf5a0d60ccf8ac5c",
    DECODER: "50e7839cda4f30599a3a34cfaddcd9c98449b049eee884e1a74295780448ad06",
}
_ENTRIES = 16  # of one of its quantisers; two of them are one codebook here
_QUANTISERS = 46
_FEATURES = 64
_ADVICE = "; or name a directory that holds its three .tflite files: --codec_conf checkpoint=PATH"


def _interpreter() -> Callable[..., Any]:
    with needs_package("codec lyra", "'espnet_ext[lyra]'"):
        found: Callable[..., Any] = importlib.import_module("ai_edge_litert.interpreter").Interpreter
    return found


@register_codec("lyra")
class LyraCodec(Codec):
    """Residual vector quantisation of a neural auto-encoder, 16 kHz, 50 frames per second, 256 entries.

    Its own quantisers have 16 entries. Two neighbours make one codebook without loss: 16 * first + second.

    Args:
        weights: contents of its three files, by name
        source: where they are from, for errors

    Raises:
        UserError: if they are not those of Lyra 1.3.2, or the package is missing
    """

    license = "Apache-2.0 (Lyra)"
    extra = "lyra"

    lookahead_frames = 0
    lookbehind_frames = 25  # as far as its convolutions reach: behind them every sample is the same, bit for bit

    def __init__(self, weights: Mapping[str, bytes], source: Path) -> None:
        for name, expected in SHA256.items():
            # the runtime is native code: it is shown no other files than these
            found = hashlib.sha256(weights.get(name, b"")).hexdigest()
            if found != expected:
                raise UserError(
                    f"{name} in {source} must be that of Lyra 1.3.2 (sha256 {expected[:12]}…), got "
                    f"{f'sha256 {found[:12]}…' if name in weights else 'none'}: fetch it again from {HOME}{name}"
                )
        _interpreter()
        self.weights = dict(weights)
        self.spec = CodecSpec(num_codebooks=8, codebook_size=_ENTRIES**2, frame_rate_hz=50.0, sample_rate_hz=16000)

    @classmethod
    def create(cls, waveforms: Iterable[np.ndarray], seed: int, checkpoint: str | None = None) -> LyraCodec:
        """Lyra with the weights of a directory, or with those of its home, which are downloaded once.

        Args:
            waveforms: not used, nothing is learned here
            seed: not used, nothing is random
            checkpoint: directory with the three .tflite files, or a file written by `save`

        Returns:
            The codec.

        Raises:
            UserError: if the files are of another Lyra or damaged, or cannot be downloaded
            FileNotFoundError: if a file is missing
        """
        _interpreter()  # a missing package is said before any download
        if checkpoint is None:
            folder = Path(torch.hub.get_dir()) / "checkpoints" / "lyra-1.3.2"
            for name, expected in SHA256.items():
                if content_hash(folder / name) not in (None, expected):  # cut or changed since: it is fetched again
                    (folder / name).unlink()
                download(Source(f"{HOME}{name}", f"sha256:{expected}", _ADVICE), folder / name)
        else:
            folder = Path(str(checkpoint))
        if folder.is_file():
            return cls.load(folder)
        missing = [name for name in SHA256 if not (folder / name).is_file()]
        if missing:
            raise FileNotFoundError(f"checkpoint of codec lyra must hold {list(SHA256)}, {folder} lacks {missing}")
        return cls({name: (folder / name).read_bytes() for name in SHA256}, folder)

    @classmethod
    def load(cls, checkpoint: Path) -> LyraCodec:
        """The codec stored in a file written by `save`."""
        arrays, _ = read_weights(checkpoint)
        return cls({name: array.numpy().tobytes() for name, array in arrays.items()}, checkpoint)

    def save(self, checkpoint: Path) -> None:
        """Write the three files into one, as an uncompressed npz file of bytes."""
        arrays = {name: np.frombuffer(self.weights[name], np.uint8) for name in SHA256}
        write_weights(checkpoint, {name: torch.from_numpy(array.copy()) for name, array in arrays.items()})

    def configure(self, num_codebooks: int | None = None) -> None:
        """Set how many codebooks are used; None leaves it as it is.

        Args:
            num_codebooks: use the first ones

        Raises:
            UserError: if there are not so many
        """
        if num_codebooks is None:
            return
        whole = isinstance(num_codebooks, int) and not isinstance(num_codebooks, bool)
        if not whole or not 1 <= num_codebooks <= _QUANTISERS // 2:
            raise UserError(f"num_codebooks must be in [1, {_QUANTISERS // 2}], got {num_codebooks!r}")
        self.spec = replace(self.spec, num_codebooks=num_codebooks)

    @property
    def options(self) -> dict[str, object]:
        """What `configure` has set."""
        return {"num_codebooks": self.spec.num_codebooks}

    def _started(self, name: str) -> Any:
        """A network that has heard nothing yet.

        It is made anew for every utterance, in 2 ms: the runtime's `reset_all_variables` leaves the state as it is, and
        the first half second would depend on the utterance before.
        """
        # more threads would not make such small networks faster
        network = _interpreter()(model_content=self.weights[name], num_threads=1)
        network.allocate_tensors()
        return network

    def _steps(self, name: str) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
        """A network with a memory: takes one frame after the other, gives what it makes of each."""
        network = self._started(name)
        source, target = network.get_input_details()[0], network.get_output_details()[0]

        def step(frame: NDArray[np.float32]) -> NDArray[np.float32]:
            network.set_tensor(source["index"], frame.reshape(source["shape"]))
            network.invoke()
            made: NDArray[np.float32] = network.get_tensor(target["index"]).reshape(-1)
            return made

        return step

    def encode_utterance(self, wav: Tensor) -> Tensor:
        """Codes of one utterance: (T, N) int64."""
        frames = -(-len(wav) // self.hop_samples)
        padded = np.zeros((frames, self.hop_samples), np.float32)
        padded.reshape(-1)[: len(wav)] = wav.cpu().numpy()
        analyse, quantise = self._steps(ENCODER), self._started(QUANTISER).get_signature_runner("encode")
        count = 2 * self.spec.num_codebooks
        chosen = np.empty((frames, count), np.int64)
        for index, frame in enumerate(padded):
            features = analyse(frame).reshape(1, 1, _FEATURES)
            # `output_0` has one index per quantiser, -1 for those that are not used
            made = quantise(input_frames=features, num_quantizers=np.int32(count))["output_0"]
            chosen[index] = made[:count, 0, 0]
        return torch.from_numpy(_ENTRIES * chosen[:, ::2] + chosen[:, 1::2]).to(wav.device)

    def dequantise(self, codes: Tensor) -> Tensor:
        """Sums of codebook entries, the decoder's input: (T, 64) float32."""
        merged = codes.cpu().numpy()
        indices = np.full((len(merged), _QUANTISERS, 1, 1), -1, np.int32)
        used = 2 * merged.shape[1]
        indices[:, 0:used:2, 0, 0], indices[:, 1:used:2, 0, 0] = np.divmod(merged, _ENTRIES)
        look_up = self._started(QUANTISER).get_signature_runner("decode")
        vectors = np.empty((len(merged), _FEATURES), np.float32)
        for index, row in enumerate(indices):
            vectors[index] = look_up(encoding_indices=row)["output_0"][0, 0]
        return torch.from_numpy(vectors).to(codes.device)

    def streaming_decoder(self) -> Callable[[Tensor], Tensor]:
        """Decoder of one utterance in pieces, which costs the frames of a piece and nothing else."""
        synthesise = self._steps(DECODER)

        def decode(codes: Tensor) -> Tensor:
            wav = np.empty((len(codes), self.hop_samples), np.float32)
            for index, vector in enumerate(self.dequantise(codes).cpu().numpy()):
                wav[index] = synthesise(vector)
            return torch.from_numpy(wav.reshape(-1)).to(codes.device)

        return decode

    def decode_utterance(self, codes: Tensor) -> Tensor:
        """Waveform of one utterance: (T * 320,) float32."""
        return self.streaming_decoder()(codes)
