"""Stage 5, codec_tokens: codes of every utterance of a data directory, and a speaker prompt for each."""

from __future__ import annotations

import argparse
import functools
import logging
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from espnet_ext.ark import codes_writer
from espnet_ext.bin import run
from espnet_ext.codec import INFO_NAME, load_codec, read_codec_info, write_codec_info
from espnet_ext.codec.jobs import encode_file, map_utterances
from espnet_ext.datadir import (
    read_scp,
    skipped_summary,
    speaker_to_utterances,
    write_data_dir,
    write_scp,
    write_skipped,
)
from espnet_ext.finished import digest, is_finished, mark_finished

RECORD_NAME = "codec_tokens.yaml"


def get_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--codec_info", type=Path, required=True, help="codec_info.yaml of the codec")
    parser.add_argument("--data_dir", type=Path, required=True, help="wav.scp, text and utt2spk")
    parser.add_argument("--out", type=Path, required=True, help="directory for codes, prompts and the filtered data")
    parser.add_argument("--nj", type=int, default=1, help="processes")
    parser.add_argument("--prompt_seed", type=int, default=0, help="of the choice of prompts")
    return parser


def choose_prompts(utt2spk: dict[str, str], seed: int) -> tuple[dict[str, str], dict[str, str]]:
    """Another utterance of the same speaker for every utterance.

    The choice depends on the seed, the utterance and its speaker's utterances only, so that adding a speaker
    changes nobody else's prompts.

    Args:
        utt2spk: utterance → speaker, two utterances or more
        seed: of the choice

    Returns:
        Utterance → prompt utterance, and utterance → reason where the prompt is of another speaker.

    Raises:
        ValueError: if there is only one utterance

    >>> choose_prompts({"a-1": "a", "a-2": "a", "b-1": "b"}, seed=0)
    ({'a-1': 'a-2', 'a-2': 'a-1', 'b-1': 'a-2'}, {'b-1': 'the only utterance of speaker b'})
    """
    if len(utt2spk) < 2:
        raise ValueError(f"a speaker prompt needs another utterance: there must be at least 2, got {list(utt2spk)}")
    prompts, foreign = {}, {}
    own = speaker_to_utterances(utt2spk)
    for utterance, speaker in sorted(utt2spk.items()):
        candidates = [other for other in own[speaker] if other != utterance]
        if not candidates:
            foreign[utterance] = f"the only utterance of speaker {speaker}"
            candidates = sorted(set(utt2spk) - {utterance})
        prompts[utterance] = random.Random(f"{seed} {utterance}").choice(candidates)
    return prompts, foreign


def encode_data_dir(codec_info: Path, source: Path, out: Path, num_jobs: int) -> dict[str, str]:
    """Write the codes and the data files of those utterances that have a transcript, a speaker and readable audio.

    Args:
        codec_info: codec_info.yaml
        source: data directory
        out: directory to write
        num_jobs: processes

    Returns:
        Utterance → speaker of what was written.

    Raises:
        ValueError: if no utterance is usable
    """
    wavs, text, utt2spk = (read_scp(source / name) for name in ("wav.scp", "text", "utt2spk"))
    skipped = {utterance: "no transcript" for utterance in wavs if utterance not in text}
    skipped |= {utterance: "no speaker" for utterance in wavs if utterance not in utt2spk}
    usable = {utterance: wav for utterance, wav in wavs.items() if utterance not in skipped}
    encode = functools.partial(encode_file, codec_info)
    kept = []
    out.mkdir(parents=True, exist_ok=True)
    with codes_writer(out) as write:
        results = map_utterances(encode, list(usable.values()), num_jobs, f"codes of {source.name}")
        for utterance, result in zip(usable, results, strict=True):
            if isinstance(result, str):
                skipped[utterance] = result
            else:
                write(utterance, result)
                kept.append(utterance)
        write_skipped(out / "skipped", skipped)
        if not kept:
            raise ValueError(f"{source} must have usable utterances, skipped: {skipped_summary(skipped)}")
    write_data_dir(out, {utterance: wavs[utterance] for utterance in kept}, text, utt2spk)
    logging.info("%s: %d utterances; skipped: %s", out, len(kept), skipped_summary(skipped))
    return {utterance: utt2spk[utterance] for utterance in kept}


def write_prompts(out: Path, utt2spk: dict[str, str], seed: int) -> None:
    """Write prompt.scp, which points into codes.ark, utt2prompt, and the list of prompts of another speaker.

    Args:
        out: directory with codes.scp
        utt2spk: utterance → speaker
        seed: of the choice
    """
    prompts, foreign = choose_prompts(utt2spk, seed)
    pointers = read_scp(out / "codes.scp")
    write_scp(out / "utt2prompt", prompts)
    write_scp(out / "prompt.scp", {utterance: pointers[prompt] for utterance, prompt in prompts.items()})
    write_skipped(out / "prompt_of_another_speaker", foreign)
    if foreign:
        logging.warning("%s: prompt of another speaker: %s", out, skipped_summary(foreign))


def main(arguments: Sequence[str] | None = None) -> None:
    """Make codes and prompts; what was made earlier from the same input by the same codec is kept.

    Args:
        arguments: command line without the program name; None takes it from the process
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    args = get_parser().parse_args(arguments)
    load_codec(args.codec_info)  # what is wrong with it is said before any work
    info = read_codec_info(args.codec_info)
    inputs = [args.data_dir / name for name in ("wav.scp", "text", "utt2spk", "utt2num_samples")]
    request = {"codec": info.fingerprint, "data": digest(inputs), "prompt_seed": args.prompt_seed, "out": str(args.out)}
    record = args.out / RECORD_NAME
    if is_finished(record, request) and (args.out / "codes.ark").is_file():
        logging.info("%s was made earlier by the same codec: nothing to do", args.out)
        return
    record.unlink(missing_ok=True)
    utt2spk = encode_data_dir(args.codec_info, args.data_dir, args.out, args.nj)
    write_prompts(args.out, utt2spk, args.prompt_seed)
    write_codec_info(replace(info, origin={}), args.out / INFO_NAME)
    mark_finished(record, request)


if __name__ == "__main__":
    run(main)
