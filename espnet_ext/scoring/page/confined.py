"""Which files a page may hold: scores may come from somebody else, and pages are sent by mail."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from espnet_ext.scoring.scores import Scores

MOST_PICTURE_BYTES = 2**24
PNG = b"\x89PNG"


def directories_of(result: Scores, *further: Path) -> list[Path]:
    """Where the files of a page may lie: in what the scores name and here, unless all that a user has is here."""
    named = [result.reference.directory, *(scores.directory for scores in result.systems.values())]
    folders = [*(Path(name) for name in named if name), *further, Path.cwd()]
    return [folder for folder in (one.resolve() for one in folders) if not Path.home().is_relative_to(folder)]


def is_below(path: Path, folders: Sequence[Path]) -> bool:
    """Whether a file is in one of the directories, links followed."""
    return any(path.resolve().is_relative_to(folder) for folder in folders)


def confined_wavs(wavs: Mapping[str, str], folders: Sequence[Path], source: Path) -> dict[str, str]:
    """The audio files of a table that a page may hold; how many are left out is logged.

    Args:
        wavs: utterance → file.
        folders: where they may lie.
        source: of the table.

    Returns:
        The table of these.
    """
    kept = {utterance: wav for utterance, wav in wavs.items() if is_below(Path(wav), folders)}
    if len(kept) < len(wavs):
        left = next(wav for utterance, wav in wavs.items() if utterance not in kept)
        reason = "they are neither below the directories of the scores nor below this one"
        logging.warning("%s: %d files are not shown, as %s: %s", source, len(wavs) - len(kept), reason, ascii(left))
    return kept


def confined_figures(result: Scores, beside: Path) -> Scores:
    """The scores with those figures alone that are pictures in places where files of a page may lie.

    Args:
        result: scores.
        beside: directory of the scores.json.

    Returns:
        The same with fewer figures; a file that is gone is left to the page.
    """
    folders, kept = directories_of(result, beside), {}
    for caption, name in result.figures.items():
        path = Path(name)
        if not is_below(path, folders):
            logging.warning("%s is not shown: it is not below the directories of the scores", ascii(name))
        elif path.is_file() and (path.stat().st_size > MOST_PICTURE_BYTES or _begin(path) != PNG):
            logging.warning("%s is not shown: it is no PNG picture of at most 16 MiB", ascii(name))
        else:
            kept[caption] = name
    return replace(result, figures=kept)


def _begin(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(len(PNG))
