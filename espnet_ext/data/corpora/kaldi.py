"""Layout `kaldi`: a Kaldi data directory, with or without segments."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from espnet_ext.data.audio import Span
from espnet_ext.data.corpora.base import Layout, Skipped, Utterance, lines_of, register_layout, trouble_of
from espnet_ext.data.datadir import LANGUAGES_NAME, SEGMENTS_NAME
from espnet_ext.errors import UserError

TABLES = ("wav.scp", "text", "utt2spk", LANGUAGES_NAME)


@register_layout("kaldi")
class Kaldi(Layout):
    """wav.scp and text, perhaps segments, utt2spk and utt2lang, their lines in any order."""

    @classmethod
    def fits(cls, root: Path) -> bool:
        """Whether there is a wav.scp."""
        return (root / "wav.scp").is_file()

    def told(self) -> str:
        """Which tables there are."""
        return ", ".join(name for name in (*TABLES, SEGMENTS_NAME) if (self.source.root / name).is_file())

    def read(self) -> Iterator[Utterance | Skipped]:
        """The utterances of segments, or of wav.scp; yields as `Layout.read` says."""
        root = self.source.root
        for name in ("wav.scp", "text"):
            if not (root / name).is_file():
                raise UserError(f"--layout kaldi must have {root / name}, found none")
        with closing(sqlite3.connect("")) as store:  # a temporary file: tables may be larger than the memory
            store.execute("CREATE TABLE entry (name, key, value, line, PRIMARY KEY (name, key)) WITHOUT ROWID")
            for name in TABLES:
                if (root / name).is_file():
                    yield from self._load(store, name)
            source = SEGMENTS_NAME if (root / SEGMENTS_NAME).is_file() else "wav.scp"
            for number, key, value in self._entries(source):
                place = f"{source}:{number}"
                trouble = trouble_of(value, place)
                if not key or not value or trouble:
                    yield Skipped(key or place, trouble or f"no key and value: {place}")
                else:
                    yield self._utterance(store, key, value if source == SEGMENTS_NAME else f"{key} 0 -1", place)
            without = store.execute(
                "SELECT key, line FROM entry WHERE name = 'text' AND key NOT IN (SELECT key FROM seen)"
            )
            yield from (Skipped(key, f"text without audio: text:{line} is not in {source}") for key, line in without)

    def _entries(self, name: str) -> Iterator[tuple[int, str, str]]:
        for number, line in lines_of(self.source.root / name, self.source.encoding):
            key, _, value = line.strip().replace("\t", " ").partition(" ")
            yield number, key, value.strip()

    def _load(self, store: sqlite3.Connection, name: str) -> Iterator[Skipped]:
        """Put a table into the store; a key that comes twice with another value is no key to anything."""
        store.execute("CREATE TABLE IF NOT EXISTS seen (key PRIMARY KEY) WITHOUT ROWID")
        for number, key, value in self._entries(name):
            place = f"{name}:{number}"
            if trouble := trouble_of(f"{key} {value}", place):
                yield Skipped(place, trouble)
                continue
            before = store.execute("SELECT value, line FROM entry WHERE name = ? AND key = ?", (name, key)).fetchone()
            if before is None:
                store.execute("INSERT INTO entry VALUES (?, ?, ?, ?)", (name, key, value, number))
            elif before[0] != value:
                yield Skipped(key, f"two values for one id: {name}:{before[1]} and {number}")
                store.execute("UPDATE entry SET value = NULL WHERE name = ? AND key = ?", (name, key))

    def _utterance(self, store: sqlite3.Connection, key: str, value: str, place: str) -> Utterance | Skipped:
        def look_up(name: str, wanted: str) -> str | None:
            found = store.execute("SELECT value FROM entry WHERE name = ? AND key = ?", (name, wanted)).fetchone()
            return "" if found is None else found[0]

        store.execute("INSERT OR IGNORE INTO seen VALUES (?)", (key,))
        try:
            recording, *times = value.split()
            begin, end = map(float, times)
        except ValueError:
            return Skipped(key, f"bad segment: {place} must have a recording, begin and end (s)")
        if not 0 <= begin < (math.inf if end == -1 else end) or end == math.inf or math.isnan(begin):
            return Skipped(key, f"bad segment: {place} must end behind its begin, at 0 s or later")
        audio, text = look_up("wav.scp", recording), look_up("text", key)
        if audio is None or text is None:
            return Skipped(key, f"two values for one id: see {'wav.scp' if audio is None else 'text'}")
        if not audio:
            return Skipped(key, f"bad segment: {recording} of {place} is not in wav.scp")
        if audio.endswith("|"):
            return Skipped(key, f"a command instead of a file: {place}")
        if not text:
            return Skipped(key, f"audio without text: {key} of {place}")
        path = self.source.located(audio)
        rest = {
            name: look_up(table, key) or "" for name, table in (("speaker", "utt2spk"), ("language", LANGUAGES_NAME))
        }
        span = Span(begin, None if end == -1 else end)
        return self.source.refusal(key, path, place) or Utterance(key, path, text, place, **rest, span=span)
