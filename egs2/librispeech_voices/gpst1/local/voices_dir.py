"""Recordings of many speakers without transcripts, named as LibriSpeech's → data/{train,dev,test}.

python local/voices_dir.py --corpus librispeech-voices.tar --downloads downloads --datadir data
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import math
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from espnet_ext.bin import run
from espnet_ext.data.audio import read_header
from espnet_ext.data.corpora.base import files_below
from espnet_ext.data.datadir import skipped_summary, write_data_dir, write_scp, write_skipped
from espnet_ext.errors import UserError
from espnet_ext.jobs import Record, Workers
from espnet_ext.scoring.evaluators import recognisers
from espnet_ext.scoring.evaluators.evaluator import Choice, evaluate_files
from espnet_ext.storage.download import extract

NAME = re.compile(r"(?P<speaker>\d+)-\d+-\d+\.(?:flac|wav)")
PART = re.compile(r"(?:^|_)(train|dev|test)-")
DEV_SHARE = 20  # of so many speakers one is for development, where the corpus has no part for it
SHORTEST_SEC = 1.0  # of a piece: less is no prompt


@dataclass(frozen=True)
class Recording:
    """One of them.

    Attributes:
        path: file.
        speaker: number, the first one of its name.
        seconds: its length.
    """

    path: Path
    speaker: str
    seconds: float


def find_recordings(corpus: Path) -> tuple[dict[str, list[Recording]], dict[str, str]]:
    """The recordings of every part, and why others are not used.

    Args:
        corpus: folder of train-…, dev-… and test-…, or …_train-… and so on, with anything in between.

    Returns:
        Part → recordings sorted by name; path → reason.

    Raises:
        UserError: if there are none to train on or none to test on.
    """
    found: dict[str, list[Recording]] = {"train": [], "dev": [], "test": []}
    skipped: dict[str, str] = {}
    names: set[str] = set()
    for path in map(Path, sorted(files_below(str(corpus)))):
        matched = NAME.fullmatch(path.name)
        inside = path.relative_to(corpus)
        parts = [part[1] for folder in inside.parts[:-1] if (part := PART.search(folder))]
        if path.suffix not in (".flac", ".wav"):
            continue
        key = inside.as_posix().replace("/", "-").replace(" ", "_")
        if matched is None:
            skipped[key] = "unknown name: must be SPEAKER-CHAPTER-NUMBER.flac"
        elif not parts:
            skipped[key] = "unknown part: no folder above is called train-…, dev-… or test-…"
        elif path.stem in names:
            skipped[key] = "duplicate id: another part has a recording of this name"
        else:
            try:
                recording = Recording(path, matched["speaker"], read_header(path).seconds)
            except UserError as error:
                skipped[key] = str(error)
                continue
            names.add(path.stem)
            found[parts[-1]].append(recording)
    for part in ("train", "test"):
        if not found[part]:
            why = f"; skipped: {skipped_summary(skipped)}" if skipped else ""
            raise UserError(f"--corpus {corpus} must have SPEAKER-CHAPTER-NUMBER.flac below {part}-…, found none{why}")
    return found, skipped


def set_aside(recordings: list[Recording]) -> tuple[list[Recording], list[Recording]]:
    """Those to train on, and those of one speaker of twenty, whom a hash chooses, and of at least one."""
    order = sorted({one.speaker for one in recordings}, key=lambda name: hashlib.sha256(name.encode()).digest())
    if len(order) < 2:
        raise UserError(f"--corpus must have at least two speakers to train on, got {order}")
    chosen = set(order[: max(1, len(order) // DEV_SHARE)])
    parts = defaultdict(list)
    for one in recordings:
        parts[one.speaker in chosen].append(one)
    return parts[False], parts[True]


def write_part(folder: Path, recordings: list[Recording], piece_sec: float) -> int:
    """Write the data directory of a set.

    Args:
        folder: of the set.
        recordings: of it.
        piece_sec: they are cut into equal pieces that are not longer; 0 leaves them as they are.

    Returns:
        Number of utterances.
    """
    speakers = {one.path.stem: one.speaker for one in recordings}
    wavs = {one.path.stem: str(one.path) for one in recordings}
    (folder / "segments").unlink(missing_ok=True)
    if piece_sec:
        segments = {}
        for one in recordings:
            # two at least, where they are long enough: a prompt is another utterance of the speaker
            count = max(math.ceil(one.seconds / piece_sec), 2 if one.seconds >= 2 * SHORTEST_SEC else 1)
            for piece in range(count):
                name = f"{one.path.stem}-{piece:02d}"
                end = f"{one.seconds * (piece + 1) / count:.3f}" if piece + 1 < count else "-1"
                segments[name] = f"{one.path.stem} {one.seconds * piece / count:.3f} {end}"
                speakers[name] = one.speaker
        write_data_dir(folder, dict.fromkeys(segments, ""), None, speakers)
        write_scp(folder / "segments", segments)
        write_scp(folder / "wav.scp", wavs)
        return len(segments)
    write_data_dir(folder, wavs, None, speakers)
    return len(wavs)


def heard_texts(recogniser: str, recordings: list[Recording]) -> dict[str, str]:
    """What a recogniser hears of recordings, to compare with what it hears of speech that is made of their units.

    Args:
        recogniser: name of it.
        recordings: those to hear.

    Returns:
        Utterance → text, in the form that is compared; nothing for those in which it hears no word.
    """
    wavs = {one.path.stem: one.path for one in recordings}
    choice = Choice("asr", recogniser, {})
    found = evaluate_files(choice, {"test": wavs}, Workers(), None)["test"]
    texts = {name: recognisers[recogniser].normalise(text) for name, text in found.items() if isinstance(text, str)}
    return {name: text for name, text in texts.items() if text}


def prepare(corpus: Path, downloads: Path, datadir: Path, piece_sec: float, heard: str = "none") -> None:
    """Unpack the corpus if it is an archive, and write the three sets.

    Args:
        corpus: folder, or tar archive of it.
        downloads: where an archive is unpacked.
        datadir: folder of train, dev and test.
        piece_sec: longest piece of a training recording.
        heard: recogniser whose words are the texts of the test set; "none" for no texts.

    Raises:
        FileNotFoundError: if there is no such corpus.
        UserError: if nothing of it is usable.
    """
    if not corpus.exists():
        raise FileNotFoundError(
            f"--corpus {corpus} must be a folder of recordings or a tar archive, found nothing there"
        )
    if corpus.is_file():
        folder = downloads / "librispeech_voices"
        Record.of(folder, {"archive": corpus.name}, [corpus]).make(lambda: extract(corpus, "", folder))
        corpus = folder
    found, skipped = find_recordings(corpus)
    if not found["dev"]:
        found["train"], found["dev"] = set_aside(found["train"])
    for part, recordings in found.items():
        count = write_part(datadir / part, recordings, 0.0 if part == "test" else piece_sec)
        if part == "test" and heard != "none":
            write_scp(datadir / part / "text", heard_texts(heard, recordings))
        seconds, speakers = sum(one.seconds for one in recordings), len({one.speaker for one in recordings})
        logging.info("%s: %d utterances of %d speakers, %.1f min", part, count, speakers, seconds / 60)
    write_skipped(datadir / "skipped", skipped)
    logging.info("skipped: %s", skipped_summary(skipped))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder of the recordings, or a tar archive of it")
    parser.add_argument("--downloads", type=Path, default=Path("downloads"), help="where an archive is unpacked")
    parser.add_argument("--datadir", type=Path, required=True, help="folder of train, dev and test")
    parser.add_argument("--piece_sec", type=float, default=6.0, help="recordings to train on are cut into such pieces")
    text = "recogniser whose words of the test recordings are their texts"
    parser.add_argument("--heard", choices=["none", *recognisers], default="none", help=text)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if not 2 * SHORTEST_SEC <= args.piece_sec <= 20:
        raise UserError(f"--piece_sec must be from {2 * SHORTEST_SEC:g} to 20 s, got {args.piece_sec:g}")
    if args.heard != "none":
        Choice("asr", args.heard, {}).check()
    prepare(args.corpus, args.downloads, args.datadir, args.piece_sec, args.heard)


if __name__ == "__main__":
    run(main)
