"""Where a voice is, whatever names it: a directory, a packed file, an address, a hub's id, or one that comes along."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from espnet_ext.errors import UserError
from espnet_ext.storage.checksums import content_hash
from espnet_ext.storage.download import Source, download
from espnet_ext.storage.own_cache import own_cache
from espnet_ext.storage.shipped import VOICES, shipped_folder
from espnet_ext.storage.voice_files import VOICE_NAME, check_list
from espnet_ext.storage.yaml_files import read_yaml
from espnet_ext.storage.zip_files import unpack_zip

META_NAME = "meta.yaml"  # of ESPnet's own packer
DEFAULT_VOICE = "mini"
_HUB_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w./-]+))?")


class Pretrained(NamedTuple):
    """An experiment that somebody else trained.

    Attributes:
        directory: of the experiment.
        model_file: weights inside of it; None for those that config.yaml tells.
    """

    directory: Path
    model_file: str | None = None


def shipped_voices() -> dict[str, Path]:
    """The voices that come with the package: name → file of ``espnet-ext pack``."""
    return {path.stem: path for path in sorted(shipped_folder(VOICES).glob("*.zip"))}


def pretrained(source: Path | str) -> Pretrained:
    """The experiment that a name stands for; what is packed or far away is unpacked into this user's cache, once.

    Args:
        source: an experiment directory, a .zip of ``espnet-ext pack`` or of ESPnet's packer, its address, a hub's
            ``owner/name`` or ``owner/name@revision``, or the name of a voice that comes with the package.

    Returns:
        The experiment.

    Raises:
        FileNotFoundError: if there is nothing of that name.
        UserError: if it cannot be fetched, or is damaged.
    """
    name, path = str(source), Path(source)
    if name.startswith(("http://", "https://")):
        return _unpacked(_downloaded(name))
    if path.is_dir():
        return _inside(path)
    if path.is_file():
        return _unpacked(path)
    if name in (voices := shipped_voices()):
        return _unpacked(voices[name])
    if not path.parent.is_dir() and path.suffix != ".zip" and (hub := _HUB_ID.fullmatch(name)):
        return _inside(_snapshot(hub["repo"], hub["revision"]))
    told = f"a hub's owner/name, or one of the voices that come along, {list(voices)}"
    raise FileNotFoundError(f"voice not found: {source}; it may be a directory, a .zip, its address, {told}")


def _downloaded(url: str) -> Path:
    """The file of an address that may end in ``#sha256=HEX``, downloaded once."""
    address, _, fragment = url.partition("#")
    checksum = fragment.removeprefix("sha256=").lower()
    if fragment and not re.fullmatch("[0-9a-f]{64}", checksum):
        raise UserError(f"an address may end in #sha256= and 64 digits, got #{fragment!a}")
    source = Source(address, f"sha256:{checksum}" if fragment else "")
    return download(source, own_cache() / "downloads" / f"{hashlib.sha256(url.encode()).hexdigest()}.zip")


def _unpacked(archive: Path) -> Pretrained:
    """The experiment in a packed file; one that was unpacked earlier is used where nothing of it has changed."""
    digest = content_hash(archive)
    if digest is None:
        raise UserError(f"{archive} cannot be read")
    place = own_cache() / "voices" / digest
    if not place.is_dir():
        unpack_zip(archive, place)
    return _inside(place)


def _snapshot(repo: str, revision: str | None) -> Path:
    """A repository of the Hugging Face hub, downloaded once."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError  # type: ignore[attr-defined]
    except ModuleNotFoundError:
        told = "there is no such directory here; pip install 'espnet_ext[hub]' fetches one of that name from the hub"
        raise UserError(f"voice {repo} not found: {told}") from None
    try:
        return Path(snapshot_download(repo, revision=revision))
    except (HTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"there is no directory {repo} here, and the hub has none to fetch: {reason}") from None


def _inside(directory: Path) -> Pretrained:
    """The experiment in an unpacked directory, after a look at its list, where it has one."""
    if (directory / VOICE_NAME).is_file():
        check_list(directory)
        return Pretrained(directory)
    if (directory / META_NAME).is_file() and not (directory / "config.yaml").is_file():
        return _of_espnet(directory)
    packed = sorted(directory.glob("*.zip"))
    if len(packed) == 1 and not (directory / "config.yaml").is_file():
        return _unpacked(packed[0])
    return Pretrained(directory)


def _of_espnet(directory: Path) -> Pretrained:
    """What ``espnet2.bin.pack`` wrote: the weights may have any name, meta.yaml tells it."""
    meta = read_yaml(directory / META_NAME, META_NAME)
    found = []
    for group in ("yaml_files", "files"):
        names = meta.get(group)
        values = list(names.values()) if isinstance(names, Mapping) else []
        if len(values) != 1 or not isinstance(values[0], str):
            raise UserError(f"{directory / META_NAME} must name one file in {group}, got {ascii(values)[:100]}")
        parts = PurePosixPath(values[0])
        if parts.is_absolute() or ".." in parts.parts:
            raise UserError(f"{directory / META_NAME} must name files inside of it, got {values[0]!a}")
        found.append(directory / parts)
    config, weights = found
    if weights.parent != config.parent:
        raise UserError(f"{config} and {weights.name} must lie in one directory, got {weights.parent}")
    return Pretrained(config.parent, weights.name)
