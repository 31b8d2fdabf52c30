"""Layout `table`: recordings and one table of their transcripts, metadata.csv; LJSpeech's layout."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from espnet_ext.data.corpora.base import (
    AUDIO_SUFFIXES,
    Layout,
    Skipped,
    Source,
    Utterance,
    lines_of,
    one_word,
    register_layout,
    trouble_of,
    without_suffix,
)
from espnet_ext.errors import UserError

NAMES = ("metadata.csv", "metadata.tsv")
FOLDERS = ("", "wavs", "wav", "audio", "clips")
DELIMITERS = ("|", "\t", ",")
# names of columns that corpora in use have, each kind in the order in which it is looked for
COLUMNS = {
    "id": ("id", "utterance", "file_name", "filename", "file", "path", "audio", "wav"),
    "text": (
        *("normalised", "normalized", "normalised_text", "normalized_text"),
        *("text", "transcription", "transcript", "sentence"),
    ),
    "speaker": ("speaker", "speaker_id", "speaker_name", "client_id"),
    "language": ("language", "lang", "locale"),
}  # fmt: skip
WITHOUT_HEADER = ({"id": 0, "text": 1}, {"id": 0, "text": 2})  # id|text, id|text|normalised


@register_layout("table")
class Table(Layout):
    """Audio, in the folder itself or in wavs/, and metadata.csv: id|text, id|text|normalised, or columns with names.

    Args:
        source: the corpus.
    """

    lists_audio = True

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self.path = next(
            (source.root / name for name in NAMES if (source.root / name).is_file()), source.root / NAMES[0]
        )
        folders = [os.path.join(source.root, name) for name in FOLDERS if (source.root / name).is_dir()]
        self._endings = {os.path.join(folder, ""): _endings_in(folder) for folder in folders}
        self._told = ""

    @classmethod
    def fits(cls, root: Path) -> bool:
        """Whether there is such a table."""
        return any((root / name).is_file() for name in NAMES)

    def told(self) -> str:
        """Delimiter, header and columns."""
        return self._told

    def read(self) -> Iterator[Utterance | Skipped]:
        """The rows of the table; yields as `Layout.read` says."""
        if not self.path.is_file():
            raise UserError(f"--layout table must have {self.path}, found none")
        columns: dict[str, int] = {}
        width = 0
        for number, row in self._rows():
            place = f"{self.path.name}:{number}"
            if not columns:
                columns, width, is_header = self._columns(row, f"{self.path}:{number}")
                if is_header:
                    continue
            if len(row) != width:
                advice = "; a text with a comma needs quotation marks" if self.delimiter == "," else ""
                if len(row) == 1:
                    advice = f", which has no {self.delimiter!r} (--delimiter)"
                yield Skipped(place, f"{len(row)} columns instead of {width}: {place}{advice}")
                continue
            fields = {name: row[index].strip() for name, index in columns.items()}
            trouble = trouble_of("".join(row), place) or (f"no id: {place}" if not fields["id"] else "")
            yield Skipped(place, trouble) if trouble else self._utterance(fields, place)

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """Number of the line and fields of every row that is not empty."""
        lines = (line for _, line in lines_of(self.path, self.source.encoding))
        first = next(lines, "")
        given = {"tab": "\t", "\\t": "\t"}.get(self.source.delimiter, self.source.delimiter)
        self.delimiter = given or next((one for one in DELIMITERS if one in first), "|")
        if len(self.delimiter) != 1:
            raise UserError(f"--delimiter must be one character, or tab, got {self.source.delimiter!r}")
        # quotation marks protect commas; in the other tables they are part of the text
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if self.delimiter == "," else csv.QUOTE_NONE
        both = (f"{line}\n" for part in ([first], lines) for line in part)
        rows = csv.reader(both, delimiter=self.delimiter, quoting=quoting, strict=True)
        number = 0
        try:
            for row in rows:
                number = rows.line_num
                if row and any(row):
                    yield number, row
        except csv.Error as error:
            is_old = "new-line" in str(error)  # of the Macintosh before 2001, or of a program that mixes them
            reason = "it has a carriage return that is no end of a line: convert its ends of line" if is_old else error
            raise UserError(f"{self.path}:{rows.line_num}: must be a row of a table ({reason})") from None

    def _columns(self, row: list[str], place: str) -> tuple[dict[str, int], int, bool]:
        """Which column is what, how many there are, and whether the first row is a header."""
        named = {name.strip().lower(): index for index, name in reversed(list(enumerate(row)))}
        found = {kind: next((named[one] for one in names if one in named), None) for kind, names in COLUMNS.items()}
        columns = {kind: index for kind, index in found.items() if index is not None}
        if len(row) < 2:
            raise UserError(
                f"{place}: must have two columns or more separated by {self.delimiter!r} (--delimiter), got {row[0]!r}"
            )
        is_header = bool(columns)
        missing = [kind for kind in ("id", "text") if kind not in columns]
        if is_header and missing:
            known = " or ".join(f"{kind} ({', '.join(COLUMNS[kind])})" for kind in missing)
            raise UserError(f"{place}: must have a column {known}, got {row}")
        if not is_header and len(row) > 3:
            raise UserError(f"{place}: must be names of columns where there are more than three, got {row}")
        if not is_header:
            columns = WITHOUT_HEADER[len(row) - 2]
        which = ", ".join(
            f"{kind} = {row[index]!r}" if is_header else f"{kind} = column {index + 1}"
            for kind, index in columns.items()
        )
        self._told = (
            f"{self.path.name}, columns separated by {self.delimiter!r}, {'a' if is_header else 'no'} header: {which}"
        )
        return columns, len(row), is_header

    def _utterance(self, fields: dict[str, str], place: str) -> Utterance | Skipped:
        """The utterance of a row, with the one audio file that its id names."""
        name = fields["id"]
        bare = without_suffix(name)
        given = [name[len(bare) :]] if bare != name else None
        if os.path.isabs(bare):
            bare = os.path.relpath(bare, self.source.root)
        paths = [
            f"{folder}{bare}{ending}"
            for folder, there in self._endings.items()
            for ending in given or (AUDIO_SUFFIXES if "/" in bare else there)
        ]
        audio = list(dict.fromkeys(path for path in paths if os.path.isfile(path)))
        utterance = one_word(bare)
        if not audio:
            where = " or ".join(f"{os.path.basename(folder[:-1])}/" for folder in self._endings)
            return Skipped(utterance, f"text without audio: {name} of {place} is not in {where}")
        if len(audio) > 1:
            return Skipped(utterance, f"two audio files: {audio[0]} and {audio[1]} for {place}")
        rest = fields.get("speaker", ""), fields.get("language", "")
        return self.source.refusal(utterance, audio[0], place) or Utterance(
            utterance, audio[0], fields["text"], place, *rest
        )


def _endings_in(folder: str) -> list[str]:
    """The suffixes of audio files that occur directly in a folder."""
    with os.scandir(folder) as entries:
        found = {os.path.splitext(entry.name)[1] for entry in entries}
    return sorted(ending for ending in found if ending.lower() in AUDIO_SUFFIXES)
