"""What every recogniser offers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from espnet_ext.data.waveform import EVALUATION_RATE_HZ, read_resampled
from espnet_ext.registry import Registry
from espnet_ext.scoring.evaluators.evaluator import Evaluator
from espnet_ext.scoring.measures.error_rate import normalise

SHORTEST_SECONDS = 0.1  # recognisers need a few frames; shorter audio holds no word


class Recogniser(Evaluator):
    """A recogniser of words.

    Attributes:
        hears_given_words: whether it takes the words that it may hear as the option `words`.
    """

    hears_given_words: ClassVar[bool] = False

    def __call__(self, path: Path) -> str:
        """Words, normalised; none where the audio is too short for one."""
        samples = read_resampled(path)
        if len(samples) < SHORTEST_SECONDS * EVALUATION_RATE_HZ:
            return ""
        return normalise(self.recognise(samples))

    @classmethod
    def known_words(cls, words: Iterable[str]) -> set[str]:
        """Those words that it can hear.

        Args:
            words: normalised words.

        Returns:
            All of them, unless a subclass knows better.
        """
        return set(words)

    @abstractmethod
    def recognise(self, samples: NDArray[np.float32]) -> str:
        """What is heard.

        Args:
            samples: (samples,) at the evaluation rate, full scale 1.

        Returns:
            The text, in any spelling.
        """


recognisers: Registry[type[Recogniser]] = Registry("asr", "espnet_ext.recogniser")


def register_recogniser(name: str) -> Callable[[type[Recogniser]], type[Recogniser]]:
    """A class decorator that makes a recogniser available as `--asr NAME`."""
    return recognisers.register(name)
