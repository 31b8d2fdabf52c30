"""Lists of pairs in F5-TTS' format: which recording is the prompt, which text is said in its voice.

One line for each pair, six columns separated by tabs: id, seconds and text of the prompt, then the same of the target.
"""

from __future__ import annotations

import codecs
import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from espnet_ext.errors import UserError

COLUMNS = ("prompt id", "prompt seconds", "prompt text", "target id", "target seconds", "target text")
SUFFIXES = (".flac", ".wav", ".ogg", ".opus")
MOST_NAMED = 5  # faulty lines that a message shows; it counts all
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)


@dataclass(frozen=True)
class Pair:
    """One line of a list.

    Attributes:
        place: FILE:LINE, for messages.
        prompt, target: ids of recordings.
        prompt_text, text: what is said in them.
    """

    place: str
    prompt: str
    prompt_text: str
    target: str
    text: str


def speaker_of(utterance: str) -> str:
    """The speaker in an id of LibriSpeech (SPEAKER-CHAPTER-NUMBER) or LibriTTS (with underscores), its first field."""
    return re.split("[-_]", utterance, maxsplit=1)[0]


def list_digest(pairs: Sequence[Pair]) -> str:
    """SHA-256 of the sorted "prompt TAB target TAB text" lines, hexadecimal: order and durations do not count."""
    lines = sorted(f"{pair.prompt}\t{pair.target}\t{pair.text}\n" for pair in pairs)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _is_duration(text: str) -> bool:
    try:
        return 0 < float(text) < math.inf
    except ValueError:
        return False


def _read_line(place: str, raw: bytes) -> Pair:
    """The pair of a line; a UserError that says what is wrong with it."""
    try:
        line = raw.decode("utf-8").rstrip("\r")
    except UnicodeDecodeError as error:
        raise UserError(f"must be UTF-8, got byte {raw[error.start]:#x}") from None
    fields = [" ".join(field.split()) for field in line.split("\t")]
    if len(fields) != len(COLUMNS):
        raise UserError(f"must have {len(COLUMNS)} columns separated by tabs ({', '.join(COLUMNS)}), got {len(fields)}")
    prompt, prompt_seconds, prompt_text, target, seconds, text = fields
    for name, utterance in (("prompt id", prompt), ("target id", target)):
        if not _ID.fullmatch(utterance):
            raise UserError(f"{name} must be letters, digits, '.', '_' and '-', got {utterance[:80]!a}")
    for name, value in (("prompt seconds", prompt_seconds), ("target seconds", seconds)):
        if not _is_duration(value):
            raise UserError(f"{name} must be a number above 0, got {value[:80]!a}")
    for name, value in (("prompt text", prompt_text), ("target text", text)):
        if not value.isprintable() or not value:
            raise UserError(f"{name} must be a text without control characters, got {value[:80]!a}")
    if prompt == target:
        raise UserError(f"the prompt must be another recording than the target, got {target} for both")
    if speaker_of(prompt) != speaker_of(target):
        raise UserError(f"the prompt must be of the target's speaker, got {prompt} for {target}")
    return Pair(place, prompt, prompt_text, target, text)


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a list, in its order; nothing of a list with a fault, as its scores would be those of another one.

    Args:
        path: the list; empty lines do not count.

    Returns:
        Pairs with targets that are all different.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: naming file and lines and how many they are, if a line is no pair or repeats a target.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--pair_list must be an existing file, got {path}")
    pairs: list[Pair] = []
    first: dict[str, int] = {}
    faults: list[str] = []
    lines = path.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n")
    for number, raw in enumerate(lines, start=1):
        if not raw.strip():
            continue
        try:
            pair = _read_line(f"{path.name}:{number}", raw)
            if pair.target in first:
                raise UserError(f"{pair.target} is a duplicate of line {first[pair.target]}")
        except UserError as error:
            faults.append(f"{path}:{number}: {error}")
            continue
        first[pair.target] = number
        pairs.append(pair)
    if faults:
        more = "; …" if len(faults) > MOST_NAMED else ""
        raise UserError(
            f"{len(faults)} of {len(faults) + len(pairs)} lines are no pairs: {'; '.join(faults[:MOST_NAMED])}{more}"
        )
    if not pairs:
        raise UserError(f"{path} must list pairs, got none")
    return pairs


def find_audio(root: Path, utterance: str) -> Path | None:
    """The recording of an id: ROOT/SPEAKER/CHAPTER/ID.flac as in LibriSpeech, or ROOT/ID.flac, or with another suffix.

    Args:
        root: folder of the recordings.
        utterance: id from a list, which has no slash.

    Returns:
        The file; None if there is none.
    """
    folders = [root.joinpath(*re.split("[-_]", utterance)[:2]), root]
    return next(
        (file for folder in folders for suffix in SUFFIXES if (file := folder / (utterance + suffix)).is_file()), None
    )
