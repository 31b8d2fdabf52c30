"""Layout `lhotse`: a manifest of cuts, or of recordings and supervisions; needs the extra `lhotse`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from espnet_ext.data.audio import Span
from espnet_ext.data.corpora.base import Layout, Skipped, Utterance, needed_package, one_word, register_layout
from espnet_ext.errors import UserError


@register_layout("lhotse")
class Lhotse(Layout):
    """Each supervision is an utterance; audio must be files, of one source."""

    @classmethod
    def fits(cls, root: Path) -> bool:
        """Whether there is a manifest."""
        return any(_manifests(root, "cuts")) or any(_manifests(root, "recordings"))

    def read(self) -> Iterator[Utterance | Skipped]:
        """The supervisions of all cuts; yields as `Layout.read` says."""
        lhotse = needed_package("lhotse", "lhotse")
        root = self.source.root
        cuts = [(path, lhotse.load_manifest_lazy(path)) for path in _manifests(root, "cuts")]
        if not cuts:
            for path in _manifests(root, "recordings"):
                other = path.with_name(path.name.replace("recordings", "supervisions"))
                if not other.is_file():
                    raise UserError(f"{path} must have {other.name} beside it, found none")
                parts = {
                    "recordings": lhotse.load_manifest_lazy(path),
                    "supervisions": lhotse.load_manifest_lazy(other),
                }
                cuts.append((path, lhotse.CutSet.from_manifests(**parts, lazy=True)))
        for path, several in cuts:
            for cut in several:
                for supervision in cut.supervisions:
                    yield self._utterance(cut, supervision, path.name)

    def _utterance(self, cut: Any, supervision: Any, place: str) -> Utterance | Skipped:
        name, sources = one_word(supervision.id), cut.recording.sources
        if len(sources) != 1 or sources[0].type != "file":
            return Skipped(name, f"audio that is no file: {cut.recording.id} of {place}")
        audio = Path(sources[0].source)
        path = str(audio if audio.is_absolute() else self.source.root / audio)
        begin = cut.start + max(supervision.start, 0.0)
        span = Span(begin, begin + supervision.duration)
        if begin == 0 and supervision.duration >= cut.recording.duration - 1e-3:
            span = Span()
        said = (supervision.text or "", place, supervision.speaker or "", supervision.language or "")
        return self.source.refusal(name, path, place) or Utterance(name, path, *said, span=span)


def _manifests(root: Path, kind: str) -> list[Path]:
    return sorted(path for ending in ("jsonl", "jsonl.gz") for path in root.glob(f"*{kind}*.{ending}"))
