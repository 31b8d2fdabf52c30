"""Codecs on disk: a directory with codec_info.yaml and the weights that its fingerprint vouches for."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from espnet_ext.codes import CodecSpec
from espnet_ext.errors import UserError
from espnet_ext.storage.atomic import atomic_path
from espnet_ext.tokenizers.codec.base import Codec, codecs
from espnet_ext.tokenizers.description import InfoKind, fingerprint_of

KIND = InfoKind("codec", "codec_info", "codec", "espnet_ext.bin.codec_fit")
INFO_NAME = f"{KIND.info}.yaml"


@dataclass(frozen=True)
class CodecInfo:
    """Contents of a codec_info.yaml, which lies beside the weights, beside every codes.scp and in every experiment.

    Attributes:
        codec: registered name.
        checkpoint: weights file.
        options: what the codec's `configure` takes.
        spec: codebooks, frame rate, sample rate.
        fingerprint: what `fingerprint_of` says of weights file and options.
        origin: how the codec was made; for the reader, and to recognise a finished fit.
    """

    codec: str
    checkpoint: Path
    options: dict[str, object]
    spec: CodecSpec
    fingerprint: str
    origin: dict[str, object]


def read_codec_info(path: Path | str) -> CodecInfo:
    """The codec described by a codec_info.yaml; the weights are not opened.

    Args:
        path: the file, or the directory that holds it

    Returns:
        The description; `checkpoint` is usable from the current directory.

    Raises:
        FileNotFoundError: if the file is missing
        UserError: if it is not a complete codec_info.yaml
    """
    return KIND.read(path, lambda content: CodecInfo(*content[:6]))


def write_codec_info(info: CodecInfo, path: Path) -> None:
    """Write a codec_info.yaml that names the weights file relative to itself.

    Args:
        info: the codec
        path: file to write; experiments can be moved together with the weights
    """
    KIND.write(info, info.codec, path, {})


def _choices(kind: type[Codec]) -> list[str]:
    """Names of the options of `Codec.configure`."""
    return list(inspect.signature(kind.configure).parameters)[1:]


def check_codec_conf(name: str, conf: Mapping[str, object]) -> None:
    """Refuse options that the codec does not have.

    Args:
        name: registered name
        conf: options for `Codec.create` and `Codec.configure`

    Raises:
        UserError: if the codec or an option is unknown
    """
    kind = codecs[name]
    known = [key for key in inspect.signature(kind.create).parameters if key not in ("waveforms", "seed")]
    known += _choices(kind)
    for key in conf:
        if key not in known:
            raise UserError(f"codec_conf of {name} must be among {known}, got {key!r}")


def create_codec(name: str, waveforms: Iterable[np.ndarray], seed: int, conf: Mapping[str, object]) -> Codec:
    """A new codec by name.

    Args:
        name: registered name
        waveforms: (samples,) float32 each, the corpus to learn from
        seed: makes everything random repeatable
        conf: the codec's own options

    Returns:
        The codec, not saved yet.
    """
    check_codec_conf(name, conf)
    kind = codecs[name]
    chosen = {key: conf[key] for key in _choices(kind) if key in conf}
    codec = kind.create(waveforms, seed, **{key: value for key, value in conf.items() if key not in chosen})
    codec.configure(**chosen)
    return codec


def save_codec(codec: Codec, name: str, directory: Path, origin: dict[str, object]) -> CodecInfo:
    """Write weights and codec_info.yaml, the latter last, so that its presence means that all is there.

    Args:
        codec: the codec
        name: registered name
        directory: made when missing
        origin: how the codec was made

    Returns:
        What codec_info.yaml says.
    """
    checkpoint = directory / codec.weights_name
    with atomic_path(checkpoint) as temporary:
        codec.save(temporary)
    fingerprint = fingerprint_of(checkpoint, codec.options)
    info = CodecInfo(name, checkpoint, codec.options, codec.spec, fingerprint, origin)
    write_codec_info(info, directory / INFO_NAME)
    return info


def load_codec(path: Path | str) -> Codec:
    """The codec that made the codes described by a codec_info.yaml.

    Args:
        path: codec_info.yaml, or a directory that holds one

    Returns:
        The codec, on the CPU.

    Raises:
        FileNotFoundError: if codec_info.yaml or the weights file is missing
        UserError: if the codec is unknown or the weights are not those that the fingerprint vouches for
    """
    info = read_codec_info(path)
    kind = codecs[info.codec]
    KIND.check_weights(info, path)
    codec = kind.load(info.checkpoint)
    for key in info.options:
        if key not in _choices(kind):
            raise UserError(f"codec_conf in {path} must be among {_choices(kind)}, got {key!r}")
    codec.configure(**info.options)
    if codec.spec != info.spec:
        raise UserError(f"spec in {path} must be that of {info.checkpoint} ({codec.spec}), got {info.spec}")
    return codec


def copy_codec(path: Path | str, directory: Path) -> Path:
    """Put a codec into an experiment directory, which then can decode by itself.

    Args:
        path: codec_info.yaml, or a directory that holds one
        directory: gets codec_info.yaml and the weights; the same codec there already is left as it is

    Returns:
        The codec_info.yaml of the copy.

    Raises:
        FileNotFoundError: if codec_info.yaml or the weights file is missing
        UserError: if the weights do not fit their fingerprint, or the directory holds another codec
    """
    info = read_codec_info(path)
    weights = directory / codecs[info.codec].weights_name
    if KIND.copy_weights(info, path, weights):
        write_codec_info(replace(info, checkpoint=weights), directory / INFO_NAME)
    return directory / INFO_NAME
