"""What the codec makes of a data directory: the upper bound of any model; or, as controls, shuffled frames or noise."""

from __future__ import annotations

import argparse
import functools
import json
import logging
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from espnet_ext.bin import add_jobs_option, run, several
from espnet_ext.data.ark import codes_writer, read_pointers
from espnet_ext.data.datadir import write_scp
from espnet_ext.errors import UserError
from espnet_ext.jobs import Record, Work, Workers, add_worker_options, run_shards
from espnet_ext.storage.atomic import atomic_path

if TYPE_CHECKING:
    from espnet_ext.data.encoding import DecodeJob
    from espnet_ext.tokenizers.description import Description

SHARD_SIZE = 16


def get_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add_jobs_option(parser)
    parser.add_argument("--codec_info", type=Path, required=True, help="codec_info.yaml of the codec")
    parser.add_argument("--data_dir", type=Path, required=True, help="directory with codes.scp")
    parser.add_argument("--out", type=Path, required=True, help="directory for wav files and codes")
    control = parser.add_mutually_exclusive_group()
    control.add_argument("--shuffle_frames", type=int, metavar="SEED", help="permute the frames of every utterance")
    control.add_argument("--noise", type=int, metavar="SEED", help="noise, as long and as loud as every utterance")
    add_worker_options(parser)
    return parser


def decode_jobs(
    pointers: Mapping[str, str], out: Path, shuffle_frames: int | None, noise: int | None
) -> dict[str, DecodeJob]:
    """What to decode.

    Args:
        pointers: utterance → place of its codes
        out: directory with the wav files
        shuffle_frames: seed of the permutations; None keeps the frames in order
        noise: seed of noise in place of speech; None makes speech

    Returns:
        Utterance → job.
    """
    from espnet_ext.data.encoding import DecodeJob

    def seed_of(utterance: str, seed: int | None) -> int | None:
        return None if seed is None else zlib.crc32(f"{seed} {utterance}".encode())

    return {
        one: DecodeJob(pointer, out / "wav" / f"{one}.wav", seed_of(one, shuffle_frames), seed_of(one, noise))
        for one, pointer in pointers.items()
    }


def resynthesise(
    work: Work[DecodeJob, tuple[dict[str, np.ndarray], float]],
    info: Description,
    jobs: Mapping[str, DecodeJob],
    out: Path,
    workers: Workers,
) -> None:
    """Write the wav files, the codes they were made from, and what it cost.

    Args:
        work: decodes a shard
        info: contents of the codec's codec_info.yaml
        jobs: utterance → what to decode
        out: directory to write
        workers: who decodes
    """
    frames, seconds = 0, 0.0
    shards = run_shards(work, jobs, out, workers)
    with codes_writer(out) as write:
        for _, (results, spent) in shards:
            for utterance, codes in results.items():
                write(utterance, codes)
                frames += len(codes)
            seconds += spent
    write_scp(out / "wav.scp", {utterance: job.wav for utterance, job in jobs.items()})
    write_scp(out / "status", dict.fromkeys(jobs, "ok"))
    write_timing(out / "timing.json", len(jobs), frames, seconds, frames / info.spec.frame_rate_hz)


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
        UserError: if the codes were made by another codec, or there are none
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    if several(main, arguments):
        return
    args = get_parser().parse_args(arguments)

    from espnet_ext.data.encoding import codec_of, decode_shard, wavs_of
    from espnet_ext.tokenizers.codec import INFO_NAME, read_codec_info

    workers = Workers(args.nj, args.dask_scheduler)
    codec_of(args.codec_info)  # what is wrong with it is said before any work
    info = read_codec_info(args.codec_info)
    beside = read_codec_info(args.data_dir / INFO_NAME)
    if beside.fingerprint != info.fingerprint:
        raise UserError(
            f"{args.data_dir} must hold codes of codec {info.fingerprint[:12]}…, got {beside.fingerprint[:12]}…"
        )
    pointers = read_pointers(args.data_dir / "codes.scp")
    if not pointers:
        raise UserError(f"{args.data_dir / 'codes.scp'} must list codes, got an empty file")
    request = {"codec": info.fingerprint, "shuffle_frames": args.shuffle_frames, "noise": args.noise}
    record = Record.of(args.out, {**request, "out": str(args.out)}, [args.data_dir / "codes.scp"])
    decode = functools.partial(decode_shard, args.codec_info)
    # a shard's own files are the speech that it makes: the codes are part of its request
    request["codes"] = {path: state and state[-1] for path, state in record.files.items()}
    work = Work(decode, request, f"resynthesise {args.data_dir.name}", SHARD_SIZE, wavs_of)
    jobs = decode_jobs(pointers, args.out, args.shuffle_frames, args.noise)
    if record.make(lambda: resynthesise(work, info, jobs, args.out, workers), args.force):
        logging.info("%s: %d utterances", args.out, len(pointers))


if __name__ == "__main__":
    run(main)
