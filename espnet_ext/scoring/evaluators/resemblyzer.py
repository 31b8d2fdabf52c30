"""Resemblyzer's speaker encoder, whose weights are inside its wheel."""

from __future__ import annotations

import warnings
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from espnet_ext.data.waveform import EVALUATION_RATE_HZ
from espnet_ext.scoring.evaluators.base import SpeakerEncoder, register_speaker_encoder

SHORTEST_SPEECH_SECONDS = 0.3  # where the voice detector leaves less, the whole audio is embedded


@register_speaker_encoder("resemblyzer")
class Resemblyzer(SpeakerEncoder):
    """An encoder of 256 numbers, on the CPU."""

    requires: ClassVar = {"resemblyzer": "'espnet_ext[score]'"}

    def __init__(self) -> None:
        with warnings.catch_warnings():
            # its import of scipy.ndimage.morphology is deprecated, which no user of ours can change
            warnings.simplefilter("ignore", DeprecationWarning)
            from resemblyzer import VoiceEncoder
        self._encoder = VoiceEncoder("cpu", verbose=False)

    def embed(self, samples: NDArray[np.float32]) -> NDArray[np.floating]:  # noqa: D102 (inherited)
        from resemblyzer.audio import normalize_volume, trim_long_silences
        from resemblyzer.hparams import audio_norm_target_dBFS

        samples = np.clip(normalize_volume(samples, audio_norm_target_dBFS, increase_only=True), -1.0, 1.0)
        speech = trim_long_silences(samples)
        if len(speech) < SHORTEST_SPEECH_SECONDS * EVALUATION_RATE_HZ:
            speech = samples
        return self._encoder.embed_utterance(speech)
