"""Stage 2, format: every utterance as a mono 16-bit wav at the codec's sample rate; unusable audio is listed.

python local/format_wav.py --in data/train --out dump/raw/train --fs 16000 --nj 2
"""

from __future__ import annotations

import argparse
import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from espnet_ext.bin import run
from espnet_ext.data.audio import SILENT_PEAK, Span, read_channels, write_wav
from espnet_ext.data.datadir import (
    LANGUAGES_NAME,
    SEGMENTS_NAME,
    carry_table,
    read_if_there,
    read_scp,
    read_segments,
    skipped_summary,
    write_data_dir,
    write_scp,
    write_skipped,
)
from espnet_ext.data.speaker_prompt import PROMPTS_NAME
from espnet_ext.errors import UserError
from espnet_ext.jobs import Record, Work, Workers, add_worker_options, run_shards

SHARD_SIZE = 64
TABLES = ("wav.scp", SEGMENTS_NAME, "text", "utt2spk", PROMPTS_NAME, LANGUAGES_NAME)


@dataclass(frozen=True)
class Job:
    """One utterance to format, perhaps a part of a file; with `reuse`, audio that has the format stays where it is."""

    utterance: str
    source: str
    target: Path
    rate_hz: int
    reuse: bool = False
    span: Span | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a job: length, audio to use, rate it came with, what was mended; or why there is none."""

    utterance: str
    num_samples: int = 0
    wav: Path | None = None
    source_rate_hz: int = 0
    reason: str = ""
    mended: str = ""


def has_format(wav: Path | str, rate_hz: int) -> bool:
    """Whether a readable file is what this stage makes."""
    info = soundfile.info(wav)
    return bool((info.samplerate, info.channels, info.format, info.subtype) == (rate_hz, 1, "WAV", "PCM_16"))


def format_one(job: Job) -> Outcome:
    """Format one utterance; trouble with its audio is an outcome, not an error."""
    if job.source.rstrip().endswith("|"):
        return Outcome(job.utterance, reason=f"a command instead of a file: {job.source}")
    try:
        audio = read_channels(job.source, "float64", job.span)
    except UserError as error:
        return Outcome(job.utterance, reason=str(error))
    if not len(audio.samples):
        return Outcome(job.utterance, reason=f"empty wav: {job.source}")
    if not np.isfinite(audio.samples).all():
        return Outcome(job.utterance, reason=f"NaN or infinite samples: {job.source}")
    audio = audio.mono()
    mono, rate_hz = audio.samples, audio.rate_hz
    if np.abs(mono).max() < SILENT_PEAK:
        return Outcome(job.utterance, reason=f"silent wav: {job.source}")
    if job.reuse and job.span is None and has_format(job.source, job.rate_hz):
        return Outcome(job.utterance, len(mono), Path(job.source), rate_hz)
    if rate_hz != job.rate_hz:
        mono = soxr.resample(mono, rate_hz, job.rate_hz, quality="HQ")
    write_wav(job.target, mono, job.rate_hz)
    return Outcome(job.utterance, len(mono), job.target, rate_hz, mended=audio.mended)


def format_shard(jobs: Mapping[str, Job]) -> list[tuple[Any, ...]]:
    """The fields of the outcomes; a worker does not know this file's classes by name."""
    return [astuple(format_one(job)) for job in jobs.values()]


def format_all(jobs: Sequence[Job], out: Path, label: str, workers: Workers) -> Iterator[Outcome]:
    """The outcomes in the order of the jobs."""
    work = Work(format_shard, {}, label, SHARD_SIZE, lambda job: (job.source, job.target))
    for _, outcomes in run_shards(work, {job.utterance: job for job in jobs}, out, workers):
        yield from (Outcome(*fields) for fields in outcomes)


def odd_rates(outcomes: Iterable[Outcome]) -> dict[str, str]:
    """Utterances whose sample rate is not that of most others, and what it is: their bandwidth is another one, too."""
    rates = {outcome.utterance: outcome.source_rate_hz for outcome in outcomes}
    usual = Counter(rates.values()).most_common(1)[0][0]
    return {
        utterance: f"odd sample rate: {rate} Hz, most have {usual} Hz"
        for utterance, rate in rates.items()
        if rate != usual
    }


def spans_of(source: Path, wavs: Mapping[str, str]) -> tuple[dict[str, str], dict[str, Span], dict[str, str]]:
    """Audio file of every utterance, the part of it that segments names, and why other utterances have none."""
    segments = read_segments(source / SEGMENTS_NAME)
    if segments is None:
        return dict(wavs), {}, {}
    found, spans, bad = dict[str, str](), dict[str, Span](), dict[str, str]()
    for utterance, (recording, begin, end) in segments.items():
        if recording not in wavs:
            bad[utterance] = f"bad segment: {recording} is not in wav.scp"
        elif not 0 <= begin < (math.inf if end is None else end) or end == math.inf:
            bad[utterance] = f"bad segment: it must end behind its begin, at 0 s or later, got {begin:g} to {end} s"
        else:
            found[utterance], spans[utterance] = wavs[recording], Span(begin, end)
    return found, spans, bad


def format_data_dir(source: Path, out: Path, rate_hz: int, workers: Workers, reuse: bool = False) -> None:
    """Write the formatted copy of a data directory, utt2num_samples and the lists of skipped, odd and mended audio.

    Args:
        source: data directory with wav.scp and utt2spk, perhaps segments, text, utt2prompt and utt2lang, in any order.
        out: data directory to write.
        rate_hz: sample rate of the copy.
        workers: who does it.
        reuse: list audio that has the format already where it is, without a copy.

    Raises:
        UserError: if an option is out of range or no utterance is usable.
    """
    if rate_hz < 1:
        raise UserError(f"--fs must be at least 1, got {rate_hz}")
    speakers = read_scp(source / "utt2spk", in_order=False)
    text = read_if_there(source / "text", allow_empty=True, in_order=False)
    wavs, spans, bad = spans_of(source, read_scp(source / "wav.scp", in_order=False))
    table = SEGMENTS_NAME if spans or bad else "wav.scp"
    skipped = dict.fromkeys((text or {}).keys() - wavs.keys(), f"not in {table}")
    skipped |= dict.fromkeys(wavs.keys() - speakers.keys(), "missing speaker") | bad
    jobs = [
        Job(utt, path, out / "wav" / f"{utt}.wav", rate_hz, reuse, spans.get(utt))
        for utt, path in wavs.items()
        if utt not in skipped
    ]
    done: dict[str, Outcome] = {}
    for outcome in format_all(jobs, out, f"format {source.name}", workers):
        if outcome.reason:
            skipped[outcome.utterance] = outcome.reason
        else:
            done[outcome.utterance] = outcome
    write_skipped(out / "skipped", skipped)
    if not done:
        raise UserError(f"{source}/wav.scp must list usable audio; skipped {skipped_summary(skipped)}")
    odd = odd_rates(done.values())
    write_skipped(out / "odd_sample_rate", odd)
    mended = {utterance: outcome.mended for utterance, outcome in done.items() if outcome.mended}
    write_skipped(out / "mended", mended)
    write_scp(out / "utt2num_samples", {utterance: outcome.num_samples for utterance, outcome in done.items()})
    carry_table(PROMPTS_NAME, source, out, done, in_order=False)  # dropped prompts are reported where they are needed
    carry_table(LANGUAGES_NAME, source, out, done, in_order=False)
    write_data_dir(out, {utterance: outcome.wav for utterance, outcome in done.items()}, text, speakers)
    hours = sum(outcome.num_samples for outcome in done.values()) / rate_hz / 3600
    logging.info("%s: %d utterances, %.2f h; skipped %s", out, len(done), hours, skipped_summary(skipped))
    for listed in filter(None, (odd, mended)):
        logging.warning("%s: %s", out, skipped_summary(listed))


def format_if_changed(args: argparse.Namespace) -> None:
    """Format unless that was done, as it was asked for, with the audio and the tables as they are now."""
    workers = Workers(args.nj, args.dask_scheduler)
    request = {"fs": args.fs, "reuse": args.reuse, "out": str(args.out)}
    record = Record.of(args.out, request, [args.source / name for name in TABLES])
    record.make(
        lambda: format_data_dir(args.source, args.out, args.fs, workers, args.reuse), args.force, [args.out / "wav.scp"]
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--in", dest="source", type=Path, required=True, help="directory of wav.scp, utt2spk, perhaps text, segments"
    )
    parser.add_argument("--out", type=Path, required=True, help="data directory to write")
    parser.add_argument("--fs", type=int, required=True, help="sample rate of the codec, Hz")
    add_worker_options(parser, nj=2)
    parser.add_argument("--reuse", action="store_true", help="do not copy audio that has the format already")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run(lambda: format_if_changed(args))


if __name__ == "__main__":
    main()
