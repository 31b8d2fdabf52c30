"""What a model makes of an utterance, and what that cost."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import soundfile
from numpy.typing import NDArray
from torch import Tensor

from espnet_ext.data.audio import write_wav
from espnet_ext.decoding import Generation, Runaway
from espnet_ext.decoding.options import DecodeOptions
from espnet_ext.tokenizers.codec.base import Codec

FADE_SEC = 0.005


class Word(NamedTuple):
    """A word, and when it is spoken.

    Attributes:
        text: the word.
        start: in seconds.
        end: likewise.
    """

    text: str
    start: float
    end: float


@dataclass(frozen=True, repr=False)
class Speech:
    """One utterance as generated; a notebook shows a player.

    Attributes:
        codes: (T, N) int64.
        waveform: (samples,) float32.
        has_eos: False if it, or the units it was made from, did not end by itself.
        logprob: sum over its codes.
        units: (U,) int64 semantic units it was made from, for a model that reads units.
        whole: (samples,) float32 with the speech that was given in front of it, for a mode that goes on from such.
        prompt_sec: how long the prompt is that was given, in seconds; 0 for none.
        prompt_used_sec: how much of it the model was given: the stretch of a recording with the most voice, the first
            frames of codes.
        timing: what its batch cost.
        options: how it was decoded; None where only codes were decoded.
        unknown: tokens and characters of its text that the model does not know, each as often as it occurs.
        words: of its text with their times, for a model that aligns text and speech.
        sample_rate: of the waveform, in Hz.
        codec: fingerprint of the codec; empty if nobody knows it.
        runaway: why it, or the units it was made from, ran away; None if it has not.
        retries: how often it was decoded again.
    """

    codes: NDArray[np.int64]
    waveform: NDArray[np.float32]
    has_eos: bool
    logprob: float
    units: NDArray[np.int64] | None = None
    whole: NDArray[np.float32] | None = None
    prompt_sec: float = 0.0
    prompt_used_sec: float = 0.0
    timing: Timing = field(default_factory=lambda: Timing())
    options: DecodeOptions | None = None
    unknown: tuple[str, ...] = ()
    words: tuple[Word, ...] = ()
    sample_rate: int = 0
    codec: str = ""
    runaway: Runaway | None = None
    retries: int = 0

    def __repr__(self) -> str:
        seconds = len(self.waveform) / self.sample_rate if self.sample_rate else 0.0
        told = [f"{seconds:.2f} s at {self.sample_rate} Hz", " x ".join(map(str, self.codes.shape)) + " codes"]
        if self.options is not None:
            told += [self.options.decoding, f"seed {self.options.seed}"]
        told += [f"ran away: {self.runaway.words}"] if self.runaway else [] if self.has_eos else ["cut at its limit"]
        told += [f"{self.retries} retries"] if self.retries else []
        told += [f"unknown: {' '.join(self.unknown)}"] if self.unknown else []
        return f"Speech({', '.join(told)})"

    def _repr_html_(self) -> str:
        content = io.BytesIO()
        soundfile.write(content, self.waveform, self.sample_rate, format="WAV", subtype="PCM_16")
        sound = base64.b64encode(content.getvalue()).decode()
        return f'<audio controls src="data:audio/wav;base64,{sound}"></audio>'

    def save(self, path: Path | str) -> None:
        """Write the waveform as a wav file."""
        write_wav(Path(path), self.waveform, self.sample_rate)


@dataclass
class Timing:
    """Costs, added up over batches.

    Attributes:
        utterances: rows generated.
        frames: codec frames.
        steps: steps of the primary transformer, of all rows.
        slots: codes that these steps hold.
        local_passes: passes of the local head, of all rows.
        primary_passes: passes of the primary transformer, of all rows.
        primary_layers: layers of it that were run, of all rows.
        units: semantic units generated.
        seconds_lm: wall time in the language model.
        seconds_units: wall time in what makes semantic units.
        seconds_codec: wall time in the codec.
        seconds_audio: length of the speech.
        no_eos: rows that did not end by themselves.
        runaways: rows whose speech has run away.
        retries: how often rows that had run away were decoded again.
        runaways_length: attempts that were too long for their text.
        runaways_no_end: those that had no end before their limit.
        runaways_loop: those that repeated themselves.
        runaways_silence: those that fell silent.
    """

    utterances: int = 0
    frames: int = 0
    steps: int = 0
    slots: int = 0
    local_passes: int = 0
    units: int = 0
    seconds_lm: float = 0.0
    seconds_units: float = 0.0
    seconds_codec: float = 0.0
    seconds_audio: float = 0.0
    no_eos: int = 0
    runaways: int = 0
    retries: int = 0
    runaways_length: int = 0
    runaways_no_end: int = 0
    runaways_loop: int = 0
    runaways_silence: int = 0
    primary_passes: int = 0
    primary_layers: int = 0

    @property
    def rtf(self) -> float:
        """Seconds of work per second of speech."""
        return (self.seconds_lm + self.seconds_units + self.seconds_codec) / max(self.seconds_audio, 1e-9)

    def rates(self) -> dict[str, float]:
        """What `timing.json` reports besides the sums.

        Returns:
            Real-time factor, speed of the language model, and how the local head's passes were spent; a pass fills
            `codes_per_pass` slots, for `local_speculative` those it accepts and the one it corrects.
        """
        return {
            "rtf": self.rtf,
            "frames_per_second": self.frames / max(self.seconds_lm, 1e-9),
            "local_passes_per_frame": self.local_passes / max(self.frames, 1),
            "local_passes_per_step": self.local_passes / max(self.steps, 1),
            "codes_per_pass": self.slots / max(self.local_passes, 1),
            "steps_per_primary_pass": self.steps / max(self.primary_passes, 1),
            "layers_per_step": self.primary_layers / max(self.steps, 1),
        }

    @classmethod
    def of(cls, generation: Generation, slots: int, samples: Tensor, sample_rate_hz: int) -> Self:
        """What a batch of codes says about its costs; its seconds are the caller's to add.

        Args:
            generation: the codes.
            slots: M, codes of one step.
            samples: (B,) of the waveforms.
            sample_rate_hz: of the waveforms.

        Returns:
            The costs.
        """
        steps = int(generation.steps.sum())
        return cls(
            utterances=len(samples),
            frames=int(generation.lengths.sum()),
            steps=steps,
            slots=steps * slots,
            primary_passes=steps if generation.primary_passes is None else int(generation.primary_passes.sum()),
            primary_layers=0 if generation.primary_layers is None else int(generation.primary_layers.sum()),
            local_passes=int(generation.local_passes.sum()),
            seconds_audio=float(samples.sum()) / sample_rate_hz,
            no_eos=int((~generation.has_eos).sum()),
            runaways=sum(reason is not None for reason in generation.runaway),
            retries=sum(generation.retries),
            **{f"runaways_{reason}": generation.failed.count(reason) for reason in Runaway},
        )


def prompt_line(whole_sec: float, used_sec: float, what: str = "prompt") -> str:
    """How much of a prompt was used, in words; empty if it was all of it.

    >>> prompt_line(60.0, 1.2)
    '1.2 of 60 s of the prompt used'
    """
    unused = whole_sec - used_sec >= 0.05  # a frame of a codec, or less, is none
    return f"{used_sec:.1f} of {round(whole_sec, 1):g} s of the {what} used" if unused else ""


def total(timings: Iterable[Timing]) -> Timing:
    """The costs of several batches or shards together.

    >>> total([Timing(frames=2, seconds_lm=0.5), Timing(frames=3)]).frames
    5
    """
    timings = list(timings)
    return Timing(**{field.name: sum(getattr(one, field.name) for one in timings) for field in fields(Timing)})


def decode_speech(codec: Codec, generation: Generation) -> tuple[list[Speech], Tensor]:
    """The speech of generated codes, row by row, and the samples (B,) of each.

    Args:
        codec: of the codes.
        generation: the codes.

    Returns:
        Speech and lengths.
    """
    codes, lengths = generation.codes.cpu(), generation.lengths.cpu()
    waveforms, samples = codec.decode(codes, lengths)
    rows = zip(codes, lengths.tolist(), waveforms, samples.tolist(), strict=True)
    ends, logprobs, rate = generation.has_eos.tolist(), generation.logprobs.tolist(), codec.spec.sample_rate_hz
    return [
        Speech(
            frames[:length].numpy(),
            cut_off(wave[:count].numpy(), ends[row], rate),
            ends[row],
            logprobs[row],
            sample_rate=rate,
            runaway=generation.runaway[row] if generation.runaway else None,
            retries=generation.retries[row] if generation.retries else 0,
        )
        for row, (frames, length, wave, count) in enumerate(rows)
    ], samples


def cut_off(samples: NDArray[np.float32], has_eos: bool, sample_rate_hz: int) -> NDArray[np.float32]:
    """The end of speech, (samples,), faded where it ran into its limit, so that it does not click."""
    return samples if has_eos else faded(samples, sample_rate_hz)


def faded(samples: NDArray[np.float32], sample_rate_hz: int) -> NDArray[np.float32]:
    """The samples, whose end fades over 5 ms."""
    count = min(len(samples), round(FADE_SEC * sample_rate_hz))
    ramp = np.linspace(1, 0, count, dtype=np.float32)
    return np.concatenate((samples[: len(samples) - count], samples[len(samples) - count :] * ramp))
