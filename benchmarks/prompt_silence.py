"""Similarity of speech to the speaker of its prompt, with and without silence or room noise in front of the prompt.

python benchmarks/prompt_silence.py --exp EXP --data_dir dump/raw/test_seen --inference_config CONF.yaml --out TABLE.md

Of each of the first speakers one recording is the prompt, the texts of the others are said, and the mean voice of those
recordings is what the speech is compared with.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from espnet_ext.bin import run
from espnet_ext.data.audio import write_wav
from espnet_ext.data.datadir import read_scp, speaker_to_utterances
from espnet_ext.data.waveform import EVALUATION_RATE_HZ, read_mono, resampled
from espnet_ext.decoding.options import DecodeOptions
from espnet_ext.inference import Speaker
from espnet_ext.scoring.evaluators.resemblyzer import Resemblyzer
from espnet_ext.storage.yaml_files import read_yaml

ROOM_RMS = 0.003  # -50 dB of full scale
NOTHING = "no prompt"


def fronts(seconds: float, rate_hz: int) -> dict[str, NDArray[np.float32]]:
    """What is put in front of the prompt, by its name."""
    count = round(seconds * rate_hz)
    noise = np.random.default_rng(0).normal(0.0, 1.0, count + 7)
    room = np.convolve(noise, np.ones(8) / 8, "valid")  # rooms are darker than white noise
    return {
        "as recorded": np.zeros(0, np.float32),
        f"{seconds:g} s of digital silence in front": np.zeros(count, np.float32),
        f"{seconds:g} s of room noise in front": (ROOM_RMS * room / room.std()).astype(np.float32),
    }


def similarity(
    speak: Speaker, options: DecodeOptions, prompt: Path | None, texts: Mapping[str, str], wavs: Mapping[str, Path]
) -> float:
    """Mean cosine similarity of what is said to the mean voice of the recordings of the same texts."""
    encoder, rate = Resemblyzer(), speak.codec.spec.sample_rate_hz
    mean = np.mean([encoder.embed(resampled(*read_mono(wav), EVALUATION_RATE_HZ)) for wav in wavs.values()], axis=0)
    found = []
    for name, text in texts.items():
        wave = speak(text, prompt, options, name).waveform
        found.append(encoder.embed(resampled(wave, rate, EVALUATION_RATE_HZ)) @ mean / np.linalg.norm(mean))
    return float(np.mean(found))


def measure(args: argparse.Namespace) -> dict[str, list[float]]:
    """Condition → similarity for each speaker."""
    speak = Speaker.from_experiment(args.exp)
    options = DecodeOptions(**read_yaml(args.inference_config, "inference_config"))
    wavs, texts = read_scp(args.data_dir / "wav.scp"), read_scp(args.data_dir / "text")
    speakers = speaker_to_utterances(read_scp(args.data_dir / "utt2spk"))
    table: dict[str, list[float]] = {NOTHING: []}
    for utterances in list(speakers.values())[: args.speakers]:
        prompt, *others = sorted(utterances, key=lambda utt: -Path(wavs[utt]).stat().st_size)
        said, recorded = {utt: texts[utt] for utt in others}, {utt: Path(wavs[utt]) for utt in others}
        table[NOTHING].append(similarity(speak, options, None, said, recorded))
        samples, rate = read_mono(Path(wavs[prompt]))
        for name, front in fronts(args.seconds, rate).items():
            with TemporaryDirectory() as folder:
                write_wav(Path(folder) / "prompt.wav", np.concatenate((front, samples)), rate)
                value = similarity(speak, options, Path(folder) / "prompt.wav", said, recorded)
            table.setdefault(name, []).append(value)
            logging.info("%s: %s: %.3f", prompt, name, value)
    return table


def markdown(table: Mapping[str, Sequence[float]]) -> str:
    """The table, a line for each condition."""
    count = len(table[NOTHING])
    lines = ["| prompt | " + " | ".join(f"speaker {one + 1}" for one in range(count)) + " |", "|---|" + "---:|" * count]
    lines += [f"| {name} | " + " | ".join(f"{value:.3f}" for value in values) + " |" for name, values in table.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exp", type=Path, required=True, help="experiment directory of a codec language model")
    parser.add_argument("--data_dir", type=Path, required=True, help="wav.scp, text and utt2spk of a test set")
    parser.add_argument("--inference_config", type=Path, required=True, help="decode yaml")
    parser.add_argument("--speakers", type=int, default=4, help="how many")
    parser.add_argument("--seconds", type=float, default=1.5, help="of silence or noise in front")
    parser.add_argument("--out", type=Path, required=True, help="file for the table")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args.out.write_text(markdown(measure(args)), encoding="utf-8")


if __name__ == "__main__":
    run(main)
