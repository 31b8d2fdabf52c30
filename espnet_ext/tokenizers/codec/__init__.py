"""Codecs by name: waveforms to ``(B, T, N)`` codes and back.

The package of a codec is imported only when a codec of that name is created or loaded.
"""

from espnet_ext.registries import codecs
from espnet_ext.tokenizers.codec.base import Codec, codec_files, create_codec, register_codec
from espnet_ext.tokenizers.codec.encodec import EncodecCodec
from espnet_ext.tokenizers.codec.espnet import EspnetCodec
from espnet_ext.tokenizers.codec.hugging_face import DacCodec, EncodecHfCodec, MimiCodec
from espnet_ext.tokenizers.codec.lyra import LyraCodec
from espnet_ext.tokenizers.codec.world_vq import WorldVQCodec

INFO_NAME = codec_files.file
copy_codec = codec_files.copy
load_codec = codec_files.load
read_codec_info = codec_files.read
save_codec = codec_files.save
write_codec_info = codec_files.write

__all__ = [
    "INFO_NAME",
    "Codec",
    "DacCodec",
    "EncodecCodec",
    "EncodecHfCodec",
    "EspnetCodec",
    "LyraCodec",
    "MimiCodec",
    "WorldVQCodec",
    "codec_files",
    "codecs",
    "copy_codec",
    "create_codec",
    "load_codec",
    "read_codec_info",
    "register_codec",
    "save_codec",
    "write_codec_info",
]
