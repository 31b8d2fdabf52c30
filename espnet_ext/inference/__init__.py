"""A trained experiment as a Python object: `Speaker`, for every core LM; importing this package registers the modes."""

from espnet_ext.decoding.options import DecodeOptions
from espnet_ext.fast import FastOptions
from espnet_ext.inference import gpst_modes
from espnet_ext.inference.codec_lm import CodecLM
from espnet_ext.inference.gpst import GPSTSpeech
from espnet_ext.inference.requests import Job, Mode, Plan, Recording, Request, Start, register_mode
from espnet_ext.inference.speaker import Speaker
from espnet_ext.inference.speech import Speech, Timing

__all__ = [
    "CodecLM",
    "DecodeOptions",
    "FastOptions",
    "GPSTSpeech",
    "Job",
    "Mode",
    "Plan",
    "Recording",
    "Request",
    "Speaker",
    "Speech",
    "Start",
    "Timing",
    "gpst_modes",
    "register_mode",
]
