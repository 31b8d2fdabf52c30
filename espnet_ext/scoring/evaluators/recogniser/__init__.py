"""Recognisers by name; each turns an audio file into words.

A new one is a file here, or in another package that announces it in the entry-point group espnet_ext.recogniser.
"""

from espnet_ext.scoring.evaluators.recogniser.base import Recogniser, recognisers, register_recogniser
from espnet_ext.scoring.evaluators.recogniser.espnet import ESPnetRecogniser
from espnet_ext.scoring.evaluators.recogniser.pocketsphinx import PocketSphinx
from espnet_ext.scoring.evaluators.recogniser.transformers import TransformersRecogniser
from espnet_ext.scoring.evaluators.recogniser.whisper import Whisper

__all__ = [
    "ESPnetRecogniser",
    "PocketSphinx",
    "Recogniser",
    "TransformersRecogniser",
    "Whisper",
    "recognisers",
    "register_recogniser",
]
