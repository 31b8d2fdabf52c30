"""Digit strings of the Free Spoken Digit Dataset: wav files and data/{train,dev,test_seen}.

python local/data_prep.py --fsdd fsdd-recordings.tar.gz --out downloads/fsdd_strings --datadir data
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path

from digit_strings import DigitString, join, plan_strings, trimmed
from fsdd_recordings import SAMPLE_RATE_HZ, Recording, download_recordings, read_recordings
from tqdm import tqdm

from espnet_ext.bin import run
from espnet_ext.data.audio import write_wav
from espnet_ext.data.datadir import skipped_summary, write_data_dir, write_scp, write_skipped
from espnet_ext.errors import UserError
from espnet_ext.storage.atomic import atomic_dir


@dataclass(frozen=True)
class Split:
    """Takes that only this split uses, and how many strings of them every speaker says."""

    name: str
    takes: range
    strings: int
    tiny_strings: int


# takes 0-4 are the data set's own test set
SPLITS = (
    Split("train", range(8, 50), 150, 40),
    Split("dev", range(5, 8), 6, 3),
    Split("test_seen", range(5), 12, 4),
)
TINY_SPEAKERS = 2


def usable(recordings: list[Recording], skipped: dict[str, str]) -> list[Recording]:
    """The recordings that hold speech; the others join `skipped`."""
    kept = []
    for recording in recordings:
        if len(trimmed(recording.samples)):
            kept.append(recording)
        else:
            skipped[f"{recording.name}.wav"] = "too short"
    return kept


def write_wavs(folder: Path, strings: list[DigitString]) -> None:
    """Write the wav files of a split and the list of the recordings that each is made of."""
    folder.mkdir(parents=True)
    seconds = 0.0
    for string in tqdm(strings, desc=f"joining {folder.name}", unit="utt"):
        samples = join(string)
        seconds += len(samples) / SAMPLE_RATE_HZ
        write_wav(folder / f"{string.utterance}.wav", samples, SAMPLE_RATE_HZ)
    names = {string.utterance: " ".join(recording.name for recording in string.recordings) for string in strings}
    write_scp(folder / "recordings", names)
    logging.info("%s: %d utterances, %.1f minutes", folder.name, len(strings), seconds / 60)


def plan_split(
    split: Split, recordings: list[Recording], speakers: list[str], size: str, seed: int
) -> list[DigitString]:
    """The strings of a split.

    Args:
        split: which.
        recordings: all usable ones.
        speakers: those to use.
        size: full or tiny.
        seed: chooses and orders the recordings.

    Returns:
        Strings of all speakers.

    Raises:
        UserError: if a speaker lacks recordings of this split.
    """
    members = [item for item in recordings if item.take in split.takes and item.speaker in speakers]
    absent = sorted(set(speakers) - {item.speaker for item in members})
    if absent:
        takes = f"{split.takes.start}-{split.takes.stop - 1}"
        raise UserError(f"--fsdd must hold takes {takes} of every speaker, got none of {', '.join(absent)}")
    return plan_strings(members, split.name, split.tiny_strings if size == "tiny" else split.strings, seed)


def prepare(archive: Path, out: Path, datadir: Path, size: str, seed: int) -> None:
    """Make all splits: wav files first, the data directories that point to them last.

    Args:
        archive: recordings folder or archive.
        out: folder for the wav files; replaced as a whole.
        datadir: folder for the data directories.
        size: full or tiny.
        seed: chooses and orders the recordings.
    """
    recordings, skipped = read_recordings(archive)
    recordings = usable(recordings, skipped)
    speakers = sorted({recording.speaker for recording in recordings})[: TINY_SPEAKERS if size == "tiny" else None]
    plans = {split.name: plan_split(split, recordings, speakers, size, seed) for split in SPLITS}
    with atomic_dir(out) as folder:
        for name, strings in plans.items():
            write_wavs(folder / name, strings)
        write_skipped(folder / "skipped", skipped)
    for name, strings in plans.items():
        wavs = {string.utterance: out / name / f"{string.utterance}.wav" for string in strings}
        texts = {string.utterance: string.text for string in strings}
        write_data_dir(datadir / name, wavs, texts, {string.utterance: string.speaker for string in strings})
    logging.info("%d recordings of %d speakers; skipped %s", len(recordings), len(speakers), skipped_summary(skipped))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fsdd", default="", help="recordings folder or .tar.gz; empty: download it from its home")
    parser.add_argument(
        "--download_dir", type=Path, default=Path("downloads"), help="folder for the downloaded archive"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the wav files of the strings")
    parser.add_argument("--datadir", type=Path, default=Path("data"), help="folder for the data directories")
    parser.add_argument("--size", choices=("full", "tiny"), default="full", help="tiny: two speakers, for a trial run")
    parser.add_argument("--seed", type=int, default=0, help="chooses and orders the recordings")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    def make() -> None:
        archive = Path(args.fsdd) if args.fsdd else download_recordings(args.download_dir)
        prepare(archive, args.out, args.datadir, args.size, args.seed)

    run(make)


if __name__ == "__main__":
    main()
