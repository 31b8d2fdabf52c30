"""Stage semantic_tokens: semantic units beside the codes of every utterance, and those of its speaker prompt."""

from __future__ import annotations

import argparse
import functools
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from espnet_ext.bin import run
from espnet_ext.data.ark import units_writer
from espnet_ext.data.datadir import LANGUAGES_NAME
from espnet_ext.data.speaker_prompt import PROMPTS_NAME, PromptRule
from espnet_ext.data.token_dir import CodesDir, prompts_of, write_tables
from espnet_ext.jobs import Record, Work, Workers, add_worker_options
from espnet_ext.jobs.finished import read_request
from espnet_ext.storage.yaml_files import read_yaml

FORMER_RECORD_NAME = "codec_tokens.yaml"  # of directories that an earlier version made
SHARD_SIZE = 16
DATA_FILES = ("wav.scp", "utt2spk", "utt2num_samples", LANGUAGES_NAME)
CODES_FILES = ("codes.scp", "utt2num_frames", PROMPTS_NAME, "prompt.scp", "text", "skipped")


def get_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--semantic_info", type=Path, required=True, help="semantic_info.yaml of the tokenizer")
    parser.add_argument("--data_dir", type=Path, required=True, help="wav.scp, utt2spk, perhaps utt2lang")
    parser.add_argument("--codes_dir", type=Path, required=True, help="what codec_tokens made of the same data")
    parser.add_argument("--out", type=Path, required=True, help="token directory to write")
    add_worker_options(parser)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="where the tokenizer computes")
    return parser


def prompt_rule(codes_dir: Path) -> PromptRule:
    """How the prompts of a directory of codes were chosen."""
    content, former = read_request(codes_dir), codes_dir / FORMER_RECORD_NAME
    if not content and former.is_file():
        content = read_yaml(former, "record")
    return PromptRule(int(content.get("seed", 0)), float(content.get("min_sec", 0.0)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Make units and tables; what was made earlier from the same input by the same tokenizer is kept.

    Args:
        arguments: command line without the program name; None takes it from the process
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    args = get_parser().parse_args(arguments)

    from espnet_ext.data.encoding import encode_units, semantic_of, write_encoded
    from espnet_ext.data.streams import SILENCE_NAME, disagreement, write_silence
    from espnet_ext.tokenizers.codec import INFO_NAME as CODEC_INFO_NAME
    from espnet_ext.tokenizers.codec import load_codec, read_codec_info, write_codec_info
    from espnet_ext.tokenizers.semantic import INFO_NAME, read_semantic_info, write_semantic_info

    workers = Workers(args.nj, args.dask_scheduler)
    # what is wrong with it is said before any work
    tokenizer = semantic_of(args.semantic_info, "cpu" if args.dask_scheduler else args.device)
    semantic, codec = read_semantic_info(args.semantic_info), read_codec_info(args.codes_dir)
    rule, found_hz = prompt_rule(args.codes_dir), codec.spec.sample_rate_hz
    encoding = {"semantic": semantic.fingerprint, "device": args.device, "sample_rate_hz": found_hz}
    inputs = [args.data_dir / name for name in DATA_FILES] + [args.codes_dir / name for name in CODES_FILES]
    request = {
        **encoding, **asdict(rule), "codec": codec.fingerprint, "deduplicate": semantic.deduplicate,
        "codes_dir": str(args.codes_dir), "out": str(args.out),
    }  # fmt: skip

    def make() -> None:
        codes = CodesDir.read(args.codes_dir, args.data_dir, codec.spec.num_codebooks)
        encode = functools.partial(encode_units, args.semantic_info, args.device, found_hz)
        work = Work(encode, encoding, f"units of {args.data_dir.name}", SHARD_SIZE, lambda wav: [wav])

        def refuse(utterance: str, units: np.ndarray) -> str | None:
            return disagreement(len(units), codes.frames[utterance], semantic.spec, codec.spec)

        place = args.data_dir, args.out
        kept = write_encoded(work, codes.wavs, place, workers, units_writer, dict(codes.lost), codes.prompts, refuse)
        prompts = prompts_of(codes, kept, rule, codec.spec.frame_rate_hz)
        write_tables(args.out, codes, args.codes_dir, args.data_dir, prompts)
        write_silence(silence, load_codec(args.codes_dir), tokenizer)
        write_codec_info(replace(codec, origin={}), args.out / CODEC_INFO_NAME)
        write_semantic_info(replace(semantic, origin={}), args.out / INFO_NAME)

    record, silence = Record.of(args.out, request, inputs), args.out / SILENCE_NAME
    if not record.make(make, args.force, [args.out / "semantic.ark"]) and not silence.is_file():
        write_silence(silence, load_codec(args.codes_dir), tokenizer)  # the units are still good


if __name__ == "__main__":
    run(main)
