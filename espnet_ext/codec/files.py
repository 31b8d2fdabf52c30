"""Codecs on disk: a directory with codec_info.yaml and the weights that its fingerprint vouches for."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import yaml

from espnet_ext.atomic import atomic_path
from espnet_ext.codec.base import Codec, codecs
from espnet_ext.codes import CodecSpec

INFO_NAME = "codec_info.yaml"


@dataclass(frozen=True)
class CodecInfo:
    """Contents of a codec_info.yaml, which lies beside the weights, beside every codes.scp and in every experiment.

    Attributes:
        codec: registered name.
        checkpoint: weights file.
        options: what the codec's `configure` takes.
        spec: codebooks, frame rate, sample rate.
        fingerprint: what `codec_fingerprint` says of weights file and options.
        origin: how the codec was made; for the reader, and to recognise a finished fit.
    """

    codec: str
    checkpoint: Path
    options: dict[str, object]
    spec: CodecSpec
    fingerprint: str
    origin: dict[str, object]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def codec_fingerprint(checkpoint: Path, options: Mapping[str, object]) -> str:
    """SHA-256 of the weights and of the options if there are any: equal fingerprints make equal codes of equal audio.

    Args:
        checkpoint: weights file
        options: what the codec is configured with

    Returns:
        The sum, hexadecimal.
    """
    return _fingerprint(file_sha256(checkpoint), options)


def _fingerprint(weights: str, options: Mapping[str, object]) -> str:
    if not options:
        return weights
    return hashlib.sha256(f"{weights} {json.dumps(options, sort_keys=True)}".encode()).hexdigest()


def read_codec_info(path: Path | str) -> CodecInfo:
    """The codec described by a codec_info.yaml; the weights are not opened.

    Args:
        path: the file, or the directory that holds it

    Returns:
        The description; `checkpoint` is usable from the current directory.

    Raises:
        FileNotFoundError: if the file is missing
        ValueError: if it is not a complete codec_info.yaml
    """
    path = Path(path)
    if path.is_dir():
        path = path / INFO_NAME
    if not path.is_file():
        raise FileNotFoundError(f"codec_info not found: {path} (espnet_ext.bin.codec_fit writes it)")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        options = dict(content["codec_conf"])
        checkpoint = path.parent / options.pop("checkpoint")
        spec = CodecSpec(**content["spec"])
        return CodecInfo(
            content["codec"], checkpoint, options, spec, content["fingerprint"], dict(content.get("origin") or {})
        )
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:  # a file that is not UTF-8 is a ValueError
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"codec_info must be a file written by espnet_ext.bin.codec_fit, got {path} ({reason})"
        ) from None


def write_codec_info(info: CodecInfo, path: Path) -> None:
    """Write a codec_info.yaml that names the weights file relative to itself.

    Args:
        info: the codec
        path: file to write; experiments can be moved together with the weights
    """
    checkpoint = os.path.relpath(info.checkpoint.resolve(), path.parent.resolve())
    content = {
        "codec": info.codec,
        "codec_conf": {"checkpoint": checkpoint, **info.options},
        "spec": asdict(info.spec),
        "fingerprint": info.fingerprint,
        "origin": info.origin,
    }
    with atomic_path(path) as temporary:
        temporary.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _choices(kind: type[Codec]) -> list[str]:
    """Names of the options of `Codec.configure`."""
    return list(inspect.signature(kind.configure).parameters)[1:]


def check_codec_conf(name: str, conf: Mapping[str, object]) -> None:
    """Refuse options that the codec does not have.

    Args:
        name: registered name
        conf: options for `Codec.create` and `Codec.configure`

    Raises:
        ValueError: if the codec or an option is unknown
    """
    kind = codecs[name]
    known = [key for key in inspect.signature(kind.create).parameters if key not in ("waveforms", "seed")]
    known += _choices(kind)
    for key in conf:
        if key not in known:
            raise ValueError(f"codec_conf of {name} must be among {known}, got {key!r}")


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
    fingerprint = codec_fingerprint(checkpoint, codec.options)
    info = CodecInfo(name, checkpoint, codec.options, codec.spec, fingerprint, origin)
    write_codec_info(info, directory / INFO_NAME)
    return info


def _fits(info: CodecInfo) -> bool:
    """Whether the weights file is there and is the one that the fingerprint vouches for."""
    if not info.checkpoint.is_file():
        return False
    weights = file_sha256(info.checkpoint)
    # the first releases left the options out
    return info.fingerprint in (_fingerprint(weights, info.options), weights)


def _check_weights(info: CodecInfo, described_by: Path | str) -> None:
    if not info.checkpoint.is_file():
        raise FileNotFoundError(f"codec file not found: {info.checkpoint} (named by {described_by})")
    if not _fits(info):
        found = codec_fingerprint(info.checkpoint, info.options)
        raise ValueError(
            f"fingerprint of codec file {info.checkpoint} must be {info.fingerprint[:12]}… as in {described_by}, "
            f"got {found[:12]}…: it is another codec, or the file is damaged"
        )


def load_codec(path: Path | str) -> Codec:
    """The codec that made the codes described by a codec_info.yaml.

    Args:
        path: codec_info.yaml, or a directory that holds one

    Returns:
        The codec, on the CPU.

    Raises:
        FileNotFoundError: if codec_info.yaml or the weights file is missing
        ValueError: if the codec is unknown or the weights are not those that the fingerprint vouches for
    """
    info = read_codec_info(path)
    kind = codecs[info.codec]
    _check_weights(info, path)
    codec = kind.load(info.checkpoint)
    for key in info.options:
        if key not in _choices(kind):
            raise ValueError(f"codec_conf in {path} must be among {_choices(kind)}, got {key!r}")
    codec.configure(**info.options)
    if codec.spec != info.spec:
        raise ValueError(f"spec in {path} must be that of {info.checkpoint} ({codec.spec}), got {info.spec}")
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
        ValueError: if the weights do not fit their fingerprint, or the directory holds another codec
    """
    info = read_codec_info(path)
    _check_weights(info, path)
    target = directory / INFO_NAME
    if target.exists():
        existing = read_codec_info(target)
        if existing.fingerprint != info.fingerprint:
            raise ValueError(
                f"{directory} must hold the codec of {path} ({info.fingerprint[:12]}…), "
                f"got {existing.codec} {existing.fingerprint[:12]}…: use another directory"
            )
        if _fits(existing):
            return target
    checkpoint = directory / codecs[info.codec].weights_name
    with atomic_path(checkpoint) as temporary:
        shutil.copyfile(info.checkpoint, temporary)
    copy = CodecInfo(info.codec, checkpoint, info.options, info.spec, info.fingerprint, info.origin)
    write_codec_info(copy, target)
    return target
