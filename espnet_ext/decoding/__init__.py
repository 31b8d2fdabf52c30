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
from espnet_ext.decoding.generate import Generation, Step, generate, generate_stream, plain_step
from espnet_ext.decoding.local_ar import LocalAR
from espnet_ext.decoding.local_maskgit import LocalMaskGIT
from espnet_ext.decoding.local_maskgit_adaptive import LocalMaskGITAdaptive
from espnet_ext.decoding.local_speculative import LocalSpeculative
from espnet_ext.decoding.parallel import Parallel

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
    "Step",
    "build_strategy",
    "generate",
    "generate_stream",
    "plain_step",
    "register_strategy",
    "same_passes",
    "strategies",
]
