"""Semantic tokenizers by name: waveforms to ``(T,)`` units that tell what is said.

The package of a tokenizer's network is imported only when a tokenizer of that name is created or loaded.
"""

from espnet_ext.registries import semantic_tokenizers
from espnet_ext.tokenizers.semantic.base import (
    SemanticTokenizer,
    register_semantic,
    semantic_files,
)
from espnet_ext.tokenizers.semantic.learn import create_semantic
from espnet_ext.tokenizers.semantic.self_supervised import HubertTokenizer, XlsrTokenizer
from espnet_ext.tokenizers.semantic.spectral import LogMelTokenizer, MfccTokenizer
from espnet_ext.tokenizers.semantic.units import deduplicate

INFO_NAME = semantic_files.file
copy_semantic = semantic_files.copy
load_semantic = semantic_files.load
read_semantic_info = semantic_files.read
save_semantic = semantic_files.save
write_semantic_info = semantic_files.write

__all__ = [
    "INFO_NAME",
    "HubertTokenizer",
    "LogMelTokenizer",
    "MfccTokenizer",
    "SemanticTokenizer",
    "XlsrTokenizer",
    "copy_semantic",
    "create_semantic",
    "deduplicate",
    "load_semantic",
    "read_semantic_info",
    "register_semantic",
    "save_semantic",
    "semantic_files",
    "semantic_tokenizers",
    "write_semantic_info",
]
