"""Evaluators by name: recognisers turn audio into words, speaker encoders into a unit vector, predictors into opinions.

A new one is a file here, or in another package that announces it in the entry-point group espnet_ext.recogniser,
espnet_ext.voice or espnet_ext.mos.
"""

from espnet_ext.scoring.evaluators.base import (
    BY_VOCABULARY,
    KINDS,
    Embedding,
    Evaluator,
    OpinionPredictor,
    Recogniser,
    SpeakerEncoder,
    mos_predictors,
    recognisers,
    register_mos,
    register_recogniser,
    register_speaker_encoder,
    speaker_encoders,
)
from espnet_ext.scoring.evaluators.dnsmos import DNSMOS
from espnet_ext.scoring.evaluators.espnet import ESPnetRecogniser, ESPnetSpeakerEncoder
from espnet_ext.scoring.evaluators.faster_whisper import FasterWhisper
from espnet_ext.scoring.evaluators.pocketsphinx import PocketSphinx
from espnet_ext.scoring.evaluators.resemblyzer import Resemblyzer
from espnet_ext.scoring.evaluators.transformers import TransformersRecogniser, TransformersSpeakerEncoder
from espnet_ext.scoring.evaluators.utmos import UTMOS
from espnet_ext.scoring.evaluators.versa import Versa
from espnet_ext.scoring.evaluators.whisper import Whisper

__all__ = [
    "BY_VOCABULARY", "DNSMOS", "KINDS", "UTMOS", "ESPnetRecogniser", "ESPnetSpeakerEncoder", "Embedding", "Evaluator",
    "FasterWhisper", "OpinionPredictor", "PocketSphinx", "Recogniser", "Resemblyzer", "SpeakerEncoder",
    "TransformersRecogniser", "TransformersSpeakerEncoder", "Versa", "Whisper", "mos_predictors", "recognisers",
    "register_mos", "register_recogniser", "register_speaker_encoder", "speaker_encoders",
]  # fmt: skip
