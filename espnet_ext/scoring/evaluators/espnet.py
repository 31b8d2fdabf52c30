"""Recognisers and speaker encoders that were trained with ESPnet."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from espnet_ext.scoring.evaluators.base import (
    Recogniser,
    Samples,
    SpeakerEncoder,
    register_recogniser,
    register_speaker_encoder,
)
from espnet_ext.storage.torchaudio_shim import import_torchaudio


@register_recogniser("espnet")
class ESPnetRecogniser(Recogniser):
    """An ASR model of ESPnet, decoded as its own inference does.

    Args:
        train_config: config.yaml of its training.
        model_file: its weights.
        beam_size: of the search.
        ctc_weight: share of CTC in the search.
        device: cpu or cuda.
    """

    # all its encoders are imported, one of them through hydra
    requires: ClassVar = {"espnet2": "espnet", "hydra": "hydra-core"}

    def __init__(
        self,
        train_config: str = "config.yaml",
        model_file: str | None = None,
        beam_size: int = 1,
        ctc_weight: float = 0.3,
        device: str = "cpu",
    ) -> None:
        import_torchaudio()  # ESPnet imports it at its top, where it may not load without the shim
        from espnet2.bin.asr_inference import Speech2Text

        self._model: Any = Speech2Text(
            asr_train_config=train_config,
            asr_model_file=model_file,
            beam_size=beam_size,
            ctc_weight=ctc_weight,
            device=device,
        )

    def recognise(self, samples: Samples) -> str:  # noqa: D102 (inherited)
        best = self._model(samples)[0]
        return best[0] or ""


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
        import_torchaudio()
        from espnet2.bin.spk_inference import Speech2Embedding

        self._model: Any = Speech2Embedding(train_config=train_config, model_file=model_file, device=device)

    def embed(self, samples: Samples) -> NDArray[np.floating]:  # noqa: D102 (inherited)
        vector: NDArray[np.floating] = self._model(samples).detach().cpu().numpy()
        return vector
