"""A LibriTTS tree for tests: the real layout and file names, speech of the mini corpus, and what goes wrong."""

from __future__ import annotations

import csv
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

CORPUS = Path(__file__).resolve().parent.parent / "egs2" / "mini_libritts" / "corpus"
RATE_HZ = 24000
# part → speaker → voice of the mini corpus; 19 and 196, 121 and 1089 sort differently as numbers and as text
SPEAKERS = {
    "train-clean-100": {"19": "1001", "26": "1003", "196": "1005"},
    "train-clean-360": {"14": "1007", "22": "1002"},
    "train-other-500": {"20": "1004"},
    "dev-clean": {"1272": "2001", "1462": "2002"},
    "test-clean": {"1089": "3001", "121": "3003"},
}
UTTERANCES = {"train-clean-100": 16, "train-clean-360": 8, "train-other-500": 3, "dev-clean": 5, "test-clean": 4}
CHAPTERS = {"19": "198", "26": "495", "196": "122150", "14": "208", "22": "121140", "20": "205"}
# what is wrong, and the stage that finds it
DATA_TROUBLE = {
    "19_198_000003_000001": "missing transcript",
    "19_198_000004_000000": "empty transcript",
    "19_198_000004_000001": "transcript not UTF-8",
    "26_495_000003_000001": "missing wav",
    "take_one": "misnamed",
    "train-clean-360:26_495_000000_000000": "duplicate",
}
FORMAT_TROUBLE = {"26_495_000004_000000": "unreadable wav", "26_495_000004_000001": "empty wav"}
ODD_RATE = "196_122150_000003_000001"
TOO_SHORT = "14_208_000000_000000"


def _sentences(voice: str) -> Iterator[tuple[np.ndarray, str]]:
    """Audio and transcript of a voice of the mini corpus, at 24 kHz."""
    with (CORPUS / "MANIFEST.tsv").open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream, delimiter="\t") if row["speaker"] == voice]
    name = rows[0]["file"]
    with soundfile.SoundFile(CORPUS / name) as archive:
        position = 0
        for row in (row for row in rows if row["file"] == name):
            start, count = int(row["start"]), int(row["num_samples"])
            archive.read(start - position)  # exact, which seeking in a compressed file is not
            yield archive.read(count, dtype="float32"), row["normalized"]
            position = start + count


def _spoil(tree: Path) -> None:
    def stem(utterance: str, part: str = "train-clean-100") -> Path:
        speaker, chapter = utterance.split("_")[:2]
        return tree / part / speaker / chapter / utterance

    for utterance, reason in DATA_TROUBLE.items():
        path = Path(f"{stem(utterance)}.normalized.txt") if "_" in utterance and ":" not in utterance else None
        if reason == "missing transcript":
            path.unlink()
        elif reason == "empty transcript":
            path.write_text(" \n")
        elif reason == "transcript not UTF-8":
            path.write_bytes("Zoë".encode("latin-1"))
        elif reason == "missing wav":
            Path(f"{stem(utterance)}.wav").unlink()
    soundfile.write(tree / "train-clean-100" / "26" / "495" / "take_one.wav", np.zeros(RATE_HZ), RATE_HZ)
    again = stem("26_495_000000_000000", "train-clean-360")
    again.parent.mkdir(parents=True)
    for suffix in (".wav", ".normalized.txt"):
        Path(f"{again}{suffix}").write_bytes(Path(f"{stem(again.name)}{suffix}").read_bytes())
    corrupt, empty = (Path(f"{stem(utterance)}.wav") for utterance in FORMAT_TROUBLE)
    corrupt.write_bytes(b"RIFF, but not for long")
    soundfile.write(empty, np.zeros(0), RATE_HZ)
    odd = Path(f"{stem(ODD_RATE)}.wav")
    samples, _ = soundfile.read(odd)
    soundfile.write(odd, samples[: len(samples) // 3 * 3].reshape(-1, 3)[:, :2].reshape(-1), 16000)


def write_tree(tree: Path, spoilt: bool = True) -> Path:
    """A tree of 7 minutes.

    Args:
        tree: folder to make.
        spoilt: with `DATA_TROUBLE` and so on.

    Returns:
        The tree.
    """
    for part, speakers in SPEAKERS.items():
        for speaker, voice in speakers.items():
            chapter = CHAPTERS.get(speaker, "134686")
            folder = tree / part / speaker / chapter
            folder.mkdir(parents=True)
            sentences = _sentences(voice)
            rows = []
            for index in range(UTTERANCES[part]):
                name = f"{speaker}_{chapter}_{index // 2:06d}_{index % 2:06d}"
                parts = [next(sentences) for _ in range(1 if name == TOO_SHORT else 2)]
                text = " ".join(words for _, words in parts)
                soundfile.write(folder / f"{name}.wav", np.concatenate([audio for audio, _ in parts]), RATE_HZ)
                (folder / f"{name}.normalized.txt").write_text(text)
                (folder / f"{name}.original.txt").write_text(f"{text} (1889)")
                rows.append(f"{name}\t{text}\t{text}\n")
            (folder / f"{speaker}_{chapter}.trans.tsv").write_text("".join(rows))
    (tree / "SPEAKERS.txt").write_text("; id | sex | subset | minutes | name\n")
    (tree / "speakers.tsv").write_text("READER\tGENDER\tSUBSET\tNAME\n")
    if spoilt:
        _spoil(tree)
    return tree


def write_archive(tree: Path, part: str, path: Path) -> bytes:
    """A part as openslr.org offers it.

    Args:
        tree: that has the part.
        part: its name.
        path: archive to write.

    Returns:
        Its contents.
    """
    with tarfile.open(path, "w:gz") as archive:
        note = b"LibriTTS"
        member = tarfile.TarInfo("LibriTTS/LICENSE.txt")
        member.size = len(note)
        archive.addfile(member, io.BytesIO(note))
        archive.add(tree / part, f"LibriTTS/{part}")
    return path.read_bytes()
