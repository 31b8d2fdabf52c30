"""Everything about a corpus in a temporary database: what can be used, what not and why, and which set it goes to.

A database on disk instead of tables in memory: a list of 300,000 utterances takes no more memory than one of 3,000.
"""

from __future__ import annotations

import hashlib
import heapq
import os
import re
import sqlite3
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from espnet_ext.data.audio import MOST_LACKING_SEC, read_header
from espnet_ext.data.corpora.base import AUDIO_SUFFIXES, Layout, Skipped, Utterance, files_below, one_word
from espnet_ext.data.datadir import is_key, write_scp, write_sorted
from espnet_ext.errors import UserError
from espnet_ext.storage.atomic import atomic_path

SCHEMA = """
PRAGMA cache_size = -16384;
CREATE TABLE utterance (
  id, audio, first, last, text, sentence, place, speaker, language, seconds, part DEFAULT 'train', reason DEFAULT ''
);
CREATE TABLE audio (path PRIMARY KEY, seconds, rate, channels, bytes, digest, reason DEFAULT '') WITHOUT ROWID;
CREATE TABLE skipped (name, reason);
CREATE VIEW usable AS SELECT * FROM utterance WHERE reason = '';
CREATE VIEW trouble AS SELECT name, reason FROM skipped UNION ALL SELECT id, reason FROM utterance WHERE reason != '';
"""
# audio files that may be the same
ALIKE = """
SELECT path FROM (
  SELECT path, count(*) OVER (PARTITION BY bytes, seconds, digest) number FROM audio WHERE reason = ''
) WHERE number > 1
"""
SPEAKER_FROM = ("auto", "one", "folder", "column", "prefix")
PIECE_BYTES = 2**12  # from the middle of a file, compared before all of it is
SETS = ("train", "dev", "test")


@dataclass(frozen=True)
class Rules:
    """What is made of what a corpus says.

    Attributes:
        speaker_from: folder, column or prefix (the id up to its first "_" or "-"); one: all are one speaker; auto: the
            column where there is one.
        language: of utterances that name none.
        min_sec: shorter utterances are skipped.
        max_sec: longer ones are.
    """

    speaker_from: str = "auto"
    language: str = ""
    min_sec: float = 0.3
    max_sec: float = 20.0


def open_store() -> sqlite3.Connection:
    """An empty database in a temporary file, which is gone with it."""
    store = sqlite3.connect("", isolation_level=None)
    store.executescript(SCHEMA)
    return store


def sentence_of(text: str) -> str:
    """What two texts have in common that say the same: letters and digits in lower case.

    >>> sentence_of("Two dogs, two  CATS.")
    'two dogs two cats'
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.sub(r"[^\w'’]|_", " ", folded).replace("’", "'").split())


def speaker_of(utterance: Utterance, root: Path, speaker_from: str) -> str:
    """The speaker of an utterance; empty if it does not tell one."""
    if speaker_from in ("auto", "column"):
        return one_word(utterance.speaker)
    if speaker_from == "folder":
        folder = os.path.relpath(os.path.dirname(utterance.audio), root)
        return one_word(os.path.basename(folder))
    return re.split("[-_]", utterance.name, maxsplit=1)[0] if speaker_from == "prefix" else ""


def gather(store: sqlite3.Connection, layout: Layout, rules: Rules) -> None:
    """Put what a layout reads into the store.

    Args:
        store: `open_store`.
        layout: of the corpus.
        rules: how to name speakers and languages.

    Raises:
        UserError: if the corpus cannot be read as a whole.
    """
    if rules.speaker_from not in SPEAKER_FROM:
        raise UserError(f"--speaker_from must be one of {list(SPEAKER_FROM)}, got {rules.speaker_from!r}")
    root = layout.source.root
    store.execute("BEGIN")
    for item in layout.read():
        if isinstance(item, Skipped):
            store.execute("INSERT INTO skipped VALUES (?, ?)", (_printable(item.name), _printable(item.reason)))
            continue
        text, sentence = " ".join(item.text.split()), sentence_of(item.text)
        speaker = speaker_of(item, root, rules.speaker_from)
        reason = (
            ""
            if is_key(item.name) and is_key(speaker or "one")
            else f"bad id: {item.name!a} of {speaker!a}, {item.place}"
        )
        reason = reason or (f"empty transcript: {item.place}" if not text else "")
        reason = reason or (f"nothing to say: {text} of {item.place}" if not sentence else "")
        if not speaker and rules.speaker_from != "auto" and rules.speaker_from != "one":
            reason = reason or f"no speaker: {item.place}, --speaker_from {rules.speaker_from}"
        key = int.from_bytes(hashlib.blake2b(sentence.encode(), digest_size=8).digest(), "big", signed=True)
        store.execute(
            "INSERT INTO utterance VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, 'train', ?)",
            (item.name, item.audio, item.span.begin, item.span.end, text, key, item.place, speaker or "speaker",
             item.language or rules.language, reason),
        )  # fmt: skip
    store.execute("CREATE INDEX by_id ON utterance (id)")
    _settle_ids(store)
    store.execute("CREATE INDEX by_audio ON utterance (audio)")
    if layout.lists_audio:
        paths = (
            path
            for path in files_below(str(root))
            if path.lower().endswith(AUDIO_SUFFIXES) and not _is_named(store, path)
        )
        store.executemany(
            "INSERT INTO skipped VALUES (?, ?)",
            ((os.path.relpath(path, root), f"audio without text: {os.path.relpath(path, root)}") for path in paths),
        )
    store.execute("COMMIT")


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _settle_ids(store: sqlite3.Connection) -> None:
    """Of one id that comes again the first stays if all say the same; if not, nobody knows which is meant."""
    again = store.execute(
        "SELECT id, min(rowid), count(DISTINCT text || char(10) || audio), count(DISTINCT text), "
        "group_concat(place, ' and ') FROM utterance GROUP BY id HAVING count(*) > 1"
    ).fetchall()  # fmt: skip
    for name, first, different, texts, places in again:
        kind = (
            "duplicate id" if different == 1 else "two texts for one id" if texts > 1 else "two audio files for one id"
        )
        kept = first if different == 1 else -1
        store.execute(
            "UPDATE utterance SET reason = ? WHERE id = ? AND rowid != ?", (f"{kind}: {places[:200]}", name, kept)
        )


def _is_named(store: sqlite3.Connection, path: str) -> bool:
    return store.execute("SELECT 1 FROM utterance WHERE audio = ?", (path,)).fetchone() is not None


def measure(store: sqlite3.Connection, rules: Rules) -> None:
    """Read the header of every audio file once, and skip what is unreadable, too short or too long.

    Args:
        store: behind `gather`.
        rules: the limits.
    """
    store.execute("BEGIN")
    paths = store.execute("SELECT DISTINCT audio FROM usable ORDER BY audio")  # in the order of the table that is made
    store.executemany("INSERT INTO audio VALUES (?, ?, ?, ?, ?, NULL, ?)", (_measured(path) for (path,) in paths))
    store.execute(
        "UPDATE utterance SET seconds = min(coalesce(last, audio.seconds), audio.seconds) - first, reason = "
        "CASE WHEN audio.reason != '' THEN audio.reason "
        "WHEN coalesce(last, 0) > audio.seconds + ? OR first >= audio.seconds AND first > 0 "
        "THEN 'bad segment: ' || place || ' lies behind the end of its recording' "
        "ELSE '' END FROM audio WHERE audio.path = utterance.audio AND utterance.reason = ''", (MOST_LACKING_SEC,),
    )  # fmt: skip
    for kind, condition, limit in (("short", "<", rules.min_sec), ("long", ">", rules.max_sec)):
        store.execute(
            f"UPDATE utterance SET reason = 'too {kind}: ' || round(seconds, 2) || ' s' "
            f"WHERE reason = '' AND seconds {condition} ?",
            (limit,),
        )
    store.execute("COMMIT")


def _measured(path: str) -> tuple[str, float, int, int, int, str]:
    """Path, length, sample rate, channels and bytes of an audio file, and why it is unusable."""
    try:
        header = read_header(path)
    except UserError as error:
        return path, 0.0, 0, 0, 0, _printable(str(error))
    return path, header.seconds, header.rate_hz, header.channels, os.path.getsize(path), ""


def skip_duplicates(store: sqlite3.Connection) -> None:
    """Skip recordings that are there again, byte by byte; all of them where they have different texts.

    Args:
        store: behind `measure`.
    """
    store.execute("BEGIN")
    for whole in (False, True):  # the middle of files of the same length, then all of those whose middles are alike
        store.execute(f"CREATE TEMP TABLE alike AS {ALIKE}")
        digests = ((_digest(path, whole), path) for (path,) in store.execute("SELECT path FROM alike ORDER BY path"))
        store.executemany("UPDATE audio SET digest = ? WHERE path = ?", digests)
        store.execute("DROP TABLE alike")
    store.execute("CREATE INDEX by_digest ON audio (digest)")
    same = store.execute(
        "SELECT digest, first, coalesce(last, -1), min(utterance.rowid), count(DISTINCT sentence), min(id) "
        "FROM utterance JOIN audio ON path = audio WHERE digest LIKE 'whole%' AND utterance.reason = '' "
        "GROUP BY digest, first, coalesce(last, -1) HAVING count(*) > 1"
    ).fetchall()  # fmt: skip
    for digest, first, last, kept, texts, name in same:
        kind = "duplicate audio: the same as" if texts == 1 else "two texts for one audio: the same as"
        store.execute(
            "UPDATE utterance SET reason = ? WHERE audio IN (SELECT path FROM audio WHERE digest = ?) AND first = ? "
            "AND coalesce(last, -1) = ? AND rowid != ? AND reason = ''",
            (f"{kind} {name}", digest, first, last, kept if texts == 1 else -1),
        )  # fmt: skip
    store.execute("COMMIT")


def _digest(path: str, whole: bool) -> str:
    with open(path, "rb") as stream:
        if whole:
            return "whole " + hashlib.file_digest(stream, "sha256").hexdigest()
        stream.seek(os.fstat(stream.fileno()).st_size // 2)
        return hashlib.blake2b(stream.read(PIECE_BYTES), digest_size=8).hexdigest()


def skip_unreadable(store: sqlite3.Connection, bad: Iterable[tuple[str, str]]) -> None:
    """Skip utterances whose samples turned out to be unusable: id and reason of each."""
    store.executemany("UPDATE utterance SET reason = ?2 WHERE id = ?1", bad)


def wanted_size(sentences: int) -> int:
    """How many utterances the development and the test set should have each, for so many different sentences.

    >>> [wanted_size(count) for count in (4, 60, 137, 1082, 100000)]
    [1, 6, 10, 54, 100]
    """
    return max(1, min(max(sentences // 20, 10), 100, sentences // 10))


def split(store: sqlite3.Connection) -> None:
    """Choose a development and a test set by a hash of the sentences: no sentence is in two sets.

    More recordings, even of the same sentences, change nothing about where a sentence belongs relative to others.

    Args:
        store: behind `skip_duplicates`.

    Raises:
        UserError: if there are fewer than three different sentences to use.
    """
    sentences = store.execute("SELECT count(DISTINCT sentence) FROM usable").fetchone()[0]
    if sentences < 3:
        reasons = ", ".join(f"{count} {kind}" for kind, count in skipped_kinds(store))
        raise UserError(
            f"--corpus must have at least three different sentences that can be used, got {sentences}; "
            f"skipped: {reasons or 'nothing'}"
        )
    wanted = wanted_size(sentences)
    counts = store.execute("SELECT sentence, count(*) FROM usable GROUP BY sentence")
    smallest = heapq.nsmallest(2 * wanted, counts, key=lambda row: row[0])
    store.execute("BEGIN")
    for part in ("test", "dev"):
        taken = 0
        while smallest and taken < wanted:
            sentence, count = smallest.pop(0)
            store.execute("UPDATE utterance SET part = ? WHERE sentence = ?", (part, sentence))
            taken += count
    store.execute("COMMIT")


def skipped_kinds(store: sqlite3.Connection) -> list[tuple[str, int]]:
    """Every kind of trouble with its count, most frequent first."""
    kind = "substr(reason, 1, instr(reason || ':', ':') - 1)"
    return store.execute(
        f"SELECT {kind} kind, count(*) number FROM trouble GROUP BY kind ORDER BY number DESC, kind"
    ).fetchall()


def skipped_of_kind(store: sqlite3.Connection, kind: str, most: int) -> Iterable[tuple[str, str]]:
    """The first few names and reasons of a kind."""
    found = store.execute(
        "SELECT * FROM trouble WHERE reason = ?1 OR reason LIKE ?1 || ':%' ORDER BY name LIMIT ?2",
        (kind, most),
    )
    return [(name, reason) for name, reason in found]


def write_sets(store: sqlite3.Connection, datadir: Path) -> None:
    """Write the Kaldi data directories of the three sets, and the list of what is skipped.

    Args:
        store: behind `split`.
        datadir: folder of train, dev and test.
    """
    has_segments = store.execute("SELECT 1 FROM usable WHERE first > 0 OR last IS NOT NULL").fetchone()
    languages = store.execute("SELECT 1 FROM usable WHERE language != ''").fetchone()
    for part in SETS:
        rows = f"FROM usable WHERE part = '{part}'"
        folder = datadir / part
        tables = {"text": "id, text", "utt2spk": "id, speaker"}
        if languages:
            tables["utt2lang"] = "id, coalesce(nullif(language, ''), 'unknown')"
        if has_segments:
            tables["segments"] = "id, id || ' ' || first || ' ' || coalesce(last, -1)"
        for name in ("utt2lang", "segments"):
            (folder / name).unlink(missing_ok=True)
        tables["wav.scp"] = "id, audio"  # last: later stages look for it first
        for name, columns in tables.items():
            write_sorted(folder / name, store.execute(f"SELECT {columns} {rows} ORDER BY id"))
        grouped = f"(SELECT id, speaker {rows} ORDER BY speaker, id) GROUP BY speaker"
        by_speaker = store.execute(f"SELECT speaker, group_concat(id, ' ') FROM {grouped}")
        write_scp(folder / "spk2utt", dict(by_speaker))
    everything = store.execute("SELECT * FROM trouble ORDER BY 1, 2")
    with atomic_path(datadir / "skipped") as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.writelines(f"{' '.join(name.split())}\t{' '.join(reason.split())}\n" for name, reason in everything)
