"""What the codec itself makes of a data directory: the upper bound of any model, or with shuffled frames a control."""

from __future__ import annotations

import argparse
import functools
import json
import logging
import zlib
from collections.abc import Sequence
from pathlib import Path

from espnet_ext.ark import codes_writer
from espnet_ext.atomic import atomic_path
from espnet_ext.bin import run
from espnet_ext.codec import INFO_NAME, CodecInfo, load_codec, read_codec_info
from espnet_ext.codec.jobs import DecodeJob, decode_entry, map_utterances
from espnet_ext.datadir import read_scp, write_scp
from espnet_ext.finished import digest, is_finished, mark_finished

RECORD_NAME = "codec_resynthesis.yaml"


def get_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--codec_info", type=Path, required=True, help="codec_info.yaml of the codec")
    parser.add_argument("--data_dir", type=Path, required=True, help="directory with codes.scp")
    parser.add_argument("--out", type=Path, required=True, help="directory for wav files and codes")
    parser.add_argument("--shuffle_frames", type=int, metavar="SEED", help="permute the frames of every utterance")
    parser.add_argument("--nj", type=int, default=1, help="processes")
    return parser


def resynthesise(codec_info: Path, info: CodecInfo, pointers: dict[str, str], args: argparse.Namespace) -> None:
    """Write the wav files, the codes they were made from, and what it cost.

    Args:
        codec_info: codec_info.yaml
        info: its contents
        pointers: utterance → place of its codes
        args: options of this command
    """
    wavs = {utterance: args.out / "wav" / f"{utterance}.wav" for utterance in pointers}
    jobs = []
    for utterance, pointer in pointers.items():
        seed = None
        if args.shuffle_frames is not None:
            seed = zlib.crc32(f"{args.shuffle_frames} {utterance}".encode())
        jobs.append(DecodeJob(pointer, wavs[utterance], seed))
    frames, seconds = 0, 0.0
    args.out.mkdir(parents=True, exist_ok=True)
    with codes_writer(args.out) as write:
        results = map_utterances(
            functools.partial(decode_entry, codec_info), jobs, args.nj, f"resynthesise {args.data_dir.name}"
        )
        for utterance, (codes, spent) in zip(pointers, results, strict=True):
            write(utterance, codes)
            frames += len(codes)
            seconds += spent
    write_scp(args.out / "wav.scp", wavs)
    write_scp(args.out / "status", dict.fromkeys(pointers, "ok"))
    write_timing(args.out / "timing.json", len(pointers), frames, seconds, frames / info.spec.frame_rate_hz)


def write_timing(path: Path, utterances: int, frames: int, seconds_codec: float, seconds_audio: float) -> None:
    """Write the costs under the names that inference uses; no language model took part.

    Args:
        path: file to write
        utterances: how many
        frames: codec frames of all of them
        seconds_codec: spent in decoding
        seconds_audio: duration of the speech
    """
    timing = {
        "utterances": utterances,
        "frames": frames,
        "steps": 0,
        "local_passes": 0,
        "seconds_lm": 0.0,
        "seconds_codec": round(seconds_codec, 3),
        "seconds_audio": round(seconds_audio, 3),
        "rtf": round(seconds_codec / seconds_audio, 5),
        "no_eos": 0,
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(timing, indent=2) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Resynthesise; what was made earlier from the same codes is kept.

    Args:
        arguments: command line without the program name; None takes it from the process

    Raises:
        ValueError: if the codes were made by another codec, or there are none
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    args = get_parser().parse_args(arguments)
    load_codec(args.codec_info)  # what is wrong with it is said before any work
    info = read_codec_info(args.codec_info)
    beside = read_codec_info(args.data_dir / INFO_NAME)
    if beside.fingerprint != info.fingerprint:
        raise ValueError(
            f"{args.data_dir} must hold codes of codec {info.fingerprint[:12]}…, got {beside.fingerprint[:12]}…"
        )
    pointers = read_scp(args.data_dir / "codes.scp")
    if not pointers:
        raise ValueError(f"{args.data_dir / 'codes.scp'} must list codes, got an empty file")
    data = digest([args.data_dir / "codes.scp", args.data_dir / "codes.ark"])
    request = {"codec": info.fingerprint, "codes": data, "shuffle_frames": args.shuffle_frames, "out": str(args.out)}
    record = args.out / RECORD_NAME
    if is_finished(record, request):
        logging.info("%s was made earlier from the same codes: nothing to do", args.out)
        return
    record.unlink(missing_ok=True)
    resynthesise(args.codec_info, info, pointers, args)
    mark_finished(record, request)
    logging.info("%s: %d utterances", args.out, len(pointers))


if __name__ == "__main__":
    run(main)
