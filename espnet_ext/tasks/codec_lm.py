"""The ESPnet task: options, preprocessing and model building for codec language models."""

from __future__ import annotations

import argparse
import importlib.util
import logging
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from typeguard import typechecked

from espnet_ext.checkpoint import atomic_saves
from espnet_ext.codec import copy_codec, read_codec_info
from espnet_ext.codes import CodecSpec
from espnet_ext.core_lm import CoreLM, corelms, local_options
from espnet_ext.espnet_model import ESPnetCodecLMModel
from espnet_ext.g2p import g2ps
from espnet_ext.local_transformer import local_transformers
from espnet_ext.loss import LossWeights
from espnet_ext.preprocess import CodecLMPreprocessor, collate
from espnet_ext.primary import Primary, attention_priors, primaries
from espnet_ext.tasks.bpe import check_bpe, copy_bpe
from espnet_ext.tasks.checks import check_data, check_earlier_run, report_unknown_tokens
from espnet_ext.text import TOKEN_TYPES, TextSplitter, TextTokenizer, read_token_list
from espnet_ext.text_cleaners import CLEANERS
from espnet_ext.torchaudio_shim import import_torchaudio

import_torchaudio()  # ESPnet imports it at its top, where it may not load without the shim
from espnet2.tasks.abs_task import AbsTask  # noqa: E402
from espnet2.train.class_choices import ClassChoices  # noqa: E402
from espnet2.train.distributed_utils import get_rank  # noqa: E402
from espnet2.train.trainer import Trainer  # noqa: E402
from espnet2.utils.get_default_kwargs import get_default_kwargs  # noqa: E402
from espnet2.utils.nested_dict_action import NestedDictAction  # noqa: E402
from espnet2.utils.types import str_or_none  # noqa: E402

from espnet_ext.tasks import dry_run  # noqa: E402

CODEC_DIRECTORY = "codec"

corelm_choices = ClassChoices(
    "corelm", {name: corelms[name] for name in corelms}, type_check=CoreLM, default="codec_lm"
)
primary_choices = ClassChoices(
    "primary", {name: primaries[name] for name in primaries}, type_check=Primary, default="cross_attention"
)


def check_model_conf(conf: dict[str, object]) -> LossWeights:
    """The loss weights of `--model_conf`.

    Args:
        conf: weights by part of the loss.

    Returns:
        The weights.

    Raises:
        ValueError: if a part is unknown.
    """
    known = [field.name for field in fields(LossWeights)]
    unknown = sorted(set(conf) - set(known))
    if unknown:
        raise ValueError(f"model_conf must be among {known}, got {unknown}")
    return LossWeights(**conf)  # type: ignore[arg-type]  # yaml values, checked by use


class CodecLMTask(AbsTask):
    """Trains `CoreLM`s with ESPnet's trainer; `main()` is the command line."""

    num_optimizers = 1
    class_choices_list = [corelm_choices, primary_choices]
    trainer = Trainer

    @classmethod
    def get_parser(cls) -> argparse.ArgumentParser:
        """ESPnet's parser; a wrong option is answered by one line instead of the list of all options."""
        parser = super().get_parser()
        parser.usage = "codec_lm_train [options]   (--help lists them)"
        return parser

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Add the task's options to ESPnet's.

        Args:
            parser: the parser of `AbsTask`.
        """
        # what ESPnet would use by default and this model or this machine does not have
        parser.set_defaults(
            num_att_plot=0,
            unused_parameters=True,  # a batch without prompts does not use the context encoder
            use_matplotlib=importlib.util.find_spec("matplotlib") is not None,
            use_tensorboard=importlib.util.find_spec("tensorboard") is not None,
        )
        group = parser.add_argument_group("codec language model")
        group.add_argument("--token_list", type=str_or_none, default=None, help="Text tokens, one a line")
        group.add_argument("--token_type", default="char", choices=TOKEN_TYPES, help="What a text token is")
        group.add_argument("--bpemodel", type=str_or_none, default=None, help="SentencePiece model for bpe")
        group.add_argument("--cleaner", default="lower", choices=sorted(CLEANERS), help="Text cleaning")
        group.add_argument("--g2p", default="none", choices=list(g2ps), help="What makes phones for token_type phn")
        group.add_argument("--codec_info", type=str_or_none, default=None, help="codec_info.yaml of the codes")
        group.add_argument("--prompt_sec", type=float, default=3.0, help="Longest speaker prompt in seconds")
        group.add_argument("--frame_stacking_factor", type=int, default=1, help="Frames per primary step, S")
        group.add_argument(
            "--matmul_precision",
            default="highest",
            choices=["highest", "high", "medium"],
            help="float32 matrix products; medium is about twice as fast on CPUs with bf16 instructions",
        )
        group.add_argument("--model_conf", action=NestedDictAction, default={}, help="Weights of the loss")
        for choices in cls.class_choices_list:
            choices.add_arguments(group)
        group.add_argument(
            "--local",
            type=one_or_several,
            default="ar",
            help=f"Local transformer, or several separated by commas: none or of {list(local_transformers)}",
        )
        group.add_argument("--local_conf", action=NestedDictAction, default={}, help="Its options; of several by name")
        dry_run.add_arguments(parser.add_argument_group("dry run"))

    @classmethod
    @typechecked
    def build_collate_fn(cls, args: argparse.Namespace, train: bool) -> Callable[..., Any]:
        """The function that makes a batch of preprocessed utterances."""
        return collate

    @classmethod
    @typechecked
    def build_preprocess_fn(cls, args: argparse.Namespace, train: bool) -> CodecLMPreprocessor:
        """The preprocessor; it works before the model is built, too."""
        spec = codec_spec(args)
        return CodecLMPreprocessor(build_tokenizer(args), spec, prompt_frames(args, spec), train)

    @classmethod
    def required_data_names(cls, train: bool = True, inference: bool = False) -> tuple[str, ...]:
        """Data every utterance has."""
        return ("text",) if inference else ("text", "codes")

    @classmethod
    def optional_data_names(cls, train: bool = True, inference: bool = False) -> tuple[str, ...]:
        """Data an utterance may have."""
        return ("prompt", "codes") if inference else ("prompt",)

    @classmethod
    @typechecked
    def build_model(cls, args: argparse.Namespace) -> ESPnetCodecLMModel:
        """The model of the options; token list and codec facts are put into `args`, so config.yaml is complete.

        Args:
            args: parsed options, or those of a config.yaml.

        Returns:
            The model.
        """
        tokens = build_tokenizer(args).tokens
        spec = codec_spec(args)
        prompt_frames(args, spec)  # refuses what it cannot use
        args.token_list, args.codec_info = list(tokens), codec_facts(args)
        weights = check_model_conf(args.model_conf)
        # what stands before these in the constructor are options of the task, so that S is spelled in one place
        corelms.check_options(args.corelm, args.corelm_conf, given=7)
        args.local_conf = complete_local_conf("none" if args.local is None else args.local, args.local_conf)
        args.primary_conf = complete_primary_conf(args.primary, args.primary_conf)
        try:
            corelm = corelms[args.corelm](
                spec,
                len(tokens),
                primary=args.primary,
                primary_conf=args.primary_conf,
                local="none" if args.local is None else args.local,
                local_conf=args.local_conf,
                frame_stacking_factor=args.frame_stacking_factor,
                **args.corelm_conf,
            )
        except TypeError as error:  # a value of the wrong kind, found where it is used
            given = {name: getattr(args, name) for name in ("corelm_conf", "primary_conf", "local_conf")}
            raise ValueError(f"{error} in one of {given}") from None
        return ESPnetCodecLMModel(corelm, weights)

    @classmethod
    def check_required_command_args(cls, args: argparse.Namespace) -> None:
        """Refuse options, data and earlier runs that do not agree, before any process of a training is started.

        Args:
            args: parsed options; those of a dry run are changed to one process.
        """
        super().check_required_command_args(args)
        if args.dry_run:
            args.multiprocessing_distributed, args.ngpu = False, min(args.ngpu, 1)
        facts, tokenizer = codec_facts(args), build_tokenizer(args)
        for part in ("train", "valid"):
            data = getattr(args, f"{part}_data_path_and_name_and_type")
            check_data(data, getattr(args, f"{part}_shape_file"), facts["fingerprint"])
        if args.dry_run or args.collect_stats:
            return
        same = {name: getattr(args, name) for name in ("frame_stacking_factor", "token_type", "cleaner", "g2p")}
        same |= {"codec_info": facts, "token_list": tokenizer.tokens}
        if args.resume:
            build = argparse.Namespace(**vars(args))
            check_earlier_run(Path(args.output_dir), same, lambda: cls.build_model(build))
        check_bpe(args)

    @classmethod
    @typechecked
    def main_worker(cls, args: argparse.Namespace) -> None:
        """Train, collect statistics, or measure one step; called in every process of a training.

        Args:
            args: parsed options.
        """
        torch.set_float32_matmul_precision(args.matmul_precision)
        if args.dry_run or args.collect_stats:  # ESPnet sets the log up too late for what is said here
            logging.basicConfig(level=args.log_level, format="%(asctime)s %(levelname)s: %(message)s")
        if args.dry_run:
            dry_run.dry_run(cls, args)
            return
        if args.collect_stats:
            report_unknown_tokens(args, build_tokenizer(args))
        elif writes_files(args):
            if isinstance(args.codec_info, str):
                copy_codec(args.codec_info, Path(args.output_dir) / CODEC_DIRECTORY)
            copy_bpe(args)
        with atomic_saves():
            super().main_worker(args)


def writes_files(args: argparse.Namespace) -> bool:
    """Whether this process is the only one, or the first one, of a training."""
    return not args.distributed or get_rank(args.dist_rank, args.dist_launcher) == 0


def one_or_several(text: str) -> str | list[str]:
    """A name, or the names between the commas."""
    names = text.lower().split(",")
    return names if len(names) > 1 else names[0]


def complete_local_conf(local: str | list[str], conf: dict[str, Any]) -> dict[str, Any]:
    """The local transformers' options with all defaults, as ESPnet completes those of its class choices.

    Args:
        local: option of the task.
        conf: option of the task.

    Returns:
        Options, or options by name where `local` is a list.
    """
    options = local_options(local, conf)
    complete = {name: {**get_default_kwargs(local_transformers[name]), **own} for name, own in options.items()}
    return complete.get(local, {}) if isinstance(local, str) else complete


def complete_primary_conf(primary: str, conf: dict[str, Any]) -> dict[str, Any]:
    """The primary transformer's options with the defaults of its attention prior, where it has one.

    Args:
        primary: option of the task.
        conf: option of the task.

    Returns:
        The options.
    """
    complete = {**get_default_kwargs(primaries[primary]), **conf}
    own = complete.get("prior_conf") or {}
    if complete.get("prior") not in attention_priors or not isinstance(own, dict):
        return conf  # there is no prior, or the primary says what is wrong
    return {**complete, "prior_conf": {**get_default_kwargs(attention_priors[complete["prior"]]), **own}}


def build_tokenizer(args: argparse.Namespace) -> TextTokenizer:
    """The tokenizer of the options `token_list`, `token_type`, `bpemodel`, `cleaner` and `g2p`.

    Args:
        args: parsed options; `token_list` is a file, or the tokens themselves in a config.yaml.

    Returns:
        The tokenizer.

    Raises:
        ValueError: if there is no token list.
    """
    if args.token_list is None:
        raise ValueError("token_list must be a file of text tokens, got none")
    tokens = read_token_list(Path(args.token_list)) if isinstance(args.token_list, str) else args.token_list
    bpemodel = Path(args.bpemodel) if args.bpemodel else None
    g2p = getattr(args, "g2p", "none")  # the config.yaml of the first version has none
    return TextTokenizer(TextSplitter(args.token_type, bpemodel, args.cleaner, g2p), tokens)


def codec_facts(args: argparse.Namespace) -> dict[str, Any]:
    """Name, fingerprint and spec of the codec, as config.yaml keeps them.

    Args:
        args: parsed options; `codec_info` is a file, or these facts themselves in a config.yaml.

    Returns:
        The facts.

    Raises:
        ValueError: if there is no codec.
    """
    if args.codec_info is None:
        raise ValueError("codec_info must be the codec_info.yaml of the codes, got none")
    if not isinstance(args.codec_info, str):
        return dict(args.codec_info)
    info = read_codec_info(args.codec_info)
    return {"codec": info.codec, "fingerprint": info.fingerprint, "spec": asdict(info.spec)}


def codec_spec(args: argparse.Namespace) -> CodecSpec:
    """The codec's facts that a model needs."""
    return CodecSpec(**codec_facts(args)["spec"])


def prompt_frames(args: argparse.Namespace, spec: CodecSpec) -> int:
    """Longest speaker prompt in codec frames."""
    if args.prompt_sec < 0:
        raise ValueError(f"prompt_sec must be at least 0, got {args.prompt_sec}")
    return round(args.prompt_sec * spec.frame_rate_hz)
