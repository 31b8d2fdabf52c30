"""Stage 2, format: every utterance as a mono 16-bit wav at the codec's sample rate; unusable audio is listed.

python local/format_wav.py --in data/train --out dump/raw/train --fs 16000 --nj 2
"""

from __future__ import annotations

import argparse
import logging
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from tqdm import tqdm

from espnet_ext.bin import run
from espnet_ext.codec.audio import write_wav
from espnet_ext.datadir import read_scp, skipped_summary, write_data_dir, write_scp, write_skipped

SILENT_PEAK = 1e-4  # -80 dB: nothing but dither


@dataclass(frozen=True)
class Job:
    """One utterance to format."""

    utterance: str
    source: str
    target: Path
    rate_hz: int


@dataclass(frozen=True)
class Outcome:
    """What became of a job: its length, or the reason why there is none."""

    utterance: str
    num_samples: int = 0
    reason: str = ""


def is_fresh(job: Job) -> bool:
    """Whether an earlier run has already formatted this very file."""
    source = Path(job.source)
    if not job.target.is_file() or job.target.stat().st_mtime_ns <= source.stat().st_mtime_ns:
        return False
    info = soundfile.info(job.target)
    return bool(info.samplerate == job.rate_hz and info.channels == 1 and info.subtype == "PCM_16")


def format_one(job: Job) -> Outcome:
    """Format one utterance; trouble with its audio is an outcome, not an error."""
    if job.source.rstrip().endswith("|"):
        return Outcome(job.utterance, reason=f"a command instead of a file: {job.source}")
    if not Path(job.source).is_file():
        return Outcome(job.utterance, reason=f"missing wav: {job.source}")
    try:
        if is_fresh(job):
            return Outcome(job.utterance, soundfile.info(job.target).frames)
        samples, rate_hz = soundfile.read(job.source, dtype="float64", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        return Outcome(job.utterance, reason=f"unreadable wav: {job.source} ({error})")
    mono = samples.mean(axis=1)
    if not len(mono):
        return Outcome(job.utterance, reason=f"empty wav: {job.source}")
    if not np.isfinite(mono).all():
        return Outcome(job.utterance, reason=f"NaN or infinite samples: {job.source}")
    if np.abs(mono).max() < SILENT_PEAK:
        return Outcome(job.utterance, reason=f"silent wav: {job.source}")
    if rate_hz != job.rate_hz:
        mono = soxr.resample(mono, rate_hz, job.rate_hz, quality="HQ")
    write_wav(job.target, mono, job.rate_hz)
    return Outcome(job.utterance, len(mono))


def run_jobs(jobs: list[Job], nj: int) -> Iterator[Outcome]:
    """The outcomes in the order of the jobs, made by `nj` processes."""
    if nj == 1:
        yield from map(format_one, jobs)
        return
    # Ctrl-C reaches every process of the terminal; the first one ends the others
    with ProcessPoolExecutor(nj, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)) as pool:
        yield from pool.map(format_one, jobs, chunksize=16)


def format_data_dir(source: Path, out: Path, rate_hz: int, nj: int) -> None:
    """Write the formatted copy of a data directory, utt2num_samples and the list of skipped utterances.

    Args:
        source: data directory with wav.scp, utt2spk and text.
        out: data directory to write.
        rate_hz: sample rate of the copy.
        nj: processes.

    Raises:
        ValueError: if an option is out of range or no utterance is usable.
    """
    if rate_hz < 1 or nj < 1:
        raise ValueError(f"--fs and --nj must be at least 1, got {rate_hz} and {nj}")
    wavs, speakers = read_scp(source / "wav.scp"), read_scp(source / "utt2spk")
    text = read_scp(source / "text", allow_empty=True)
    skipped = dict.fromkeys(text.keys() - wavs.keys(), "not in wav.scp")
    skipped.update(dict.fromkeys(wavs.keys() - speakers.keys(), "missing speaker"))
    jobs = [Job(utt, path, out / "wav" / f"{utt}.wav", rate_hz) for utt, path in wavs.items() if utt not in skipped]
    lengths: dict[str, int] = {}
    for outcome in tqdm(run_jobs(jobs, nj), total=len(jobs), desc=f"format {source.name}", unit="utt"):
        if outcome.reason:
            skipped[outcome.utterance] = outcome.reason
        else:
            lengths[outcome.utterance] = outcome.num_samples
    write_skipped(out / "skipped", skipped)
    if not lengths:
        raise ValueError(f"{source}/wav.scp must list usable audio; skipped {skipped_summary(skipped)}")
    write_scp(out / "utt2num_samples", lengths)
    write_data_dir(out, {job.utterance: job.target for job in jobs if job.utterance in lengths}, text, speakers)
    hours = sum(lengths.values()) / rate_hz / 3600
    logging.info("%s: %d utterances, %.2f h; skipped %s", out, len(lengths), hours, skipped_summary(skipped))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--in", dest="source", type=Path, required=True, help="data directory with wav.scp, text, utt2spk"
    )
    parser.add_argument("--out", type=Path, required=True, help="data directory to write")
    parser.add_argument("--fs", type=int, required=True, help="sample rate of the codec, Hz")
    parser.add_argument("--nj", type=int, default=2, help="processes")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run(lambda: format_data_dir(args.source, args.out, args.fs, args.nj))


if __name__ == "__main__":
    main()
