"""Lists of test utterances, each with its speaker prompt: a text file with a version and a digest of its contents."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from espnet_ext.errors import UserError
from espnet_ext.storage.atomic import atomic_path

VERSION = 1  # of the rules of make_test_list.py; other rules are another version
COLUMNS = "utterance\tprompt\tseconds\tprompt_seconds"
_TITLE = re.compile(r"# test list, version (\d+), sha256 ([0-9a-f]{64})")


@dataclass(frozen=True)
class Item:
    """One test utterance.

    Attributes:
        utterance: what a model is to say.
        prompt: another utterance of its speaker, which shows the voice.
        seconds: duration of the utterance.
        prompt_seconds: duration of the prompt.
    """

    utterance: str
    prompt: str
    seconds: float
    prompt_seconds: float


def speaker_of(utterance: str) -> str:
    """The speaker in a LibriTTS id, its first field."""
    return utterance.partition("_")[0]


def list_digest(items: Sequence[Item]) -> str:
    """SHA-256 of the sorted "utterance prompt" lines, hexadecimal: durations do not count."""
    lines = sorted(f"{item.utterance} {item.prompt}\n" for item in items)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def check_items(items: Sequence[Item], place: str) -> None:
    """Refuse what is no fair test.

    Args:
        items: the list.
        place: where it comes from, for the message.

    Raises:
        UserError: if the list is empty, an utterance occurs twice or is a prompt as well, or a prompt is of another
            speaker.
    """
    if not items:
        raise UserError(f"{place} must list utterances, got none")
    counts = Counter(item.utterance for item in items)
    utterance, count = counts.most_common(1)[0]
    if count > 1:
        raise UserError(f"{place}: {utterance} is a duplicate")
    for item in items:
        if speaker_of(item.prompt) != speaker_of(item.utterance):
            raise UserError(f"{place}: prompt of {item.utterance} must be of its speaker, got {item.prompt}")
    if both := sorted({item.prompt for item in items} & counts.keys()):
        raise UserError(f"{place}: {both[0]} must not be both a test utterance and a prompt")


def write_list(path: Path, items: Sequence[Item]) -> None:
    """Write the list in one piece, sorted by utterance.

    Args:
        path: file to write.
        items: the list.
    """
    check_items(items, str(path))
    lines = [f"# test list, version {VERSION}, sha256 {list_digest(items)}", COLUMNS]
    for item in sorted(items, key=lambda item: item.utterance):
        lines.append(f"{item.utterance}\t{item.prompt}\t{item.seconds:.3f}\t{item.prompt_seconds:.3f}")
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_list(path: Path) -> list[Item]:
    """The items of a list; a list of one's own may leave out the line with version and digest.

    Args:
        path: file with tab-separated columns under a line of their names.

    Returns:
        Items, in the order of the file.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: naming file and line, if it is malformed, unfair (`check_items`), or does not have its digest.
    """
    if not path.is_file():
        raise FileNotFoundError(f"test list not found: {path}")
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    title = _TITLE.fullmatch(lines[0]) if lines else None
    body = lines[1:] if title else lines
    if not body or body[0] != COLUMNS:
        raise UserError(f"{path} must have the columns {COLUMNS.split()}, separated by tabs")
    items = []
    for number, line in enumerate(body[1:], start=len(lines) - len(body) + 2):
        fields = line.split("\t")
        try:
            items.append(Item(fields[0], fields[1], float(fields[2]), float(fields[3])))
        except (IndexError, ValueError):
            raise UserError(f"{path}:{number}: must be {COLUMNS.split()}, got {line!r}") from None
    check_items(items, str(path))
    if title and title[2] != list_digest(items):
        raise UserError(f"{path} was changed: its first line promises sha256 {title[2]}, got {list_digest(items)}")
    return items
