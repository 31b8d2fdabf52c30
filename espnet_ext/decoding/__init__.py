"""Decoding strategies and the loop they plug into; importing this package registers them."""

from espnet_ext.decoding.base import DecodingStrategy, Filled, build_strategy, register_strategy, strategies
from espnet_ext.decoding.generate import Generation, generate
from espnet_ext.decoding.local_ar import LocalAR
from espnet_ext.decoding.parallel import Parallel

__all__ = [
    "DecodingStrategy",
    "Filled",
    "Generation",
    "LocalAR",
    "Parallel",
    "build_strategy",
    "generate",
    "register_strategy",
    "strategies",
]
