"""Say one sentence: ``python -m espnet_ext.bin.say EXP "text" -o out.wav``."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from espnet_ext.bin import run
from espnet_ext.data.ark import read_codes
from espnet_ext.data.audio import write_wav
from espnet_ext.data.datadir import read_scp, speaker_to_utterances
from espnet_ext.decoding import strategies
from espnet_ext.decoding.options import DecodeOptions
from espnet_ext.errors import UserError
from espnet_ext.inference.experiment import check_codec
from espnet_ext.inference.model_ref import ModelRef
from espnet_ext.inference.options import add_fast_options, decode_options, fast_choices
from espnet_ext.inference.speech import prompt_line


def get_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("exp", type=Path, help="Experiment directory")
    parser.add_argument("text", help="What to say")
    parser.add_argument("-o", "--output", type=Path, required=True, help="File to write, always in wav format")
    parser.add_argument("--prompt", type=Path, help="Audio file of the voice to use")
    parser.add_argument("--speaker", help="Voice to use: a speaker of --data_dir")
    parser.add_argument("--data_dir", type=Path, help="Directory with codes.scp and utt2spk")
    parser.add_argument(
        "--model_file", help="Weights inside of the experiment; default: the average of the best epochs"
    )
    parser.add_argument("--inference_config", type=Path, help="Decode yaml")
    parser.add_argument("--decoding", help=f"Strategy, overrides the yaml's: one of {list(strategies)}")
    parser.add_argument("--seed", type=int, help="Overrides the yaml's")
    add_fast_options(parser)
    return parser


def speaker_prompt(speaker: str, data_dir: Path | None, codebooks: int) -> NDArray[np.int64]:
    """Codes of a speaker's first utterance that has some.

    Args:
        speaker: the speaker's id.
        data_dir: directory with codes.scp and utt2spk.
        codebooks: N.

    Returns:
        Codes (T, N).

    Raises:
        UserError: if there is no data directory, or it does not know the speaker or has no codes of theirs.
    """
    if data_dir is None:
        raise UserError(f"data_dir must be given with speaker, got none (speaker is {speaker!r})")
    speakers = speaker_to_utterances(read_scp(data_dir / "utt2spk"))
    if speaker not in speakers:
        raise UserError(f"speaker must be one of {sorted(speakers)} of {data_dir}, got {speaker!r}")
    codes = read_codes(data_dir / "codes.scp", codebooks)
    spoken = [utterance for utterance in speakers[speaker] if utterance in codes]
    if not spoken:
        raise UserError(f"speaker must have an utterance in {data_dir / 'codes.scp'}, got {speaker!r} without any")
    return codes[spoken[0]]


def main(cmd: Sequence[str] | None = None) -> None:
    """Say one sentence.

    Args:
        cmd: command line without the program's name; None for the process's own.
    """
    args = get_parser().parse_args(cmd)
    logging.basicConfig(level="INFO", format="%(levelname)s: %(message)s")
    options = decode_options(args, DecodeOptions)
    if args.prompt is not None and args.speaker is not None:
        raise UserError(f"prompt and speaker must not both be given, got {args.prompt} and {args.speaker}")
    speak = ModelRef(args.exp, args.model_file, **fast_choices(args)).load()
    prompt: NDArray[np.int64] | Path | None = args.prompt
    if args.speaker is not None:
        prompt = speaker_prompt(args.speaker, args.data_dir, speak.corelm.spec.num_codebooks)
        check_codec(args.exp, args.data_dir, "codes.scp")
    speech = speak(args.text, prompt, options)
    write_wav(args.output, speech.waveform, speak.codec.spec.sample_rate_hz)
    if not speech.has_eos:
        logging.warning("no EOS: the speech was cut at its length limit")
    if line := prompt_line(speech.prompt_sec, speech.prompt_used_sec):
        logging.info("%s", line)
    seconds = len(speech.waveform) / speak.codec.spec.sample_rate_hz
    logging.info("%s: %.2f s of speech, RTF %.3f", args.output, seconds, speech.timing.rtf)


if __name__ == "__main__":
    run(main)
