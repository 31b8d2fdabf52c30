"""Sound and pictures as data: URIs, small enough to be sent by mail."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import matplotlib as mpl
import numpy as np
import soundfile
from PIL import Image

from espnet_ext.data.waveform import read_mono, read_resampled
from espnet_ext.scoring.tables.figures import COLOURS, spectrogram

PICTURE = (260, 96)  # pixels of a spectrogram


def data_uri(content: bytes, kind: str) -> str:
    """Bytes of a MIME type as an address that holds them.

    >>> data_uri(b"abc", "text/plain")
    'data:text/plain;base64,YWJj'
    """
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def audio_uri(path: Path) -> str:
    """An audio file as MP3, which every browser plays; about 6 kB for a second of speech."""
    samples, rate = read_mono(path)
    stream = io.BytesIO()
    soundfile.write(stream, np.clip(samples, -1.0, 1.0), rate, format="MP3", subtype="MPEG_LAYER_III")
    return data_uri(stream.getvalue(), "audio/mpeg")


def spectrogram_uri(path: Path) -> str:
    """The spectrogram of an audio file as a small picture."""
    levels = spectrogram(read_resampled(path))[::-1]
    colours = (mpl.colormaps[COLOURS](levels)[..., :3] * 255).astype(np.uint8)
    stream = io.BytesIO()
    picture = Image.fromarray(colours).resize(PICTURE, Image.Resampling.BOX)
    picture.quantize(128).save(stream, format="PNG", optimize=True)
    return data_uri(stream.getvalue(), "image/png")


def picture_uri(path: Path) -> str:
    """A PNG file."""
    return data_uri(path.read_bytes(), "image/png")
