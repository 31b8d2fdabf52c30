"""What every speaker encoder offers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from espnet_ext.data.waveform import read_resampled
from espnet_ext.errors import UserError
from espnet_ext.registry import Registry
from espnet_ext.scoring.evaluators.evaluator import Evaluator
from espnet_ext.scoring.measures.condition import is_silent

Embedding = NDArray[np.float32]


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
    def embed(self, samples: NDArray[np.float32]) -> NDArray[np.floating]:
        """A vector of any length.

        Args:
            samples: (samples,) at the evaluation rate, full scale 1, not silent.

        Returns:
            (E,) or (1, E).

        Raises:
            UserError: if the audio is too short, say.
        """


speaker_encoders: Registry[type[SpeakerEncoder]] = Registry("speaker", "espnet_ext.voice")


def register_speaker_encoder(name: str) -> Callable[[type[SpeakerEncoder]], type[SpeakerEncoder]]:
    """A class decorator that makes a speaker encoder available as `--speaker NAME`."""
    return speaker_encoders.register(name)
