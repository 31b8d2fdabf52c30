"""Speech for a shard of utterances: what a worker does for a command that decodes a corpus."""

from __future__ import annotations

import functools
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from espnet_ext.data.ark import load_codes_entry
from espnet_ext.data.audio import write_wav
from espnet_ext.data.encoding import check_device
from espnet_ext.decoding.options import DecodeOptions
from espnet_ext.errors import UserError
from espnet_ext.fast import Acceleration, FastOptions
from espnet_ext.inference.codec_lm import CodecLM
from espnet_ext.inference.speech import Speech, Timing
from espnet_ext.tokenizers.codec import Codec


class Speaking(Protocol):
    """A model that makes speech and counts its costs."""

    timing: Timing

    @property
    def codec(self) -> Codec:
        """What makes its waveforms."""

    def accelerate(self, options: FastOptions, batch_size: int) -> Acceleration:
        """Make it decode faster from now on."""

    def free_graphs(self) -> None:
        """Let go of the GPU's memory that serves later requests."""


Model_co = TypeVar("Model_co", bound=Speaking, covariant=True)
Job = TypeVar("Job")
Given = TypeVar("Given")


@dataclass(frozen=True)
class Spoken:
    """What became of an utterance.

    Attributes:
        codes: (T, N) int32.
        has_eos: False if it ran into its length limit.
        logprob: sum over its codes.
    """

    codes: NDArray[np.int32]
    has_eos: bool
    logprob: float


class Voice(ABC, Generic[Model_co, Job, Given]):
    """Who speaks, and how, in plain values, so that every worker can be told.

    Attributes:
        material: what a job names, for the reason why it could not be read.
    """

    material: ClassVar[str]

    @abstractmethod
    def load(self) -> Model_co:
        """The model of this process, loaded once unless its files change.

        Returns:
            The model.

        Raises:
            FileNotFoundError: if a file of it is missing.
            UserError: if the files do not fit each other, or there is no such device.
        """

    @abstractmethod
    def read(self, utterance: str, job: Job) -> Given:
        """What the model needs to be given of an utterance.

        Args:
            utterance: its id, for errors.
            job: what to speak.

        Returns:
            Arrays and text.

        Raises:
            UserError: if something is not usable.
            OSError: if something cannot be read.
        """

    @abstractmethod
    def speak(self, given: Mapping[str, Given]) -> list[Speech]:
        """Speech of utterances, all at once.

        Args:
            given: utterance → from `read`.

        Returns:
            As many.

        Raises:
            UserError: if one of them is impossible.
        """

    @abstractmethod
    def wavs(self, job: Job, speech: Speech) -> Mapping[Path, NDArray[np.float32]]:
        """The audio files of an utterance: path → samples."""


@dataclass(frozen=True)
class Model:
    """A trained model by name.

    Attributes:
        exp: experiment directory.
        model_file: weights inside of it; None for the average of the best epochs.
        device: where the language model runs, cpu or cuda.
        precision: of its weights, see `FastOptions`; None for a model as it was trained.
        native: whether steps run in the native kernel.
        compile: whether torch.compile makes the kernels of steps.
        batch_size: utterances that are spoken at once.
    """

    exp: Path
    model_file: str | None = None
    device: str = "cpu"
    precision: str | None = None
    native: bool = False
    compile: bool = False
    batch_size: int = 1

    def fast(self) -> FastOptions | None:
        """What may be done to it for the sake of speed; None for nothing.

        Returns:
            The options.

        Raises:
            UserError: naming the option that is wrong.
        """
        if self.precision is None:
            if self.native or self.compile:
                name = "native" if self.native else "compile"
                raise UserError(f"{name} must be false without precision, got true: name one, float32 is exact")
            return None
        return FastOptions(self.precision, native=self.native, compile=self.compile)

    def make_fast(self, speech: Speaking) -> None:
        """Do to a loaded model what may be done.

        Args:
            speech: the model.
        """
        fast = self.fast()
        if fast is not None:
            logging.info("%s", speech.accelerate(fast, self.batch_size))

    def version(self) -> int:
        """A number that changes with config.yaml."""
        config = self.exp / "config.yaml"
        return config.stat().st_mtime_ns if config.is_file() else 0


@dataclass(frozen=True)
class SpeechJob:
    """One utterance to be spoken.

    Attributes:
        text: what to say.
        prompt: place of the speaker prompt's codes in an archive; empty for none.
        wav: file to write.
    """

    text: str
    prompt: str
    wav: Path


def load_model(model: Model) -> CodecLM:
    """The model itself, made fast as it asks for.

    Args:
        model: which one, and how it runs.

    Returns:
        The model, ready to speak.

    Raises:
        FileNotFoundError: if a file of it is missing.
        UserError: if an option is wrong, the files do not fit each other, or there is no such device.
    """
    model.fast()  # a wrong option is refused before anything is loaded
    check_device(model.device)
    speak = CodecLM.from_experiment(model.exp, model.model_file, model.device)
    model.make_fast(speak)
    return speak


@functools.lru_cache(maxsize=1)
def _load_once(model: Model, exp: Path, version: int) -> CodecLM:
    return load_model(model)


@dataclass(frozen=True)
class TextVoice(Voice[CodecLM, SpeechJob, tuple[str, "NDArray[np.int64] | None"]]):
    """A codec language model and how it is decoded.

    Attributes:
        model: the model.
        options: how to decode.
    """

    model: Model
    options: DecodeOptions

    material: ClassVar[str] = "prompt"

    def load(self) -> CodecLM:  # noqa: D102 (inherited)
        return _load_once(self.model, self.model.exp.absolute(), self.model.version())

    def read(self, utterance: str, job: SpeechJob) -> tuple[str, NDArray[np.int64] | None]:  # noqa: D102 (inherited)
        codebooks = self.load().corelm.spec.num_codebooks
        return job.text, load_codes_entry(job.prompt, codebooks, utterance) if job.prompt else None

    def speak(self, given: Mapping[str, tuple[str, NDArray[np.int64] | None]]) -> list[Speech]:  # noqa: D102 (inherited)
        texts, prompts = zip(*given.values(), strict=True)
        return self.load().batch(list(given), texts, prompts, self.options)

    def wavs(self, job: SpeechJob, speech: Speech) -> Mapping[Path, NDArray[np.float32]]:  # noqa: D102 (inherited)
        return {job.wav: speech.waveform}


def files_of(job: SpeechJob) -> Iterable[Path]:
    """The files that a job reads and makes."""
    return [job.wav, Path(job.prompt.rpartition(":")[0])] if job.prompt else [job.wav]


def speak_shard(voice: Voice[Speaking, Job, Given], jobs: Mapping[str, Job]) -> tuple[dict[str, Spoken | str], Timing]:
    """Speak utterances, all at once, into wav files.

    Args:
        voice: who speaks.
        jobs: utterance → what to speak.

    Returns:
        Utterance → speech, or the reason why there is none; and what it cost.
    """
    model = voice.load()
    model.timing = Timing()
    results: dict[str, Spoken | str] = {}
    given = {}
    for utterance, job in jobs.items():
        try:
            given[utterance] = voice.read(utterance, job)
        except (ValueError, OSError) as error:
            results[utterance] = f"bad {voice.material}: {error}"
    for utterance, speech in _speak(voice, given).items():
        if isinstance(speech, str):
            results[utterance] = speech
            continue
        for path, samples in voice.wavs(jobs[utterance], speech).items():
            write_wav(path, samples, model.codec.spec.sample_rate_hz)
        results[utterance] = Spoken(speech.codes.astype(np.int32), speech.has_eos, speech.logprob)
    return results, model.timing


def _speak(voice: Voice[Speaking, Job, Given], given: Mapping[str, Given]) -> dict[str, Speech | str]:
    """Speech of all; if that is impossible, of smaller batches, which changes nobody's speech.

    Where memory does not suffice the batch is halved; where something else is wrong every utterance is spoken alone,
    which says whose fault it is.
    """
    if not given:
        return {}
    names = list(given)
    try:
        return dict(zip(given, voice.speak(given), strict=True))
    except ValueError as error:
        if len(given) == 1:
            return {names[0]: f"cannot be spoken: {error}"}
        parts = [[name] for name in names]
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        voice.load().free_graphs()
        if len(given) == 1:
            return {names[0]: f"cannot be spoken: out of memory, alone: {error}"}
        logging.warning("out of memory with %d utterances at once: going on with half as many", len(given))
        parts = [names[: len(names) // 2], names[len(names) // 2 :]]
    # outside of the handler, whose error keeps the failed batch's tensors alive
    return {name: one for part in parts for name, one in _speak(voice, {key: given[key] for key in part}).items()}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it is Python, torch on a GPU or torch on a CPU that asked for more memory than there is."""
    told = "can't allocate memory" in str(error) or "not enough memory" in str(error)
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or told
