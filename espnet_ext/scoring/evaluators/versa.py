"""Metrics of the VERSA toolkit (Shi et al., arXiv 2412.17667) that need no reference."""

from __future__ import annotations

import numbers
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from espnet_ext.data.waveform import EVALUATION_RATE_HZ
from espnet_ext.errors import UserError
from espnet_ext.scoring.evaluators.base import OpinionPredictor, register_mos


@register_mos("versa")
class Versa(OpinionPredictor):
    """Every number that VERSA's metrics give of an utterance, as versa_NAME.

    Args:
        metrics: names of VERSA's metrics, or their whole entries of its score_config.
        use_gpu: whether its networks run on a GPU.
    """

    requires: ClassVar = {"versa": "git+https://github.com/wavlab-speech/versa.git"}

    def __init__(self, metrics: list[Any] | str = "pseudo_mos", use_gpu: bool = False) -> None:
        from versa.scorer_shared import load_score_modules

        names = [metrics] if isinstance(metrics, str) else metrics
        config = [{"name": one} if isinstance(one, str) else dict(one) for one in names]
        self._modules: Any = load_score_modules(config, use_gt=False, use_gt_text=False, use_gpu=use_gpu)
        if not self._modules:
            raise UserError(f"metrics must be some that VERSA has without reference, got {metrics!r}")

    def predict(self, samples: NDArray[np.float32]) -> dict[str, float]:  # noqa: D102 (inherited)
        from versa.scorer_shared import use_score_modules

        found = use_score_modules(self._modules, samples, None, EVALUATION_RATE_HZ)
        return {f"versa_{name}": float(value) for name, value in found.items() if isinstance(value, numbers.Real)}
