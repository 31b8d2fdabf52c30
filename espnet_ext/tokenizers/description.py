"""Weights on disk and the yaml file that describes them, whose fingerprint vouches for them: codecs and tokenizers."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import yaml

from espnet_ext.codes import CodecSpec
from espnet_ext.errors import UserError
from espnet_ext.storage.atomic import atomic_path

T = TypeVar("T")


class Described(Protocol):
    """What every description says."""

    @property
    def checkpoint(self) -> Path:
        """Weights file."""

    @property
    def options(self) -> dict[str, object]:
        """What the model is configured with."""

    @property
    def spec(self) -> CodecSpec:
        """Codebooks, frame rate, sample rate."""

    @property
    def fingerprint(self) -> str:
        """What `fingerprint_of` says of weights file and options."""

    @property
    def origin(self) -> dict[str, object]:
        """How the model was made."""


class Content(NamedTuple):
    """A description as it was read: the fields that all have, and the whole mapping."""

    name: str
    checkpoint: Path
    options: dict[str, object]
    spec: CodecSpec
    fingerprint: str
    origin: dict[str, object]
    everything: dict[str, Any]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fingerprint_of(checkpoint: Path, options: Mapping[str, object]) -> str:
    """SHA-256 of the weights and of the options if there are any: equal ones make equal codes of equal audio.

    Args:
        checkpoint: weights file
        options: what the model is configured with

    Returns:
        The sum, hexadecimal.
    """
    return _fingerprint(file_sha256(checkpoint), options)


def _fingerprint(weights: str, options: Mapping[str, object]) -> str:
    if not options:
        return weights
    return hashlib.sha256(f"{weights} {json.dumps(options, sort_keys=True)}".encode()).hexdigest()


def _fits(info: Described) -> bool:
    """Whether the weights file is there and is the one that the fingerprint vouches for."""
    if not info.checkpoint.is_file():
        return False
    weights = file_sha256(info.checkpoint)
    # the first releases left the options out
    return info.fingerprint in (_fingerprint(weights, info.options), weights)


@dataclass(frozen=True)
class InfoKind:
    """A kind of description.

    Attributes:
        noun: what it describes, for errors.
        info: name of the file without its suffix, which is also that of the user's option.
        key: of the registered name; the options are under KEY_conf.
        command: that writes it.
    """

    noun: str
    info: str
    key: str
    command: str

    def read(self, path: Path | str, build: Callable[[Content], T]) -> T:
        """A description; the weights are not opened.

        Args:
            path: the file, or the directory that holds it
            build: makes it of what was read; its errors are those of the file

        Returns:
            What `build` returns; the path of the weights is usable from the current directory.

        Raises:
            FileNotFoundError: if the file is missing
            UserError: if it is not complete
        """
        path = Path(path)
        if path.is_dir():
            path = path / f"{self.info}.yaml"
        if not path.is_file():
            raise FileNotFoundError(f"{self.info} not found: {path} ({self.command} writes it)")
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            options = dict(content[f"{self.key}_conf"])
            checkpoint = path.parent / options.pop("checkpoint")
            spec, origin = CodecSpec(**content["spec"]), dict(content.get("origin") or {})
            return build(Content(content[self.key], checkpoint, options, spec, content["fingerprint"], origin, content))
        except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:  # a file that is not UTF-8 is a ValueError
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(f"{self.info} must be a file written by {self.command}, got {path} ({reason})") from None

    def write(self, info: Described, name: str, path: Path, further: Mapping[str, object]) -> None:
        """Write a description that names the weights file relative to itself: both can be moved together.

        Args:
            info: what it says
            name: registered name
            path: file to write
            further: what this kind says besides
        """
        content = {
            self.key: name,
            f"{self.key}_conf": {
                "checkpoint": os.path.relpath(info.checkpoint.resolve(), path.parent.resolve()),
                **info.options,
            },
            "spec": asdict(info.spec),
            **further,
            "fingerprint": info.fingerprint,
            "origin": info.origin,
        }
        with atomic_path(path) as temporary:
            temporary.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")

    def check_weights(self, info: Described, described_by: Path | str) -> None:
        """Refuse weights that the description does not vouch for.

        Args:
            info: what it says
            described_by: the file, for errors

        Raises:
            FileNotFoundError: if the weights file is missing
            UserError: if it is another
        """
        if not info.checkpoint.is_file():
            raise FileNotFoundError(f"{self.noun} file not found: {info.checkpoint} (named by {described_by})")
        if not _fits(info):
            found = fingerprint_of(info.checkpoint, info.options)
            raise UserError(
                f"fingerprint of {self.noun} file {info.checkpoint} must be {info.fingerprint[:12]}… as in "
                f"{described_by}, got {found[:12]}…: it is another {self.noun}, or the file is damaged"
            )

    def copy_weights(self, info: Described, path: Path | str, weights: Path) -> bool:
        """Put the weights beside a description of the same model, if there is one.

        Args:
            info: the model
            path: file or directory that describes it, for errors
            weights: file to write

        Returns:
            Whether the description is to be written, too; otherwise both were there already.

        Raises:
            FileNotFoundError: if the weights file is missing
            UserError: if the weights do not fit their fingerprint, or the directory holds another model
        """
        self.check_weights(info, path)
        directory = weights.parent
        if (directory / f"{self.info}.yaml").exists():
            existing = self.read(directory, lambda content: content)
            if existing.fingerprint != info.fingerprint:
                raise UserError(
                    f"{directory} must hold the {self.noun} of {path} ({info.fingerprint[:12]}…), "
                    f"got {existing.name} {existing.fingerprint[:12]}…: use another directory"
                )
            if _fits(existing):
                return False
        with atomic_path(weights) as temporary:
            shutil.copyfile(info.checkpoint, temporary)
        return True
