"""What every predictor of opinion scores offers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from espnet_ext.data.waveform import read_resampled
from espnet_ext.registry import Registry
from espnet_ext.scoring.evaluators.evaluator import Evaluator
from espnet_ext.scoring.measures.condition import is_silent


class OpinionPredictor(Evaluator):
    """A predictor of what listeners would say; the names of its numbers begin with its own, higher is better."""

    def __call__(self, path: Path) -> dict[str, float] | None:
        """Name → number; None for silence, which nobody can have an opinion of."""
        samples = read_resampled(path)
        if is_silent(samples):
            return None
        return {name: float(value) for name, value in self.predict(np.clip(samples, -1.0, 1.0)).items()}

    @abstractmethod
    def predict(self, samples: NDArray[np.float32]) -> dict[str, float]:
        """The predictions.

        Args:
            samples: (samples,) at the evaluation rate, within full scale 1, not silent.

        Returns:
            Name → number.

        Raises:
            UserError: if the audio is too short, say.
        """


mos_predictors: Registry[type[OpinionPredictor]] = Registry("mos", "espnet_ext.mos")


def register_mos(name: str) -> Callable[[type[OpinionPredictor]], type[OpinionPredictor]]:
    """A class decorator that makes a predictor available as `--mos NAME`."""
    return mos_predictors.register(name)
