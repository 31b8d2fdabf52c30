"""Semantic tokenizers by name: waveforms to ``(T,)`` units that tell what is said.

The package of a tokenizer's network is imported only when a tokenizer of that name is created or loaded.
"""

from espnet_ext.tokenizers.semantic.base import SemanticTokenizer, register_semantic, semantic_tokenizers
from espnet_ext.tokenizers.semantic.files import (
    INFO_NAME,
    SemanticInfo,
    copy_semantic,
    create_semantic,
    load_semantic,
    read_semantic_info,
    save_semantic,
    write_semantic_info,
)
from espnet_ext.tokenizers.semantic.self_supervised import HubertTokenizer, XlsrTokenizer
from espnet_ext.tokenizers.semantic.spectral import LogMelTokenizer, MfccTokenizer
from espnet_ext.tokenizers.semantic.units import deduplicate

__all__ = [
    "INFO_NAME",
    "HubertTokenizer",
    "LogMelTokenizer",
    "MfccTokenizer",
    "SemanticInfo",
    "SemanticTokenizer",
    "XlsrTokenizer",
    "copy_semantic",
    "create_semantic",
    "deduplicate",
    "load_semantic",
    "read_semantic_info",
    "register_semantic",
    "save_semantic",
    "semantic_tokenizers",
    "write_semantic_info",
]
