"""Where a voice is, whatever names it: a directory, a packed file, an address, a hub's id, or one that comes along."""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import quote, urlsplit, urlunsplit

from espnet_ext.errors import UserError
from espnet_ext.storage.download import Source, download
from espnet_ext.storage.own_cache import own_cache
from espnet_ext.storage.shipped import VOICES, shipped_folder
from espnet_ext.storage.voice_files import VOICE_NAME, check_list
from espnet_ext.storage.yaml_files import read_yaml
from espnet_ext.storage.zip_files import unpack_stream

META_NAME = "meta.yaml"  # of ESPnet's own packer
DEFAULT_VOICE = "mini"
MOST_BYTES = 2**33  # of a voice that is fetched
NO_OWNERS = {"exp", "exp_tiny", "data", "dump", "conf", "egs2", "egs3", "downloads"}  # of a hub: a recipe's directories
FROM_HUB = [f"*{suffix}" for suffix in (".json", ".yaml", ".safetensors", ".npz", ".pth", ".tflite", ".model", ".zip")]
HUB_NAME = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
_HUB_ID = re.compile(rf"(?P<repo>{HUB_NAME})(?:@(?P<revision>[\w./-]+))?")


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


def is_address(name: str) -> bool:
    """Whether a name is that of something far away."""
    return name.startswith(("http://", "https://"))


def voice_name(given: str) -> Path | str:
    """What names a voice on a command line: a path, or an address, of which a path would drop a slash.

    >>> voice_name("http://here/voice.zip"), str(voice_name("exp/small_s1/"))
    ('http://here/voice.zip', 'exp/small_s1')
    """
    return given if is_address(given) else Path(given)


def default_voice() -> Path:
    """The packed voice that speaks where none is named; a FileNotFoundError if it did not come along."""
    voices = shipped_voices()
    if DEFAULT_VOICE not in voices:
        raise FileNotFoundError(f"voice {DEFAULT_VOICE} did not come along: name an experiment, or a packed voice")
    return voices[DEFAULT_VOICE]


def pretrained(source: Path | str) -> Pretrained:
    """The experiment that a name stands for; what is packed or far away is unpacked into this user's cache, once.

    Args:
        source: the name of a voice that comes with the package, an experiment directory, a .zip of ``espnet-ext pack``
            or of ESPnet's packer, its address, or a hub's ``owner/name`` or ``owner/name@revision``.

    Returns:
        The experiment.

    Raises:
        FileNotFoundError: if there is nothing of that name.
        UserError: if it cannot be fetched, or is damaged.
    """
    name, path = str(source), Path(source)
    voices = shipped_voices()
    if is_address(name):
        return _fetched(name)
    if path.is_dir():  # what lies here comes first
        return _inside(path, path)
    if name in voices:
        return _unpacked(voices[name])
    if path.is_file():
        return _unpacked(path)
    hub = None if path.parent.is_dir() or path.suffix == ".zip" else _HUB_ID.fullmatch(name)
    if hub is not None and hub["repo"].partition("/")[0] not in NO_OWNERS:
        return _inside(_snapshot(hub["repo"], hub["revision"]), path)
    told = f"a hub's owner/name, or one of the voices that come along, {list(voices)}"
    raise FileNotFoundError(f"voice not found: {source}; it may be a directory, a .zip, its address, {told}")


def _fetched(url: str) -> Pretrained:
    """The experiment at an address that may end in ``#sha256=HEX``; the file is downloaded once."""
    address, _, fragment = url.partition("#")
    checksum = fragment.removeprefix("sha256=").lower()
    if fragment and not re.fullmatch("[0-9a-f]{64}", checksum):
        raise UserError(f"an address may end in #sha256= and 64 digits, got #{fragment!a}")
    try:
        parts = urlsplit(address)
        address = urlunsplit(parts._replace(path=quote(parts.path, safe="/%")))
        address.encode("ascii")
    except ValueError as error:
        raise UserError(f"voice must be an address, got {url!a} ({error})") from None
    source = Source(address, f"sha256:{checksum}" if fragment else "", most_bytes=MOST_BYTES)
    archive = own_cache() / "downloads" / f"{hashlib.sha256(url.encode()).hexdigest()}.zip"
    download(source, archive)
    try:
        return _unpacked(archive, checksum)
    except UserError as error:
        archive.unlink()  # the next call fetches it again
        raise UserError(f"{url} is no voice: {error}") from None


def _unpacked(archive: Path, checksum: str = "") -> Pretrained:
    """The experiment in a packed file; one that was unpacked earlier is used where nothing of it has changed.

    Args:
        archive: the file, which is opened once: what is unpacked is what was looked at.
        checksum: SHA-256 that it must have; empty for any.

    Returns:
        The experiment.

    Raises:
        UserError: if it cannot be read, is damaged, or is another file.
    """
    try:
        stream = archive.open("rb")
    except OSError as error:
        raise UserError(f"{archive} cannot be read: {error.strerror}") from None
    with stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if checksum not in ("", digest):
            raise UserError(f"it has another checksum, {digest}")
        place = own_cache() / "voices" / digest
        if place.is_dir():
            try:
                return _listed(place)
            except UserError:  # somebody changed it there: the archive is still what it was
                shutil.rmtree(place, ignore_errors=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as temporary:
            unpacked = Path(temporary) / "voice"
            unpack_stream(stream, archive, unpacked)
            found = _listed(unpacked)  # what is refused does not stay
            try:
                unpacked.rename(place)
            except OSError:  # another process was faster
                return _listed(place)
    return found._replace(directory=place / found.directory.relative_to(unpacked))


def _listed(directory: Path) -> Pretrained:
    """The experiment in an unpacked archive, which tells what is in it, in our words or in ESPnet's."""
    if (directory / VOICE_NAME).is_file():
        check_list(directory)
        return Pretrained(directory)
    if (directory / META_NAME).is_file():
        return _of_espnet(directory)
    raise UserError(f"a packed voice must hold {VOICE_NAME} or ESPnet's {META_NAME}, got neither")


def _inside(directory: Path, named: Path) -> Pretrained:
    """The experiment in a directory of the user's or of a hub, which may hold one packed file instead."""
    if any((directory / name).is_file() for name in (VOICE_NAME, META_NAME)):
        return _listed(directory)
    packed = sorted(directory.glob("*.zip"))
    if packed and not (directory / "config.yaml").is_file():
        if len(packed) > 1:
            raise UserError(f"{named} must hold one packed voice, got {[path.name for path in packed]}: name one")
        return _unpacked(packed[0])
    return Pretrained(directory)


def _snapshot(repo: str, revision: str | None) -> Path:
    """A repository of the Hugging Face hub, in that one's own cache."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError  # type: ignore[attr-defined]
    except ModuleNotFoundError:
        told = "there is no such directory here; pip install 'espnet_ext[hub]' fetches one of that name from the hub"
        raise UserError(f"voice {repo} not found: {told}") from None
    logging.info("there is no directory %s here: fetching it from the hub", repo)
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=FROM_HUB))
    except (HTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"there is no directory {repo} here, and the hub has none to fetch: {reason}") from None


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
    if weights.parent != config.parent or config.name != "config.yaml":
        raise UserError(f"{directory / META_NAME} must name a config.yaml and weights beside it, got {found}")
    return Pretrained(config.parent, weights.name)
