"""Layout `hugging_face`: a datasets folder as save_to_disk leaves it, or parquet files; needs the extra `datasets`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from espnet_ext.data.corpora.base import (
    Layout,
    Skipped,
    Utterance,
    needed_package,
    one_word,
    register_layout,
    without_suffix,
)
from espnet_ext.data.corpora.table import COLUMNS
from espnet_ext.errors import UserError
from espnet_ext.storage.atomic import atomic_path


@register_layout("hugging_face")
class HuggingFace(Layout):
    """A column of audio and one of text; audio that lies in the tables is unpacked."""

    _told = ""

    @classmethod
    def fits(cls, root: Path) -> bool:
        """Whether there are the files of save_to_disk, or parquet files."""
        names = ("dataset_info.json", "dataset_dict.json")
        return any((root / name).is_file() for name in names) or any(_parquet(root))

    def read(self) -> Iterator[Utterance | Skipped]:
        """The rows of all splits; yields as `Layout.read` says."""
        datasets = needed_package("datasets", "hugging_face")
        try:
            for split, rows in self._splits(datasets):
                features = rows.features or {}
                audio = next((name for name, kind in features.items() if isinstance(kind, datasets.Audio)), "audio")
                if audio in features:  # not decoded here: that needs another package, and takes as long as stage format
                    rows = rows.cast_column(audio, datasets.Audio(decode=False))
                names = {name: kind for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)}
                for index, row in enumerate(rows):
                    row |= {name: kind.int2str(row[name]) for name, kind in names.items() if row[name] is not None}
                    yield self._utterance(row, audio, f"{split}{index:08d}")
        except UserError:
            raise
        except (ValueError, LookupError, TypeError, OSError) as error:  # of datasets and of pyarrow
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{self.source.root}: must be readable by the package datasets ({reason})") from None

    def _splits(self, datasets: Any) -> Iterator[tuple[str, Any]]:
        """Every split with its rows."""
        root = self.source.root
        if files := [str(path) for path in _parquet(root)]:
            yield "", datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
            return
        loaded = datasets.load_from_disk(str(root))
        yield from loaded.items() if isinstance(loaded, datasets.DatasetDict) else [("", loaded)]

    def told(self) -> str:
        """The columns."""
        return self._told

    def _utterance(self, row: dict[str, Any], audio: str, place: str) -> Utterance | Skipped:
        columns = {
            kind: next((one for one in names if one in row and one != audio), "") for kind, names in COLUMNS.items()
        }
        if audio not in row or not columns["text"]:
            raise UserError(
                f"{self.source.root}: must have a column audio and one of {COLUMNS['text']}, got {list(row)}"
            )
        named = {"audio": audio, **columns}
        self._told = "columns " + ", ".join(f"{kind} = {name!r}" for kind, name in named.items() if name)
        fields = {kind: "" if row.get(name) is None else str(row[name]) for kind, name in columns.items()}
        said = row[audio] if isinstance(row[audio], dict) else {"path": row[audio]}
        name = one_word(without_suffix(fields["id"] or os.path.basename(said.get("path") or "") or place))
        if content := said.get("bytes"):
            suffix = os.path.splitext(said.get("path") or "")[1] or ".wav"
            path = self.source.unpacked / f"{one_word(place)}{suffix}"
            with atomic_path(path) as temporary:
                temporary.write_bytes(content)
        else:
            path = self.source.root / (said.get("path") or "")
            if refused := self.source.refusal(name, str(path), f"row {place}"):
                return refused
        return Utterance(name, str(path), fields["text"], f"row {place}", fields["speaker"], fields["language"])


def _parquet(root: Path) -> Iterator[Path]:
    yield from sorted(root.glob("*.parquet"))
    yield from sorted(root.glob("data/*.parquet"))
