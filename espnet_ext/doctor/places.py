"""Every directory below a path, and what each of its files is asked."""

from __future__ import annotations

import os
import re
import shlex
from functools import partial
from pathlib import Path

from espnet_ext.data.datadir import read_counts, read_scp
from espnet_ext.data.streams import SILENCE_NAME, read_silence
from espnet_ext.doctor.archives import POINTERS, check_pointers_of
from espnet_ext.doctor.checkup import Checkup
from espnet_ext.doctor.experiments import check_experiment, is_experiment
from espnet_ext.doctor.remedies import command_for
from espnet_ext.errors import UserError
from espnet_ext.jobs.finished import (
    DONE_NAME,
    RECORD_NAME,
    SHARDS_NAME,
    STARTED_NAME,
    check_record,
)
from espnet_ext.storage.checkpoint import check_finite, read_weights
from espnet_ext.storage.checksums import MADE_NAME, made_in, verify
from espnet_ext.tokenizers.codec import codec_files
from espnet_ext.tokenizers.semantic import semantic_files
from espnet_ext.tokenizers.text.tokens import read_token_list

LOCK_NAME = ".running"
TABLES = ("text", "utt2spk", "spk2utt", "utt2prompt", "utt2lang", "wav.scp", "score", "status")
COUNTS = ("utt2num_frames", "utt2num_units", "utt2num_samples")
LEFT_OVER = re.compile(r"\..+\.(tmp|old)(\.\w+)?")


def check_tree(path: Path) -> Checkup:
    """Look at a directory and all below it.

    Args:
        path: an experiment, a codec, a data directory, a dump directory, the exp directory of a recipe, or more.

    Returns:
        What was found.

    Raises:
        FileNotFoundError: if it is no directory.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"path must be an existing directory, got {path}")
    checkup, locked = Checkup(), list[Path]()

    def unreadable(error: OSError) -> None:
        checkup.find(Path(error.filename or path), f"{error.strerror or error}", "let yourself read it: chmod")

    for folder, below, names in os.walk(path, onerror=unreadable):
        directory = Path(folder)
        below.sort()
        if LOCK_NAME in names and _lives(checkup, directory / LOCK_NAME):
            locked.append(directory)
        for name in [name for name in below if LEFT_OVER.fullmatch(name)]:
            below.remove(name)
            names.append(name)
        if SHARDS_NAME in below:
            below.remove(SHARDS_NAME)
            names.append(STARTED_NAME)
        checkup.counts["directories"] += 1
        _check_directory(checkup, directory, set(names), any(map(directory.is_relative_to, locked)))
    return checkup


def _lives(checkup: Checkup, lock: Path) -> bool:
    """Whether whoever has a lock still runs, as far as this machine can tell."""
    words = (checkup.ask("locks", lock, partial(_lock, lock)) or "").split()
    pid, host = [*words, "", ""][:2]
    if host == os.uname().nodename and not os.path.isdir(f"/proc/{pid or 'none'}"):
        checkup.find(lock, f"left by process {pid or '?'}, which has ended", f"rm {shlex.quote(str(lock))}")
        return False
    return True


def _lock(path: Path) -> str:
    if not path.is_file():  # a pipe might never answer
        raise UserError(f"{path} must be a regular file")
    with path.open(encoding="utf-8") as stream:
        return stream.read(1000)


def _check_directory(checkup: Checkup, directory: Path, names: set[str], in_use: bool) -> None:
    for name in sorted(names):
        path = directory / name
        if LEFT_OVER.fullmatch(name) and not in_use:
            checkup.find(path, "left by a process that was killed", f"rm -r {shlex.quote(str(path))}")
    for name in sorted(names & {RECORD_NAME, DONE_NAME}):
        checkup.ask("records", directory / name, partial(check_record, directory / name))
    if STARTED_NAME in names and not in_use:
        checkup.find(directory, "was begun and has not been finished, unless it runs now", command_for(directory))
    if MADE_NAME in names:
        for name in checkup.ask("records", directory / MADE_NAME, partial(made_in, directory)) or {}:
            checkup.ask("checksums", directory / name, partial(_verify, directory / name))
    for name in sorted(names & {*TABLES, *COUNTS, *POINTERS, SILENCE_NAME, "tokens.txt"}):
        _check_table(checkup, directory / name)
    for files in (codec_files, semantic_files):
        if files.file in names:
            checkup.ask("codecs and tokenizers", directory / files.file, partial(files.check, directory / files.file))
    if is_experiment(directory):  # weights elsewhere are the business of their codec
        for name in sorted(name for name in names if name.endswith(".pth") and not (directory / name).is_symlink()):
            checkup.ask("weights", directory / name, partial(_check_weights, directory / name))
        check_experiment(checkup, directory)


def _verify(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path} is missing, it was there when {path.parent} was finished")
    verify(path)


def _check_weights(path: Path) -> None:
    trainer = path.name == "checkpoint.pth"
    content = read_weights(path, "checkpoint" if trainer else "model_file")
    check_finite(content.get("model", {}) if trainer else content, path)


def _check_table(checkup: Checkup, path: Path) -> None:
    name = path.name
    if name in POINTERS:
        check_pointers_of(checkup, path)
    elif name in COUNTS:
        checkup.ask("tables", path, partial(read_counts, path))
    elif name == SILENCE_NAME:
        checkup.ask("tables", path, partial(read_silence, path.parent))
    elif name == "tokens.txt":
        checkup.ask("tables", path, partial(read_token_list, path))
    else:
        table = checkup.ask("tables", path, partial(read_scp, path, allow_empty=name != "wav.scp", in_order=False))
        lost = [utt for utt, wav in (table or {}).items() if name == "wav.scp" and not os.path.isfile(wav)]
        checkup.counts["recordings"] += len(table or {}) if name == "wav.scp" else 0
        if lost:
            checkup.find(
                path, f"{len(lost)} recordings are missing, the first that of {lost[0]}: {(table or {})[lost[0]]}"
            )
