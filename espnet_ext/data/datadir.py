"""Kaldi-style data directories: tables of one utterance per line, sorted as in the C locale."""

from __future__ import annotations

import codecs
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from espnet_ext.errors import UserError
from espnet_ext.storage.atomic import atomic_path
from espnet_ext.storage.checksums import verify

LANGUAGES_NAME, SEGMENTS_NAME = "utt2lang", "segments"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def shown(key: str) -> str:
    """A key as messages show it: escaped where it has characters that may not be seen, or look like others."""
    return key if key.isascii() and key.isprintable() else ascii(key)


def _check_key(key: str, place: str) -> None:
    # keys become file names: a slash would lead into another directory, and control characters ruin a terminal
    if "/" in key:
        raise UserError(f"{place}: a key must not contain '/', got {key!a}")
    if key in (".", "..") or _CONTROL.search(key):
        raise UserError(f"{place}: a key must be a name, got {key!a}")


def is_key(name: str) -> bool:
    """Whether a name can be an id of a table."""
    return (
        len(name.split()) == 1
        and name == name.strip()
        and name not in (".", "..")
        and not re.search(r"/|[\x00-\x1f\x7f-\x9f]", name)
    )


def read_scp(
    path: Path | str, allow_empty: bool = False, in_order: bool = True, as_written: bool = False
) -> dict[str, str]:
    """The table of `path`: key → rest of the line, sorted as in the C locale.

    Args:
        path: wav.scp, text, utt2spk, …
        allow_empty: accept a key without a value; the value is then the empty string.
        in_order: whether the file must be sorted so, as those are that a stage wrote.
        as_written: leave paths as they are in the file, which are relative to this directory for other readers.

    Returns:
        The table; the relative paths of an .scp file are those of the directory above it that has them.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: naming file and line, if a line is not UTF-8, has no key or no value, or its key has a slash, is a
            duplicate or out of C-locale order.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; the stage that writes it has not finished")
    verify(path)
    table: dict[str, str] = {}
    previous = ""
    # only "\n" ends a line: str.splitlines would also split at the odd Unicode separators of real transcripts
    lines = path.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n")
    if not lines[-1]:
        lines.pop()
    for number, raw in enumerate(lines, start=1):
        try:
            fields = raw.decode("utf-8").split(maxsplit=1)
        except UnicodeDecodeError as error:
            raise UserError(f"{path}:{number}: must be UTF-8, got byte {raw[error.start]:#x}") from error
        if b"\0" in raw:
            raise UserError(f"{path}:{number}: must be text, got a zero byte")
        if not fields or (len(fields) == 1 and not allow_empty):
            raise UserError(f"{path}:{number}: must be a key and a value, got {raw.decode()!a}")
        key = fields[0]
        _check_key(key, f"{path}:{number}")
        if key in table:
            raise UserError(f"{path}:{number}: {shown(key)} is a duplicate")
        if in_order and key < previous:  # code points order like UTF-8 bytes, which is the C locale
            raise UserError(
                f"{path}:{number}: must be sorted as in the C locale (LC_ALL=C sort), "
                f"got {shown(key)} after {shown(previous)}"
            )
        table[key] = fields[1].strip() if len(fields) == 2 else ""
        if path.suffix == ".scp" and _CONTROL.search(table[key]):  # paths, which messages show
            raise UserError(f"{path}:{number}: must name a file without control characters, got {table[key]!a}")
        previous = key
    table = table if in_order else dict(sorted(table.items()))
    return _from_here(path, table) if path.suffix == ".scp" and not as_written else table


def _from_here(scp: Path, table: dict[str, str]) -> dict[str, str]:
    """The table with paths that can be opened from this directory, though they were written in another one.

    Those of a table are written together, and relative to a directory above it: the first one tells. It is looked for
    from the table on, so that another recipe's file of the same name, in this directory, is not taken for it.
    """
    first = next((value for value in table.values() if not value.startswith("/") and not value.endswith("|")), "")
    name = first.rpartition(":")[0] or first
    base = next((folder for folder in scp.resolve().parents if name and os.path.isfile(folder / name)), None)
    if base is None or base == Path.cwd():
        return table
    return {key: str(base / value) for key, value in table.items()}


def read_counts(path: Path | str) -> dict[str, int]:
    """Key → whole number, of utt2num_frames for example.

    Args:
        path: the table.

    Returns:
        The numbers.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: naming file and line, if a value is no whole number from 0 to 2³¹.
    """
    table = read_scp(path)
    for number, (key, value) in enumerate(table.items(), start=1):
        if not re.fullmatch("[0-9]{1,10}", value, re.ASCII) or int(value) > 2**31:
            raise UserError(f"{path}:{number}: {shown(key)} must have a whole number, got {value[:40]!a}")
    return {key: int(value) for key, value in table.items()}


def read_if_there(path: Path | str, allow_empty: bool = False, in_order: bool = True) -> dict[str, str] | None:
    """The table of `path` as `read_scp` reads it; None if there is no such file."""
    return read_scp(path, allow_empty, in_order) if Path(path).is_file() else None


def read_segments(path: Path) -> dict[str, tuple[str, float, float | None]] | None:
    """Utterance → recording, begin and end in seconds, None for the recording's own; None if there is no such file.

    Args:
        path: Kaldi's segments, in any order.

    Returns:
        The table.

    Raises:
        UserError: naming file and utterance, if a line has other fields.
    """
    lines = read_if_there(path, in_order=False)
    segments: dict[str, tuple[str, float, float | None]] = {}
    for utterance, line in (lines or {}).items():
        try:
            recording, begin, end = line.split()
            if not math.isfinite(float(begin)) or not math.isfinite(float(end)):
                raise ValueError
            segments[utterance] = recording, float(begin), None if float(end) == -1 else float(end)
        except ValueError:
            raise UserError(f"{path}: {utterance} must have a recording, begin and end (s), got {line!r}") from None
    return None if lines is None else segments


def write_scp(path: Path | str, table: Mapping[str, object]) -> None:
    """Write one "key value" line per entry, sorted as in the C locale, in one piece.

    Args:
        path: file to write.
        table: keys without white space and slashes; values without line ends.

    Raises:
        UserError: if a key or a value would break the format.
    """
    write_sorted(path, ((key, table[key]) for key in sorted(table)))


def write_sorted(path: Path | str, entries: Iterable[tuple[str, object]]) -> None:
    """Write entries that are sorted already as `write_scp` does, one after the other.

    Args:
        path: file to write.
        entries: keys and values.

    Raises:
        UserError: if a key or a value would break the format.
    """
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as stream:
        for key, content in entries:
            value = str(content)
            if not key or len(key.split()) != 1 or key != key.strip():
                raise UserError(f"{path}: a key must be one word, got {key!a}")
            _check_key(key, str(path))
            if "\n" in value or "\r" in value:
                raise UserError(f"{path}: the value of {shown(key)} must be one line, got {value!r}")
            stream.write(f"{key} {value}".rstrip() + "\n")


def speaker_to_utterances(utt2spk: Mapping[str, str]) -> dict[str, list[str]]:
    """The utterances of every speaker, both sorted.

    >>> speaker_to_utterances({"b-1": "b", "a-2": "a", "a-1": "a"})
    {'a': ['a-1', 'a-2'], 'b': ['b-1']}
    """
    result: dict[str, list[str]] = {}
    for utterance, speaker in sorted(utt2spk.items(), key=lambda item: (item[1], item[0])):
        result.setdefault(speaker, []).append(utterance)
    return result


def write_data_dir(
    folder: Path | str, wav_scp: Mapping[str, object], text: Mapping[str, str] | None, utt2spk: Mapping[str, str]
) -> None:
    """Write wav.scp, text, utt2spk and spk2utt of the utterances of `wav_scp`.

    Args:
        folder: the data directory; made when missing.
        wav_scp: utterance → audio file.
        text: utterance → transcript; other keys are dropped, missing ones stay missing. None: there is no such file.
        utt2spk: utterance → speaker; other keys are dropped.

    Raises:
        UserError: if an utterance has no speaker.
    """
    folder = Path(folder)
    for utterance in wav_scp:
        if utterance not in utt2spk:
            raise UserError(
                f"{folder}/utt2spk must name the speaker of every utterance, got none for {shown(utterance)}"
            )
    speakers = {utterance: utt2spk[utterance] for utterance in wav_scp}
    if text is None:
        (folder / "text").unlink(missing_ok=True)
    else:
        write_scp(folder / "text", {utterance: text[utterance] for utterance in wav_scp if utterance in text})
    write_scp(folder / "utt2spk", speakers)
    write_scp(folder / "spk2utt", {key: " ".join(value) for key, value in speaker_to_utterances(speakers).items()})
    write_scp(folder / "wav.scp", wav_scp)  # last: later stages look for it first


def carry_table(name: str, source: Path, out: Path, kept: Iterable[str], in_order: bool = True) -> None:
    """Copy the lines of the utterances that are kept; without the table in the source, none stays in the copy.

    Args:
        name: of the table, such as utt2lang.
        source: data directory.
        out: the data directory made of it.
        kept: its utterances.
        in_order: whether the table must be sorted, see `read_scp`.
    """
    table = read_if_there(source / name, in_order=in_order)
    if table is None:
        (out / name).unlink(missing_ok=True)
    else:
        write_scp(out / name, {utterance: table[utterance] for utterance in kept if utterance in table})


def write_skipped(path: Path | str, skipped: Mapping[str, str]) -> None:
    """Write "name<TAB>reason" lines, sorted by name; an empty file when nothing was skipped.

    Args:
        path: file to write.
        skipped: utterance or file name → one-line reason.
    """
    lines = [f"{name}\t{' '.join(skipped[name].split())}\n" for name in sorted(skipped)]
    with atomic_path(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8", newline="\n")


def read_skipped(path: Path | str) -> dict[str, str]:
    """Utterance → reason, as `write_skipped` wrote it; empty without such a file.

    Args:
        path: the list.

    Returns:
        The table.

    Raises:
        UserError: if it is not UTF-8.
    """
    if not Path(path).is_file():
        return {}
    try:
        lines = [line.partition("\t") for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise UserError(f"{path} must be UTF-8, got something else ({error})") from None
    return {utterance: reason for utterance, _, reason in lines}


def skipped_summary(skipped: Mapping[str, str], most: int = 3) -> str:
    """One line for the log: how many of every reason and the first few names.

    Args:
        skipped: name → reason; what follows the first colon of a reason is a detail.
        most: names shown per reason.

    Returns:
        The line; "none" when nothing was skipped.

    >>> skipped_summary({"a": "missing wav", "b": "unreadable: bad header", "c": "missing wav"})
    '2 missing wav (a, c), 1 unreadable (b)'
    """
    by_reason: dict[str, list[str]] = {}
    for name in sorted(skipped):
        by_reason.setdefault(skipped[name].split(":")[0], []).append(name)
    parts = []
    for reason, names in sorted(by_reason.items()):
        listed = ", ".join(map(shown, names[:most])) + (", …" if len(names) > most else "")
        parts.append(f"{len(names)} {reason} ({listed})")
    return ", ".join(parts) or "none"
