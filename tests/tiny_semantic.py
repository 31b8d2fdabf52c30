"""Every registered semantic tokenizer in a size for tests."""

from __future__ import annotations

import functools
import importlib.util

import pytest
from tiny_codecs import corpus

from espnet_ext.tokenizers.semantic import SemanticTokenizer, create_semantic

NETWORK = {
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}
LAYER_NORMED = {**NETWORK, "feat_extract_norm": "layer", "do_stable_layer_norm": True}
CONF: dict[str, dict[str, object]] = {
    "mfcc_km": {"num_units": 12},
    "logmel_km": {"num_units": 12, "frame_rate_hz": 25},
    "hubert_km": {"num_units": 12, "pretrained": False, "layer": 2, "config": NETWORK},
    "xlsr_km": {"num_units": 12, "pretrained": False, "layer": 2, "config": LAYER_NORMED},
}
SELF_SUPERVISED = ("hubert_km", "xlsr_km")
# as parameters of tests: networks are not among the quick tests
EVERY = [pytest.param(name, marks=pytest.mark.espnet) if name in SELF_SUPERVISED else name for name in CONF]
NETWORKS = [pytest.param(name, marks=pytest.mark.espnet) for name in SELF_SUPERVISED]


def fresh_tokenizer(name: str, **options: object) -> SemanticTokenizer:
    """A new tiny tokenizer; a test may change it."""
    if name in SELF_SUPERVISED and importlib.util.find_spec("transformers") is None:
        pytest.skip(f"semantic tokenizer {name} needs transformers")
    return create_semantic(name, iter(corpus()), seed=3, conf={**CONF[name], **options})


@functools.cache
def tiny_tokenizer(name: str) -> SemanticTokenizer:
    """A tiny tokenizer for all tests, which do not change it."""
    return fresh_tokenizer(name)
