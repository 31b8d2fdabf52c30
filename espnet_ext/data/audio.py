"""Audio files, read in one place whatever their kind; those of a codec are mono and have its sample rate."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from espnet_ext.errors import UserError
from espnet_ext.storage.atomic import atomic_path

SILENT_PEAK = 1e-4  # -80 dB: nothing but dither
FADED = 0.01  # of the channels' mean energy: what is left of channels that are each other's opposite
LOUDEST_FLOAT = 32.0  # 30 dB beyond full scale no recording is: such samples are integers
MOST_LACKING_SEC = 0.01  # of what a header promises; less is its writer's rounding
OPEN_SIZES = 0x7FFF0000  # and more: what programs write that do not know yet how much will come
MOST_PER_BYTE = 2**13  # samples that a compressed file holds, of silence: a header that promises more lies
READABLE = "an audio file this can read (wav, flac, ogg, mp3, …)"


@dataclass(frozen=True)
class Span:
    """A part of a recording, in seconds.

    Attributes:
        begin: where it begins.
        end: where it ends; None for the end of the recording.
    """

    begin: float = 0.0
    end: float | None = None


@dataclass(frozen=True)
class Header:
    """What an audio file says of itself: how long it is, its sample rate and its number of channels."""

    seconds: float
    rate_hz: int
    channels: int


@dataclass(frozen=True)
class Audio:
    """What an audio file holds.

    Attributes:
        samples: (samples, channels) float at full scale 1.
        rate_hz: sample rate.
        mended: what was wrong with it and what was done about that, the kind before the first colon; empty for nothing.
    """

    samples: np.ndarray
    rate_hz: int
    mended: str = ""

    def mono(self) -> Audio:
        """One channel, (samples,): the mean, or the loudest where the channels are each other's opposite."""
        mixed = self.samples.mean(axis=1)
        if self.samples.shape[1] == 1 or not len(mixed):
            return Audio(mixed, self.rate_hz, self.mended)
        energies = self.samples.var(axis=0)
        if not mixed.var() < FADED * energies.mean():  # also what is not a number
            return Audio(mixed, self.rate_hz, self.mended)
        loudest = int(energies.argmax())
        done = f"channels of opposite phase: channel {loudest + 1} of {len(energies)} is used alone"
        return Audio(self.samples[:, loudest], self.rate_hz, "; ".join(filter(None, (self.mended, done))))


def read_channels(path: Path | str, dtype: str = "float32", span: Span | None = None) -> Audio:
    """An audio file, its channels as they are; what is beyond full scale in a file of floats is scaled.

    Args:
        path: file in any format that libsndfile reads
        dtype: "float32" or "float64"
        span: the part to read; None for all

    Returns:
        The audio, possibly without samples.

    Raises:
        UserError: if the file is missing, unreadable, shorter than it says or does not hold the span; the kind of
            trouble comes before the first colon
    """
    try:
        with _opened(path) as file:
            is_float = file.subtype in ("FLOAT", "DOUBLE")
            first, last = _limits(path, file, span or Span())
            file.seek(0 if is_float else first)  # the level of floats is that of the whole recording
            samples = file.read(-1 if is_float else last - first, dtype=dtype, always_2d=True)
            rate_hz, there = file.samplerate, file.tell()
            expected = file.frames if is_float else last
    except MemoryError:
        raise UserError(f"unreadable wav: {path} is too long for the memory: cut it") from None
    if expected - there > MOST_LACKING_SEC * rate_hz:
        raise _truncated(path, expected / rate_hz, there / rate_hz)
    mended = ""
    if is_float:
        samples, mended = at_full_scale(samples)
        samples = samples[first:last]
    return Audio(samples, rate_hz, mended)


def read_header(path: Path | str) -> Header:
    """What the header of an audio file says; no sample is decoded.

    Args:
        path: file in any format that libsndfile reads

    Returns:
        The header.

    Raises:
        UserError: as `read_channels` does, for what a header tells
    """
    with _opened(path) as file:
        return Header(file.frames / file.samplerate, file.samplerate, file.channels)


@contextmanager
def _opened(path: Path | str) -> Iterator[soundfile.SoundFile]:
    if not os.path.isfile(path):
        raise UserError(f"missing wav: {path}")
    try:
        with soundfile.SoundFile(path) as file:
            _check_header(path)
            if file.frames > os.path.getsize(path) * MOST_PER_BYTE:
                raise UserError(
                    f"unreadable wav: {path} says that it has {file.frames} samples, for which it is too small"
                )
            yield file
    except soundfile.LibsndfileError as error:
        reason = " ".join(error.error_string.split()) or "it is damaged"
        raise UserError(f"unreadable wav: {path} is not {READABLE}; convert it with ffmpeg ({reason})") from None
    except OSError as error:
        raise UserError(f"unreadable wav: {path} ({error})") from None


def _truncated(path: Path | str, promised_sec: float, sec: float) -> UserError:
    return UserError(f"truncated wav: {path} holds {sec:.2f} s of the {promised_sec:.2f} s that it says it has")


def _limits(path: Path | str, file: soundfile.SoundFile, span: Span) -> tuple[int, int]:
    """First sample of a span and the one behind its last."""
    first, last = round(span.begin * file.samplerate), file.frames
    end = last if span.end is None else round(span.end * file.samplerate)
    if first and first >= last or end > last + MOST_LACKING_SEC * file.samplerate:
        edge = f"begins at {span.begin:g} s" if first >= last else f"ends at {span.end:g} s"
        raise UserError(f"bad segment: it {edge}, and {path} has {last / file.samplerate:.2f} s")
    return first, min(end, last)


def _check_header(path: Path | str) -> None:
    """Refuse a wav whose header was never finished, or that lost its end; libsndfile takes what is there."""
    with open(path, "rb") as stream:
        head = stream.read(12)
        if head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return
        whole = stream.seek(0, 2)
        place, bytes_per_sec = 12, 1
        while True:
            stream.seek(place)
            name, size = stream.read(4), int.from_bytes(stream.read(4), "little")
            place += 8
            if name in (b"data", b""):
                break
            if name == b"fmt ":
                bytes_per_sec = max(int.from_bytes(stream.read(12)[8:], "little"), 1)
            place += size + size % 2
        there = max(whole - place, 0)
    if size == 0 and int.from_bytes(head[4:8], "little") + 8 < whole:
        raise UserError(
            f"unfinished wav: the header of {path} says that it is empty, and {there} bytes follow: its recorder was "
            "stopped; ffmpeg -ignore_length 1 repairs it"
        )
    if (size - there) / bytes_per_sec > MOST_LACKING_SEC and size < OPEN_SIZES:
        raise _truncated(path, size / bytes_per_sec, there / bytes_per_sec)


def at_full_scale(samples: np.ndarray) -> tuple[np.ndarray, str]:
    """Samples of a file of floats, and what was done to them."""
    peak = float(np.abs(samples).max(initial=0.0))
    if not 1 < peak < float("inf"):  # also what is not a number
        return samples, ""
    integers = (2.0**bits for bits in (15, 23, 31) if LOUDEST_FLOAT < peak <= 2.0**bits)
    scale = next(integers, peak)
    return samples / scale, f"beyond full scale: samples up to {peak:g} are divided by {scale:g}"


def check_samples(samples: np.ndarray, path: Path | str) -> None:
    """Refuse audio that holds nothing, or what no codec and no evaluator can use.

    Args:
        samples: what was read
        path: the file it was read from

    Raises:
        UserError: if there are no samples or not all are finite; the kind of trouble comes before the first colon
    """
    if not len(samples):
        raise UserError(f"empty wav: {path}")
    if not np.isfinite(samples).all():
        raise UserError(f"not finite: {path} has NaN or infinite samples")


def read_wav(path: Path | str, sample_rate_hz: int) -> np.ndarray:
    """Samples of a mono audio file: (samples,) float32, full scale 1.

    Args:
        path: file in any format that libsndfile reads
        sample_rate_hz: rate that the file must have

    Returns:
        The samples, at least one.

    Raises:
        UserError: if the file is missing, unreadable, cut off, empty, not mono, of another rate, or not finite; the
            kind of trouble comes before the first colon
    """
    audio = read_channels(path)
    samples = audio.samples
    if audio.rate_hz != sample_rate_hz:
        raise UserError(f"wrong sample rate: {path} must have {sample_rate_hz} Hz, got {audio.rate_hz}")
    if samples.shape[1] != 1:
        raise UserError(f"not mono: {path} has {samples.shape[1]} channels")
    check_samples(samples, path)
    if audio.mended:
        logging.warning("%s: %s", path, audio.mended)
    return np.ascontiguousarray(samples[:, 0])


def write_wav(path: Path, samples: np.ndarray, sample_rate_hz: int) -> None:
    """Write a 16-bit mono wav in one piece; what exceeds full scale is clipped.

    Args:
        path: file to write
        samples: (samples,) float, full scale 1
        sample_rate_hz: rate of the file

    Raises:
        OSError: if it cannot be written, no space left for example
    """
    with atomic_path(path) as temporary:
        try:
            soundfile.write(temporary, np.clip(samples, -1.0, 1.0), sample_rate_hz, format="WAV", subtype="PCM_16")
        except soundfile.LibsndfileError as error:
            raise OSError(f"wav cannot be written: {path} ({' '.join(str(error).split())})") from None
