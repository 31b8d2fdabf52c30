"""A Kaldi-style data directory from a LibriTTS tree (SUBSET/SPEAKER/CHAPTER/*.wav with *.normalized.txt).

python local/libritts_dir.py --tree downloads/LibriTTS --subset train-clean-100 --out data/train
"""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from utterance_list import Item, read_list

from espnet_ext.bin import run
from espnet_ext.data.datadir import skipped_summary, write_data_dir, write_scp, write_skipped
from espnet_ext.data.speaker_prompt import PROMPTS_NAME
from espnet_ext.errors import UserError

TEXT_FORMS = ("words", "normalized", "original")
THREADS = 8  # transcripts are many tiny files: a file server answers several questions in the time of one


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
        transcript = " ".join(path.read_text(encoding="utf-8-sig").split())
    except FileNotFoundError:
        return "", "missing transcript"
    except UnicodeDecodeError as error:
        return "", f"transcript not UTF-8: {error}"
    except OSError as error:
        return "", f"unreadable transcript: {error}"
    if text_form == "words":
        transcript = spoken_words(transcript)
    return transcript, "" if transcript else "empty transcript"


def subset_wavs(tree: Path, subset: str) -> list[Path]:
    """The audio files of a part of LibriTTS, sorted.

    Args:
        tree: folder that holds the part.
        subset: name of the part.

    Returns:
        SPEAKER/CHAPTER/*.wav.

    Raises:
        FileNotFoundError: if there is none.
    """
    files = sorted((tree / subset).glob("*/*/*.wav"))
    if not files:
        raise FileNotFoundError(f"--subset {subset}: {tree / subset} must hold SPEAKER/CHAPTER/*.wav, found none")
    return files


def is_well_named(wav: Path) -> bool:
    """Whether a file is called after the folders that it is in."""
    return wav.name.startswith(f"{wav.parts[-3]}_{wav.parts[-2]}_") and len(wav.stem.split()) == 1


@dataclass
class Contents:
    """What is in a tree: utterance → audio file, utterance → transcript, what is left out → why."""

    wavs: dict[str, Path] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def read_tree(tree: Path, subsets: Iterable[str], text_form: str, only: Collection[str] | None = None) -> Contents:
    """Audio files, transcripts and skipped items of some subsets of a LibriTTS tree; no audio is opened.

    An utterance id that occurs again is skipped there, as SUBSET:UTTERANCE, whatever became of its first file.

    Args:
        tree: folder that holds the subsets.
        subsets: names of folders in it.
        text_form: one of `TEXT_FORMS`.
        only: utterances to look at; None for all.

    Returns:
        The contents.

    Raises:
        FileNotFoundError: if a subset is missing or holds no audio.
    """
    found = Contents()
    candidates: dict[str, Path] = {}
    for subset in subsets:
        files = subset_wavs(tree, subset)
        present = {(wav.parent, wav.stem) for wav in files}
        for wav in files:
            if only is not None and wav.stem not in only:
                continue
            if wav.stem in candidates:
                found.skipped[f"{subset}:{wav.stem}"] = f"duplicate: {wav} after {candidates[wav.stem]}"
            elif not is_well_named(wav):
                found.skipped[wav.stem] = f"misnamed: {wav} must start with SPEAKER_CHAPTER_"
            else:
                candidates[wav.stem] = wav
        for path in sorted((tree / subset).glob("*/*/*.normalized.txt")):
            utterance = path.name.removesuffix(".normalized.txt")
            if (path.parent, utterance) not in present and (only is None or utterance in only):
                found.skipped[utterance] = "missing wav"
    with ThreadPoolExecutor(THREADS) as pool:
        transcripts = pool.map(lambda wav: read_transcript(wav, text_form), candidates.values())
        for (utterance, wav), (transcript, reason) in zip(candidates.items(), transcripts, strict=True):
            if reason:
                found.skipped[utterance] = reason
            else:
                found.wavs[utterance], found.texts[utterance] = wav, transcript
    return found


def hold_out(contents: Contents, lists: Iterable[Path]) -> None:
    """Take the utterances of test lists and their prompts out of a training set.

    Args:
        contents: the training set, changed in place.
        lists: files.
    """
    for path in lists:
        for item in read_list(path):
            for utterance in (item.utterance, item.prompt):
                if contents.wavs.pop(utterance, None):
                    del contents.texts[utterance]
                    contents.skipped[utterance] = f"held out: {path}"


def keep_usable(contents: Contents, items: list[Item], place: Path) -> dict[str, str]:
    """Drop test utterances without a usable prompt.

    Args:
        contents: what the tree has of the list, changed in place.
        items: the list.
        place: its file, for the reasons.

    Returns:
        Utterance → prompt.
    """
    prompts = {}
    for item in items:
        for name in (item.utterance, item.prompt):
            if name not in contents.wavs and name not in contents.skipped:
                contents.skipped[name] = f"not in the tree: listed in {place}"
        if item.utterance in contents.wavs and item.prompt in contents.wavs:
            prompts[item.utterance] = item.prompt
        elif item.utterance in contents.wavs:
            contents.skipped[item.utterance] = f"prompt not usable: {item.prompt}"
    used = prompts.keys() | set(prompts.values())
    for utterance in contents.wavs.keys() - used:
        contents.skipped.setdefault(utterance, "prompt of nothing usable")
        del contents.wavs[utterance], contents.texts[utterance]
    return prompts


def write_libritts_dir(args: argparse.Namespace) -> None:
    """Read the subsets and write the data directory with its list of skipped items.

    Args:
        args: the command's options.

    Raises:
        UserError: if nothing is left.
    """
    tree, out = args.tree, args.out
    items = None if args.list is None else read_list(args.list)
    only = None if items is None else {name for item in items for name in (item.utterance, item.prompt)}
    contents = read_tree(tree, args.subset, args.text, only)
    hold_out(contents, args.hold_out)
    prompts = None if items is None else keep_usable(contents, items, args.list)
    write_skipped(out / "skipped", contents.skipped)
    summary = skipped_summary(contents.skipped)
    if not contents.wavs:
        raise UserError(f"{tree} {' '.join(args.subset)}: no usable utterance; skipped {summary}")
    if prompts is None:
        (out / PROMPTS_NAME).unlink(missing_ok=True)
    else:
        write_scp(out / PROMPTS_NAME, prompts)
    speakers = {utterance: wav.parts[-3] for utterance, wav in contents.wavs.items()}
    write_data_dir(out, contents.wavs, contents.texts, speakers)
    tested = "" if prompts is None else f"{len(prompts)} to be said and their prompts: "
    counts = (len(contents.wavs), len(set(speakers.values())))
    logging.info("%s: %s%d utterances, %d speakers; skipped %s", out, tested, *counts, summary)


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
    parser.add_argument("--list", type=Path, help="test list: only its utterances and their prompts, with utt2prompt")
    parser.add_argument(
        "--hold_out", type=Path, action="append", default=[], help="test list whose utterances are left out; repeatable"
    )
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run(lambda: write_libritts_dir(args))


if __name__ == "__main__":
    main()
