"""A Kaldi-style data directory from a list of pairs (prompt, text to be said) and the recordings that it names.

python local/pairs_dir.py --pair_list cross_sentence.lst --audio LibriSpeech/test-clean --out data/pairs_cross_sentence
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from libritts_dir import spoken_words
from pair_list import SUFFIXES, find_audio, list_digest, read_pairs, speaker_of

from espnet_ext.bin import run
from espnet_ext.data.datadir import skipped_summary, write_data_dir, write_scp, write_skipped
from espnet_ext.data.speaker_prompt import PROMPTS_NAME
from espnet_ext.errors import UserError

TEXT_FORMS = ("listed", "words")
DIGEST_NAME = "pair_list"


def write_pairs_dir(pair_list: Path, audio: Path, text_form: str, out: Path) -> None:
    """Write wav.scp, text, utt2spk and utt2prompt of all pairs whose two recordings are there, and what was skipped.

    Args:
        pair_list: the list.
        audio: folder of the recordings.
        text_form: one of `TEXT_FORMS`.
        out: data directory to write.

    Raises:
        UserError: if the list has a fault, or none of its pairs has its recordings.
    """
    if not audio.is_dir():
        raise UserError(f"--pair_audio must be the folder of the recordings, got {audio}")
    pairs = read_pairs(pair_list)
    wavs: dict[str, Path] = {}
    prompts: dict[str, str] = {}
    texts: dict[str, str] = {}
    skipped: dict[str, str] = {}
    in_form = spoken_words if text_form == "words" else str
    for pair in pairs:
        found = {one: find_audio(audio, one) for one in (pair.target, pair.prompt)}
        lost = [one for one, file in found.items() if file is None]
        said = {pair.prompt: in_form(pair.prompt_text), pair.target: in_form(pair.text)}
        if lost:
            skipped[pair.target] = f"missing audio: {pair.place}: {' and '.join(lost)} not in {audio}"
        elif not all(said.values()):
            skipped[pair.target] = f"no words: {pair.place}: {pair.prompt_text!r}, {pair.text!r}"
        else:
            wavs |= {one: file for one, file in found.items() if file is not None}
            prompts[pair.target] = pair.prompt
            texts = said | texts | {pair.target: said[pair.target]}  # a target's own text counts, also where it prompts
    if not prompts:
        kinds = ", ".join(SUFFIXES)
        raise UserError(
            f"--pair_audio must hold SPEAKER/CHAPTER/ID or ID with {kinds}, got {audio}: {skipped_summary(skipped)}"
        )
    write_skipped(out / "skipped", skipped)
    write_scp(out / PROMPTS_NAME, prompts)
    write_scp(out / DIGEST_NAME, {"name": pair_list.name, "sha256": list_digest(pairs), "pairs": len(pairs)})
    write_data_dir(out, wavs, texts, {one: speaker_of(one) for one in wavs})
    logging.info(
        "%s: %d of %d pairs, %d recordings, sha256 %s; skipped %s",
        out, len(prompts), len(pairs), len(wavs), list_digest(pairs), skipped_summary(skipped),
    )  # fmt: skip


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair_list", type=Path, required=True, help="list of pairs, see local/pair_list.py")
    parser.add_argument("--audio", type=Path, required=True, help="folder with SPEAKER/CHAPTER/ID.flac")
    parser.add_argument("--text", choices=TEXT_FORMS, default="listed", help="words: in lower case without punctuation")
    parser.add_argument("--out", type=Path, required=True, help="data directory to write")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run(lambda: write_pairs_dir(args.pair_list, args.audio, args.text, args.out))


if __name__ == "__main__":
    main()
