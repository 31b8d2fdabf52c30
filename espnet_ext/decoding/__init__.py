"""Decoding strategies and the loop they plug into; importing this package registers them."""

from espnet_ext.decoding.base import (
    DecodingStrategy,
    Filled,
    Round,
    build_strategy,
    register_strategy,
    same_passes,
    strategies,
)
from espnet_ext.decoding.generate import Step, generate, generate_stream, plain_step
from espnet_ext.decoding.local_ar import LocalAR
from espnet_ext.decoding.local_maskgit import LocalMaskGIT
from espnet_ext.decoding.local_maskgit_adaptive import LocalMaskGITAdaptive
from espnet_ext.decoding.local_speculative import LocalSpeculative
from espnet_ext.decoding.parallel import Parallel
from espnet_ext.decoding.rows import Generation
from espnet_ext.decoding.runaway import Runaway, SpeechLimits, Watch

__all__ = [
    "DecodingStrategy",
    "Filled",
    "Generation",
    "LocalAR",
    "LocalMaskGIT",
    "LocalMaskGITAdaptive",
    "LocalSpeculative",
    "Parallel",
    "Round",
    "Runaway",
    "SpeechLimits",
    "Step",
    "Watch",
    "build_strategy",
    "generate",
    "generate_stream",
    "plain_step",
    "register_strategy",
    "same_passes",
    "strategies",
]
