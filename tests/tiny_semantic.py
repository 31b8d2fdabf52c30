"""Every registered semantic tokenizer in a size for tests."""

from __future__ import annotations

import functools
import importlib.util

import pytest

from espnet_ext.testing.semantic import fresh_tokenizer as new_tokenizer
from espnet_ext.tokenizers.semantic import SemanticTokenizer, semantic_tokenizers

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
EVERY = [
    pytest.param(name, marks=pytest.mark.espnet) if name in SELF_SUPERVISED else name for name in semantic_tokenizers
]
NETWORKS = [pytest.param(name, marks=pytest.mark.espnet) for name in SELF_SUPERVISED]


def fresh_tokenizer(name: str, **options: object) -> SemanticTokenizer:
    """A new tiny tokenizer; a test may change it. One of another package may want more than a test has."""
    if name in SELF_SUPERVISED and importlib.util.find_spec("transformers") is None:
        pytest.skip(f"semantic tokenizer {name} needs transformers")
    try:
        return new_tokenizer(name, {**conf_of(name), **options})
    except (ValueError, OSError) as error:
        if name in CONF:
            raise
        pytest.skip(f"semantic tokenizer {name} is not made of eight seconds of sound: {error}")


def conf_of(name: str) -> dict[str, object]:
    """Options with which a tokenizer is tiny."""
    return CONF.get(name, {"num_units": 12})


@functools.cache
def tiny_tokenizer(name: str) -> SemanticTokenizer:
    """A tiny tokenizer for all tests, which do not change it."""
    return fresh_tokenizer(name)
