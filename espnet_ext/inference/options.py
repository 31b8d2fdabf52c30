"""What the options of commands that speak say together: model, mode, decoding."""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from espnet_ext.data.streams import SILENCE_NAME
from espnet_ext.decoding.options import LATER, SAMPLING, DecodeOptions
from espnet_ext.errors import UserError
from espnet_ext.inference.decode_yaml import kept_options
from espnet_ext.inference.experiment import Experiment
from espnet_ext.inference.model_ref import ModelRef
from espnet_ext.inference.requests import Mode, default_mode, modes_of
from espnet_ext.jobs import Workers
from espnet_ext.model.core_lm import CoreLM, TextCoreLM, corelms
from espnet_ext.options import check_number
from espnet_ext.registries import caches, depths, modes, orders, strategies
from espnet_ext.storage.pretrained import pretrained
from espnet_ext.storage.voice_files import VOICE_NAME
from espnet_ext.storage.yaml_files import add_pair

FAST = ("precision", "native", "compile")

Options = TypeVar("Options", bound=DecodeOptions)


def fast_choices(args: argparse.Namespace) -> dict[str, Any]:
    """What may be done to a model for the sake of speed, by the option, as `ModelRef` takes them."""
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
    if args.inference_config is not None:
        options, source = kind.from_yaml(args.inference_config), args.inference_config
    else:
        options, source = kept_options(args.exp, args.decoding, kind)
    if source is not None:
        logging.info("decoding as %s says", source)
    names = ("decoding", "cache", "depth", "seed", *LATER, *SAMPLING)
    changes = {name: value for name in names if (value := getattr(args, name, None)) is not None}
    # not by `changed`, which first asks the strategy for an option of this name; before what goes with that order
    if args.order not in (None, options.order):
        options = replace(options, order=args.order, order_conf={})
    return options.changed(**changes) if changes else options


def find_voice(args: argparse.Namespace, later: bool = False) -> None:
    """Put experiment directories in the place of what names them, fetched and unpacked where they have to be.

    A strategy, an order, a depth or a cache policy that there is not is told before that.

    Args:
        args: options of a command that speaks.
        later: leave it to whoever loads a directory to say that it is not there, behind what else is wrong.

    Raises:
        FileNotFoundError: if there is nothing of that name.
        UserError: if it cannot be fetched, is damaged, a name is unknown, or something is to be kept in what is not
            the user's directory.
    """
    named = (strategies, args.decoding), (orders, args.order), (depths, args.depth), (caches, args.cache)
    for registry, name in named:
        if name is not None:
            registry.check_options(name, {})
    given = args.exp
    try:
        args.exp, packed = pretrained(given)
    except FileNotFoundError:
        if not later or Path(given).suffix == ".zip":
            raise
        return
    args.model_file = args.model_file or packed
    if getattr(args, "keep_config", False) and (args.exp != given or (given / VOICE_NAME).is_file()):
        raise UserError(f"keep_config must be left out with a packed voice, which nobody changes, got {given}")
    if getattr(args, "text_to_semantic", None) is not None:
        args.text_to_semantic = pretrained(args.text_to_semantic).directory


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
