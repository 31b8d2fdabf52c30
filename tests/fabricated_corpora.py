"""Small corpora in the layouts that people have, of tones or of the mini corpus's speech."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

MINI = Path(__file__).resolve().parent.parent / "egs2" / "mini_libritts" / "corpus"
RATE_HZ = 16000


def tone(number: int, seconds: float = 0.5, rate_hz: int = RATE_HZ) -> np.ndarray:
    """A sound that no other number has."""
    return 0.3 * np.sin(2 * np.pi * (200 + number) * np.arange(round(seconds * rate_hz)) / rate_hz)


def write_tone(path: Path, number: int, seconds: float = 0.5) -> Path:
    """A recording of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(number, seconds), RATE_HZ)
    return path


def sentence(number: int) -> str:
    """Words that no other number has."""
    letters = "abcdefghij"
    return " ".join(["say", *(letters[int(digit)] * 2 for digit in f"{number:03d}")])


def write_table(root: Path, rows: list[str], audio: int | None = None, name: str = "metadata.csv") -> Path:
    """LJSpeech's layout with recordings u000, u001, … and the given rows."""
    for number in range(len(rows) if audio is None else audio):
        write_tone(root / "wavs" / f"u{number:03d}.wav", number)
    (root / name).write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return root


def write_beside(root: Path) -> Path:
    """Texts beside recordings, in folders."""
    for number, folder in enumerate(["anna", "anna", "berta/day 1", "berta/day 1"]):
        path = write_tone(root / folder / f"take {number}.wav", number)
        path.with_suffix(".lab" if number == 3 else ".txt").write_text(f"{sentence(number)}\nagain\n")
    return root


def speech(voice: str) -> Iterator[tuple[np.ndarray, int, str]]:
    """Recordings of a voice of the mini corpus: samples, rate, text."""
    with (MINI / "MANIFEST.tsv").open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream, delimiter="\t") if row["speaker"] == voice]
    name = rows[0]["file"]
    samples, rate_hz = soundfile.read(MINI / name, dtype="float32")
    for row in (row for row in rows if row["file"] == name):
        start = int(row["start"])
        yield samples[start : start + int(row["num_samples"])], rate_hz, row["normalized"]
