"""The mini corpus made from flite voices: Ogg Opus archives, a manifest and checksums.

Run by maintainers only (needs the `flite` program); users unpack the shipped archive with `data_prep.py`.

    python local/make_corpus.py --out ../corpus
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import random
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from grammar import DIGITS, unique_sentences
from numpy.typing import NDArray
from ogg_serial import set_serial
from tqdm import tqdm

from espnet_ext.storage.atomic import atomic_path

SAMPLE_RATE_HZ = 24000
RMS_DB = -24.0
MARGIN_S = 0.1  # silence at both ends of an utterance
GAP_S = 0.2  # more silence between utterances of an archive: the codec's smearing stays out of them
OPUS_LEVEL = 0.935  # libsndfile's 0..1, about 21 kbit/s
UTTERANCES_PER_CHAPTER = 30
MANIFEST_FIELDS = ("file", "subset", "speaker", "chapter", "utt_id", "start", "num_samples", "normalized", "original")


@dataclass(frozen=True)
class Voice:
    """A speaker: a flite voice whose pitch and formants are moved.

    Attributes:
        speaker: numeric LibriTTS speaker id.
        base: flite voice.
        warp: factor of all formants.
        pitch: factor of the fundamental frequency.
        tempo: factor of the speaking rate.
        group: train, dev or unseen.
    """

    speaker: int
    base: str
    warp: float
    pitch: float
    tempo: float
    group: str

    @property
    def sex(self) -> str:
        """F or M, as SPEAKERS.txt wants it."""
        return "F" if self.base == "slt" else "M"


VOICES = (
    Voice(1001, "slt", 1.00, 1.00, 1.00, "train"),
    Voice(1002, "slt", 0.90, 0.80, 1.00, "train"),
    Voice(1003, "rms", 1.00, 0.95, 1.05, "train"),
    Voice(1004, "rms", 1.16, 1.40, 1.05, "train"),
    Voice(1005, "awb", 1.00, 1.00, 0.93, "train"),
    Voice(1006, "awb", 1.10, 1.25, 0.93, "train"),
    Voice(1007, "kal16", 1.00, 0.90, 0.90, "train"),
    Voice(1008, "kal16", 1.12, 1.30, 0.90, "train"),
    Voice(2001, "slt", 0.96, 1.10, 1.00, "dev"),
    Voice(2002, "rms", 1.05, 1.05, 1.05, "dev"),
    Voice(3001, "slt", 0.94, 0.90, 1.00, "unseen"),
    Voice(3002, "rms", 1.09, 1.20, 1.05, "unseen"),
    Voice(3003, "awb", 1.05, 1.15, 0.93, "unseen"),
    Voice(3004, "kal16", 1.06, 1.10, 0.90, "unseen"),
)
# subset, group of voices, utterances per voice
SUBSETS = (
    ("train-clean-mini", "train", 120),
    ("dev-clean-mini", "dev", 20),
    ("test-seen-mini", "train", 6),
    ("test-clean-mini", "unseen", 8),
)


@dataclass(frozen=True)
class Utterance:
    """A sentence given to a voice; `utt_id` is the LibriTTS file stem."""

    subset: str
    voice: Voice
    chapter: int
    utt_id: str
    words: str

    @property
    def normalized(self) -> str:
        """The sentence as LibriTTS writes it: a capital and a full stop."""
        return self.words.capitalize() + "."

    @property
    def original(self) -> str:
        """The same with the numbers of a digit string as figures."""
        words = self.words.split()
        if sum(word in DIGITS for word in words) > 1:
            words = [str(DIGITS.index(word) + 1) if word in DIGITS else word for word in words]
        return " ".join(words).capitalize() + "."


def plan(seed: int) -> list[Utterance]:
    """Who says what: every utterance of the corpus, ordered by subset, speaker and id."""
    places = [(subset, voice, count) for subset, group, count in SUBSETS for voice in VOICES if voice.group == group]
    sentences = iter(unique_sentences(sum(count for _, _, count in places), random.Random(seed)))
    chapters_of: dict[int, int] = {}
    utterances = []
    for subset, voice, count in places:
        for first in range(0, count, UTTERANCES_PER_CHAPTER):
            chapter = chapters_of[voice.speaker] = chapters_of.get(voice.speaker, voice.speaker * 100) + 1
            for index in range(min(UTTERANCES_PER_CHAPTER, count - first)):
                utt_id = f"{voice.speaker}_{chapter}_{index // 10:06d}_{index % 10:06d}"
                utterances.append(Utterance(subset, voice, chapter, utt_id, next(sentences)))
    return utterances


def trim(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """The samples between the first and the last that rise above 40 dB below the peak."""
    loud = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max())
    return samples[loud[0] : loud[-1] + 1]


def synthesise(voice: Voice, words: str) -> NDArray[np.float64]:
    """One utterance: float samples at 24 kHz, levelled, with silent margins."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "speech.wav")
        # spoken `warp` times slower, then played `warp` times faster: all frequencies move, the duration stays
        options = [f"duration_stretch={voice.warp / voice.tempo:.4f}", f"f0_shift={voice.pitch / voice.warp:.4f}"]
        settings = [word for option in options for word in ("--setf", option)]
        subprocess.run(["flite", "-voice", voice.base, *settings, "-t", words, "-o", str(path)], check=True, timeout=60)
        samples, rate_hz = soundfile.read(path, dtype="float64")
    speech = trim(soxr.resample(samples, rate_hz * voice.warp, SAMPLE_RATE_HZ, quality="VHQ"))
    speech *= 10 ** (RMS_DB / 20) / np.sqrt(np.mean(speech**2))
    return np.pad(np.clip(speech, -0.99, 0.99), round(MARGIN_S * SAMPLE_RATE_HZ))


def write_archive(path: Path, utterances: list[Utterance]) -> list[tuple[int, int]]:
    """Speak `utterances` into one Ogg Opus file; start and number of samples of each come back."""
    gap = np.zeros(round(GAP_S * SAMPLE_RATE_HZ))
    pieces, spans, position = [gap], [], len(gap)
    for utterance in utterances:
        samples = synthesise(utterance.voice, utterance.words)
        spans.append((position, len(samples)))
        pieces += [samples, gap]
        position += len(samples) + len(gap)
    with atomic_path(path) as temporary:
        soundfile.write(
            temporary,
            np.concatenate(pieces),
            SAMPLE_RATE_HZ,
            format="OGG",
            subtype="OPUS",
            compression_level=OPUS_LEVEL,
        )
        set_serial(temporary, utterances[0].voice.speaker)  # libsndfile draws it from the clock
    return spans


def speakers_text(seconds_of: dict[Voice, float]) -> str:
    """The content of SPEAKERS.txt; minutes and subset are those of the voice's first subset."""
    lines = ["; The speakers of the mini corpus: flite voices with moved pitch and formants.", ";"]
    lines.append(";ID  |SEX| SUBSET           |MINUTES| NAME")
    subset_of = {group: subset for subset, group, _ in reversed(SUBSETS)}
    for voice in VOICES:
        minutes = seconds_of[voice] / 60
        name = f"flite {voice.base}, formants x {voice.warp:.2f}, pitch x {voice.pitch:.2f}"
        lines.append(f"{voice.speaker} | {voice.sex} | {subset_of[voice.group]:<16} | {minutes:5.2f} | {name}")
    return "\n".join(lines) + "\n"


def write_text(path: Path, text: str) -> None:
    """Write `text` under its final name in one piece."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def main() -> None:
    """Make the whole corpus."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the archives, MANIFEST.tsv, SPEAKERS.txt, SHA256SUMS"
    )
    parser.add_argument("--seed", type=int, default=2, help="chooses the sentences")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if shutil.which("flite") is None:
        parser.error("the program flite must be on the PATH (Debian: apt install flite)")
    args.out.mkdir(parents=True, exist_ok=True)
    by_file: dict[str, list[Utterance]] = {}
    for utterance in plan(args.seed):
        by_file.setdefault(f"{utterance.subset}_{utterance.voice.speaker}.opus", []).append(utterance)
    rows, seconds_of = ["\t".join(MANIFEST_FIELDS)], dict.fromkeys(VOICES, 0.0)
    for name, utterances in tqdm(by_file.items(), desc="voices", unit="file"):
        for utterance, (start, length) in zip(utterances, write_archive(args.out / name, utterances), strict=True):
            seconds_of[utterance.voice] += length / SAMPLE_RATE_HZ
            where = (
                name,
                utterance.subset,
                utterance.voice.speaker,
                utterance.chapter,
                utterance.utt_id,
                start,
                length,
            )
            rows.append("\t".join(map(str, (*where, utterance.normalized, utterance.original))))
    write_text(args.out / "MANIFEST.tsv", "\n".join(rows) + "\n")
    write_text(args.out / "SPEAKERS.txt", speakers_text(seconds_of))
    names = sorted([*by_file, "MANIFEST.tsv", "SPEAKERS.txt"])
    sums = [f"{hashlib.sha256((args.out / name).read_bytes()).hexdigest()}  {name}" for name in names]
    write_text(args.out / "SHA256SUMS", "\n".join(sums) + "\n")
    size = sum(path.stat().st_size for path in args.out.iterdir())
    logging.info("%d utterances, %.1f minutes, %.2f MB", len(rows) - 1, sum(seconds_of.values()) / 60, size / 1e6)


if __name__ == "__main__":
    main()
