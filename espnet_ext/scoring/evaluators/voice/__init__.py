"""Speaker encoders by name; each turns an audio file into a unit vector that describes the voice.

A new one is a file here, or in another package that announces it in the entry-point group espnet_ext.voice.
"""

from espnet_ext.scoring.evaluators.voice.base import (
    Embedding,
    SpeakerEncoder,
    register_speaker_encoder,
    speaker_encoders,
)
from espnet_ext.scoring.evaluators.voice.espnet import ESPnetSpeakerEncoder
from espnet_ext.scoring.evaluators.voice.resemblyzer import Resemblyzer
from espnet_ext.scoring.evaluators.voice.transformers import TransformersSpeakerEncoder

__all__ = [
    "Embedding",
    "ESPnetSpeakerEncoder",
    "Resemblyzer",
    "SpeakerEncoder",
    "TransformersSpeakerEncoder",
    "register_speaker_encoder",
    "speaker_encoders",
]
