"""Speech for the texts of a data directory: codes, waveforms, scores, timing."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from tqdm import tqdm

from espnet_ext.ark import codes_writer, read_codes
from espnet_ext.atomic import atomic_path
from espnet_ext.bin import run
from espnet_ext.codec import INFO_NAME, read_codec_info
from espnet_ext.codec.audio import write_wav
from espnet_ext.config import read_yaml
from espnet_ext.datadir import read_scp, skipped_summary, write_scp, write_skipped
from espnet_ext.decoding import strategies
from espnet_ext.inference import CodecLM, DecodeOptions, Speech
from espnet_ext.tasks.codec_lm import CODEC_DIRECTORY

TIMING = "timing.json"


def get_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exp", type=Path, required=True, help="Experiment directory")
    parser.add_argument("--model_file", help="Weights inside of it; default: the average of the best epochs")
    parser.add_argument("--data_dir", type=Path, required=True, help="text, and prompt.scp if there are prompts")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--inference_config", type=Path, help="Decode yaml")
    parser.add_argument("--decoding", help=f"Strategy, overrides the yaml's: one of {list(strategies)}")
    parser.add_argument("--seed", type=int, help="Overrides the yaml's")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="Where the language model runs")
    parser.add_argument("--num_threads", type=int, default=1, help="Threads of torch")
    parser.add_argument("--log_level", default="INFO")
    return parser


def decode_options(args: argparse.Namespace) -> DecodeOptions:
    """Options of the yaml, overridden by those of the command line."""
    path: Path | None = args.inference_config
    content = {} if path is None else read_yaml(path, "inference_config")
    try:
        options = DecodeOptions.from_mapping(content)
    except ValueError as error:
        raise ValueError(f"{error} (in {path})") from None
    if args.decoding is not None and args.decoding != options.decoding:
        # options of another strategy mean nothing to this one
        options = replace(options, decoding=args.decoding, decoding_conf={})
    return options if args.seed is None else replace(options, seed=args.seed)


def check_machine(args: argparse.Namespace) -> None:
    """Refuse what this machine cannot do.

    Args:
        args: the command's options.

    Raises:
        ValueError: naming option, value and what is allowed.
    """
    for name in ("batch_size", "num_threads"):
        if getattr(args, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(args, name)}")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device must be cpu where there is no GPU that torch can use, got cuda")


def check_codec(exp: Path, data_dir: Path, scp: str = "prompt.scp") -> None:
    """Refuse prompts that another codec made, or nobody knows which.

    Args:
        exp: experiment directory.
        data_dir: directory with the prompts.
        scp: the file in it that lists them.

    Raises:
        FileNotFoundError: if there are prompts without a codec_info.yaml beside them.
        ValueError: if the codec_info.yaml of both name different codecs.
    """
    if not (data_dir / INFO_NAME).is_file():
        if (data_dir / scp).is_file():
            raise FileNotFoundError(f"{data_dir / INFO_NAME} not found: it must tell which codec made {scp}")
        return
    expected, found = (read_codec_info(path).fingerprint for path in (exp / CODEC_DIRECTORY, data_dir))
    if expected != found:
        raise ValueError(f"data_dir {data_dir} must hold codes of codec {expected[:12]}… as {exp}, got {found[:12]}…")


def speak_all(
    speak: CodecLM, args: argparse.Namespace, options: DecodeOptions
) -> tuple[dict[str, Speech], dict[str, str]]:
    """Speech of every utterance, and the reasons for those that have none.

    Args:
        speak: the model.
        args: the command's options.
        options: how to decode.

    Returns:
        Utterance → speech, and utterance → reason.
    """
    texts = read_scp(args.data_dir / "text", allow_empty=True)
    prompt_scp = args.data_dir / "prompt.scp"
    prompts = read_codes(prompt_scp, speak.corelm.spec.num_codebooks) if prompt_scp.is_file() else {}
    skipped = {utt: "empty text" for utt, text in texts.items() if not text.strip()}
    # equal lengths together: less time is spent on rows that have ended
    order = sorted((utt for utt in texts if utt not in skipped), key=lambda utt: (len(texts[utt]), utt))
    speeches: dict[str, Speech] = {}
    with tqdm(total=len(order), desc=f"{options.decoding} {args.data_dir.name}", unit="utt") as bar:
        for start in range(0, len(order), args.batch_size):
            names = order[start : start + args.batch_size]
            rows = [prompts.get(utt) for utt in names]
            speeches.update(zip(names, speak.batch(names, [texts[utt] for utt in names], rows, options), strict=True))
            bar.update(len(names))
    without_prompt = [utt for utt in order if utt not in prompts]
    if without_prompt:
        logging.warning("%d utterances have no speaker prompt (%s …)", len(without_prompt), without_prompt[0])
    return speeches, skipped


def write_results(speeches: dict[str, Speech], skipped: dict[str, str], speak: CodecLM, output_dir: Path) -> None:
    """Write codes, wavs, scores, status; every file in one piece.

    Args:
        speeches: utterance → speech.
        skipped: utterance → reason.
        speak: the model that made them.
        output_dir: where to.
    """
    rate = speak.codec.spec.sample_rate_hz
    wavs = {utt: output_dir / "wav" / f"{utt}.wav" for utt in speeches}
    with codes_writer(output_dir) as write:
        for utt in sorted(speeches):
            write(utt, speeches[utt].codes)
    for utt, speech in speeches.items():
        write_wav(wavs[utt], speech.waveform, rate)
    write_scp(output_dir / "wav.scp", wavs)
    write_scp(output_dir / "score", {utt: f"{speech.logprob:.4f}" for utt, speech in speeches.items()})
    status = {utt: "ok" if speech.has_eos else "no_eos" for utt, speech in speeches.items()}
    write_scp(output_dir / "status", {**status, **dict.fromkeys(skipped, "skipped")})
    write_skipped(output_dir / "skipped", skipped)


def main(cmd: Sequence[str] | None = None) -> None:
    """Decode a data directory.

    Args:
        cmd: command line without the program's name; None for the process's own.
    """
    args = get_parser().parse_args(cmd)
    logging.basicConfig(level=args.log_level, format="%(asctime)s %(levelname)s: %(message)s")
    check_machine(args)
    options = decode_options(args)
    speak = CodecLM.from_experiment(args.exp, args.model_file, args.device)
    torch.set_num_threads(args.num_threads)
    check_codec(args.exp, args.data_dir)
    speeches, skipped = speak_all(speak, args, options)
    write_results(speeches, skipped, speak, args.output_dir)
    cost = speak.timing
    machine = {"batch_size": args.batch_size, "num_threads": args.num_threads, "device": args.device}
    timing = {**asdict(cost), **cost.rates(), **machine, **asdict(options)}
    with atomic_path(args.output_dir / TIMING) as temporary:
        temporary.write_text(json.dumps(timing, indent=2) + "\n", encoding="utf-8")
    if speak.tokenizer.unknown:
        logging.warning("tokens outside of the vocabulary: %s", speak.tokenizer.describe_unknown())
    logging.info(
        "%d utterances (%d without EOS; skipped: %s), %.1f s of speech, RTF %.3f, in %s",
        len(speeches), cost.no_eos, skipped_summary(skipped), cost.seconds_audio, cost.rtf, args.output_dir,
    )  # fmt: skip


if __name__ == "__main__":
    run(main)
