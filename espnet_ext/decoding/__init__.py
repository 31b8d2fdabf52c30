"""Decoding strategies and the loop they plug into; importing this package registers them."""

from espnet_ext.decoding.acceptance import Acceptance, Drafts, Verdict, acceptances, register_acceptance
from espnet_ext.decoding.base import (
    DecodingStrategy,
    Filled,
    Round,
    build_strategy,
    register_strategy,
    same_passes,
)
from espnet_ext.decoding.depth import FULL, Depth, Full, Routed, build_depth, register_depth
from espnet_ext.decoding.draft_early_exit import DraftEarlyExit
from espnet_ext.decoding.draft_heads import DraftHeads
from espnet_ext.decoding.draft_hidden_transfer import DraftHiddenTransfer
from espnet_ext.decoding.draft_masks import DraftMasks
from espnet_ext.decoding.draft_prompts import DraftPrompts
from espnet_ext.decoding.drafters import Draft, Drafter, Seen, drafters, register_drafter
from espnet_ext.decoding.generate import generate, generate_joining, generate_stream
from espnet_ext.decoding.lenient import PCG, Lantern, Tolerance
from espnet_ext.decoding.local_ar import LocalAR
from espnet_ext.decoding.local_maskgit import LocalMaskGIT
from espnet_ext.decoding.local_maskgit_adaptive import LocalMaskGITAdaptive
from espnet_ext.decoding.local_speculative import LocalSpeculative
from espnet_ext.decoding.masked import Masked
from espnet_ext.decoding.order import (
    CAUSAL,
    Advance,
    Causal,
    Order,
    Own,
    Step,
    Turn,
    build_order,
    plain_step,
    register_order,
)
from espnet_ext.decoding.parallel import Parallel
from espnet_ext.decoding.rows import Generation
from espnet_ext.decoding.runaway import Runaway, SpeechLimits, Watch
from espnet_ext.decoding.speculative import Speculative
from espnet_ext.decoding.window import Window
from espnet_ext.registries import orders, strategies

__all__ = [
    "Acceptance",
    "Advance",
    "CAUSAL",
    "Causal",
    "DecodingStrategy",
    "Depth",
    "Draft",
    "DraftEarlyExit",
    "DraftHeads",
    "DraftHiddenTransfer",
    "DraftMasks",
    "DraftPrompts",
    "Drafter",
    "Drafts",
    "FULL",
    "Filled",
    "Full",
    "Generation",
    "Lantern",
    "LocalAR",
    "LocalMaskGIT",
    "LocalMaskGITAdaptive",
    "LocalSpeculative",
    "Masked",
    "Order",
    "Own",
    "PCG",
    "Parallel",
    "Round",
    "Routed",
    "Runaway",
    "Seen",
    "Speculative",
    "SpeechLimits",
    "Step",
    "Tolerance",
    "Turn",
    "Verdict",
    "Watch",
    "Window",
    "acceptances",
    "build_depth",
    "build_order",
    "build_strategy",
    "drafters",
    "generate",
    "generate_joining",
    "generate_stream",
    "orders",
    "plain_step",
    "register_acceptance",
    "register_drafter",
    "register_depth",
    "register_order",
    "register_strategy",
    "same_passes",
    "strategies",
]
