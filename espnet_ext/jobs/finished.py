"""The record of what is finished: what a step was told, and the contents of what it read.

A record lies in the directory that the step made. Contents are SHA-256 hashes, each beside size and times of its file,
so that files that have not changed are not read again. Python commands call `Record.make`. Jobs of the shell run this:

    python espnet_ext/jobs/finished.py [--force] [--resumable] DIRECTORY INPUT... -- COMMAND...

It ends with status 0 if DIRECTORY is finished, and else with status 3, after it has written DIRECTORY/.started. When
the command has ended well, the shell says so with --end, and .started becomes .done. Recipes ask often: only the
standard library is imported. Before a record is written, what was made is on the disk, and listed in .made.json.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espnet_ext.errors import UserError
from espnet_ext.storage.checksums import (
    MADE_NAME,
    NOT_LISTED,
    State,
    is_state,
    made_in,
    stamp_of,
    states_of,
    vouch,
    write_durably,
)
from espnet_ext.storage.lock import claim

FORMAT = "espnet_ext record 1"
RECORD_NAME, STARTED_NAME, DONE_NAME = ".finished.json", ".started", ".done"
SHARDS_NAME = "shards"
DUE = 3
# options that change no result, and how many values they have
NO_RESULT = {"--nj": 1, "--ngpu": 1, "--python": 1, "--dask_scheduler": 1, "--force": 0}


def changes(before: Mapping[str, State], now: Mapping[str, State]) -> list[str]:
    """Paths whose contents differ, or which are in one of two tables alone."""

    def content(states: Mapping[str, State], path: str) -> object:
        state = states.get(path, [])
        return state and state[-1]

    return [path for path in dict.fromkeys([*now, *before]) if content(before, path) != content(now, path)]


def files_of(inputs: Iterable[Path | str]) -> Iterator[str]:
    """The files that a step reads.

    Args:
        inputs: files; tables of files, *.scp, which stand for themselves and what they list; directories, which stand
            for the files directly in them, without hidden ones and logs.

    Yields:
        Paths; some may not exist.
    """
    for name in map(str, inputs):
        if os.path.isdir(name):
            for entry in sorted(os.scandir(name), key=lambda entry: entry.name):
                if entry.is_file() and not entry.name.startswith(".") and not entry.name.endswith(NOT_LISTED):
                    yield entry.path
            continue
        yield name
        if name.endswith(".scp") and os.path.isfile(name):
            yield from _listed(name)


def _listed(table: str) -> Iterator[str]:
    archives: set[str] = set()
    with open(table, encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            value = "".join(line.split(maxsplit=1)[1:]).strip()
            archive, _, offset = value.rpartition(":")
            if offset.isdigit() and (archive in archives or os.path.isfile(archive)):
                archives.add(archive)
            elif value and not value.endswith("|"):
                yield value
    yield from sorted(archives)


def _read(path: Path) -> dict[str, Any] | None:
    """The content of a record; None if there is none, or something else under its name."""
    if stamp_of(path) is None:  # nor a device or a pipe, which might never end
        return None
    try:
        content = json.loads(path.read_bytes())
        known = content["format"] == FORMAT and isinstance(content["request"], dict)
        whole = known and all(state is None or is_state(state) for state in content["files"].values())
        return content if whole else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


@dataclass(frozen=True)
class Record:
    """What a directory is made from.

    Attributes:
        path: file of the record, in the directory.
        request: options that the result depends on, as JSON has them.
        files: contents of what is read, as they were when the record was asked for.
    """

    path: Path
    request: dict[str, Any]
    files: dict[str, State]

    @classmethod
    def of(
        cls, directory: Path, request: Mapping[str, object], inputs: Iterable[Path | str] = (), name: str = RECORD_NAME
    ) -> Record:
        """Look at the inputs of a step that is to make a directory.

        Args:
            directory: what it makes.
            request: options that the result depends on, plain values.
            inputs: what it reads, see `files_of`.
            name: of the record in the directory.

        Returns:
            The record, which `make` or `write` puts into its place.
        """
        known: dict[str, State] = {}
        for other in {DONE_NAME, STARTED_NAME, RECORD_NAME, name}:
            known |= (_read(directory / other) or {}).get("files", {})
        plain = json.loads(json.dumps(dict(request), default=str))
        return cls(directory / name, plain, states_of(files_of(inputs), known))

    def why_not(self, made: Iterable[Path] = ()) -> str | None:
        """The reason why the directory is not finished.

        Args:
            made: what must be there besides the record.

        Returns:
            One line, empty if nothing was made before; None if it is finished. Files that people edit are not held
            against what was made, archives are: nothing that reads them could go on.
        """
        if not self.path.exists():
            return ""
        before = _read(self.path)
        if before is None:
            return f"{self.path} is not a whole record of this version"
        if before["request"] != self.request:
            return f"{self.path.parent} was made with other options"
        changed = changes(before["files"], self.files)
        if changed:
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            return f"{changed[0]}{more} changed after {self.path.parent} was made"
        lost = next((path for path in made if not path.exists()), None)
        if lost is not None:
            return f"{lost} is missing"
        damaged = _damaged_archive(self.path.parent)
        if damaged:
            return damaged
        if before["files"] != self.files:  # touched, or copied: need not be read again
            with suppress(OSError):
                self._put()
        return None

    def is_finished(self, made: Iterable[Path] = ()) -> bool:
        """Whether the directory is finished; if something else was made there, the log says why it does not count."""
        reason = self.why_not(made)
        if reason:
            logging.info("%s: it is made again", reason)
        return reason is None

    def write(self) -> None:
        """Vouch for the directory as it is, and write the record; call it after everything else is in place."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        vouch(self.path.parent)
        self._put()

    def _put(self) -> None:
        content = {"format": FORMAT, "request": self.request, "files": self.files}
        write_durably(self.path, json.dumps(content) + "\n")

    def begin(self) -> None:
        """Take back that it is finished; what is vouched for stays, by which the command sees what is damaged."""
        Record(self.path.with_name(STARTED_NAME), self.request, self.files)._put()
        self.path.unlink(missing_ok=True)

    def make(self, step: Callable[[], object], force: bool = False, made: Iterable[Path] = ()) -> bool:
        """Run a step unless its directory is finished.

        Args:
            step: makes the directory.
            force: run it anyway, and continue nothing.
            made: what must be there besides the record.

        Returns:
            Whether it ran.
        """
        directory = self.path.parent
        due = force or not self.is_finished(made)
        if due:
            with claim(directory):
                for path in (self.path, directory / MADE_NAME):
                    path.unlink(missing_ok=True)
                if force:
                    remove_shards(directory)
                step()
                self.write()
        else:
            logging.info("%s was made earlier from the same input: nothing to do", directory)
        if (directory / SHARDS_NAME).is_dir():
            remove_shards(directory)
        return due


def _damaged_archive(directory: Path) -> str | None:
    """Why an archive in a directory is not the one that was made there, in one line; None if all are."""
    try:
        archives = {str(directory / name): state for name, state in made_in(directory).items() if name.endswith(".ark")}
    except UserError:  # whoever reads from there says so
        return None
    damaged = changes(archives, states_of(archives, archives))
    return f"{damaged[0]} is damaged" if damaged else None


def remove_shards(directory: Path) -> None:
    """Remove the shards of a directory, and the temporary files of workers that were killed; call it at the very end.

    Args:
        directory: as given to `run_shards`.
    """
    for temporary in directory.rglob(".*.tmp*"):
        if temporary.is_file():
            temporary.unlink(missing_ok=True)
    shutil.rmtree(directory / SHARDS_NAME, ignore_errors=True)


def read_request(directory: Path, name: str = RECORD_NAME) -> dict[str, Any]:
    """The options that a finished directory was made with; empty if there is no record.

    Args:
        directory: made by a command with a record.
        name: of the record in it; those of the shell have a `command`.

    Returns:
        The options.
    """
    return dict((_read(directory / name) or {}).get("request", {}))


def check_record(path: Path) -> None:
    """Refuse a record that is damaged, or of another version."""
    if _read(path) is None:
        raise UserError(f"{path} is not a whole record of this version")


def _words(command: Sequence[str]) -> list[str]:
    """A command without its interpreter and the options that cannot change its result."""
    words, skip = [], 1
    for word in command:
        if skip:
            skip -= 1
        elif word in NO_RESULT:
            skip = NO_RESULT[word]
        else:
            words.append(word)
    return words


def _epochs(words: Sequence[str]) -> tuple[int | None, list[str]]:
    """The number behind --max_epoch, None unless there is one, and all other words."""
    rest = list(words)
    if rest.count("--max_epoch") != 1 or rest[-1] == "--max_epoch":
        return None, rest
    place = rest.index("--max_epoch")
    value = rest.pop(place + 1)
    rest.pop(place)
    return (int(value) if value.isdigit() else None), rest


def _may_continue(record: Record) -> bool:
    """Whether what was begun there differs in nothing, or in having fewer epochs alone."""
    before = _read(record.path.with_name(STARTED_NAME)) or _read(record.path)
    if before is None or changes(before["files"], record.files):
        return False
    if before["request"] == record.request:
        return True
    try:
        (old, rest), (new, same) = (_epochs(request["command"]) for request in (before["request"], record.request))
    except (KeyError, ValueError, TypeError, AttributeError):  # no record of ours
        return False
    return old is not None and new is not None and old <= new and rest == same


def _move_aside(directory: Path) -> None:
    number = 1
    while directory.with_name(f"{directory.name}.old{number}").exists():
        number += 1
    aside = directory.with_name(f"{directory.name}.old{number}")
    sys.stdout.write(f"{directory} was made with other options or inputs: moved to {aside}\n")
    directory.rename(aside)


def main(arguments: Sequence[str]) -> int:
    """Tell the shell whether a job is finished, and begin its record if it is not.

    Args:
        arguments: as in this file's description.

    Returns:
        Exit status.
    """
    given = list(itertools.takewhile(lambda word: word.startswith("--"), arguments))
    directory, *inputs = arguments[len(given) : arguments.index("--")]
    force, command = "--force" in given, arguments[arguments.index("--") + 1 :]
    record, started = None, Path(directory) / STARTED_NAME
    if "--end" in given and (before := _read(started)) is not None:
        record = Record(started.with_name(DONE_NAME), before["request"], before["files"])  # as the job found it
    record = record or Record.of(Path(directory), {"command": _words(command)}, inputs, DONE_NAME)
    if "--end" in given:
        record.write()
        started.unlink(missing_ok=True)
        return 0
    reason = None if force else record.why_not()
    if reason is None and not force:
        return 0
    if reason:
        sys.stdout.write(f"{reason}\n")
    made = [path for path in Path(directory).glob("*") if path.suffix != ".tmp"]  # not by a record that was cut short
    if "--resumable" in given and made and (force or not _may_continue(record)):
        _move_aside(record.path.parent)
    record.begin()
    return DUE


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except OSError as error:  # a full disk, for example
        sys.exit(f"error: {error}")
