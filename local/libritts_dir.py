"""A Kaldi-style data directory from a LibriTTS tree (SUBSET/SPEAKER/CHAPTER/*.wav with *.normalized.txt).

python local/libritts_dir.py --tree downloads/LibriTTS --subset train-clean-100 --out data/train
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
from pathlib import Path

from espnet_ext.datadir import skipped_summary, write_data_dir, write_skipped

TEXT_FORMS = ("words", "normalized", "original")


def spoken_words(transcript: str) -> str:
    """The transcript in lower case without punctuation: letters, digits and inner apostrophes.

    >>> spoken_words("Don't ask; it's “Mr. Fox's” door-bell.")
    "don't ask it's mr fox's door bell"
    """
    return " ".join(re.findall(r"[^\W_]+(?:'[^\W_]+)*", transcript.lower().replace("’", "'")))


def read_transcript(wav: Path, text_form: str) -> tuple[str, str]:
    """The transcript beside a wav file and the reason why there is none; one of the two is empty.

    Args:
        wav: audio file.
        text_form: one of `TEXT_FORMS`.

    Returns:
        Transcript, reason.
    """
    path = wav.with_suffix(".original.txt" if text_form == "original" else ".normalized.txt")
    try:
        transcript = " ".join(path.read_text(encoding="utf-8").split())
    except FileNotFoundError:
        return "", "missing transcript"
    except (UnicodeDecodeError, OSError) as error:
        return "", f"unreadable transcript: {error}"
    if text_form == "words":
        transcript = spoken_words(transcript)
    return transcript, "" if transcript else "empty transcript"


def read_tree(tree: Path, subsets: list[str], text_form: str) -> tuple[dict[str, Path], dict[str, str], dict[str, str]]:
    """Audio files, transcripts and skipped items of some subsets of a LibriTTS tree.

    Args:
        tree: folder that holds the subsets.
        subsets: names of folders in it.
        text_form: one of `TEXT_FORMS`.

    Returns:
        utterance → wav, utterance → transcript, utterance → reason why it is left out.

    Raises:
        FileNotFoundError: if a subset is missing or holds no audio.
        ValueError: if an utterance id occurs twice.
    """
    wavs: dict[str, Path] = {}
    texts: dict[str, str] = {}
    skipped: dict[str, str] = {}
    for subset in subsets:
        files = sorted((tree / subset).glob("*/*/*.wav"))
        if not files:
            raise FileNotFoundError(f"--subset {subset}: {tree / subset} must hold SPEAKER/CHAPTER/*.wav, found none")
        for wav in files:
            utterance = wav.stem
            if utterance in wavs:
                raise ValueError(f"utterance id {utterance} must be unique, got {wavs[utterance]} and {wav}")
            if not utterance.startswith(f"{wav.parts[-3]}_{wav.parts[-2]}_") or len(utterance.split()) != 1:
                skipped[utterance] = f"misnamed: {wav} must start with SPEAKER_CHAPTER_"
                continue
            transcript, reason = read_transcript(wav, text_form)
            if reason:
                skipped[utterance] = reason
                continue
            wavs[utterance], texts[utterance] = wav, transcript
        for transcript_file in sorted((tree / subset).glob("*/*/*.normalized.txt")):
            utterance = transcript_file.name.removesuffix(".normalized.txt")
            if not transcript_file.with_name(utterance + ".wav").exists():
                skipped[utterance] = "missing wav"
    return wavs, texts, skipped


def write_libritts_dir(tree: Path, subsets: list[str], out: Path, text_form: str) -> None:
    """Read the subsets and write the data directory with its list of skipped items.

    Args:
        tree: folder that holds the subsets.
        subsets: names of folders in it.
        out: data directory to write.
        text_form: one of `TEXT_FORMS`.

    Raises:
        ValueError: if nothing is left.
    """
    wavs, texts, skipped = read_tree(tree, subsets, text_form)
    write_skipped(out / "skipped", skipped)
    if not wavs:
        raise ValueError(f"{tree} {' '.join(subsets)}: no usable utterance; skipped {skipped_summary(skipped)}")
    write_data_dir(out, wavs, texts, {utterance: wav.parts[-3] for utterance, wav in wavs.items()})
    speakers = len({wav.parts[-3] for wav in wavs.values()})
    logging.info("%s: %d utterances, %d speakers; skipped %s", out, len(wavs), speakers, skipped_summary(skipped))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tree", type=Path, required=True, help="folder that holds the subsets")
    parser.add_argument(
        "--subset", action="append", required=True, help="folder in the tree; may be given several times"
    )
    parser.add_argument("--out", type=Path, required=True, help="data directory to write")
    parser.add_argument(
        "--text",
        choices=TEXT_FORMS,
        default="words",
        help="words: normalized transcript in lower case without punctuation",
    )
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        write_libritts_dir(args.tree, args.subset, args.out, args.text)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
