"""The mini corpus unpacked into a LibriTTS tree, after checking it against SHA256SUMS.

python local/data_prep.py --corpus ../corpus --out downloads/mini_libritts
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import logging
import shutil
from pathlib import Path

import soundfile
from tqdm import tqdm

from espnet_ext.bin import run
from espnet_ext.data.audio import write_wav
from espnet_ext.errors import UserError
from espnet_ext.jobs import Record
from espnet_ext.jobs.workers import add_force_option
from espnet_ext.storage.atomic import atomic_dir

Row = dict[str, str]
# subset → speakers, utterances per speaker
TINY = {
    "train-clean-mini": (("1001", "1003"), 60),
    "dev-clean-mini": (("2001", "2002"), 4),
    "test-seen-mini": (("1001", "1003"), 4),
    "test-clean-mini": (("3001", "3002"), 2),
}


def verify_checksums(corpus: Path) -> str:
    """Check every file against SHA256SUMS; the checksum of that list comes back.

    Args:
        corpus: folder with the archives and SHA256SUMS.

    Returns:
        Hexadecimal digest that identifies the corpus.

    Raises:
        FileNotFoundError: if a file is missing.
        UserError: if a file differs from its checksum.
    """
    sums = corpus / "SHA256SUMS"
    if not sums.is_file():
        raise FileNotFoundError(f"--corpus {corpus} must hold SHA256SUMS, found none")
    for line in sums.read_text(encoding="utf-8").splitlines():
        expected, name = line.split()
        path = corpus / name
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; get the repository's copy again (git checkout -- {name})")
        if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise UserError(
                f"{path} must match SHA256SUMS, but does not; get the repository's copy again (git checkout -- {name})"
            )
    return hashlib.sha256(sums.read_bytes()).hexdigest()


def read_manifest(corpus: Path, size: str) -> list[Row]:
    """The rows of MANIFEST.tsv that belong to a size.

    Args:
        corpus: folder with MANIFEST.tsv.
        size: mini or tiny.

    Returns:
        Rows by column name.
    """
    with (corpus / "MANIFEST.tsv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    if size == "mini":
        return rows
    kept: list[Row] = []
    taken: dict[tuple[str, str], int] = {}
    for row in rows:
        speakers, most = TINY[row["subset"]]
        place = (row["subset"], row["speaker"])
        if row["speaker"] in speakers and taken.get(place, 0) < most:
            taken[place] = taken.get(place, 0) + 1
            kept.append(row)
    return kept


def stem_path(tree: Path, row: Row) -> Path:
    """Where an utterance lives in the tree, without a suffix."""
    return tree / row["subset"] / row["speaker"] / row["chapter"] / row["utt_id"]


def unpack(corpus: Path, rows: list[Row], tree: Path) -> None:
    """Write wav files and transcripts of `rows` under `tree`."""
    by_file: dict[str, list[Row]] = {}
    for row in rows:
        by_file.setdefault(row["file"], []).append(row)
    for name, members in tqdm(by_file.items(), desc="unpacking", unit="file"):
        samples, rate_hz = soundfile.read(corpus / name, dtype="float32")
        for row in members:
            stem, start = stem_path(tree, row), int(row["start"])
            write_wav(Path(f"{stem}.wav"), samples[start : start + int(row["num_samples"])], rate_hz)
            Path(f"{stem}.normalized.txt").write_text(row["normalized"] + "\n", encoding="utf-8")
            Path(f"{stem}.original.txt").write_text(row["original"] + "\n", encoding="utf-8")


def prepare(corpus: Path, out: Path, size: str, force: bool = False) -> None:
    """Unpack the corpus unless the same one is already there, complete.

    Args:
        corpus: folder with the archives.
        out: LibriTTS tree to make; an older one is replaced as a whole.
        size: mini or tiny.
        force: unpack it anyway.
    """
    record = Record.of(out, {"corpus": verify_checksums(corpus), "size": size})
    rows = read_manifest(corpus, size)
    suffixes = (".wav", ".normalized.txt", ".original.txt")

    def step() -> None:
        with atomic_dir(out) as tree:
            unpack(corpus, rows, tree)
            shutil.copyfile(corpus / "SPEAKERS.txt", tree / "SPEAKERS.txt")
        logging.info("%s: %d utterances unpacked", out, len(rows))

    record.make(step, force, [Path(f"{stem_path(out, row)}{suffix}") for row in rows for suffix in suffixes])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--corpus", type=Path, required=True, help="folder with the archives, MANIFEST.tsv and SHA256SUMS"
    )
    parser.add_argument("--out", type=Path, required=True, help="LibriTTS tree to make")
    parser.add_argument(
        "--size", choices=("mini", "tiny"), default="mini", help="tiny: two voices per subset, for a trial run"
    )
    add_force_option(parser)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run(lambda: prepare(args.corpus, args.out, args.size, args.force))


if __name__ == "__main__":
    main()
