"""Speaker encoders that were trained with ESPnet."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from espnet_ext.scoring.evaluators.voice.base import SpeakerEncoder, register_speaker_encoder
from espnet_ext.storage.torchaudio_shim import import_torchaudio


@register_speaker_encoder("espnet")
class ESPnetSpeakerEncoder(SpeakerEncoder):
    """A speaker model of ESPnet.

    Args:
        train_config: config.yaml of its training.
        model_file: its weights.
        device: cpu or cuda.
    """

    # all its front ends are imported, one of them through asteroid-filterbanks
    requires: ClassVar = {"espnet2": "espnet", "asteroid_filterbanks": "asteroid-filterbanks"}

    def __init__(self, train_config: str = "config.yaml", model_file: str | None = None, device: str = "cpu") -> None:
        import_torchaudio()  # ESPnet imports it at its top, where it may not load without the shim
        from espnet2.bin.spk_inference import Speech2Embedding

        self._model: Any = Speech2Embedding(train_config=train_config, model_file=model_file, device=device)

    def embed(self, samples: NDArray[np.float32]) -> NDArray[np.floating]:  # noqa: D102 (inherited)
        vector: NDArray[np.floating] = self._model(samples).detach().cpu().numpy()
        return vector
