"""Stage 3, filter: utterances of a usable length that have a transcript, if there are any; the others are listed.

python local/filter_data.py --in dump/raw/train --out dump/filtered/train --min_wav_duration 0.3 --max_wav_duration 20
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import soundfile

from espnet_ext.bin import run
from espnet_ext.data.datadir import (
    LANGUAGES_NAME,
    carry_table,
    read_counts,
    read_if_there,
    read_scp,
    skipped_summary,
    write_data_dir,
    write_scp,
    write_skipped,
)
from espnet_ext.data.speaker_prompt import PROMPTS_NAME
from espnet_ext.errors import UserError
from espnet_ext.tokenizers.text.cleaners import CLEANERS, find_cleaner


def reason_of_text(transcript: str | None, cleaner: str) -> str:
    """Why an utterance of a transcribed corpus cannot be read; the empty string if it can."""
    if transcript is None:
        return "missing transcript"
    if not transcript:
        return "empty transcript"
    if not find_cleaner(cleaner)(transcript):
        return f"nothing left by cleaner {cleaner}: {transcript}"
    return ""


def reason_of_length(duration_s: float, min_s: float, max_s: float) -> str:
    """Why an utterance is not used; the empty string if it is."""
    if duration_s < min_s:
        return f"too short: {duration_s:.3f} s"
    if duration_s > max_s:
        return f"too long: {duration_s:.3f} s"
    return ""


def filter_data_dir(source: Path, out: Path, min_s: float, max_s: float, cleaner: str = "none") -> None:
    """Write the data directory of the utterances that can be used and the list of the others.

    Args:
        source: output of stage format; where it has no file `text` at all, no utterance needs a transcript.
        out: data directory to write; its wav.scp points to the audio of `source`.
        min_s: shortest duration, seconds.
        max_s: longest duration, seconds.
        cleaner: that the model's text will go through; what it leaves nothing of cannot be read.

    Raises:
        UserError: if the limits contradict each other, an utterance lacks its length, or nothing is left.
    """
    if not 0 <= min_s < max_s:
        raise UserError(f"--min_wav_duration must be >= 0 and below --max_wav_duration, got {min_s} and {max_s}")
    wavs, speakers = read_scp(source / "wav.scp"), read_scp(source / "utt2spk")
    lengths, text = read_counts(source / "utt2num_samples"), read_if_there(source / "text", allow_empty=True)
    if lengths.keys() != wavs.keys():
        odd = min(lengths.keys() ^ wavs.keys())
        raise UserError(f"{source}: wav.scp and utt2num_samples must list the same utterances, they differ in {odd}")
    rate_hz = soundfile.info(next(iter(wavs.values()))).samplerate if wavs else 1  # stage format made them all equal
    reasons = {utterance: reason_of_length(lengths[utterance] / rate_hz, min_s, max_s) for utterance in wavs}
    if text is not None:
        reasons = {utterance: reason_of_text(text.get(utterance), cleaner) or reasons[utterance] for utterance in wavs}
    skipped = {utterance: reason for utterance, reason in reasons.items() if reason}
    kept = {utterance: wav for utterance, wav in wavs.items() if utterance not in skipped}
    write_skipped(out / "skipped", skipped)
    if not kept:
        raise UserError(f"{source}/wav.scp must list usable utterances; skipped {skipped_summary(skipped)}")
    write_scp(out / "utt2num_samples", {utterance: lengths[utterance] for utterance in kept})
    carry_table(PROMPTS_NAME, source, out, kept)  # dropped prompts are reported where they are needed
    carry_table(LANGUAGES_NAME, source, out, kept)
    write_data_dir(out, kept, text, speakers)
    hours = sum(lengths[utterance] for utterance in kept) / rate_hz / 3600
    logging.info("%s: %d utterances, %.2f h; skipped %s", out, len(kept), hours, skipped_summary(skipped))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--in", dest="source", type=Path, required=True, help="output of stage format")
    parser.add_argument("--out", type=Path, required=True, help="data directory to write")
    parser.add_argument("--min_wav_duration", type=float, default=0.3, help="seconds")
    parser.add_argument("--max_wav_duration", type=float, default=20.0, help="seconds")
    parser.add_argument("--cleaner", choices=sorted(CLEANERS), default="none", help="text cleaning of later stages")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    limits = args.min_wav_duration, args.max_wav_duration
    run(lambda: filter_data_dir(args.source, args.out, *limits, args.cleaner))


if __name__ == "__main__":
    main()
