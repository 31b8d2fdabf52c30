"""`GPSTSpeech`, the speaker of semantic units."""

from __future__ import annotations

from collections.abc import Sequence

from espnet_ext.decoding.options import DecodeOptions
from espnet_ext.inference.requests import Mode, Request
from espnet_ext.inference.speaker import Speaker
from espnet_ext.inference.speech import Speech


class GPSTSpeech(Speaker):
    """A speaker that is given semantic units, of recordings or of texts."""

    kind = "gpst"

    def batch(  # type: ignore[override]  # as it has always been
        self, mode: Mode, names: Sequence[str], requests: Sequence[Request], options: DecodeOptions
    ) -> list[Speech]:
        """Several utterances at once; see `speak_all`."""
        return self.speak_all(mode, names, requests, options)
