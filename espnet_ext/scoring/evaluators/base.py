"""The three kinds of evaluators, each with the classes that an option chooses by name: words, voices and opinions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from espnet_ext.data.waveform import EVALUATION_RATE_HZ, read_resampled
from espnet_ext.errors import UserError
from espnet_ext.registry import Registry
from espnet_ext.scoring.measures.condition import is_silent
from espnet_ext.scoring.measures.error_rate import normalise

Samples = NDArray[np.float32]
Embedding = NDArray[np.float32]
SHORTEST_SECONDS = 0.1  # recognisers need a few frames; shorter audio holds no word


class Evaluator(ABC):
    """Something that hears one file at a time; a subclass adds its options as keyword arguments with defaults.

    What it says of a file must depend on nothing but the file and its options.

    Attributes:
        requires: module that it imports → what pip installs for it. The first one's version is reported.
    """

    requires: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def __call__(self, path: Path) -> Any:
        """What it hears: words, a unit vector or a dictionary of numbers; None where there is nothing to say.

        Args:
            path: audio of any sample rate.

        Returns:
            The value.

        Raises:
            UserError: if the file cannot be judged.
        """


class Recogniser(Evaluator):
    """A recogniser of words.

    Attributes:
        hears_given_words: whether it takes the words that it may hear as the option `words`.
        hears_accents: whether it can tell a letter with an accent from one without; otherwise both are one.
    """

    hears_given_words: ClassVar[bool] = False
    hears_accents: ClassVar[bool] = True

    def __call__(self, path: Path) -> str:
        """Words, normalised; none where the audio is too short for one."""
        samples = read_resampled(path)
        if len(samples) < SHORTEST_SECONDS * EVALUATION_RATE_HZ:
            return ""
        return self.normalise(self.recognise(samples))

    @classmethod
    def normalise(cls, text: str) -> str:
        """A text as its words are compared."""
        return normalise(text, fold_accents=not cls.hears_accents)

    @classmethod
    def known_words(cls, words: Iterable[str]) -> set[str]:
        """Those of normalised words that it can hear: all of them, unless a subclass knows better."""
        return set(words)

    @classmethod
    def refusal(cls, texts: Collection[str], languages: Collection[str], **conf: Any) -> str | None:
        """Why it can hear none of the words of a test set; None if it can, or if nobody knows.

        Args:
            texts: in any spelling.
            languages: of the utterances, as the data name them; empty where they do not.
            **conf: its options.

        Returns:
            The reason, one line.
        """
        return None

    @abstractmethod
    def recognise(self, samples: Samples) -> str:
        """What is heard, in any spelling, of samples (samples,) at the evaluation rate, full scale 1."""


class SpeakerEncoder(Evaluator):
    """An encoder of voices."""

    def __call__(self, path: Path) -> Embedding | None:
        """A unit vector; None for silence, in which there is no voice."""
        samples = read_resampled(path)
        if is_silent(samples):
            return None
        vector = np.asarray(self.embed(samples), dtype=np.float32).reshape(-1)
        length = float(np.linalg.norm(vector))
        if not np.isfinite(length) or length == 0:
            raise UserError("the speaker encoder found no voice")
        return vector / length

    @abstractmethod
    def embed(self, samples: Samples) -> NDArray[np.floating]:
        """A vector of any length.

        Args:
            samples: (samples,) at the evaluation rate, full scale 1, not silent.

        Returns:
            (E,) or (1, E).

        Raises:
            UserError: if the audio is too short, say.
        """


class OpinionPredictor(Evaluator):
    """A predictor of what listeners would say; the names of its numbers begin with its own, higher is better."""

    def __call__(self, path: Path) -> dict[str, float] | None:
        """Name → number; None for silence, which nobody can have an opinion of."""
        samples = read_resampled(path)
        if is_silent(samples):
            return None
        return {name: float(value) for name, value in self.predict(np.clip(samples, -1.0, 1.0)).items()}

    @abstractmethod
    def predict(self, samples: Samples) -> dict[str, float]:
        """The predictions.

        Args:
            samples: (samples,) at the evaluation rate, within full scale 1, not silent.

        Returns:
            Name → number.

        Raises:
            UserError: if the audio is too short, say.
        """


recognisers: Registry[type[Recogniser]] = Registry("asr", "espnet_ext.recogniser")
speaker_encoders: Registry[type[SpeakerEncoder]] = Registry("speaker", "espnet_ext.voice")
mos_predictors: Registry[type[OpinionPredictor]] = Registry("mos", "espnet_ext.mos")

# class decorators that make an evaluator available as --asr, --speaker or --mos NAME
register_recogniser, register_speaker_encoder = recognisers.register, speaker_encoders.register
register_mos = mos_predictors.register


BY_VOCABULARY = "by_vocabulary"  # choose a recogniser by the words of the texts


class Kind(NamedTuple):
    """The evaluators of one option.

    Attributes:
        registry: of their classes.
        default: name of the one that is asked where the user names none.
        label: in the list of versions.
        what: they are, for --help.
    """

    registry: Registry[Any]
    default: str
    label: str
    what: str


KINDS = {
    "asr": Kind(recognisers, BY_VOCABULARY, "recogniser", f"recogniser, {BY_VOCABULARY} or one"),
    "speaker": Kind(speaker_encoders, "resemblyzer", "speaker encoder", "speaker encoder: one"),
    "mos": Kind(mos_predictors, "dnsmos", "opinion scores", "predictors of opinion scores, separated by spaces:"),
}
