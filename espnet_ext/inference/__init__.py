"""A trained experiment as a Python object: `CodecLM` reads texts, `GPSTSpeech` units, recordings or texts."""

from espnet_ext.decoding.options import DecodeOptions
from espnet_ext.fast import FastOptions
from espnet_ext.inference.codec_lm import CodecLM
from espnet_ext.inference.gpst import GPSTSpeech
from espnet_ext.inference.speech import Speech, Timing

__all__ = ["CodecLM", "DecodeOptions", "FastOptions", "GPSTSpeech", "Speech", "Timing"]
