"""A list of test utterances of one part of LibriTTS, each with a prompt of its speaker, chosen by hashes of their ids.

python local/make_test_list.py --tree LibriTTS --subset test-clean --out test_unseen.tsv

Version 1 of the rules: speakers are ordered by the hash of their id and take turns; each gives its utterances in the
order of the hash of theirs: the next one of 3 to 10 s to be said, then the next one of 3 to 5 s as its prompt. What
else is in the tree does not matter; where an utterance is missing or unusable, the next one takes its place.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import soundfile
from libritts_dir import is_well_named, read_transcript, subset_wavs
from utterance_list import VERSION, Item, list_digest, speaker_of, write_list

from espnet_ext.bin import run
from espnet_ext.errors import UserError

SECONDS = (3.0, 10.0)  # bounds of a test utterance
PROMPT_SECONDS = (3.0, 5.0)


def rank(name: str) -> str:
    """Where a speaker or an utterance stands: a hash of its id and of the version of the rules."""
    return hashlib.sha256(f"{VERSION} {name}".encode()).hexdigest()


def usable_seconds(wav: Path) -> float:
    """Duration as its header says; 0 if it cannot be read or has no transcript."""
    if read_transcript(wav, "normalized")[1]:
        return 0.0
    try:
        return float(soundfile.info(wav).duration)
    except (soundfile.LibsndfileError, OSError):
        return 0.0


def pairs(utterances: Sequence[str], seconds: Callable[[str], float]) -> Iterator[Item]:
    """Test utterances of a speaker with their prompts, no utterance twice.

    Args:
        utterances: of one speaker.
        seconds: duration of an utterance, asked for only where it is needed.

    Yields:
        Items.
    """
    said = ""
    for utterance in sorted(utterances, key=rank):
        duration = seconds(utterance)
        if not said:
            if SECONDS[0] <= duration <= SECONDS[1]:
                said, said_seconds = utterance, duration
        elif PROMPT_SECONDS[0] <= duration <= PROMPT_SECONDS[1]:
            yield Item(said, utterance, said_seconds, duration)
            said = ""


def choose(
    by_speaker: Mapping[str, Sequence[str]], seconds: Callable[[str], float], count: int, share: float
) -> list[Item]:
    """Up to `count` items, from as many speakers as possible.

    Args:
        by_speaker: speaker → utterances.
        seconds: duration of an utterance.
        count: how many are wanted.
        share: most of a speaker's utterances that may be taken, prompts included.

    Returns:
        Items.
    """
    turns = {}
    for speaker in sorted(by_speaker, key=rank):
        most = int(len(by_speaker[speaker]) * share) // 2
        turns[speaker] = (item for item, _ in zip(pairs(by_speaker[speaker], seconds), range(most), strict=False))
    chosen: list[Item] = []
    while turns and len(chosen) < count:
        for speaker in list(turns):
            item = next(turns[speaker], None)
            if item is None:
                del turns[speaker]
            elif len(chosen) < count:
                chosen.append(item)
    return chosen


def make_test_list(tree: Path, subset: str, count: int, share: float, out: Path) -> None:
    """Choose and write the list of a part of LibriTTS.

    Args:
        tree: folder that holds the part.
        subset: name of the part.
        count: test utterances wanted.
        share: most of a speaker's utterances that may be taken.
        out: file to write.

    Raises:
        UserError: if an option is out of range, or nobody has an utterance and a prompt of the right length.
    """
    if count < 1 or not 0 < share <= 1:
        raise UserError(f"--count must be at least 1 and --share in (0, 1], got {count} and {share}")
    wavs = {wav.stem: wav for wav in subset_wavs(tree, subset) if is_well_named(wav)}
    by_speaker: dict[str, list[str]] = {}
    for utterance, wav in wavs.items():
        by_speaker.setdefault(wav.parts[-3], []).append(utterance)
    items = choose(by_speaker, lambda utterance: usable_seconds(wavs[utterance]), count, share)
    if not items:
        raise UserError(
            f"{tree / subset} must hold an utterance of 3 to 10 s and a prompt of 3 to 5 s of the same speaker, "
            f"found no such pair in --share {share:g} of anybody's utterances"
        )
    write_list(out, items)
    logging.info(
        "%s: %d utterances of %d speakers (%d wanted), version %d, sha256 %s",
        out, len(items), len({speaker_of(item.utterance) for item in items}), count, VERSION, list_digest(items),
    )  # fmt: skip


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tree", type=Path, required=True, help="folder that holds the part")
    parser.add_argument("--subset", required=True, help="part of LibriTTS, such as test-clean")
    parser.add_argument("--count", type=int, default=200, help="test utterances wanted")
    parser.add_argument(
        "--share", type=float, default=1.0, help="most of a speaker's utterances that may be taken, prompts included"
    )
    parser.add_argument("--out", type=Path, required=True, help="list to write")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run(lambda: make_test_list(args.tree, args.subset, args.count, args.share, args.out))


if __name__ == "__main__":
    main()
