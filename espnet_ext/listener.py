"""Recordings as a GPST reads them: units and codes of the same sound."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from espnet_ext.codec import Codec
from espnet_ext.joint_preprocess import Streams
from espnet_ext.semantic import SemanticTokenizer
from espnet_ext.speech import read_speech

SILENCE_SEC = 1.0  # a tokenizer may need some context


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
            ValueError: if it is no audio, empty or not finite.
        """
        rates = self.codec.spec.sample_rate_hz, self.semantic.sample_rate_hz
        return self._encode(*(torch.from_numpy(read_speech(path, rate, what)) for rate in rates))

    @cached_property
    def silence(self) -> Streams:
        """Both streams of digital silence."""
        rates = self.codec.spec.sample_rate_hz, self.semantic.sample_rate_hz
        return self._encode(*(torch.zeros(round(SILENCE_SEC * rate)) for rate in rates))

    def _encode(self, for_codec: Tensor, for_semantic: Tensor) -> Streams:
        codes, _ = self.codec.encode(for_codec[None], torch.tensor([len(for_codec)]))
        return Streams(self.semantic.encode(for_semantic).numpy(), codes[0].numpy())
