"""Every registered codec in a size for tests."""

from __future__ import annotations

import functools
import importlib.util

import pytest
from real_data import REAL_DATA, need_real_data

from espnet_ext.testing.codec import fresh_codec as new_codec
from espnet_ext.testing.sound import corpus, voice  # noqa: F401 (test files import them from here)
from espnet_ext.tokenizers.codec import Codec, codecs

SOUNDSTREAM = {
    "sampling_rate": 16000,
    "generator_params": {
        "hidden_dim": 8,
        "encdec_n_filters": 2,
        "encdec_ratios": [5, 4, 2],
        "encdec_lstm": 1,
        "quantizer_n_q": 4,
        "quantizer_bins": 16,
    },
    "discriminator_params": {
        "scales": 1,
        "scale_downsample_pooling_params": {"kernel_size": 4, "stride": 2, "padding": 2},
        "scale_discriminator_params": {
            "kernel_sizes": [15, 41, 5, 3],
            "channels": 4,
            "max_downsample_channels": 4,
            "max_groups": 1,
            "downsample_scales": [2],
        },
        "complexstft_discriminator_params": {
            "channels": 2,
            "strides": [[1, 2], [2, 2]],
            "chan_mults": [1, 2],
            "n_fft": 64,
            "hop_length": 16,
            "win_length": 64,
            "stft_normalized": False,
        },
    },
}
FUNCODEC = {
    "sampling_rate": 16000,
    "generator_params": {
        "hidden_dim": 8,
        "encdec_channels": 2,
        "encdec_n_filters": 2,
        "encdec_ratios": [[8, 1], [4, 1], [4, 2], [2, 1]],
        "encdec_lstm": 1,
        "quantizer_n_q": 2,
        "quantizer_bins": 16,
        "codec_domain": ["stft", "stft"],
        "domain_conf": {"n_fft": 512, "hop_length": 40},
    },
    "discriminator_params": {
        **SOUNDSTREAM["discriminator_params"],  # type: ignore[dict-item]
        "periods": [2],
        "period_discriminator_params": {"channels": 2, "downsample_scales": [3, 1], "max_downsample_channels": 2},
    },
}
CONF: dict[str, dict[str, object]] = {
    "world_vq": {"codebook_size": 16},
    "encodec": {"pretrained": False, "num_codebooks": 2},
    "encodec_hf": {
        "pretrained": False,
        "config": {
            "num_filters": 4,
            "hidden_size": 16,
            "upsampling_ratios": [8, 5, 2],
            "codebook_size": 16,
            "num_lstm_layers": 1,
        },
    },
    "dac": {
        "pretrained": False,
        "config": {  # a stride of 5, as that of the 24 kHz model: its decoder gives a little less than the hop
            "encoder_hidden_size": 4,
            "decoder_hidden_size": 32,
            "downsampling_ratios": [2, 5, 8],
            "n_codebooks": 4,
            "codebook_size": 16,
            "codebook_dim": 4,
        },
    },
    "mimi": {
        "pretrained": False,
        "config": {
            "num_filters": 4,
            "hidden_size": 32,
            "upsampling_ratios": [5, 4, 4],
            "num_quantizers": 4,
            "codebook_size": 16,
            "codebook_dim": 8,
            "vector_quantization_hidden_dimension": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "intermediate_size": 32,
            "upsample_groups": 32,
            "sliding_window": 20,
        },
    },
    "espnet": {"pretrained": False, "config": {"codec": "soundstream", "codec_conf": SOUNDSTREAM}},
    "lyra": {"checkpoint": str(REAL_DATA / "lyra"), "num_codebooks": 3},  # small as it is
}
PACKAGE = {
    "world_vq": "pyworld",
    "encodec": "encodec",
    "encodec_hf": "transformers",
    "dac": "transformers",
    "mimi": "transformers",
    "espnet": "espnet2",
    "lyra": "ai_edge_litert",
}
# as parameters of tests: those with large packages or networks are not among the quick tests
QUICK = ("world_vq", "encodec", "lyra")
OTHERS = [name for name in codecs if name not in CONF]  # of plug-ins that happen to be installed
EVERY = [name if name in (*QUICK, *OTHERS) else pytest.param(name, marks=pytest.mark.espnet) for name in codecs]
NEURAL = [pytest.param(name, marks=pytest.mark.espnet) for name in CONF if name not in ("world_vq", "lyra")]


def fresh_codec(name: str, **options: object) -> Codec:
    """A new tiny codec; a test may change it."""
    return create(name, {**CONF.get(name, {}), **options})


@functools.cache
def tiny_codec(name: str) -> Codec:
    """A tiny codec for all tests, which do not change it."""
    return fresh_codec(name)


def create(name: str, conf: dict[str, object]) -> Codec:
    """A codec; one that is not of this package is left out where its defaults need more than a test has."""
    if name in PACKAGE and importlib.util.find_spec(PACKAGE[name]) is None:
        pytest.skip(f"codec {name} needs {PACKAGE[name]}")
    if name == "lyra" and conf.get("checkpoint") == CONF["lyra"]["checkpoint"]:
        need_real_data("lyra")
    try:
        return new_codec(name, conf)
    except (ValueError, OSError) as error:
        if name in CONF:
            raise
        pytest.skip(f"codec {name} is not made with its defaults: {error}")
