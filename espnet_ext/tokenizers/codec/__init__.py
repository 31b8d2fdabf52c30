"""Codecs by name: waveforms to ``(B, T, N)`` codes and back.

The package of a codec is imported only when a codec of that name is created or loaded.
"""

from espnet_ext.tokenizers.codec.base import Codec, codecs, register_codec
from espnet_ext.tokenizers.codec.encodec import EncodecCodec
from espnet_ext.tokenizers.codec.espnet import EspnetCodec
from espnet_ext.tokenizers.codec.files import (
    INFO_NAME,
    CodecInfo,
    copy_codec,
    create_codec,
    load_codec,
    read_codec_info,
    save_codec,
    write_codec_info,
)
from espnet_ext.tokenizers.codec.hugging_face import DacCodec, EncodecHfCodec, MimiCodec
from espnet_ext.tokenizers.codec.world_vq import WorldVQCodec

__all__ = [
    "INFO_NAME",
    "Codec",
    "CodecInfo",
    "DacCodec",
    "EncodecCodec",
    "EncodecHfCodec",
    "EspnetCodec",
    "MimiCodec",
    "WorldVQCodec",
    "codecs",
    "copy_codec",
    "create_codec",
    "load_codec",
    "read_codec_info",
    "register_codec",
    "save_codec",
    "write_codec_info",
]
