"""What may be given as a recording: a file, its bytes, samples, codes, or speech that was made."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from espnet_ext.errors import UserError
from espnet_ext.inference.speech import Speech
from espnet_ext.options import check_number

Samples = tuple[Any, int]  # an array or tensor, (samples,) or with a dimension of channels, and its rate in Hz
AudioLike = Path | str | bytes | BinaryIO | Samples
Sound = AudioLike | NDArray[Any] | Tensor | Speech  # an array without a rate is codes (T, N)


def given_codes(sound: Sound, what: str) -> NDArray[np.int64] | None:
    """Codes (T, N) of a sound; None for a recording, which is yet to be encoded.

    Args:
        sound: any.
        what: it is to the user, for errors.

    Returns:
        The codes.

    Raises:
        UserError: for an array that is neither codes nor comes with a rate.
    """
    if isinstance(sound, Speech):
        return sound.codes
    if not isinstance(sound, (np.ndarray, Tensor)):
        return None
    array = sound.detach().cpu().numpy() if isinstance(sound, Tensor) else sound
    if array.dtype.kind not in "iu":
        raise UserError(f"{what} of samples must come with its rate, ({what}, rate) or rate=…, got {array.dtype} alone")
    if array.ndim != 2 or not len(array):
        raise UserError(f"{what} without a rate must be codes (T, N), T > 0, got shape {array.shape}")
    return array.astype(np.int64)


def own_codes(sound: Sound, what: str, codec: str) -> NDArray[np.int64] | None:
    """What `given_codes` gives; speech of another codec than the one with this fingerprint is refused."""
    if isinstance(sound, Speech) and sound.codec not in ("", codec):
        told = f"{sound.codec[:12]}…, and this model is of codec {codec[:12]}…"
        raise UserError(f"{what} must be speech of the model's codec, got one of codec {told}: give its waveform")
    return given_codes(sound, what)


def read_recording(recording: AudioLike, what: str) -> tuple[NDArray[np.float32], int]:
    """Samples of a recording, mono, and their rate in Hz.

    Args:
        recording: an audio file of any rate, or what is in one, or samples.
        what: it is to the user, for errors.

    Returns:
        The samples, with something to hear among them, and the rate.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: if it is no audio, cut off, empty, silent or not finite.
    """
    from espnet_ext.data.audio import SILENT_PEAK
    from espnet_ext.data.waveform import mixed, read_mono  # resampling is not needed where everything is codes

    source = str(recording) if isinstance(recording, (Path, str)) else f"the given {type(recording).__name__}"
    try:
        if isinstance(recording, tuple) and len(recording) == 2:
            mono, rate_hz = mixed(*_samples(*recording, what), source)
        elif isinstance(recording, (Path, str)):
            if not Path(recording).is_file():
                raise FileNotFoundError(f"{what} not found: {recording}")
            mono, rate_hz = read_mono(recording)
        elif not isinstance(recording, bytes) and not hasattr(recording, "read"):
            raise UserError(f"{type(recording).__name__}: a path, bytes, an open file or (samples, rate) will do")
        else:
            content = recording if isinstance(recording, bytes) else recording.read()
            with tempfile.NamedTemporaryFile() as file:
                file.write(content)
                file.flush()
                try:
                    mono, rate_hz = read_mono(file.name)
                except UserError as error:
                    raise UserError(str(error).replace(file.name, source)) from None
    except UserError as error:
        raise UserError(f"{what} must be an audio file, got {error}") from None
    if np.abs(mono).max() < SILENT_PEAK:
        raise UserError(f"{what} must be audible, got silent wav: {source}")
    return mono, rate_hz


def _samples(samples: Any, rate_hz: int, what: str) -> tuple[NDArray[np.float32], int]:
    """Samples as (samples, channels) and their rate; integers become numbers at full scale 1."""
    check_number(f"rate of {what}", rate_hz, above=0)
    array = samples.detach().cpu().numpy() if isinstance(samples, Tensor) else np.asarray(samples)
    if array.ndim not in (1, 2) or array.dtype.kind not in "iuf":
        raise UserError(f"samples of shape {array.shape}, {array.dtype}")
    if array.dtype.kind == "u":  # silence is in the middle
        array = array / (float(np.iinfo(array.dtype).max) / 2 + 0.5) - 1
    elif array.dtype.kind == "i":
        array = array / (float(np.iinfo(array.dtype).max) + 1)
    array = np.asarray(array[:, None] if array.ndim == 1 else array, dtype=np.float32)
    return (array.T if array.shape[0] < array.shape[1] else array), int(rate_hz)
