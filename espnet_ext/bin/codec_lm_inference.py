"""Speech for the texts of a data directory: codes, waveforms, scores, timing."""

from __future__ import annotations

import argparse
import functools
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from espnet_ext.ark import codes_writer
from espnet_ext.atomic import atomic_path
from espnet_ext.bin import run
from espnet_ext.codec import INFO_NAME, read_codec_info
from espnet_ext.config import read_yaml
from espnet_ext.datadir import read_scp, skipped_summary, write_scp, write_skipped
from espnet_ext.decoding import strategies
from espnet_ext.finished import digest
from espnet_ext.inference import CodecLM, DecodeOptions, Timing
from espnet_ext.jobs import Work, Workers, add_worker_options, remove_shards, run_shards
from espnet_ext.speech_jobs import Model, SpeechJob, Spoken, files_of, speak_shard, total
from espnet_ext.tasks.codec_lm import CODEC_DIRECTORY

TIMING = "timing.json"
STARTUP_SECONDS = 8.0  # a process imports ESPnet and loads the model


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
    add_worker_options(parser)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="Where the language model runs")
    parser.add_argument("--num_threads", type=int, default=1, help="Threads of each process")
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
    wavs = {utt: args.output_dir / "wav" / f"{utt}.wav" for utt in order}
    return {utt: SpeechJob(texts[utt], prompts.get(utt, ""), wavs[utt]) for utt in order}, skipped


def speak_all(
    work: Work[SpeechJob, tuple[dict[str, Spoken | str], Timing]],
    jobs: dict[str, SpeechJob],
    skipped: dict[str, str],
    args: argparse.Namespace,
) -> Timing:
    """Write codes, wavs, scores, status and skipped.

    Args:
        work: speaks a shard.
        jobs: utterance → what to speak.
        skipped: utterance → reason; gets those that turn out to be impossible.
        args: the command's options.

    Returns:
        What it cost.

    Raises:
        ValueError: if no utterance can be spoken.
    """
    spoken: dict[str, Spoken] = {}
    timings = []
    workers = Workers(args.nj, args.dask_scheduler, args.num_threads, STARTUP_SECONDS)
    for _, (results, timing) in run_shards(work, jobs, args.output_dir, workers):
        timings.append(timing)
        skipped.update({utt: result for utt, result in results.items() if isinstance(result, str)})
        spoken.update({utt: result for utt, result in results.items() if not isinstance(result, str)})
    write_skipped(args.output_dir / "skipped", skipped)
    if not spoken:
        first = next(iter(skipped), "its text has no line")
        raise ValueError(f"{args.data_dir} must have utterances that can be spoken: {first}: {skipped.get(first, '')}")
    with codes_writer(args.output_dir) as write:
        for utt in sorted(spoken):
            write(utt, spoken[utt].codes)
    write_scp(args.output_dir / "wav.scp", {utt: jobs[utt].wav for utt in spoken})
    write_scp(args.output_dir / "score", {utt: f"{result.logprob:.4f}" for utt, result in spoken.items()})
    status = {utt: "ok" if result.has_eos else "no_eos" for utt, result in spoken.items()}
    write_scp(args.output_dir / "status", {**status, **dict.fromkeys(skipped, "skipped")})
    return total(timings)


def request(args: argparse.Namespace, options: DecodeOptions) -> dict[str, object]:
    """What the speech depends on besides texts and prompts.

    Args:
        args: the command's options.
        options: how to decode.

    Returns:
        Plain values.
    """
    weights = {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in sorted(args.exp.glob("*.pth"))}
    chosen = {name: getattr(args, name) for name in ("model_file", "batch_size", "num_threads", "device")}
    return {"weights": weights, "config": digest([args.exp / "config.yaml"]), **chosen, **asdict(options)}


def main(cmd: Sequence[str] | None = None) -> None:
    """Decode a data directory.

    Args:
        cmd: command line without the program's name; None for the process's own.
    """
    args = get_parser().parse_args(cmd)
    logging.basicConfig(level=args.log_level, format="%(asctime)s %(levelname)s: %(message)s")
    if args.batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {args.batch_size}")
    Workers(args.nj, args.dask_scheduler, args.num_threads)
    options = decode_options(args)
    # what is wrong with the model is said before any work; where the command runs there may be no GPU
    speak = Model(args.exp, args.model_file, "cpu" if args.dask_scheduler else args.device).load()
    speak.check(options)
    check_codec(args.exp, args.data_dir)
    jobs, skipped = plan(args)
    work = Work(
        functools.partial(speak_shard, Model(args.exp, args.model_file, args.device), options),
        request(args, options),
        f"{options.decoding} {args.data_dir.name}",
        args.batch_size,
        files_of,
        first=args.batch_size,
    )
    cost = speak_all(work, jobs, skipped, args)
    machine = {"batch_size": args.batch_size, "num_threads": args.num_threads, "device": args.device}
    timing = {**asdict(cost), **cost.rates(), **machine, **asdict(options)}
    with atomic_path(args.output_dir / TIMING) as temporary:
        temporary.write_text(json.dumps(timing, indent=2) + "\n", encoding="utf-8")
    report_unknown(speak, jobs, skipped)
    logging.info(
        "%d utterances (%d without EOS; skipped: %s), %.1f s of speech, RTF %.3f, in %s",
        cost.utterances, cost.no_eos, skipped_summary(skipped), cost.seconds_audio, cost.rtf, args.output_dir,
    )  # fmt: skip
    remove_shards(args.output_dir)


def report_unknown(speak: CodecLM, jobs: dict[str, SpeechJob], skipped: dict[str, str]) -> None:
    """Say which tokens of the texts the model does not know, whoever spoke them.

    Args:
        speak: the model.
        jobs: utterance → what was spoken.
        skipped: utterances that were not.
    """
    speak.tokenizer.unknown.clear()
    for utt, job in jobs.items():
        if utt not in skipped:
            speak.tokenizer.encode(job.text)
    if speak.tokenizer.unknown:
        logging.warning("tokens outside of the vocabulary: %s", speak.tokenizer.describe_unknown())


if __name__ == "__main__":
    run(main)
