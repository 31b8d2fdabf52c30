"""Semantic units and codes of an utterance as read from disk → the arrays that GPST is trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from espnet_ext.codes import CodecSpec
from espnet_ext.data.preprocess import Array, frames_of
from espnet_ext.data.streams import Streams, disagreement, excerpt, frames_within
from espnet_ext.defaults import PAUSE_SEC
from espnet_ext.errors import UserError
from espnet_ext.tokenizers.semantic.units import deduplicate


def language_id(name: str, languages: Sequence[str], utterance: str) -> int:
    """Number of a language, 1 for the first; 0 for one that is not told, and for all where a model knows none.

    Args:
        name: of the language; empty for one that is not told.
        languages: that the model knows.
        utterance: whose language it is, for errors.

    Returns:
        The number.

    Raises:
        UserError: if the model knows others.
    """
    if not languages or not name:
        return 0
    if name not in languages:
        raise UserError(f"language of {utterance} must be one of {list(languages)}, got {name!r}")
    return list(languages).index(name) + 1


class JointPreprocessor:
    """Shapes and checks units and codes, joins an utterance to its prompt, crops both streams, de-duplicates.

    Args:
        spec: the codec's facts.
        semantic: those of the semantic tokenizer.
        deduplicates: whether the model sees the units without repetitions.
        languages: names of languages; ids begin with 1.
        train: whether crops are random; otherwise they are taken from the beginning.
        crop_sec: longest utterance; 0 for no limit.
        prompt_sec: longest prompt that an utterance is joined to; 0 for no limit.
        join_prompt: probability that an utterance is joined to its prompt, as long recordings of one speaker would do.
        silence: both streams of it, to stand in between; needed for joining.
    """

    def __init__(
        self,
        spec: CodecSpec,
        semantic: CodecSpec,
        deduplicates: bool,
        languages: Sequence[str] = (),
        train: bool = True,
        crop_sec: float = 0.0,
        prompt_sec: float = 0.0,
        join_prompt: float = 0.0,
        silence: Streams | None = None,
    ) -> None:
        self.spec, self.semantic, self.deduplicates = spec, semantic, deduplicates
        self.languages = tuple(languages)
        self.train, self.crop_sec, self.prompt_sec, self.join_prompt = train, crop_sec, prompt_sec, join_prompt
        self.silence = None if silence is None else self._cut(silence, 0, frames_within(PAUSE_SEC, spec))

    def __call__(self, utt_id: str, data: Mapping[str, str | NDArray[np.integer]]) -> dict[str, Array]:
        """The arrays of one utterance: semantic (U,), codes (T, N), language ().

        Args:
            utt_id: names the utterance in errors.
            data: "semantic" and "codes" flattened, "prompt_semantic" and "prompt" likewise, "language" a name, as far
                as they are given.

        Returns:
            int64 arrays.

        Raises:
            UserError: if ids are out of range, a language is unknown, or units and codes cannot be of the same sound.
        """
        streams = self._read(data, utt_id, "semantic", "codes")
        if "prompt" in data and np.random.rand() < self.join_prompt:
            streams = self._join(self._read(data, utt_id, "prompt_semantic", "prompt"), streams)
        streams = self._crop(streams, self.crop_sec)
        units = deduplicate(streams.units) if self.deduplicates else streams.units
        language = language_id(str(data.get("language", "")), self.languages, utt_id)
        return {"semantic": units, "codes": streams.codes, "language": np.asarray(language)}

    def _read(self, data: Mapping[str, str | NDArray[np.integer]], utt_id: str, units: str, codes: str) -> Streams:
        flat_units, flat_codes = data[units], data[codes]
        if isinstance(flat_units, str) or isinstance(flat_codes, str):
            raise UserError(f"{units} and {codes} of {utt_id} must be of type kaldi_ark, got text")
        streams = Streams(
            frames_of(flat_units, self.semantic, f"{units} of {utt_id}")[:, 0],
            frames_of(flat_codes, self.spec, f"{codes} of {utt_id}"),
        )
        reason = disagreement(len(streams.units), len(streams.codes), self.semantic, self.spec)
        if reason is not None:
            raise UserError(f"{units} and {codes} of {utt_id}: {reason}")
        return streams

    def _join(self, prompt: Streams, streams: Streams) -> Streams:
        assert self.silence is not None, "the task reads it where it is needed"
        parts = (self._crop(prompt, self.prompt_sec), self.silence, streams)
        return Streams(np.concatenate([part.units for part in parts]), np.concatenate([part.codes for part in parts]))

    def _crop(self, streams: Streams, seconds: float) -> Streams:
        frames = frames_within(seconds, self.spec)
        surplus = len(streams.codes) - frames
        if frames == 0 or surplus <= 0:
            return streams
        start = np.random.randint(surplus + 1) if self.train else 0
        return self._cut(streams, start, frames)

    def _cut(self, streams: Streams, first: int, frames: int) -> Streams:
        return excerpt(streams, first, frames, self.spec, self.semantic)
