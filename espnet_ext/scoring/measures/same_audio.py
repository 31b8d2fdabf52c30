"""Work on the audio of many outputs: files of the same content, as strategies with the same codes make, cost once."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from espnet_ext.errors import UserError
from espnet_ext.jobs import Work, Workers, run_groups
from espnet_ext.storage.checksums import content_hash

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Unheard:
    """What is said of a file that cannot be judged.

    Attributes:
        reason: one line.
    """

    reason: str


def content_of(path: Path) -> str:
    """What is equal for files of equal content: a hash; of a file that cannot be read its name."""
    return content_hash(path) or str(path)


def judge_each(load: Callable[[], Callable[[Item], Result]], items: Mapping[str, Item]) -> dict[str, Result | Unheard]:
    """What a function says of items one by one: the work of a shard.

    Args:
        load: makes the function, once for all items.
        items: any key → what the function gets.

    Returns:
        Key → value; `Unheard` where the function raised a UserError.
    """
    function = load()
    results: dict[str, Result | Unheard] = {}
    for key, item in items.items():
        try:
            results[key] = function(item)
        except UserError as error:
            results[key] = Unheard(" ".join(str(error).split()))
    return results


def judge_once(
    work: Work[Item, dict[str, Any]],
    groups: Mapping[str, Mapping[str, Item]],
    workers: Workers,
    folder: Path | None,
    content: Callable[[Item], Hashable],
) -> dict[str, dict[str, Any]]:
    """Do the work of several outputs; of items with the same content only the first one's is done.

    Args:
        work: what is to be done.
        groups: name of an output → key → item.
        workers: who does it.
        folder: where finished work is kept for a run that continues, all workers must see it; None for a temporary one.
        content: of an item, what is equal for equal results.

    Returns:
        Name → key → result.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="scoring") as name:
            return judge_once(work, groups, workers, Path(name), content)
    first: dict[Hashable, tuple[Path, str]] = {}  # content → place and key of the item whose work is done
    owners = {
        name: {key: first.setdefault(content(item), (folder / name, key)) for key, item in items.items()}
        for name, items in groups.items()
    }
    own = {
        folder / name: {key: item for key, item in items.items() if owners[name][key] == (folder / name, key)}
        for name, items in groups.items()
    }
    done = {(place, key): value for place, _, part in run_groups(work, own, workers) for key, value in part.items()}
    return {name: {key: done[owner] for key, owner in found.items()} for name, found in owners.items()}
