"""UTMOS (Saeki et al., arXiv 2204.02152), its strong learner without fairseq."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from espnet_ext.scoring.evaluators.base import OpinionPredictor, register_mos


@register_mos("utmos")
class UTMOS(OpinionPredictor):
    """Naturalness, 1 to 5.

    Args:
        checkpoint: converted weights; None downloads them once.
        device: cpu or cuda.
    """

    requires: ClassVar = {"utmos_pytorch": "utmos-pytorch"}

    def __init__(self, checkpoint: str | None = None, device: str = "cpu") -> None:
        from utmos_pytorch import UTMOSScoreTorch

        self._model: Any = UTMOSScoreTorch(ckpt_path=checkpoint, device=device)
        self._device = device

    def predict(self, samples: NDArray[np.float32]) -> dict[str, float]:  # noqa: D102 (inherited)
        import torch  # here: whoever lists evaluators does not wait for it

        with torch.no_grad():
            opinion = self._model.score(torch.from_numpy(samples).to(self._device))
        return {"utmos": float(opinion.reshape(()))}
