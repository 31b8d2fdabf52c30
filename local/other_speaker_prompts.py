"""A table utterance → prompt utterance in which every prompt is of another speaker, for voice conversion.

python local/other_speaker_prompts.py --data_dir dump/gpst_world_vq_mfcc_km/test_seen --out exp/other_speakers/test_seen

A prompt depends on the seed, the utterance and the other speakers' utterances only. It has `--min_sec` where there is
one of that length, and is the longest of other speakers' where there is none.
"""

from __future__ import annotations

import argparse
import logging
import random
from collections.abc import Mapping
from pathlib import Path

from espnet_ext.bin import run
from espnet_ext.data.datadir import read_counts, read_scp, write_scp
from espnet_ext.data.speaker_prompt import PROMPTS_NAME
from espnet_ext.errors import UserError
from espnet_ext.tokenizers.codec import read_codec_info


def choose_other_speakers(
    utt2spk: Mapping[str, str], seconds: Mapping[str, float], min_sec: float, seed: int
) -> dict[str, str]:
    """An utterance of another speaker for every utterance.

    Args:
        utt2spk: utterance → speaker, of two speakers or more.
        seconds: utterance → duration.
        min_sec: shortest prompt, where there is one.
        seed: of the choice.

    Returns:
        Utterance → prompt utterance.

    Raises:
        UserError: if there is one speaker only, or `min_sec` is no duration.

    >>> utt2spk, seconds = {"a-1": "a", "a-2": "a", "b-1": "b"}, {"a-1": 2.0, "a-2": 0.3, "b-1": 0.4}
    >>> choose_other_speakers(utt2spk, seconds, min_sec=0.5, seed=0)
    {'a-1': 'b-1', 'a-2': 'b-1', 'b-1': 'a-1'}
    """
    if not 0 <= min_sec < float("inf"):
        raise UserError(f"--min_sec must be at least 0 seconds, got {min_sec}")
    if len(set(utt2spk.values())) < 2:
        raise UserError(
            f"prompts of other speakers need at least 2 speakers, got {len(set(utt2spk.values()))}"
            " (--modes without speaker_conversion needs none)"
        )
    utterances = sorted(utt2spk)
    prompts = {}
    for speaker in sorted(set(utt2spk.values())):
        others = [one for one in utterances if utt2spk[one] != speaker]
        long_enough = [one for one in others if seconds[one] >= min_sec]
        candidates = long_enough or [max(others, key=lambda one: (seconds[one], one))]
        for one in (one for one in utterances if utt2spk[one] == speaker):
            prompts[one] = random.Random(f"{seed} {one}").choice(candidates)
    return dict(sorted(prompts.items()))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True, help="utt2spk, utt2num_frames, codec_info.yaml")
    parser.add_argument("--out", type=Path, required=True, help=f"directory for {PROMPTS_NAME}")
    parser.add_argument("--min_sec", type=float, default=1.0, help="shortest prompt, where there is one")
    parser.add_argument("--seed", type=int, default=0, help="of the choice")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    def work() -> None:
        rate_hz = read_codec_info(args.data_dir).spec.frame_rate_hz
        frames = read_counts(args.data_dir / "utt2num_frames")
        utt2spk = read_scp(args.data_dir / "utt2spk")
        seconds = {utterance: count / rate_hz for utterance, count in frames.items()}
        known = {utterance: speaker for utterance, speaker in utt2spk.items() if utterance in seconds}
        prompts = choose_other_speakers(known, seconds, args.min_sec, args.seed)
        args.out.mkdir(parents=True, exist_ok=True)
        write_scp(args.out / PROMPTS_NAME, prompts)
        logging.info("%s: prompts of other speakers for %d utterances", args.out / PROMPTS_NAME, len(prompts))

    run(work)


if __name__ == "__main__":
    main()
