"""Layout `beside`: a text file beside each recording, in one folder or in many."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from espnet_ext.data.corpora.base import (
    AUDIO_SUFFIXES,
    Layout,
    Skipped,
    Utterance,
    files_below,
    lines_of,
    one_word,
    register_layout,
    trouble_of,
)
from espnet_ext.errors import UserError

TEXT_SUFFIXES = (".txt", ".lab")
_TIMES = re.compile(r"\s*[0-9.]+\s+[0-9.]+\s+\S")  # begin and end of a phone, as other programs' .lab have them


@register_layout("beside")
class Beside(Layout):
    """NAME.txt or NAME.lab beside NAME.wav; the id is the path with "-" between folders."""

    @classmethod
    def fits(cls, root: Path) -> bool:
        """Whether any recording has a text beside it."""
        return any(_texts(os.path.splitext(path)[0]) for path in files_below(str(root)) if _is_audio(path))

    def read(self) -> Iterator[Utterance | Skipped]:
        """The recordings; yields as `Layout.read` says."""
        root = str(self.source.root)
        for path in files_below(root):
            stem, suffix = os.path.splitext(path)
            if suffix.lower() in TEXT_SUFFIXES:
                if not any(os.path.isfile(f"{stem}{ending}") for ending in _spellings(AUDIO_SUFFIXES)):
                    yield Skipped(os.path.relpath(path, root), f"text without audio: {os.path.relpath(path, root)}")
            elif _is_audio(path):
                yield self._utterance(path, os.path.relpath(stem, root))

    def _utterance(self, audio: str, name: str) -> Utterance | Skipped:
        utterance, place = one_word(name), os.path.relpath(audio, self.source.root)
        found = _texts(os.path.splitext(audio)[0])
        if not found:
            return Skipped(utterance, f"audio without text: {place}")
        if refused := self.source.refusal(utterance, audio, place):
            return refused
        texts = []
        for path in found:
            place = os.path.relpath(path, self.source.root)
            if not self.source.allows(path):
                return Skipped(utterance, f"text outside of the corpus: {place}")
            try:
                lines = list(lines_of(Path(path), self.source.encoding))
            except UserError as error:
                return Skipped(utterance, f"other encoding: {error}")
            for number, line in lines:
                if trouble := trouble_of(line, f"{place}:{number}"):
                    return Skipped(utterance, trouble)
            if lines and _TIMES.match(lines[0][1]):
                return Skipped(utterance, f"times instead of a text: {place}:1")
            texts.append(" ".join(line for _, line in lines))
        if len({" ".join(text.split()) for text in texts}) > 1:
            return Skipped(
                utterance,
                f"two texts for one id: {' and '.join(os.path.relpath(one, self.source.root) for one in found)}",
            )
        return Utterance(utterance, audio, texts[0], place)


def _is_audio(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in AUDIO_SUFFIXES


def _spellings(suffixes: tuple[str, ...]) -> Iterator[str]:
    for suffix in suffixes:
        yield from (suffix, suffix.upper())


def _texts(stem: str) -> list[str]:
    return [f"{stem}{suffix}" for suffix in TEXT_SUFFIXES if os.path.isfile(f"{stem}{suffix}")]
