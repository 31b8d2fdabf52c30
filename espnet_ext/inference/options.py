"""The options of the commands that speak, and what they say together: model, mode, decoding."""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from espnet_ext.data.streams import PAUSE_SEC, SILENCE_NAME
from espnet_ext.decoding import orders, strategies
from espnet_ext.decoding.options import LATER, SAMPLING, DecodeOptions
from espnet_ext.errors import UserError
from espnet_ext.fast.options import CHOICES
from espnet_ext.inference.decode_yaml import kept_options
from espnet_ext.inference.experiment import Experiment
from espnet_ext.inference.gpst_modes import NUM_UTTERANCES, SpeechMode
from espnet_ext.inference.model_ref import ModelRef
from espnet_ext.inference.requests import Mode, default_mode, modes, modes_of
from espnet_ext.jobs import Workers, add_worker_options
from espnet_ext.model.caches import caches
from espnet_ext.model.core_lm import CoreLM, TextCoreLM, corelms
from espnet_ext.options import boolean, check_number
from espnet_ext.storage.shipped import shipped_config
from espnet_ext.storage.yaml_files import add_pair

FAST = ("precision", "native", "compile")

Options = TypeVar("Options", bound=DecodeOptions)


def add_decode_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command that decodes a corpus, all but the mode."""
    parser.add_argument("--exp", type=Path, required=True, help="Experiment directory")
    parser.add_argument("--model_file", help="Weights inside of it; default: the average of the best epochs")
    parser.add_argument("--output_dir", type=Path, required=True)
    add_sampling_options(parser)
    parser.add_argument("--repeat", type=int, default=0, help="Number of the repetition, which is added to the seed")
    parser.add_argument(
        "--keep_config", action="store_true", help="Keep the configuration in --exp, for whoever speaks with it later"
    )
    parser.add_argument("--batch_size", type=int, default=16)
    add_worker_options(parser)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="Where the language model runs")
    parser.add_argument("--num_threads", type=int, default=1, help="Threads of each process")
    add_fast_options(parser)
    parser.add_argument("--log_level", default="INFO")
    # a mode reads some of these; None says that nothing was given
    parser.add_argument("--data_dir", type=Path, help="Data directory with text, or token directory of semantic_tokens")
    parser.add_argument("--prompts", type=Path, help="Table utterance → prompt utterance, instead of --data_dir's")
    parser.add_argument("--prompt_sec", type=float, help=f"Longest prompt; default: {SpeechMode.prompt_sec}")
    parser.add_argument("--silence_sec", type=float, help=f"Behind a prompt; default: {PAUSE_SEC}")
    parser.add_argument(
        "--text_to_semantic", type=Path, help="Experiment directory of the model in front, for mode tts"
    )
    parser.add_argument(
        "--mode_conf", action="append", default=[], metavar="K=V", help="Option of the mode alone; repeatable"
    )
    parser.add_argument("--num_utterances", type=int, help=f"For mode unconditional; default: {NUM_UTTERANCES}")
    parser.add_argument("--target_wav", help="Audio file of the utterance, instead of --data_dir")
    parser.add_argument("--prompt_wav", help="Audio file of the voice to speak with, instead of --data_dir")
    parser.add_argument("--text", help="What to say, instead of --data_dir")
    parser.add_argument("--language", help="Of all utterances; default: what utt2lang of --data_dir says")


def add_fast_options(parser: argparse.ArgumentParser) -> None:
    """Add what may be done to a model for the sake of speed, see docs/speed.md."""
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
    """The options of `add_fast_options` by name, as `ModelRef` takes them."""
    return {name: getattr(args, name) for name in FAST}


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """Add what may differ from a decode yaml."""
    parser.add_argument(
        "--inference_config",
        type=lambda given: Path(shipped_config(given)),
        help="Decode yaml, or name of one that comes with the package; default: the one that --exp keeps",
    )
    parser.add_argument("--decoding", help=f"Strategy, overrides the yaml's: one of {list(strategies)}")
    parser.add_argument("--order", help=f"How steps follow each other, overrides the yaml's: one of {list(orders)}")
    parser.add_argument("--cache", help=f"How keys and values are kept, overrides the yaml's: one of {list(caches)}")
    parser.add_argument("--seed", type=int, help="Overrides the yaml's")
    parser.add_argument("--retries", type=int, help="Times that a runaway is decoded again; default: 1 for say, else 0")
    parser.add_argument("--end_guard", type=float, help="Seconds behind the text's end after which speech must end")


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
    if args.inference_config is not None:
        options, source = kind.from_yaml(args.inference_config), args.inference_config
    else:
        options, source = kept_options(args.exp, args.decoding, kind)
    if source is not None:
        logging.info("decoding as %s says", source)
    names = ("decoding", "cache", "seed", *LATER, *SAMPLING)
    changes = {name: value for name in names if (value := getattr(args, name, None)) is not None}
    options = options.changed(**changes) if changes else options
    # not by `changed`, which first asks the strategy for an option of this name
    return options if args.order in (None, options.order) else replace(options, order=args.order, order_conf={})


def begin_log(args: argparse.Namespace) -> None:
    """Show what the command has to say, as far as it is asked for."""
    logging.basicConfig(level=args.log_level, format="%(asctime)s %(levelname)s: %(message)s")


def check_machine(args: argparse.Namespace) -> ModelRef:
    """The model of the options as this process can load it, after a look at how the work is to be shared."""
    begin_log(args)
    if args.batch_size < 1:
        raise UserError(f"batch_size must be at least 1, got {args.batch_size}")
    Workers(args.nj, args.dask_scheduler, args.num_threads)
    model = model_of(args)
    model.fast()
    # where the command of a cluster runs there may be no GPU, and nothing is decoded there
    plain = replace(model, device="cpu", precision=None, native=False, compile=False)
    return plain if args.dask_scheduler else model


def model_of(args: argparse.Namespace) -> ModelRef:
    """The model of the options as the workers load it."""
    silent = args.data_dir is not None and (args.data_dir / SILENCE_NAME).is_file()
    return ModelRef(
        args.exp,
        args.model_file,
        args.device,
        **fast_choices(args),
        batch_size=args.batch_size if args.precision else 1,
        most_rows=args.batch_size,
        text_to_semantic=getattr(args, "text_to_semantic", None),
        silence=args.data_dir if silent else None,
    )


def mode_class(args: argparse.Namespace) -> type[Mode]:
    """What is asked for, by the option or by the experiment's core LM; a UserError where it has to be named."""
    if args.mode is not None:
        return modes[args.mode]
    corelm: type[CoreLM] = TextCoreLM  # what is missing is said when it is loaded
    if (args.exp / "config.yaml").is_file():
        corelm = corelms[Experiment.read(args.exp, args.model_file).args.corelm]
    name = default_mode(corelm)
    if not name:
        raise UserError(f"mode must be given, one of {modes_of(corelm)}, for {args.exp}")
    return modes[name]


def check_options(args: argparse.Namespace) -> Mode:
    """What is asked for; a UserError names an option that would be ignored or contradicts another."""
    kind: Any = mode_class(args)
    own = next(one for one in modes if modes[one] is kind)
    for name in sorted({option for one in modes for option in modes[one].reads} - set(kind.reads)):
        if (value := getattr(args, name, None)) is not None:
            known = ", ".join(one for one in modes if name in modes[one].reads)
            raise UserError(f"{name} must be left out with mode {own}, got {value}: it is for {known}")
    conf: dict[str, Any] = {}
    for pair in args.mode_conf:
        add_pair(conf, pair, "mode_conf")
    seconds = {name: getattr(args, name) for name in ("prompt_sec", "silence_sec")}
    options = sorted(set(modes.options(own)) - set(seconds))
    if strangers := sorted(set(conf) - set(options)):
        raise UserError(f"mode_conf of {own} must be among {options}, got {strangers}")
    mode: Mode = kind(**conf, **{name: value for name, value in seconds.items() if value is not None})
    for name in ("prompts", "prompt_wav"):
        if getattr(args, name) is not None and not mode.prompted:
            raise UserError(f"{name} must be left out with prompt_sec 0, got {getattr(args, name)}")
    if args.num_utterances is not None:
        check_number("num_utterances", args.num_utterances, least=1, whole=True)
    if args.data_dir is None:
        if args.prompts is not None:
            raise UserError(f"prompts must be given with data_dir, got {args.prompts} without")
        return mode
    for name in ("target_wav", "prompt_wav", "text"):
        if getattr(args, name) is not None:
            raise UserError(f"{name} must not be given with data_dir, got {getattr(args, name)!r}")
    return mode
