"""Speech for a shard of texts: what a worker does for `codec_lm_inference`."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from espnet_ext.ark import load_codes_entry
from espnet_ext.codec.audio import write_wav
from espnet_ext.inference import CodecLM, DecodeOptions, Speech, Timing


@dataclass(frozen=True)
class Model:
    """A trained model by name.

    Attributes:
        exp: experiment directory.
        model_file: weights inside of it; None for the average of the best epochs.
        device: where the language model runs, cpu or cuda.
    """

    exp: Path
    model_file: str | None = None
    device: str = "cpu"

    def load(self) -> CodecLM:
        """The model of this process, loaded once unless its config.yaml changes.

        Returns:
            The model.

        Raises:
            FileNotFoundError: if a file of it is missing.
            ValueError: if the files do not fit each other, or there is no such device.
        """
        config = self.exp / "config.yaml"
        modified_ns = config.stat().st_mtime_ns if config.is_file() else 0
        return _load_once(self.exp.absolute(), self.model_file, self.device, modified_ns)


@functools.lru_cache(maxsize=1)
def _load_once(exp: Path, model_file: str | None, device: str, modified_ns: int) -> CodecLM:
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device must be cpu where there is no GPU that torch can use, got cuda")
    return CodecLM.from_experiment(exp, model_file, device)


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


def files_of(job: SpeechJob) -> Iterable[Path]:
    """The files that a job reads and makes."""
    return [job.wav, Path(job.prompt.rpartition(":")[0])] if job.prompt else [job.wav]


def speak_shard(
    model: Model, options: DecodeOptions, jobs: Mapping[str, SpeechJob]
) -> tuple[dict[str, Spoken | str], Timing]:
    """Speak utterances, all at once, into wav files.

    Args:
        model: who speaks.
        options: how to decode.
        jobs: utterance → what to speak.

    Returns:
        Utterance → speech, or the reason why there is none; and what it cost.
    """
    speak = model.load()
    speak.timing = Timing()
    results: dict[str, Spoken | str] = {}
    prompts = {}
    for utterance, job in jobs.items():
        try:
            prompts[utterance] = _prompt(job, speak.corelm.spec.num_codebooks, utterance)
        except (ValueError, OSError) as error:
            results[utterance] = f"bad prompt: {error}"
    for utterance, speech in _speak(speak, options, jobs, prompts).items():
        if isinstance(speech, str):
            results[utterance] = speech
            continue
        write_wav(jobs[utterance].wav, speech.waveform, speak.codec.spec.sample_rate_hz)
        results[utterance] = Spoken(speech.codes.astype(np.int32), speech.has_eos, speech.logprob)
    return results, speak.timing


def _prompt(job: SpeechJob, num_codebooks: int, utterance: str) -> NDArray[np.int64] | None:
    return load_codes_entry(job.prompt, num_codebooks, utterance) if job.prompt else None


def _speak(
    speak: CodecLM,
    options: DecodeOptions,
    jobs: Mapping[str, SpeechJob],
    prompts: Mapping[str, NDArray[np.int64] | None],
) -> dict[str, Speech | str]:
    """Speech of all; if that is impossible, one by one, which says whose fault it is and changes nobody's speech."""
    names = list(prompts)
    if not names:
        return {}
    try:
        speeches = speak.batch(names, [jobs[name].text for name in names], list(prompts.values()), options)
    except ValueError as error:
        if len(names) == 1:
            return {names[0]: f"cannot be spoken: {error}"}
        alone = [_speak(speak, options, jobs, {name: prompts[name]}) for name in names]
        return {name: speech for result in alone for name, speech in result.items()}
    return dict(zip(names, speeches, strict=True))


def total(timings: Iterable[Timing]) -> Timing:
    """The costs of several shards together.

    >>> total([Timing(frames=2, seconds_lm=0.5), Timing(frames=3)]).frames
    5
    """
    timings = list(timings)
    return Timing(**{field.name: sum(getattr(one, field.name) for one in timings) for field in fields(Timing)})
