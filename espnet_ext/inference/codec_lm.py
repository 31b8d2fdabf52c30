"""`CodecLM`, the speaker of texts."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from espnet_ext.inference.speaker import Speaker


class CodecLM(Speaker):
    """A speaker that is given its text and the codes of prompts."""

    kind = "codec_lm"

    @classmethod
    def from_experiment(  # type: ignore[override]  # it never had a text-to-semantic model
        cls, directory: Path | str, model_file: str | None = None, device: str = "cpu"
    ) -> Self:
        """Load what training wrote; see `Speaker.from_experiment`."""
        return super().from_experiment(directory, model_file, None, device)

    def encode_prompt(self, path: Path | str) -> NDArray[np.int64]:
        """Codes (T, N) of an audio file, resampled to the codec's rate; see `Listener.hear_prompt`."""
        return self.listener.hear_prompt(path, self.inputs.prompt_frames).streams.codes
