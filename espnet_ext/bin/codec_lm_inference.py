"""Speech for the texts of a data directory: codes, waveforms, scores, timing.

With --jobs one process makes many of them, of several strategies, configurations and data directories, and loads each
model once for all jobs that follow each other.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from espnet_ext.bin import add_jobs_option, run, several
from espnet_ext.data.datadir import read_scp
from espnet_ext.decoding.options import DecodeOptions
from espnet_ext.errors import UserError
from espnet_ext.inference.codec_lm import CodecLM
from espnet_ext.inference.corpus import (
    add_decode_options,
    check_codec,
    check_machine,
    decode_options,
    model_of,
    report_unknown,
    speak_corpus,
    wav_of,
)
from espnet_ext.inference.speech_jobs import SpeechJob, TextVoice, files_of
from espnet_ext.jobs import remove_shards


def get_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_jobs_option(parser)
    add_decode_options(parser)
    parser.add_argument("--data_dir", type=Path, required=True, help="text, and prompt.scp if there are prompts")
    return parser


def plan(args: argparse.Namespace) -> tuple[dict[str, SpeechJob], dict[str, str]]:
    """What is to be spoken, and the reasons for what cannot be.

    Args:
        args: the command's options.

    Returns:
        Utterance → job, short texts first: equal lengths together waste less time on rows that have ended; and
        utterance → reason.
    """
    texts = read_scp(args.data_dir / "text", allow_empty=True)
    prompt_scp = args.data_dir / "prompt.scp"
    prompts = read_scp(prompt_scp) if prompt_scp.is_file() else {}
    skipped = {utt: "empty text" for utt, text in texts.items() if not text.strip()}
    order = sorted((utt for utt in texts if utt not in skipped), key=lambda utt: (len(texts[utt]), utt))
    without_prompt = [utt for utt in order if utt not in prompts]
    if without_prompt:
        logging.warning("%d utterances have no speaker prompt (%s …)", len(without_prompt), without_prompt[0])
    return {utt: SpeechJob(texts[utt], prompts.get(utt, ""), wav_of(args.output_dir, utt)) for utt in order}, skipped


def check_says_codes(exp: Path, speak: CodecLM) -> None:
    """Refuse a model whose codes no codec makes audible.

    Args:
        exp: its experiment directory.
        speak: the model.

    Raises:
        UserError: naming the command that such a model is for.
    """
    if not speak.says_codes:
        raise UserError(
            f"exp must be an experiment of a model that says codes, got {exp}, which says semantic units: "
            f"espnet_ext.bin.gpst_inference --mode tts --text_to_semantic {exp} speaks with it"
        )


def decode(args: argparse.Namespace, options: DecodeOptions) -> None:
    """Decode a data directory.

    Args:
        args: the command's options.
        options: how to decode, whatever `args` says of it.

    Raises:
        FileNotFoundError: if a file is missing.
        UserError: if model, codes and options do not fit each other, or nothing can be spoken.
    """
    here = check_machine(args)
    # what is wrong with the model is said before any work
    speak = TextVoice(here, options).load()
    speak.check(options)
    check_says_codes(args.exp, speak)
    check_codec(args.exp, args.data_dir)
    jobs, skipped = plan(args)
    voice = TextVoice(model_of(args), options)
    facts = {"frame_stacking_factor": speak.corelm.stacking}
    speak_corpus(voice, options, jobs, skipped, files_of, args, f"{options.decoding} {args.data_dir.name}", facts)
    report_unknown(speak, {utt: job.text for utt, job in jobs.items()}, skipped)
    remove_shards(args.output_dir)


def main(cmd: Sequence[str] | None = None) -> None:
    """Decode as the command line says.

    Args:
        cmd: command line without the program's name; None for the process's own.
    """
    if several(main, cmd):
        return
    args = get_parser().parse_args(cmd)
    decode(args, decode_options(args, DecodeOptions))


if __name__ == "__main__":
    run(main)
