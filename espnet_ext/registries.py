"""Registries whose names a command's help lists, and the modules behind the names: they are imported when asked for.

Each registers its class under that name; a module that is not in here is known once its room has been imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from espnet_ext.registry import Registry

if TYPE_CHECKING:
    from espnet_ext.decoding.base import DecodingStrategy
    from espnet_ext.decoding.depth import Depth
    from espnet_ext.decoding.order import Order
    from espnet_ext.inference.requests import Mode
    from espnet_ext.model.caches.base import CachePolicy
    from espnet_ext.tokenizers.codec.base import Codec
    from espnet_ext.tokenizers.semantic.base import SemanticTokenizer


def _of(package: str, **modules: str) -> dict[str, str]:
    """Name → full name of the module."""
    return {name: f"espnet_ext.{package}.{module}" for name, module in modules.items()}


strategies: Registry[type[DecodingStrategy]] = Registry(
    "decoding",
    "espnet_ext.decoding",
    _of(
        "decoding",
        parallel="parallel",
        local_ar="local_ar",
        local_maskgit="local_maskgit",
        local_maskgit_adaptive="local_maskgit_adaptive",
        local_speculative="local_speculative",
    ),
)
orders: Registry[type[Order]] = Registry(
    "order",
    "espnet_ext.order",
    _of("decoding", causal="order", speculative="speculative", masked="masked", window="window"),
)
caches: Registry[type[CachePolicy]] = Registry(
    "cache", "espnet_ext.cache", _of("model.caches", exact="base", gear="gear")
)
depths: Registry[type[Depth]] = Registry("depth", "espnet_ext.depth", _of("decoding", full="depth", routed="depth"))
modes: Registry[type[Mode]] = Registry(
    "mode",
    "espnet_ext.mode",
    _of(
        "inference",
        text="requests",
        edit="editing",
        unconditional="gpst_modes",
        semantic_to_acoustic="gpst_modes",
        continuation="gpst_modes",
        speaker_transfer="gpst_modes",
        tts="gpst_modes",
    ),
)
codecs: Registry[type[Codec]] = Registry(
    "codec",
    "espnet_ext.codec",
    _of(
        "tokenizers.codec",
        world_vq="world_vq",
        espnet="espnet",
        encodec="encodec",
        mimi="hugging_face",
        dac="hugging_face",
        encodec_hf="hugging_face",
        lyra="lyra",
    ),
)
semantic_tokenizers: Registry[type[SemanticTokenizer]] = Registry(
    "semantic",
    "espnet_ext.semantic",
    _of(
        "tokenizers.semantic",
        mfcc_km="spectral",
        logmel_km="spectral",
        hubert_km="self_supervised",
        xlsr_km="self_supervised",
    ),
)
