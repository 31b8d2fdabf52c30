"""Codecs and semantic tokenizers on disk: weights, and the yaml file that describes them and vouches for them."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

import yaml

from espnet_ext.codes import CodecSpec
from espnet_ext.errors import UserError
from espnet_ext.options import check_flag, parse_yaml
from espnet_ext.registry import Registry
from espnet_ext.storage.atomic import atomic_path
from espnet_ext.storage.checksums import content_hash, verify
from espnet_ext.storage.tensor_files import SUFFIX, read_arrays, write_tensors
from espnet_ext.storage.yaml_files import without_paths
from espnet_ext.tokenizers.audio import AudioTokenizer

T = TypeVar("T", bound=AudioTokenizer)


@dataclass(frozen=True)
class Description:
    """Contents of a codec_info.yaml or semantic_info.yaml, which lies beside weights, beside ids and in experiments.

    Attributes:
        name: registered name.
        checkpoint: weights file.
        options: what `configure` takes.
        spec: codebooks, frame rate, sample rate.
        fingerprint: what `fingerprint_of` says of weights file and options. One that was exported keeps that of the
            original, as a name: codes that were made earlier stay its own.
        origin: how it was made, for the reader.
        deduplicate: whether a model sees the units of a semantic tokenizer without repetitions; those on disk have
            them.
        exported: SHA-256 of the weights file where it is an export, which the fingerprint cannot vouch for.
    """

    name: str
    checkpoint: Path
    options: dict[str, object]
    spec: CodecSpec
    fingerprint: str
    origin: dict[str, object]
    deduplicate: bool = False
    exported: str | None = None

    def fits(self) -> bool:
        """Whether the weights file is there and is the one that the fingerprint, or `exported`, vouches for."""
        if not self.checkpoint.is_file():
            return False
        weights = _sha256(self.checkpoint)
        if self.exported is not None:
            return weights == self.exported
        # the first releases left the options out
        return self.fingerprint in (_fingerprint(weights, self.options), weights)


def fingerprint_of(checkpoint: Path, options: Mapping[str, object]) -> str:
    """SHA-256 of the weights and of the options if there are any: equal ones make equal codes of equal audio."""
    return _fingerprint(_sha256(checkpoint), options)


def _sha256(path: Path) -> str:
    """Of a file's bytes, hexadecimal; a process reads it once for that and for `verify`."""
    found = content_hash(path)
    if found is None:
        raise OSError(f"{path} cannot be read")
    return found


def _fingerprint(weights: str, options: Mapping[str, object]) -> str:
    if not options:
        return weights
    return hashlib.sha256(f"{weights} {json.dumps(options, sort_keys=True)}".encode()).hexdigest()


@dataclass(frozen=True)
class TokenizerFiles(Generic[T]):
    """Directories with tokenizers of one kind: a yaml file beside the weights.

    Attributes:
        classes: by registered name; their kind is also the name of the user's options and of the file.
        noun: what a tokenizer of this kind is called in errors.
        key: of the registered name in the file; the options are under KEY_conf.
        command: that writes the file.
        has_deduplicate: whether the file tells what models shall do with repetitions.
    """

    classes: Registry[type[T]]
    noun: str
    key: str
    command: str
    has_deduplicate: bool = False

    @property
    def file(self) -> str:
        """Name of the yaml file."""
        return f"{self.classes.kind}_info.yaml"

    def check_conf(self, name: str, conf: Mapping[str, object], further: Iterable[str] = ()) -> None:
        """Refuse options that a class does not have.

        Args:
            name: registered name.
            conf: options for `create` and `configure`.
            further: options that all classes have.

        Raises:
            UserError: if the class or an option is unknown.
        """
        created = inspect.signature(self.classes[name].create).parameters  # type: ignore[attr-defined]
        known = [key for key in created if key not in ("waveforms", "seed")]
        known += [*self.choices(name), *further]
        for key in conf:
            if key not in known:
                raise UserError(f"{self.classes.kind}_conf of {name} must be among {known}, got {key!r}")

    def choices(self, name: str) -> list[str]:
        """Names of the options that can be chosen about one that exists."""
        return list(inspect.signature(self.classes[name].configure).parameters)[1:]

    def read(self, path: Path | str) -> Description:
        """A description; the weights are not opened.

        Args:
            path: the file, or the directory that holds it.

        Returns:
            The description; `checkpoint` is usable from the current directory.

        Raises:
            FileNotFoundError: if the file is missing.
            UserError: if it is not complete.
        """
        path, what = Path(path), self.file.removesuffix(".yaml")
        if path.is_dir():
            path = path / self.file
        if not path.is_file():
            raise FileNotFoundError(f"{what} not found: {path} ({self.command} writes it)")
        verify(path)
        try:
            content = parse_yaml(path.read_text(encoding="utf-8-sig"))
            options = dict(content[f"{self.key}_conf"])
            checkpoint = path.parent / options.pop("checkpoint")
            spec, origin = CodecSpec(**content["spec"]), dict(content.get("origin") or {})
            deduplicate = content["deduplicate"] if self.has_deduplicate else False
            check_flag("deduplicate", deduplicate)
            name, fingerprint, exported = content[self.key], content["fingerprint"], content.get("exported")
            if not all(isinstance(text, str) for text in (name, fingerprint, exported or "")):
                raise TypeError(f"{self.key}, fingerprint and exported must be texts")
            json.dumps(options, sort_keys=True)  # as the fingerprint is made of them
            return Description(name, checkpoint, options, spec, fingerprint, origin, deduplicate, exported)
        except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:  # a file that is not UTF-8 is a ValueError
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(f"{what} must be a file written by {self.command}, got {path} ({reason})") from None

    def write(self, info: Description, path: Path) -> None:
        """Write a description that names the weights file relative to itself: both can be moved together.

        Args:
            info: what it says.
            path: file to write.
        """
        checkpoint = os.path.relpath(info.checkpoint.resolve(), path.parent.resolve())
        content = {
            self.key: info.name,
            f"{self.key}_conf": {"checkpoint": checkpoint, **info.options},
            "spec": asdict(info.spec),
            **({"deduplicate": info.deduplicate} if self.has_deduplicate else {}),
            "fingerprint": info.fingerprint,
            **({} if info.exported is None else {"exported": info.exported}),
            "origin": info.origin,
        }
        with atomic_path(path) as temporary:
            temporary.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")

    def save(
        self, made: T, name: str, directory: Path, origin: dict[str, object], deduplicate: bool = False
    ) -> Description:
        """Write weights and description, the latter last, so that its presence means that all is there.

        Args:
            made: what is to be written.
            name: registered name.
            directory: made when missing.
            origin: how it was made.
            deduplicate: what models shall do with repetitions.

        Returns:
            The description.
        """
        checkpoint = directory / made.weights_name
        with atomic_path(checkpoint) as temporary:
            made.save(temporary)
        options = made.configured()
        fingerprint = fingerprint_of(checkpoint, options)
        info = Description(name, checkpoint, options, made.spec, fingerprint, origin, deduplicate)
        self.write(info, directory / self.file)
        return info

    def load(self, path: Path | str) -> T:
        """What a description describes.

        Args:
            path: the description, or a directory that holds it.

        Returns:
            The codec or tokenizer, on the CPU.

        Raises:
            FileNotFoundError: if description or weights are missing.
            UserError: if the class is unknown or the weights are not those that the fingerprint vouches for.
        """
        info = self.read(path)
        try:
            kind, known = self.classes[info.name], self.choices(info.name)
        except UserError as error:
            raise UserError(f"{error} (in {path})") from None
        self._check_weights(info, path)
        try:
            made = kind.load(info.checkpoint)
        except UserError:
            raise
        except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:  # made by somebody else
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise UserError(f"{self.noun} file {info.checkpoint} must be of {info.name} ({reason})") from error
        for key in info.options:
            if key not in known:
                raise UserError(f"{self.key}_conf in {path} must be among {known}, got {key!r}")
        made.configure(**info.options)
        if made.spec != info.spec:
            raise UserError(f"spec in {path} must be that of {info.checkpoint} ({made.spec}), got {info.spec}")
        return made

    def check(self, path: Path | str) -> Description:
        """A description, as `read` does, whose weights are there and are those that it vouches for."""
        info = self.read(path)
        self._check_weights(info, path)
        return info

    def copy(self, path: Path | str, directory: Path) -> Path:
        """Put weights and description into an experiment directory, which then needs no others.

        Args:
            path: the description, or a directory that holds it.
            directory: gets both; the same ones there already are left as they are.

        Returns:
            The description of the copy.

        Raises:
            FileNotFoundError: if description or weights are missing.
            UserError: if the weights do not fit their fingerprint, or the directory holds others.
        """
        info, target = self.check(path), directory / self.file
        name = Path(self.classes[info.name].weights_name)
        copied = replace(info, checkpoint=directory / (name if info.exported is None else name.with_suffix(SUFFIX)))
        if target.exists():
            there = self.read(target)
            if there.fingerprint != info.fingerprint:
                raise UserError(
                    f"{directory} must hold the {self.noun} of {path} ({info.fingerprint[:12]}…), "
                    f"got {there.name} {there.fingerprint[:12]}…: use another directory"
                )
            if there.deduplicate != info.deduplicate:
                raise UserError(
                    f"{directory} must have deduplicate {info.deduplicate} as {path}: use another directory"
                )
            if there.fits():
                return target
        with atomic_path(copied.checkpoint) as temporary:
            shutil.copyfile(info.checkpoint, temporary)
        self.write(copied, target)
        return target

    def export(self, path: Path | str, directory: Path) -> None:
        """Put it into a directory as one can share it: weights as safetensors, a description without anybody's paths.

        Args:
            path: the description, or a directory that holds it.
            directory: made when missing.

        Raises:
            FileNotFoundError: if description or weights are missing.
            UserError: if the weights do not fit their fingerprint, or its class cannot read the export.
        """
        info = self.read(path)
        self._check_weights(info, path)
        checkpoint = directory / Path(self.classes[info.name].weights_name).with_suffix(SUFFIX)
        arrays = read_arrays(info.checkpoint, f"{self.noun} file")
        with atomic_path(checkpoint) as temporary:
            write_tensors(temporary, arrays, info.checkpoint)
        origin = without_paths(info.origin)
        self.write(
            replace(info, checkpoint=checkpoint, exported=_sha256(checkpoint), origin=origin), directory / self.file
        )
        try:
            self.load(directory)
        except (ValueError, OSError) as error:  # a class of another package, whose `load` knows its own files only
            raise UserError(
                f"{self.noun} {info.name} must read its weights with read_arrays to be exported ({error})"
            ) from None

    def _check_weights(self, info: Description, described_by: Path | str) -> None:
        if not info.checkpoint.is_file():
            raise FileNotFoundError(f"{self.noun} file not found: {info.checkpoint} (named by {described_by})")
        if not info.fits():
            options = info.options if info.exported is None else {}
            found, expected = fingerprint_of(info.checkpoint, options), info.exported or info.fingerprint
            raise UserError(
                f"fingerprint of {self.noun} file {info.checkpoint} must be {expected[:12]}… as in "
                f"{described_by}, got {found[:12]}…: it is another {self.noun}, or the file is damaged"
            )
