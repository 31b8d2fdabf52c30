"""What every corpus layout offers: its utterances one by one, and by name what of it cannot be used."""

from __future__ import annotations

import importlib
import os
import re
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from espnet_ext.data.audio import Span
from espnet_ext.errors import UserError, needs_package
from espnet_ext.registry import Registry

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")
UTF8 = "utf-8"
_UNDECODED = re.compile("[\udc80-\udcff]")  # what `surrogateescape` makes of bytes that are not UTF-8
# how texts of other encodings begin: with a mark, or with a letter and the zeros that belong to it
_BEGINNINGS = {
    rb"\xff\xfe\0\0|\0\0\xfe\xff": "utf-32",
    rb"\xff\xfe|\xfe\xff": "utf-16",
    rb"[^\0]\0[^\0]\0": "utf-16-le",
    rb"\0[^\0]\0[^\0]": "utf-16-be",
}


@dataclass(frozen=True)
class Utterance:
    """A recording, or a part of one, and what is said in it.

    Attributes:
        name: id of the utterance.
        audio: file.
        text: transcript.
        place: file, and line where it has several, that says so.
        speaker: as the corpus names him, empty where it does not.
        language: likewise.
        span: part of the file; all of it if it has neither begin nor end.
    """

    name: str
    audio: str
    text: str
    place: str
    speaker: str = ""
    language: str = ""
    span: Span = Span()


@dataclass(frozen=True)
class Skipped:
    """What cannot be used: its name, and why, the kind of trouble before the first colon."""

    name: str
    reason: str


@dataclass(frozen=True)
class Source:
    """Where a corpus is and how it is to be read.

    Attributes:
        root: its folder.
        encoding: of its texts.
        delimiter: between the columns of a table; empty: the one that its first line has.
        audio_dirs: folders besides the root that audio may lie in.
        unpacked: folder for audio that lies in tables instead of files.
    """

    root: Path
    encoding: str = UTF8
    delimiter: str = ""
    audio_dirs: Sequence[Path] = ()
    unpacked: Path = Path("unpacked")

    def allows(self, audio: str) -> bool:
        """Whether a file lies in the corpus, links followed: what a table names comes from somebody else."""
        return self._holds(audio, os.path.islink(audio))

    def _holds(self, audio: str, is_link: bool) -> bool:
        folder, name = os.path.split(audio)
        real = os.path.realpath(audio) if is_link else f"{_real_folder(folder)}{name}"
        return any(real.startswith(_real_folder(str(one))) for one in (self.root, *self.audio_dirs))

    def located(self, audio: str) -> str:
        """A path of a table; relative ones are so to the corpus or a folder above it, as those of whole recipes."""
        if os.path.isabs(audio):
            return audio
        near = os.path.join(self.root, audio)
        if os.path.isfile(near):
            return near
        return next((str(one / audio) for one in self.root.resolve().parents if (one / audio).is_file()), near)

    def refusal(self, name: str, audio: str, place: str) -> Skipped | None:
        """Why an audio file is not used; None if it may be."""
        try:
            kind = os.lstat(audio).st_mode
        except (OSError, ValueError):  # the latter for a name with a zero byte
            kind = 0
        is_link = stat.S_ISLNK(kind)
        if not (stat.S_ISREG(kind) or is_link and os.path.isfile(audio)):
            return Skipped(name, f"missing audio: {audio} of {place}")
        if not self._holds(audio, is_link):
            return Skipped(name, f"audio outside of the corpus: {audio} of {place}; --audio_dir names its folder")
        return None


@lru_cache(maxsize=4096)
def _real_folder(folder: str) -> str:
    return os.path.join(os.path.realpath(folder), "")


class Layout(ABC):
    """A way to lay out a corpus.

    Args:
        source: the corpus.

    Attributes:
        lists_audio: whether audio that nothing names is an oversight.
    """

    lists_audio: ClassVar[bool] = False

    def __init__(self, source: Source) -> None:
        self.source = source

    @classmethod
    @abstractmethod
    def fits(cls, root: Path) -> bool:
        """Whether a folder is laid out so, as far as the names of its files tell."""

    @abstractmethod
    def read(self) -> Iterator[Utterance | Skipped]:
        """The utterances in any order, none kept in memory.

        Yields:
            Utterances, and what is unusable of them.

        Raises:
            UserError: naming file and line, if the corpus as a whole cannot be read.
        """

    def told(self) -> str:
        """How it is read, for the report: what had to be decided about it; behind `read`."""
        return ""


layouts: Registry[type[Layout]] = Registry("layout", "espnet_ext.layout")

register_layout = layouts.register


def find_layout(name: str, root: Path) -> type[Layout]:
    """The layout of a corpus.

    Args:
        name: of the layout; auto: the one that fits.
        root: folder of the corpus.

    Returns:
        The layout.

    Raises:
        UserError: if it is unknown, or none or several fit.
    """
    if not root.is_dir():
        raise UserError(f"--corpus must be a folder, got {root}" + (" (unpack it first)" if root.is_file() else ""))
    if name != "auto":
        return layouts[name]
    fitting = [one for one in layouts if one != "beside" and layouts[one].fits(root)]
    if len(fitting) > 1:
        raise UserError(f"--layout must say which one of {fitting} {root} is: it has the files of each")
    if not fitting and not layouts["beside"].fits(root):
        raise UserError(
            f"--corpus {root} must have metadata.csv, wav.scp, a .txt beside each recording, a datasets folder or a "
            "lhotse manifest (docs/own-data.md), found none"
        )
    return layouts[fitting[0] if fitting else "beside"]


def needed_package(name: str, layout: str) -> Any:
    """The module that a layout reads with; where it is missing, a UserError tells the extra of its package's name."""
    with needs_package(f"--layout {layout}", f"'espnet_ext[{name.partition('.')[0]}]'"):
        return importlib.import_module(name)


def one_word(name: str) -> str:
    """A name as an id can have it: folders joined by "-", blanks as "_".

    >>> one_word("anna/take 1")
    'anna-take_1'
    """
    return "_".join(part for part in "-".join(part for part in name.split("/") if part not in ("", ".", "..")).split())


def without_suffix(name: str) -> str:
    """The name of a file without the suffix of an audio file."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in AUDIO_SUFFIXES else name


def lines_of(path: Path, encoding: str) -> Iterator[tuple[int, str]]:
    """The lines of a text file with their numbers; bytes that are not UTF-8 stay in them for `trouble_of`.

    Args:
        path: the file.
        encoding: what it is said to be.

    Yields:
        Number, and line without its end.

    Raises:
        UserError: if the file is of another encoding as a whole.
    """
    is_utf8 = encoding.lower().replace("_", "-") in ("utf-8", "utf8")
    with path.open("rb") as stream:
        head = stream.read(4)
    other = next((name for beginning, name in _BEGINNINGS.items() if re.match(beginning, head)), "")
    if is_utf8 and other:
        raise UserError(f"{path}:1: must be UTF-8, begins as {other.upper()} does: --encoding {other} reads it")
    try:
        with path.open(
            encoding="utf-8-sig" if is_utf8 else encoding, errors="surrogateescape" if is_utf8 else "strict",
            newline="\n",
        ) as lines:  # fmt: skip
            for number, line in enumerate(lines, start=1):
                yield number, line.rstrip("\r\n")
    except (UnicodeError, LookupError) as error:
        raise UserError(f"--encoding {encoding} must be that of {path} ({error})") from None


def trouble_of(line: str, place: str) -> str:
    """What is wrong with the characters of a line; the empty string if nothing is."""
    if found := _UNDECODED.search(line):
        byte = ord(found[0]) - 0xDC00
        return f"not UTF-8: {place} has byte {byte:#x}; if all of it is Latin-1, --encoding latin-1 reads it"
    if "\0" in line:
        return f"not a text: {place} has a zero byte"
    if "\r" in line:
        return f"odd end of line: {place} has a carriage return inside of a line"
    return ""


def files_below(folder: str) -> Iterator[str]:
    """Files below a folder, hidden ones left out, links to folders not followed; one listing is open per level."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from files_below(entry.path)
            else:
                yield entry.path
