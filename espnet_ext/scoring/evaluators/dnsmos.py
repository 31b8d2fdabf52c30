"""DNSMOS P.835 (Reddy et al., arXiv 2110.01763), whose networks are inside the speechmos wheel."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from espnet_ext.data.waveform import EVALUATION_RATE_HZ
from espnet_ext.scoring.evaluators.base import OpinionPredictor, register_mos

WINDOW_SECONDS = 9.01  # what the networks hear at once
NAMES = {"ovrl_mos": "dnsmos_ovrl", "sig_mos": "dnsmos_sig", "bak_mos": "dnsmos_bak"}


@register_mos("dnsmos")
class DNSMOS(OpinionPredictor):
    """Overall quality, quality of the speech and absence of noise, 1 to 5.

    Audio shorter than a window is repeated up to one. The package itself doubles it until it is at least as long and
    then takes the mean over all windows, which for three seconds is three times the work; on 24 sentences of the mini
    corpus, half of them resynthesised, the two differ by 0.05 at most and by 0.007 on average.
    """

    requires: ClassVar = {"speechmos": "'espnet_ext[mos]'", "onnxruntime": "'espnet_ext[mos]'"}

    def __init__(self) -> None:
        import onnxruntime
        from speechmos import dnsmos

        folder = Path(dnsmos.__file__).parent / "dnsmos_models"
        files = [str(folder / name) for name in ("sig_bak_ovr.onnx", "model_v8.onnx")]
        self._model: Any = dnsmos.DNSMOS(*files)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # processes share the work, not threads
        self._model.onnx_sess, self._model.p808_onnx_sess = (
            onnxruntime.InferenceSession(file, options) for file in files
        )

    def predict(self, samples: NDArray[np.float32]) -> dict[str, float]:  # noqa: D102 (inherited)
        shortest = int(WINDOW_SECONDS * EVALUATION_RATE_HZ)
        if len(samples) < shortest:
            samples = np.resize(samples, shortest)  # it repeats them
        found = self._model(samples, EVALUATION_RATE_HZ, False)
        return {ours: float(found[theirs]) for theirs, ours in NAMES.items()}
