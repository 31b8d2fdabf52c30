"""Whisper as its authors publish it."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from espnet_ext.scoring.evaluators.base import Recogniser, register_recogniser


@register_recogniser("whisper")
class Whisper(Recogniser):
    """A Whisper model, decoded greedily, each file alone.

    Args:
        model: name of a published model, which is downloaded once, or path of a checkpoint.
        language: of the speech.
    """

    requires: ClassVar = {"whisper": "openai-whisper"}

    def __init__(self, model: str = "base.en", language: str = "en") -> None:
        import whisper

        self._model: Any = whisper.load_model(model)
        self._language = language

    def recognise(self, samples: NDArray[np.float32]) -> str:  # noqa: D102 (inherited)
        # no fallback to higher temperatures, whose draws would differ from run to run
        heard = self._model.transcribe(
            samples, language=self._language, temperature=0.0, condition_on_previous_text=False, fp16=False
        )
        return str(heard["text"])
