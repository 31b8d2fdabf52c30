"""Layout `lhotse`: a manifest of cuts, or of recordings and supervisions; needs the extra `lhotse`."""

from __future__ import annotations

import gzip
import json
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar, TextIO, cast

from espnet_ext.data.audio import Span
from espnet_ext.data.corpora.base import Layout, Skipped, Utterance, needed_package, one_word, register_layout
from espnet_ext.errors import UserError

HARMLESS = {"Resample"}  # of a recording's transforms: stage format does it anyway
BAD_LINE = (ValueError, LookupError, TypeError, AttributeError, RecursionError)  # what lhotse makes of one


@register_layout("lhotse")
class Lhotse(Layout):
    """Each supervision is an utterance; audio must be files, of one source, as they are.

    Args:
        source: the corpus.
    """

    kinds: ClassVar[tuple[str, str]] = ("cuts", "recordings")

    @classmethod
    def fits(cls, root: Path) -> bool:
        """Whether there is a manifest."""
        return any(_manifests(root, kind) for kind in cls.kinds)

    def told(self) -> str:
        """Which manifests are read: recordings do not count where there are cuts."""
        found = [path for kind in self.kinds for path in _manifests(self.source.root, kind)]
        return ", ".join(path.name for path in found if "cuts" in path.name or "cuts" not in found[0].name)

    def read(self) -> Iterator[Utterance | Skipped]:
        """The supervisions; yields as `Layout.read` says."""
        needed_package("lhotse", "lhotse")
        root = self.source.root
        cuts = _manifests(root, "cuts")
        for path in cuts:
            for number, cut in _items(path, "type"):
                yield from self._of_cut(cut, f"{path.name}:{number}")
        for path in [] if cuts else _manifests(root, "recordings"):
            other = path.with_name(path.name.replace("recordings", "supervisions"))
            if not other.is_file():
                raise UserError(f"{path} must have {other.name} beside it, found none")
            yield from self._of_tables(path, other)

    def _of_cut(self, cut: Any, place: str) -> Iterator[Utterance | Skipped]:
        if not getattr(cut, "has_recording", False) or not hasattr(cut, "recording"):
            yield Skipped(one_word(str(cut.id)), f"audio that is no file: a mixture, or features, of {place}")
            return
        if not cut.supervisions:
            yield Skipped(one_word(str(cut.id)), f"audio without text: {place}")
        for supervision in cut.supervisions:
            yield self._utterance(cut.recording, supervision, cut.start, place)

    def _of_tables(self, recordings: Path, supervisions: Path) -> Iterator[Utterance | Skipped]:
        with closing(sqlite3.connect("")) as store:  # a temporary file: tables may be larger than the memory
            store.execute("CREATE TABLE recording (id PRIMARY KEY, item, line, said DEFAULT 0) WITHOUT ROWID")
            rows = ((str(one.id), json.dumps(one.to_dict()), line) for line, one in _items(recordings, "sources"))
            store.executemany("INSERT OR REPLACE INTO recording (id, item, line) VALUES (?, ?, ?)", rows)
            deserialize = needed_package("lhotse.serialization", "lhotse").deserialize_item
            for number, supervision in _items(supervisions, "recording_id"):
                place, wanted = f"{supervisions.name}:{number}", str(supervision.recording_id)
                found = store.execute("SELECT item FROM recording WHERE id = ?", (wanted,)).fetchone()
                if found is None:
                    name = one_word(str(supervision.id))
                    yield Skipped(name, f"text without audio: {wanted} of {place} is not in {recordings.name}")
                else:
                    store.execute("UPDATE recording SET said = 1 WHERE id = ?", (wanted,))
                    yield self._utterance(deserialize(json.loads(found[0])), supervision, 0.0, place)

            for name, line in store.execute("SELECT id, line FROM recording WHERE NOT said"):
                yield Skipped(one_word(name), f"audio without text: {recordings.name}:{line}")

    def _utterance(self, recording: Any, supervision: Any, offset: float, place: str) -> Utterance | Skipped:
        """A supervision, whose times are those of its cut, `offset` behind the beginning of the recording."""
        name, sources = one_word(str(supervision.id)), recording.sources
        if len(sources) != 1 or sources[0].type != "file":
            return Skipped(name, f"audio that is no file: {recording.id} of {place}")
        if changed := [one["name"] for one in _plain(recording.transforms) if one["name"] not in HARMLESS]:
            return Skipped(name, f"audio that is still to be changed: {', '.join(changed)} of {place}; save it first")
        channels = supervision.channel if isinstance(supervision.channel, list) else [supervision.channel]
        if recording.num_channels > len(set(channels)):
            return Skipped(name, f"one channel of several: {recording.id} of {place}; save that channel as a file")
        path = self.source.located(str(sources[0].source))
        begin, end = max(offset + supervision.start, 0.0), offset + supervision.end
        span = Span(begin, end)
        if begin == 0 and end >= recording.duration - 1e-3:
            span = Span()
        said = (supervision.text or "", place, supervision.speaker or "", supervision.language or "")
        return self.source.refusal(name, path, place) or Utterance(name, path, *said, span=span)


def _plain(transforms: Any) -> list[dict[str, Any]]:
    return [one if isinstance(one, dict) else one.to_dict() for one in transforms or []]


def _manifests(root: Path, kind: str) -> list[Path]:
    return sorted(path for ending in ("jsonl", "jsonl.gz") for path in root.glob(f"*{kind}*.{ending}"))


def _items(path: Path, key: str) -> Iterator[tuple[int, Any]]:
    """The lines of a manifest with their numbers, as lhotse's objects; each must have the key."""
    deserialize = needed_package("lhotse.serialization", "lhotse").deserialize_item
    number = 0
    try:
        with cast(TextIO, (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8")) as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, _item(deserialize, line, key, f"{path}:{number}")
    except (OSError, EOFError, zlib.error, UnicodeError) as error:  # a file that was cut, or is no archive
        raise UserError(f"{path}:{number + 1}: must be a line of a lhotse manifest ({error})") from None


def _item(deserialize: Any, line: str, key: str, place: str) -> Any:
    try:
        content = json.loads(line)
        if key not in content:
            raise ValueError(f"no {key}")
        return deserialize(content)
    except BAD_LINE as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{place}: must be a line of a lhotse manifest ({reason})") from None
