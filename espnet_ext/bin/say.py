"""Say something: ``espnet-ext say "text" -o out.wav``.

``espnet-ext say EXP "text" -o out.wav`` says it with another model: an experiment directory, a packed voice (.zip), its
address, a hub's owner/name, or a voice that comes along by its name. Several texts, or the lines of --text_file, are
said one by one into out_1.wav, out_2.wav, … A long text is said in parts. A text that begins with a dash comes last,
behind ``--``.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from espnet_ext.bin import run
from espnet_ext.bin.speaking import add_fast_options, add_sampling_options
from espnet_ext.data.ark import read_codes
from espnet_ext.data.datadir import read_scp, speaker_to_utterances
from espnet_ext.errors import UserError
from espnet_ext.storage.pretrained import DEFAULT_VOICE, default_voice, is_address, shipped_voices, voice_name

if TYPE_CHECKING:
    from espnet_ext.inference.speech import Speech


def get_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exp_and_text", nargs="*", metavar="[EXP] TEXT", help="Who speaks, and what to say")
    parser.add_argument("--text_file", help="What to say, a text a line; - is the standard input")
    parser.add_argument("-o", "--output", type=Path, required=True, help="File to write, always in wav format")
    parser.add_argument("--prompt", type=Path, help="Audio file of the voice to use")
    parser.add_argument("--speaker", help="Voice to use: a speaker of --data_dir")
    parser.add_argument("--data_dir", type=Path, help="Directory with codes.scp and utt2spk")
    parser.add_argument(
        "--model_file", help="Weights inside of the experiment; default: the average of the best epochs"
    )
    add_sampling_options(parser)
    for name, kind in (("temperature", float), ("top_k", int), ("top_p", float), ("cfg_scale", float)):
        parser.add_argument(f"--{name}", type=kind, help="Overrides the yaml's")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="Where the language model runs")
    add_fast_options(parser)
    return parser


def who_says_what(words: Sequence[str], has_file: bool) -> tuple[str | None, list[str]]:
    """Who speaks and what, by the words of the command line that are no options.

    A single one is a text for the voice that comes along, unless it is there or looks like a path: a misspelt name of
    an experiment is not to be said. What has blanks in it is a text, unless it is there.

    Args:
        words: of the command line.
        has_file: whether the texts are in a file.

    Returns:
        Name of the voice, None for the one that comes along, and texts.

    >>> who_says_what(["two red dogs / cats"], False), who_says_what(["exp/small_s1"], True)
    ((None, ['two red dogs / cats']), ('exp/small_s1', []))
    """
    first = words[0] if words else ""
    one_word = len(first.split()) == 1
    is_there = first != "" and (os.path.exists(first) or first in shipped_voices() or is_address(first))
    if is_there or one_word and ("/" in first or first.endswith(".zip") or len(words) > 1 or has_file):
        return first, list(words[1:])
    return None, list(words)


def texts_of(args: argparse.Namespace) -> list[str]:
    """What to say, without empty lines; a UserError if there is nothing."""
    texts = list(args.text)
    if args.text_file is not None:
        if texts:
            raise UserError(f"text and text_file must not both be given, got {texts[0]!r} and {args.text_file}")
        path = Path(args.text_file)
        if args.text_file != "-" and not path.is_file():
            raise FileNotFoundError(f"text_file not found: {path}")
        content = sys.stdin.read() if args.text_file == "-" else path.read_text(encoding="utf-8-sig")
        texts = content.splitlines()
    texts = [text for text in texts if text.strip()] or texts[:1]
    if not texts:
        raise UserError("text must be given, or a text_file with some, got none")
    return texts


def places_of(output: Path, count: int) -> list[Path]:
    """Where so many texts are written.

    >>> [str(path) for path in places_of(Path("a/b.wav"), 2)]
    ['a/b_1.wav', 'a/b_2.wav']
    """
    if count == 1:
        return [output]
    return [output.with_name(f"{output.stem}_{number}{output.suffix}") for number in range(1, count + 1)]


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


def check_reads_text(exp: Path, model_file: str | None) -> None:
    """Refuse an experiment of a core LM that is given more than a text; one that is not there is said later."""
    from espnet_ext.inference.experiment import Experiment
    from espnet_ext.inference.requests import default_mode, modes_of
    from espnet_ext.model.core_lm import corelms

    if not (exp / "config.yaml").is_file():
        return
    corelm = corelms[Experiment.read(exp, model_file).args.corelm]
    if not default_mode(corelm):
        told = f"one that is given more than a text (modes {modes_of(corelm)}), see espnet_ext.bin.gpst_inference"
        raise UserError(f"exp must be an experiment of a core LM that is given its text, got {exp}, {told}")


def report(place: Path, speech: Speech) -> None:
    """Say what was written, and what a user would not expect of it."""
    from espnet_ext.inference.speech import prompt_line

    if speech.runaway is not None:
        tried = f", also when it was decoded again ({speech.retries} times)" if speech.retries else ""
        logging.warning("no EOS: the speech ran away: %s%s", speech.runaway.words, tried)
    elif speech.retries:
        logging.info("the speech ran away at first, and was decoded again")
    if line := prompt_line(speech.prompt_sec, speech.prompt_used_sec):
        logging.info("%s", line)
    seconds = len(speech.waveform) / speech.sample_rate
    logging.info("%s: %.2f s of speech, RTF %.3f", place, seconds, speech.timing.rtf)


def main(cmd: Sequence[str] | None = None) -> None:
    """Say something.

    Args:
        cmd: command line without the program's name; None for the process's own.
    """
    args = get_parser().parse_intermixed_args(cmd)

    from espnet_ext.decoding.options import DecodeOptions
    from espnet_ext.inference.experiment import check_codec
    from espnet_ext.inference.model_ref import ModelRef
    from espnet_ext.inference.options import decode_options, fast_choices, find_voice

    logging.basicConfig(level="INFO", format="%(levelname)s: %(message)s")
    name, args.text = who_says_what(args.exp_and_text, args.text_file is not None)
    texts = texts_of(args)
    # what is wrong with it is told before anything is fetched
    options = None if args.inference_config is None else decode_options(args, DecodeOptions)
    if name is None:
        logging.info("voice: %s, which comes along", DEFAULT_VOICE)
    args.exp = default_voice() if name is None else voice_name(name)
    find_voice(args)
    check_reads_text(args.exp, args.model_file)
    options = options or decode_options(args, DecodeOptions)
    if args.prompt is not None and args.speaker is not None:
        raise UserError(f"prompt and speaker must not both be given, got {args.prompt} and {args.speaker}")
    speak = ModelRef(args.exp, args.model_file, args.device, **fast_choices(args)).load()
    prompt: NDArray[np.int64] | Path | None = args.prompt
    if args.speaker is not None:
        prompt = speaker_prompt(args.speaker, args.data_dir, speak.corelm.spec.num_codebooks)
        check_codec(args.exp, args.data_dir, "codes.scp")
    refused: dict[str, str] = {}
    for place, text in zip(places_of(args.output, len(texts)), texts, strict=True):
        try:
            speech = speak(text, prompt, options)
        except UserError as error:
            refused[text] = str(error)
            if len(texts) > 1:
                logging.error("%s is not written: %s", place, error)
            continue
        speech.save(place)
        report(place, speech)
    if refused:
        reason = next(iter(refused.values()))
        raise UserError(
            reason if len(texts) == 1 else f"{len(refused)} of {len(texts)} texts could not be said: {reason}"
        )


if __name__ == "__main__":
    run(main)
