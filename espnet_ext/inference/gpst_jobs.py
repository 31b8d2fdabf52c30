"""Speech of GPST for a shard of utterances: what a worker does for `gpst_inference`."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from espnet_ext.data.ark import load_codes_entry
from espnet_ext.data.encoding import check_device
from espnet_ext.data.streams import Streams, read_silence
from espnet_ext.decoding.options import GPSTDecodeOptions
from espnet_ext.inference.gpst import GPSTSpeech
from espnet_ext.inference.modes import Mode, Request
from espnet_ext.inference.speech import Speech
from espnet_ext.inference.speech_jobs import Model, Voice


@dataclass(frozen=True)
class Recording:
    """Where both streams of a recording are: in archives, or in an audio file that is yet to be encoded.

    Attributes:
        units: place of its semantic units in an archive.
        codes: place of its codes in an archive.
        wav: audio file, if there are no such places.
    """

    units: str = ""
    codes: str = ""
    wav: str = ""

    def files(self) -> list[Path]:
        """What is read."""
        return [Path(self.wav)] if self.wav else [Path(place.rpartition(":")[0]) for place in (self.units, self.codes)]

    def read(self, speech: GPSTSpeech, name: str) -> Streams:
        """Both streams.

        Args:
            speech: whose codec and tokenizer made them, or are to make them.
            name: of the utterance, for errors.

        Returns:
            The streams.

        Raises:
            UserError: if they are damaged, or of another codec.
            OSError: if they cannot be read.
        """
        if self.wav:
            return speech.listener.hear(self.wav)
        units = load_codes_entry(self.units, 1, name)[:, 0]
        return Streams(units, load_codes_entry(self.codes, speech.corelm.spec.num_codebooks, name))


@dataclass(frozen=True)
class GPSTJob:
    """One utterance to be spoken.

    Attributes:
        wav: file to write.
        whole: file to write with the speech that was given in front; for a mode that continues.
        text: what to say.
        speech: recording of the utterance.
        prompt: recording of the voice to speak with.
        language: its name; empty for one that is not told.
    """

    wav: Path
    whole: Path | None = None
    text: str = ""
    speech: Recording | None = None
    prompt: Recording | None = None
    language: str = ""


def files_of(job: GPSTJob) -> Iterable[Path]:
    """The files that a job reads and makes."""
    read = [path for recording in (job.speech, job.prompt) if recording is not None for path in recording.files()]
    return [path for path in (job.wav, job.whole) if path is not None] + read


@dataclass(frozen=True)
class GPSTModel(Model):
    """A trained GPST by name.

    Attributes:
        text_to_semantic: experiment directory of the model in front of it; None for none.
        silence: token directory with both streams of silence; None to encode it where it is needed.
    """

    text_to_semantic: Path | None = None
    silence: Path | None = None


@functools.lru_cache(maxsize=1)
def _load_once(model: GPSTModel, exp: Path, text_to_semantic: Path | None, version: int) -> GPSTSpeech:
    check_device(model.device)
    speech = GPSTSpeech.from_experiment(exp, model.model_file, text_to_semantic, model.device)
    model.make_fast(speech)
    if model.silence is not None:
        speech.silence = read_silence(model.silence)
    return speech


@dataclass(frozen=True)
class GPSTVoice(Voice[GPSTSpeech, GPSTJob, Request]):
    """A GPST, how it is asked and how it is decoded.

    Attributes:
        model: the model.
        mode: what it is asked for.
        options: how to decode.
    """

    model: GPSTModel
    mode: Mode
    options: GPSTDecodeOptions

    material: ClassVar[str] = "recording"

    def load(self) -> GPSTSpeech:  # noqa: D102 (inherited)
        texts = None if self.model.text_to_semantic is None else self.model.text_to_semantic.absolute()
        return _load_once(self.model, self.model.exp.absolute(), texts, self.model.version())

    def read(self, utterance: str, job: GPSTJob) -> Request:  # noqa: D102 (inherited)
        speech = self.load()
        recordings = (job.speech, utterance), (job.prompt, f"prompt of {utterance}")
        said, voice = (None if one is None else one.read(speech, name) for one, name in recordings)
        return Request(said, voice, job.text, job.language)

    def speak(self, given: Mapping[str, Request]) -> list[Speech]:  # noqa: D102 (inherited)
        return self.load().batch(self.mode, list(given), list(given.values()), self.options)

    def wavs(self, job: GPSTJob, speech: Speech) -> Mapping[Path, NDArray[np.float32]]:  # noqa: D102 (inherited)
        wavs = {job.wav: speech.waveform}
        return wavs if job.whole is None or speech.whole is None else {**wavs, job.whole: speech.whole}
