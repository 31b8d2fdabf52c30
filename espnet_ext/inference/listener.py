"""Recordings as a GPST reads them: units and codes of the same sound."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import torch

from espnet_ext.data.streams import Streams, encode_silence, encode_streams
from espnet_ext.inference.speech import read_speech
from espnet_ext.tokenizers.codec import Codec
from espnet_ext.tokenizers.semantic import SemanticTokenizer


class Listener:
    """Codec and semantic tokenizer of an experiment: a recording in, both streams out.

    Args:
        codec: the codec.
        semantic: loads the semantic tokenizer, which may be large and which units on disk do not need.
    """

    def __init__(self, codec: Codec, semantic: Callable[[], SemanticTokenizer]) -> None:
        self.codec, self._load = codec, semantic

    @cached_property
    def semantic(self) -> SemanticTokenizer:
        """The semantic tokenizer."""
        return self._load()

    def hear(self, path: Path | str, what: str = "wav") -> Streams:
        """Both streams of an audio file.

        Args:
            path: of any rate.
            what: the file is to the user, for errors.

        Returns:
            The streams.

        Raises:
            FileNotFoundError: if there is no such file.
            UserError: if it is no audio, empty or not finite.
        """
        rates = self.codec.spec.sample_rate_hz, self.semantic.sample_rate_hz
        samples = (torch.from_numpy(read_speech(path, rate, what)) for rate in rates)
        return encode_streams(self.codec, self.semantic, *samples)

    @cached_property
    def silence(self) -> Streams:
        """Both streams of digital silence."""
        return encode_silence(self.codec, self.semantic)
