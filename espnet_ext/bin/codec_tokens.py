"""Stage 5, codec_tokens: codes of every utterance of a data directory, and a speaker prompt for each."""

from __future__ import annotations

import argparse
import functools
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_ext.bin import run
from espnet_ext.data.ark import codes_writer
from espnet_ext.data.datadir import SEGMENTS_NAME, read_if_there, read_scp, write_data_dir
from espnet_ext.data.speaker_prompt import PROMPTS_NAME, PromptRule, write_prompts
from espnet_ext.errors import UserError
from espnet_ext.jobs import Record, Work, Workers, add_worker_options

if TYPE_CHECKING:
    from espnet_ext.data.encoding import Encoded

SHARD_SIZE = 16


def get_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--codec_info", type=Path, required=True, help="codec_info.yaml of the codec")
    parser.add_argument("--data_dir", type=Path, required=True, help="wav.scp, utt2spk, perhaps text and utt2prompt")
    parser.add_argument("--out", type=Path, required=True, help="directory for codes, prompts and the filtered data")
    add_worker_options(parser)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="where the codec computes")
    parser.add_argument("--prompt_seed", type=int, default=0, help="of the choice of prompts")
    parser.add_argument("--prompt_min_sec", type=float, default=0.0, help="shortest prompt, where a speaker has one")
    return parser


def encode_data_dir(work: Work[str, Encoded], source: Path, out: Path, workers: Workers) -> None:
    """Write the codes and the data files of those utterances that have a transcript, a speaker and readable audio.

    Where there is no file `text` at all, no utterance needs a transcript.

    Args:
        work: utterance → audio file of a shard, to utterance → codes or reason
        source: data directory
        out: directory to write
        workers: who encodes

    Raises:
        UserError: if no utterance is usable, or the utterances are yet to be cut from recordings
    """
    from espnet_ext.data.encoding import write_encoded

    if (source / SEGMENTS_NAME).is_file():
        raise UserError(f"data_dir must have no {SEGMENTS_NAME}, which local/format_wav.py applies, got {source}")
    wavs, text, utt2spk = read_scp(source / "wav.scp"), read_if_there(source / "text"), read_scp(source / "utt2spk")
    skipped = {utterance: "no transcript" for utterance in wavs if text is not None and utterance not in text}
    skipped |= {utterance: "no speaker" for utterance in wavs if utterance not in utt2spk}
    usable = {utterance: wav for utterance, wav in wavs.items() if utterance not in skipped}
    kept = write_encoded(work, usable, (source, out), workers, codes_writer, skipped, usable)
    write_data_dir(out, {utterance: wavs[utterance] for utterance in kept}, text, utt2spk)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make codes and prompts; what was made earlier from the same input by the same codec is kept.

    Args:
        arguments: command line without the program name; None takes it from the process
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    args = get_parser().parse_args(arguments)

    from espnet_ext.data.encoding import codec_of, encode_codes
    from espnet_ext.tokenizers.codec import INFO_NAME, read_codec_info, write_codec_info

    workers = Workers(args.nj, args.dask_scheduler)
    # what is wrong with it is said before any work
    codec_of(args.codec_info, "cpu" if args.dask_scheduler else args.device)
    info = read_codec_info(args.codec_info)
    rule = PromptRule(args.prompt_seed, args.prompt_min_sec)
    inputs = [args.data_dir / name for name in ("wav.scp", "text", "utt2spk", "utt2num_samples", PROMPTS_NAME)]
    encoding = {"codec": info.fingerprint, "device": args.device}
    encode = functools.partial(encode_codes, args.codec_info, args.device)
    work = Work(encode, encoding, f"codes of {args.data_dir.name}", SHARD_SIZE, lambda wav: [wav])

    def make() -> None:
        encode_data_dir(work, args.data_dir, args.out, workers)
        write_prompts(args.out, args.data_dir, rule, info.spec.frame_rate_hz)
        write_codec_info(replace(info, origin={}), args.out / INFO_NAME)

    record = Record.of(args.out, {**encoding, **asdict(rule), "out": str(args.out)}, inputs)
    record.make(make, args.force, [args.out / "codes.ark"])


if __name__ == "__main__":
    run(main)
