"""Recognisers of the transformers library: CTC models and sequence-to-sequence ones."""

from __future__ import annotations

import importlib
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from espnet_ext.data.waveform import EVALUATION_RATE_HZ
from espnet_ext.scoring.evaluators.recogniser.base import Recogniser, register_recogniser
from espnet_ext.storage.torchaudio_shim import import_torchaudio


@register_recogniser("transformers")
class TransformersRecogniser(Recogniser):
    """A model that the library's speech recognition pipeline can run.

    Args:
        model: directory, or name on the hub, from where it is downloaded once.
        device: cpu or cuda.
    """

    requires: ClassVar = {"transformers": "'espnet_ext[hf]'"}

    def __init__(self, model: str = "openai/whisper-base.en", device: str = "cpu") -> None:
        import_torchaudio()  # transformers imports it, and PyPI's may need the shim
        transformers: Any = importlib.import_module("transformers")
        config = transformers.AutoConfig.from_pretrained(model)
        self._processor: Any = transformers.AutoProcessor.from_pretrained(model)
        # a configuration with a decoder is of a model that writes; the others label frames
        self._writes = bool(config.is_encoder_decoder)
        kind = transformers.AutoModelForSpeechSeq2Seq if self._writes else transformers.AutoModelForCTC
        self._model: Any = kind.from_pretrained(model).eval().to(device)

    @torch.no_grad()
    def recognise(self, samples: NDArray[np.float32]) -> str:  # noqa: D102 (inherited)
        given = self._processor(samples, sampling_rate=EVALUATION_RATE_HZ, return_tensors="pt").to(self._model.device)
        if self._writes:
            tokens = self._model.generate(**given, do_sample=False, num_beams=1)
        else:
            tokens = self._model(**given).logits.argmax(dim=-1)
        return str(self._processor.batch_decode(tokens, skip_special_tokens=self._writes)[0])
