"""Speaker encoders of the transformers library, such as WavLM with its x-vector head."""

from __future__ import annotations

import importlib
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from espnet_ext.data.waveform import EVALUATION_RATE_HZ
from espnet_ext.errors import UserError
from espnet_ext.scoring.evaluators.voice.base import SpeakerEncoder, register_speaker_encoder
from espnet_ext.storage.torchaudio_shim import import_torchaudio

SHORTEST_SECONDS = 0.5  # the statistics of shorter audio say more about the padding than about a voice


@register_speaker_encoder("transformers")
class TransformersSpeakerEncoder(SpeakerEncoder):
    """A model with an x-vector head.

    Args:
        model: directory, or name on the hub, from where it is downloaded once.
        device: cpu or cuda.
    """

    requires: ClassVar = {"transformers": "'espnet_ext[hf]'"}

    def __init__(self, model: str = "microsoft/wavlm-base-plus-sv", device: str = "cpu") -> None:
        import_torchaudio()  # transformers imports it, and PyPI's may need the shim
        transformers: Any = importlib.import_module("transformers")
        self._extractor: Any = transformers.AutoFeatureExtractor.from_pretrained(model)
        self._model: Any = transformers.AutoModelForAudioXVector.from_pretrained(model).eval().to(device)

    @torch.no_grad()
    def embed(self, samples: NDArray[np.float32]) -> NDArray[np.floating]:  # noqa: D102 (inherited)
        if len(samples) < SHORTEST_SECONDS * EVALUATION_RATE_HZ:
            raise UserError(f"audio must last at least {SHORTEST_SECONDS} s for this speaker encoder")
        given = self._extractor(samples, sampling_rate=EVALUATION_RATE_HZ, return_tensors="pt").to(self._model.device)
        return self._model(**given).embeddings[0].cpu().numpy()
