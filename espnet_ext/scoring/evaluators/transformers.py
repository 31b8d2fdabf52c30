"""Models of the transformers library: recognisers, CTC or sequence-to-sequence, and speaker encoders such as WavLM."""

from __future__ import annotations

import importlib
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from espnet_ext.data.waveform import EVALUATION_RATE_HZ
from espnet_ext.errors import UserError
from espnet_ext.scoring.evaluators.base import (
    Recogniser,
    Samples,
    SpeakerEncoder,
    register_recogniser,
    register_speaker_encoder,
)
from espnet_ext.storage.torchaudio_shim import import_torchaudio

SHORTEST_SECONDS = 0.5  # the statistics of shorter audio say more about the padding than about a voice


def _library() -> Any:
    import_torchaudio()  # transformers imports it, and PyPI's may need the shim
    return importlib.import_module("transformers")


def _no_grad() -> AbstractContextManager[None]:
    import torch  # here: whoever lists evaluators does not wait for it

    return torch.no_grad()


@register_recogniser("transformers")
class TransformersRecogniser(Recogniser):
    """A model that the library's speech recognition pipeline can run.

    Args:
        model: directory, or name on the hub, from where it is downloaded once.
        device: cpu or cuda.
    """

    requires: ClassVar = {"transformers": "'espnet_ext[hf]'"}

    def __init__(self, model: str = "openai/whisper-base.en", device: str = "cpu") -> None:
        transformers = _library()
        config = transformers.AutoConfig.from_pretrained(model)
        self._processor: Any = transformers.AutoProcessor.from_pretrained(model)
        # a configuration with a decoder is of a model that writes; the others label frames
        self._writes = bool(config.is_encoder_decoder)
        kind = transformers.AutoModelForSpeechSeq2Seq if self._writes else transformers.AutoModelForCTC
        self._model: Any = kind.from_pretrained(model).eval().to(device)

    def recognise(self, samples: Samples) -> str:  # noqa: D102 (inherited)
        given = self._processor(samples, sampling_rate=EVALUATION_RATE_HZ, return_tensors="pt").to(self._model.device)
        with _no_grad():
            if self._writes:
                tokens = self._model.generate(**given, do_sample=False, num_beams=1)
            else:
                tokens = self._model(**given).logits.argmax(dim=-1)
        return str(self._processor.batch_decode(tokens, skip_special_tokens=self._writes)[0])


@register_speaker_encoder("transformers")
class TransformersSpeakerEncoder(SpeakerEncoder):
    """A model with an x-vector head.

    Args:
        model: directory, or name on the hub, from where it is downloaded once.
        device: cpu or cuda.
    """

    requires: ClassVar = {"transformers": "'espnet_ext[hf]'"}

    def __init__(self, model: str = "microsoft/wavlm-base-plus-sv", device: str = "cpu") -> None:
        transformers = _library()
        self._extractor: Any = transformers.AutoFeatureExtractor.from_pretrained(model)
        self._model: Any = transformers.AutoModelForAudioXVector.from_pretrained(model).eval().to(device)

    def embed(self, samples: Samples) -> NDArray[np.floating]:  # noqa: D102 (inherited)
        if len(samples) < SHORTEST_SECONDS * EVALUATION_RATE_HZ:
            raise UserError(f"audio must last at least {SHORTEST_SECONDS} s for this speaker encoder")
        given = self._extractor(samples, sampling_rate=EVALUATION_RATE_HZ, return_tensors="pt").to(self._model.device)
        with _no_grad():
            return self._model(**given).embeddings[0].cpu().numpy()
