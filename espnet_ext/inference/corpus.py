"""What the commands that decode a corpus share: their options, the shards, the output directory, the report."""

from __future__ import annotations

import argparse
import functools
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from espnet_ext.data.ark import codes_writer
from espnet_ext.data.datadir import skipped_summary, write_scp, write_skipped
from espnet_ext.decoding import strategies
from espnet_ext.decoding.options import DecodeOptions
from espnet_ext.errors import UserError
from espnet_ext.fast.options import CHOICES
from espnet_ext.inference.codec_lm import CodecLM
from espnet_ext.inference.speech import Timing, total
from espnet_ext.inference.speech_jobs import Model, Spoken, Voice, speak_shard
from espnet_ext.inputs.kinds import CODEC_DIRECTORY
from espnet_ext.jobs import Work, Workers, add_worker_options, remove_shards, run_shards
from espnet_ext.jobs.finished import content_hash
from espnet_ext.options import boolean
from espnet_ext.storage.atomic import atomic_path
from espnet_ext.storage.yaml_files import read_yaml
from espnet_ext.tokenizers.codec import INFO_NAME, read_codec_info

TIMING = "timing.json"
FAST = ("precision", "native", "compile")
STARTUP_SECONDS = 8.0  # a process imports ESPnet and loads the model

Options = TypeVar("Options", bound=DecodeOptions)
Job = TypeVar("Job")


def add_decode_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that decodes a corpus.

    Args:
        parser: of the command.
    """
    parser.add_argument("--exp", type=Path, required=True, help="Experiment directory")
    parser.add_argument("--model_file", help="Weights inside of it; default: the average of the best epochs")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--inference_config", type=Path, help="Decode yaml")
    parser.add_argument("--decoding", help=f"Strategy, overrides the yaml's: one of {list(strategies)}")
    parser.add_argument("--seed", type=int, help="Overrides the yaml's")
    parser.add_argument("--batch_size", type=int, default=16)
    add_worker_options(parser)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="Where the language model runs")
    parser.add_argument("--num_threads", type=int, default=1, help="Threads of each process")
    add_fast_options(parser)
    parser.add_argument("--log_level", default="INFO")


def add_fast_options(parser: argparse.ArgumentParser) -> None:
    """Add what may be done to a model for the sake of speed, see docs/speed.md.

    Args:
        parser: of the command.
    """
    parser.add_argument(
        "--precision",
        choices=CHOICES,
        help="Pack the weights: float32 keeps the codes up to rounding, auto is what is fastest; default: not at all",
    )
    parser.add_argument(
        "--native", type=boolean, default=False, help="With --precision: steps in a C++ kernel, on a CPU"
    )
    parser.add_argument("--compile", type=boolean, default=False, help="With --precision: torch.compile")


def fast_choices(args: argparse.Namespace) -> dict[str, Any]:
    """The options of `add_fast_options` by name, as `Model` takes them."""
    return {name: getattr(args, name) for name in FAST}


def decode_options(args: argparse.Namespace, kind: type[Options]) -> Options:
    """Options of the yaml, overridden by those of the command line.

    Args:
        args: options of the command.
        kind: class of the result.

    Returns:
        The options.

    Raises:
        FileNotFoundError: if there is no such yaml.
        UserError: naming the option that is wrong, and the yaml.
    """
    path: Path | None = args.inference_config
    content = {} if path is None else read_yaml(path, "inference_config")
    try:
        options = kind.from_mapping(content)
    except ValueError as error:
        raise UserError(f"{error} (in {path})") from None
    if args.decoding is not None and args.decoding != options.decoding:
        # options of another strategy mean nothing to this one
        options = replace(options, decoding=args.decoding, decoding_conf={})
    return options if args.seed is None else replace(options, seed=args.seed)


def check_machine(args: argparse.Namespace) -> Model:
    """The model of the options as this process can load it, after a look at how the work is to be shared.

    Args:
        args: options of the command.

    Returns:
        The model.

    Raises:
        UserError: naming the option that is wrong.
    """
    logging.basicConfig(level=args.log_level, format="%(asctime)s %(levelname)s: %(message)s")
    if args.batch_size < 1:
        raise UserError(f"batch_size must be at least 1, got {args.batch_size}")
    Workers(args.nj, args.dask_scheduler, args.num_threads)
    model = model_of(args)
    model.fast()
    # where the command of a cluster runs there may be no GPU, and nothing is decoded there
    return Model(args.exp, args.model_file) if args.dask_scheduler else model


def model_of(args: argparse.Namespace) -> Model:
    """The model of the options as the workers load it.

    Args:
        args: options of the command.

    Returns:
        The model.
    """
    batch_size = args.batch_size if args.precision else 1
    return Model(args.exp, args.model_file, args.device, **fast_choices(args), batch_size=batch_size)


def check_codec(exp: Path, data_dir: Path, scp: str = "prompt.scp") -> None:
    """Refuse codes that another codec made, or nobody knows which.

    Args:
        exp: experiment directory.
        data_dir: directory with the codes.
        scp: the file in it that lists them.

    Raises:
        FileNotFoundError: if there are codes without a codec_info.yaml beside them.
        UserError: if the codec_info.yaml of both name different codecs.
    """
    if not (data_dir / INFO_NAME).is_file():
        if (data_dir / scp).is_file():
            raise FileNotFoundError(f"{data_dir / INFO_NAME} not found: it must tell which codec made {scp}")
        return
    expected, found = (read_codec_info(path) for path in (exp / CODEC_DIRECTORY, data_dir))
    if expected.fingerprint != found.fingerprint:
        told = [f"{info.fingerprint[:12]}… ({info.spec.num_codebooks} codebooks)" for info in (expected, found)]
        raise UserError(f"data_dir {data_dir} must hold codes of codec {told[0]} as {exp}, got {told[1]}")


def speak_corpus(
    voice: Voice[Any, Job, Any],
    options: DecodeOptions,
    jobs: Mapping[str, Job],
    skipped: dict[str, str],
    files: Callable[[Job], Iterable[Path]],
    args: argparse.Namespace,
    label: str,
    facts: Mapping[str, object],
) -> Timing:
    """Write codes, wavs, scores, status, skipped and timing, and log one line about them.

    Args:
        voice: who speaks; its work is shared by processes.
        options: how it is decoded.
        jobs: utterance → what to speak.
        skipped: utterance → reason; gets those that turn out to be impossible.
        files: the files that a job reads and makes.
        args: options of the command.
        label: of the progress bar.
        facts: plain values that the speech depends on besides jobs, options and weights; they go into timing.json.

    Returns:
        What it cost.

    Raises:
        UserError: if no utterance can be spoken.
    """
    request = {**_request(args), **facts, **asdict(options)}
    speak: Callable[[Mapping[str, Job]], tuple[dict[str, Spoken | str], Timing]]
    speak = functools.partial(speak_shard, voice)
    work = Work(speak, request, label, args.batch_size, files, first=args.batch_size)
    if args.force:
        remove_shards(args.output_dir)
    cost, spoken = _run(work, jobs, skipped, args)
    write_skipped(args.output_dir / "skipped", skipped)
    if not spoken:
        first = next(iter(skipped), "nothing was asked for")
        where = getattr(args, "data_dir", None) or args.output_dir
        raise UserError(f"{where} must have utterances that can be spoken: {first}: {skipped.get(first, '')}")
    _write_tables(args.output_dir, spoken, skipped)
    machine = {name: getattr(args, name) for name in ("batch_size", "num_threads", "device", *FAST)}
    timing = {**asdict(cost), **cost.rates(), **machine, **facts, **options.complete()}
    with atomic_path(args.output_dir / TIMING) as temporary:
        temporary.write_text(json.dumps(timing, indent=2) + "\n", encoding="utf-8")
    logging.info(
        "%d utterances (%d without EOS; skipped: %s), %.1f s of speech, RTF %.3f, in %s",
        cost.utterances, cost.no_eos, skipped_summary(skipped), cost.seconds_audio, cost.rtf, args.output_dir,
    )  # fmt: skip
    return cost


def _run(
    work: Work[Job, tuple[dict[str, Spoken | str], Timing]],
    jobs: Mapping[str, Job],
    skipped: dict[str, str],
    args: argparse.Namespace,
) -> tuple[Timing, dict[str, Spoken]]:
    spoken: dict[str, Spoken] = {}
    timings = []
    workers = Workers(args.nj, args.dask_scheduler, args.num_threads, STARTUP_SECONDS)
    for _, (results, timing) in run_shards(work, jobs, args.output_dir, workers):
        timings.append(timing)
        skipped.update({utt: result for utt, result in results.items() if isinstance(result, str)})
        spoken.update({utt: result for utt, result in results.items() if not isinstance(result, str)})
    return total(timings), spoken


def _write_tables(directory: Path, spoken: Mapping[str, Spoken], skipped: Mapping[str, str]) -> None:
    with codes_writer(directory) as write:
        for utt in sorted(spoken):
            write(utt, spoken[utt].codes)
    write_scp(directory / "wav.scp", {utt: wav_of(directory, utt) for utt in spoken})
    write_scp(directory / "score", {utt: f"{result.logprob:.4f}" for utt, result in spoken.items()})
    status = {utt: "ok" if result.has_eos else "no_eos" for utt, result in spoken.items()}
    write_scp(directory / "status", {**status, **dict.fromkeys(skipped, "skipped")})


def wav_of(directory: Path, utterance: str) -> Path:
    """Audio file of an utterance in an output directory."""
    return directory / "wav" / f"{utterance}.wav"


def _request(args: argparse.Namespace) -> dict[str, object]:
    """What the speech depends on besides options and jobs."""
    chosen = {name: getattr(args, name) for name in ("model_file", "batch_size", "num_threads", "device")}
    # what was decoded before these options came stays finished
    fast = {name: value for name, value in fast_choices(args).items() if value}
    return {**model_state(args.exp), **chosen, **fast}


def model_state(exp: Path) -> dict[str, object]:
    """What changes with a model: plain values.

    Args:
        exp: experiment directory.

    Returns:
        Sizes and times of the weights, and a digest of config.yaml.
    """
    weights = {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in sorted(exp.glob("*.pth"))}
    return {"weights": weights, "config": content_hash(exp / "config.yaml")}


def report_unknown(speak: CodecLM, texts: Mapping[str, str], skipped: Mapping[str, str]) -> None:
    """Say which tokens of the texts the model does not know, whoever spoke them.

    Args:
        speak: the model.
        texts: utterance → what was spoken.
        skipped: utterances that were not.
    """
    speak.tokenizer.unknown.clear()
    for utt, text in texts.items():
        if utt not in skipped:
            speak.tokenizer.encode(text)
    if speak.tokenizer.unknown:
        logging.warning("tokens outside of the vocabulary: %s", speak.tokenizer.describe_unknown())
