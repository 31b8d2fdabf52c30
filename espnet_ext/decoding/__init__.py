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
from espnet_ext.decoding.generate import generate, generate_joining, generate_stream
from espnet_ext.decoding.local_ar import LocalAR
from espnet_ext.decoding.local_maskgit import LocalMaskGIT
from espnet_ext.decoding.local_maskgit_adaptive import LocalMaskGITAdaptive
from espnet_ext.decoding.local_speculative import LocalSpeculative
from espnet_ext.decoding.order import (
    CAUSAL,
    Advance,
    Causal,
    Order,
    Own,
    Step,
    Turn,
    build_order,
    orders,
    plain_step,
    register_order,
)
from espnet_ext.decoding.parallel import Parallel
from espnet_ext.decoding.rows import Generation
from espnet_ext.decoding.runaway import Runaway, SpeechLimits, Watch

__all__ = [
    "CAUSAL",
    "Advance",
    "Causal",
    "DecodingStrategy",
    "Filled",
    "Generation",
    "LocalAR",
    "LocalMaskGIT",
    "LocalMaskGITAdaptive",
    "LocalSpeculative",
    "Order",
    "Own",
    "Parallel",
    "Round",
    "Runaway",
    "SpeechLimits",
    "Step",
    "Turn",
    "Watch",
    "build_order",
    "build_strategy",
    "generate",
    "generate_joining",
    "generate_stream",
    "orders",
    "plain_step",
    "register_order",
    "register_strategy",
    "same_passes",
    "strategies",
]
