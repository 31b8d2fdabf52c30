"""Shards: a part of a corpus each, and a file with what became of it, which appears when the part is done.

How a corpus is cut depends on nothing but the corpus, so that a run with other workers continues where one was stopped.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Generic, TypeVar

from tqdm import tqdm

from espnet_ext import __version__
from espnet_ext.errors import UserError
from espnet_ext.jobs.finished import SHARDS_NAME, changes
from espnet_ext.jobs.secret import key_of
from espnet_ext.jobs.workers import Workers, threads
from espnet_ext.storage.atomic import atomic_path
from espnet_ext.storage.checksums import State, states_of

MOST_BYTES = 2**30  # of a result: a shard is few seconds to few minutes of work

Item = TypeVar("Item")
Result = TypeVar("Result")


def no_files(item: object) -> Iterable[Path]:
    """For work whose inputs the request describes and which writes no files of its own."""
    return ()


@dataclass(frozen=True)
class Work(Generic[Item, Result]):
    """What is to be done to a corpus, part by part.

    Attributes:
        function: id → item of a shard, to its result: plain values and arrays; importable by name, or a partial of such
            a function. What cannot be used is a value of the result, not an error, which would end the whole command.
        request: inputs and options on which results depend, plain values; shards of another request are discarded.
        label: of the progress bar.
        size: items of a shard: few seconds to few minutes of work.
        files: of an item, those that the function reads or writes; when one of them changes, its shard is made again.
        first: items of the first shard, whose time tells whether it pays to start processes; 0 is an eighth of `size`.
    """

    function: Callable[[Mapping[str, Item]], Result]
    request: Mapping[str, object]
    label: str
    size: int
    files: Callable[[Item], Iterable[Path | str]] = no_files
    first: int = 0

    def ends(self, count: int) -> list[int]:
        """Where the shards of `count` items end.

        >>> Work(len, {}, "", size=16).ends(40)
        [2, 18, 34, 40]
        """
        first = self.first or max(1, self.size // 8)
        return [*range(first, count, self.size), count] if count else []


@dataclass(frozen=True)
class Shard(Generic[Item, Result]):
    """One part.

    Attributes:
        work: what to do.
        path: file of the result; its name tells number, request and items.
        items: id → item.
        key: of this user, for the file: a result is unpickled, which can run code, and only such a result is that was
            sealed with it. A worker elsewhere is given this key and not the user's own.
    """

    work: Work[Item, Result]
    path: Path
    items: Mapping[str, Item] = field(repr=False)
    key: bytes = field(repr=False)

    def __str__(self) -> str:
        ids = list(self.items)
        return f"shard {self.path.name} ({len(ids)} utterances, {ids[0]} to {ids[-1]})"

    def make(self) -> None:
        """Do the work and write the result, in one piece."""
        result = self.work.function(self.items)
        header = json.dumps({"files": self._files()}).encode()
        content = header + b"\n" + pickle.dumps(result, protocol=pickle.HIGHEST_PROTOCOL)
        with atomic_path(self.path) as temporary, temporary.open("wb") as stream:
            stream.write(self._seal(content) + b"\n" + content)

    def is_finished(self) -> bool:
        """Whether the result is there, whole, and of the files as they are now."""
        try:
            header, _ = self._read()
        except (OSError, ValueError):
            return False
        return not changes(header["files"], self._files(header["files"]))

    def result(self) -> Result:
        """What the function made of the items.

        Returns:
            The result.

        Raises:
            OSError: if the file is missing or damaged.
        """
        try:
            return pickle.loads(self._read()[1])
        except ValueError as error:
            raise OSError(f"{error}; the same command makes it again") from None

    def _files(self, known: Mapping[str, State] | None = None) -> dict[str, State]:
        return states_of((path for item in self.items.values() for path in self.work.files(item)), known)

    def _seal(self, content: bytes) -> bytes:
        return hmac.digest(self.key, content, hashlib.sha256).hex().encode()

    def _read(self) -> tuple[dict[str, Any], bytes]:
        is_file = self.path.is_file() and not self.path.is_symlink()
        if not is_file or self.path.stat().st_size > MOST_BYTES:
            raise UserError(f"shard is no result: {self.path}")
        seal, _, sealed = self.path.read_bytes().partition(b"\n")
        # damaged, by a loss of power for example, when the name was on the disk before the content; or another user's
        if not hmac.compare_digest(seal, self._seal(sealed)):
            raise UserError(f"shard is damaged: {self.path}")
        header, _, content = sealed.partition(b"\n")
        return json.loads(header), content


def cut(work: Work[Item, Result], items: Mapping[str, Item], directory: Path) -> list[Shard[Item, Result]]:
    """The shards of a corpus, in its order.

    Args:
        work: what is to be done.
        items: id → what the function gets of it; its `repr` tells one value from another.
        directory: where the shards' files lie.

    Returns:
        The shards.
    """
    function = getattr(work.function, "func", work.function)
    about = [__version__, function.__module__, function.__qualname__, dict(work.request)]
    request = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()
    pairs = list(items.items())
    ends = work.ends(len(pairs))
    shards = []
    for number, (start, end) in enumerate(pairwise([0, *ends])):
        part = dict(pairs[start:end])
        key = hashlib.sha256(f"{request}\n{list(part.items())!r}".encode()).hexdigest()[:16]
        name = f"{number:06d}-{key}"
        shards.append(Shard(work, directory / SHARDS_NAME / name, part, key_of(name)))
    return shards


def run_shards(
    work: Work[Item, Result], items: Mapping[str, Item], directory: Path, workers: Workers
) -> Iterator[tuple[list[str], Result]]:
    """Do all the work, then hand out the results in the order of the items, one shard in memory at a time.

    Shards that an earlier run of the same request finished are not made again. They stay until `remove_shards`.

    Args:
        work: what is to be done.
        items: id → what the function gets of it.
        directory: where the results' owner writes; shards get a folder in it.
        workers: who does it.

    Returns:
        For every shard its ids and its result.

    Raises:
        UserError: what the function raised.
        OSError: likewise; or if a worker is lost again and again, or cannot see the files.
    """
    return ((ids, result) for _, ids, result in run_groups(work, {directory: items}, workers))


def run_groups(
    work: Work[Item, Result], groups: Mapping[Path, Mapping[str, Item]], workers: Workers
) -> Iterator[tuple[Path, list[str], Result]]:
    """Do the work of several groups of items at once, as if each had been given to `run_shards` alone.

    A group's shards are its own, so that more groups, or fewer, do not make finished ones again.

    Args:
        work: what is to be done.
        groups: directory of a group → its items, id → what the function gets of it.
        workers: who does it; processes are started once for all groups.

    Returns:
        For every shard the directory of its group, its ids and its result.

    Raises:
        UserError: what the function raised.
        OSError: likewise; or if a worker is lost again and again, or cannot see the files.
    """
    shards = {directory: cut(work, items, directory) for directory, items in groups.items()}
    missing: list[Shard[Item, Result]] = []
    for directory, group in shards.items():
        folder = directory / SHARDS_NAME
        _discard_others(folder, group)
        folder.mkdir(parents=True, exist_ok=True)
        wanted = [shard for shard in group if not shard.is_finished()]
        again = [shard.path for shard in wanted if os.path.lexists(shard.path)]
        if again:
            reasons = "they are damaged, of files that have changed, or another user's"
            logging.info("%s: %d shards are made again, as %s", folder, len(again), reasons)
        for path in again:
            path.unlink()
        if len(wanted) < len(group):
            logging.info("%s: %d of %d shards were finished earlier", folder, len(group) - len(wanted), len(group))
        missing += wanted
    count = sum(len(items) for items in groups.values())
    found = count - sum(len(shard.items) for shard in missing)
    with tqdm(total=count, initial=found, desc=work.label, unit="utt", mininterval=1.0) as bar:
        made = 0
        for shard in workers.here(missing):
            with threads(workers.num_threads):
                shard.make()
            bar.update(len(shard.items))
            made += 1
        workers.elsewhere(missing[made:], lambda shard: bar.update(len(shard.items)))
    return ((directory, list(shard.items), shard.result()) for directory, group in shards.items() for shard in group)


def _discard_others(folder: Path, shards: Sequence[Shard[Any, Any]]) -> None:
    wanted = {shard.path.name for shard in shards}
    if folder.is_symlink():
        raise UserError(f"{folder} must be a directory of its own, whose files are removed, got a link")
    others = [path for path in folder.glob("*") if path.name not in wanted] if folder.is_dir() else []
    for path in others:
        path.unlink(missing_ok=True)
    made = [path for path in others if not path.name.startswith(".")]
    if made:
        logging.info("%s: %d shards of another request were discarded", folder, len(made))
