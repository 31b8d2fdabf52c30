"""The ESPnet task: options, preprocessing and model building for codec language models."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import sys
from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any, TextIO

import espnet2
import numpy as np
import torch
from espnet2.tasks.abs_task import AbsTask
from espnet2.train.class_choices import ClassChoices
from espnet2.train.distributed_utils import get_rank
from espnet2.train.trainer import Trainer
from espnet2.utils.nested_dict_action import NestedDictAction
from espnet2.utils.types import float_or_none, int_or_none, str2bool, str_or_none
from numpy.typing import NDArray
from typeguard import typechecked

from espnet_ext.data.inputs import Inputs, input_kinds
from espnet_ext.data.inputs.checks import check_data, check_earlier_run, check_gain_criteria, check_names
from espnet_ext.data.inputs.lengths import speech_limits, training_lengths
from espnet_ext.data.preprocess import Array, Preprocess, collate
from espnet_ext.errors import UserError
from espnet_ext.model.build import ModelOptions
from espnet_ext.model.core_lm import corelms
from espnet_ext.model.heads import local_transformers
from espnet_ext.model.loss import LossWeights
from espnet_ext.model.primary import AttentionPrior, primaries
from espnet_ext.registry import Registry
from espnet_ext.storage.checkpoint import atomic_saves, data_only_loads
from espnet_ext.storage.checksums import forget
from espnet_ext.storage.lock import claim
from espnet_ext.tasks import dry_run, parts
from espnet_ext.tasks.espnet_model import ESPnetCodecLMModel
from espnet_ext.tasks.espnet_version import check_espnet
from espnet_ext.tasks.initial import say_what_begins_anew, write_initial_weights
from espnet_ext.tasks.parts import check_frozen
from espnet_ext.tokenizers.text.cleaners import CLEANERS
from espnet_ext.tokenizers.text.g2p import g2ps
from espnet_ext.tokenizers.text.tokens import NUMBERS, TOKEN_TYPES


def choices_of(registry: Registry[Any], default: str) -> ClassChoices:
    """ESPnet's choice of a class of a registry, those that other packages register included."""
    choices = ClassChoices(registry.kind, {}, default=default)
    choices.classes = registry  # read when a command is parsed
    return choices


def check_model_conf(conf: dict[str, object]) -> LossWeights:
    """The loss weights of `--model_conf`.

    Args:
        conf: weights by part of the loss.

    Returns:
        The weights.

    Raises:
        UserError: if a part is unknown.
    """
    known = [field.name for field in fields(LossWeights)]
    unknown = sorted(set(conf) - set(known))
    if unknown:
        raise UserError(f"model_conf must be among {known}, got {unknown}")
    return LossWeights(**conf)  # type: ignore[arg-type]  # yaml values, checked by use


class CodecLMTask(AbsTask):
    """Trains `CoreLM`s with ESPnet's trainer; `main()` is the command line."""

    num_optimizers = 1
    class_choices_list = [choices_of(corelms, "codec_lm"), choices_of(primaries, "cross_attention")]
    trainer = Trainer

    @classmethod
    def get_parser(cls) -> argparse.ArgumentParser:
        """ESPnet's parser; a wrong option is answered by one line instead of the list of all options."""
        parser = super().get_parser()
        parser.usage = "codec_lm_train [options]   (--help lists them)"
        return parser

    @classmethod
    def get_default_config(cls) -> dict[str, Any]:
        """What `--print_config` prints: ESPnet's defaults, and those of all options of the model."""
        config = super().get_default_config()
        return {**config, **ModelOptions.of(argparse.Namespace(**config)).complete().confs()}

    @classmethod
    def print_config(cls, file: TextIO | None = None) -> None:
        """Print what `get_default_config` says; ESPnet's own default is the stdout of its import, which was another."""
        super().print_config(sys.stdout if file is None else file)

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
        group.add_argument("--numbers", default="auto", choices=NUMBERS, help="Language of numbers that no token says")
        group.add_argument("--g2p", default="none", choices=list(g2ps), help="What makes phones for token_type phn")
        group.add_argument("--codec_info", type=str_or_none, default=None, help="codec_info.yaml of the codes")
        group.add_argument("--semantic_info", type=str_or_none, default=None, help="semantic_info.yaml of the units")
        group.add_argument("--prompt_sec", type=float, default=3.0, help="Longest speaker prompt in seconds")
        group.add_argument("--crop_sec", type=float, default=0.0, help="gpst: longest utterance; 0: no limit")
        group.add_argument(
            "--join_prompt", type=float, default=0.0, help="gpst: probability to train an utterance behind its prompt"
        )
        group.add_argument(
            "--frames_per_token", type=float_or_none, default=None,
            help="Frames per token of nearly all utterances, for the limit of decoding; default: from the shape files",
        )  # fmt: skip
        group.add_argument(
            "--longest", type=int_or_none, default=None,
            help="Most tokens of an utterance; longer texts are spoken in parts; default: from the shape files",
        )  # fmt: skip
        group.add_argument("--speech_limits", action=NestedDictAction, default={}, help="Default: measured")
        group.add_argument("--frame_stacking_factor", type=int, default=1, help="Frames per primary step, S")
        group.add_argument(
            "--matmul_precision",
            default="highest",
            choices=["highest", "high", "medium", "bf16"],
            help="float32 matrix products; medium rounds their operands, bf16 computes whole layers so (autocast) "
            "where the processor or the GPU has instructions for it, and is medium elsewhere",
        )
        group.add_argument(
            "--init_from", type=str_or_none, default=None,
            help="Experiment whose weights the training begins with, as far as they fit; frames per step may differ",
        )  # fmt: skip
        group.add_argument("--trust", type=str2bool, default=False, help="Read checkpoints though they may run code")
        group.add_argument("--model_conf", action=NestedDictAction, default={}, help="Weights of the loss")
        for choices in cls.class_choices_list:
            choices.add_arguments(group)
        allowed = f"Local transformer, or several separated by commas: none or of {list(local_transformers)}"
        group.add_argument("--local", type=one_or_several, default="ar", help=allowed)
        group.add_argument("--local_conf", action=NestedDictAction, default={}, help="Its options; of several by name")
        parts.add_arguments(group)
        dry_run.add_arguments(parser.add_argument_group("dry run"))

    @classmethod
    @typechecked
    def build_collate_fn(cls, args: argparse.Namespace, train: bool) -> Callable[..., Any]:
        """The function that makes a batch of preprocessed utterances."""
        return collate

    @classmethod
    @typechecked
    def build_preprocess_fn(cls, args: argparse.Namespace, train: bool) -> Preprocess:
        """The preprocessor; it works before the model is built, too."""
        inputs = inputs_of(args)
        preprocess = inputs.preprocessor(train)
        return Counting(preprocess, (*inputs.required, *inputs.optional)) if args.collect_stats else preprocess

    @classmethod
    def required_data_names(cls, train: bool = True, inference: bool = False) -> tuple[str, ...]:
        """Data every utterance has, whatever the core LM reads besides."""
        return () if inference else ("codes",)

    @classmethod
    def optional_data_names(cls, train: bool = True, inference: bool = False) -> tuple[str, ...]:
        """Data an utterance may have; `check_required_command_args` knows what the core LM insists on."""
        kinds = [input_kinds[name] for name in input_kinds]
        return tuple(sorted({name for kind in kinds for name in (*kind.required, *kind.optional)}))

    @classmethod
    @typechecked
    def build_model(cls, args: argparse.Namespace) -> ESPnetCodecLMModel:
        """The model of the options; token list and codec facts are put into `args`, so config.yaml is complete.

        Args:
            args: parsed options, or those of a config.yaml.

        Returns:
            The model.
        """
        inputs = inputs_of(args)
        vars(args).update(inputs.facts)
        weights = check_model_conf(args.model_conf)
        options = ModelOptions.of(args).complete()
        vars(args).update(options.confs())
        corelm = options.build(inputs.spec, inputs.vocabulary)
        corelm.train_only(getattr(args, "train_only", []))  # which older versions did not write
        return ESPnetCodecLMModel(corelm, weights, autocast=args.matmul_precision == "bf16")

    @classmethod
    def build_optimizers(cls, args: argparse.Namespace, model: torch.nn.Module) -> list[torch.optim.Optimizer]:
        """ESPnet's optimisers, whose steps the attention prior counts, so that it does not depend on `accum_grad`."""
        optimizers = super().build_optimizers(args, model)
        if args.init_from is not None and writes_files(args):
            say_what_begins_anew(args, model)
        for module in model.modules():
            if isinstance(module, AttentionPrior) and not args.train_only:
                module.follow(optimizers[0])
        return list(optimizers)

    @classmethod
    def check_required_command_args(cls, args: argparse.Namespace) -> None:
        """Refuse options, data and earlier runs that do not agree, before any process of a training is started.

        Args:
            args: parsed options; those of a dry run are changed to one process.
        """
        super().check_required_command_args(args)
        if args.dry_run:
            args.multiprocessing_distributed, args.ngpu = False, min(args.ngpu, 1)
        inputs = inputs_of(args)
        inputs.check()
        for part in ("train", "valid"):
            data = inputs.complete(getattr(args, f"{part}_data_path_and_name_and_type"))
            setattr(args, f"{part}_data_path_and_name_and_type", data)
            check_names(data, inputs.required, part)
            check_data(data, getattr(args, f"{part}_shape_file"), inputs.fingerprints)
        if args.dry_run or args.collect_stats:
            return
        read = next(iter(name for name in inputs.required if name != "codes"), "")
        lengths = training_lengths(args.train_shape_file, read)
        for name in ("frames_per_token", "longest"):
            if getattr(args, name) is None:
                setattr(args, name, getattr(lengths, name))
        if not args.speech_limits:
            tables = [path for path, name, _ in args.train_data_path_and_name_and_type if name == "codes"]
            args.speech_limits = speech_limits(
                tables, inputs.spec, lengths.most, bool(inputs.codec.get("deduplicate", False))
            )
        local = [args.local] if isinstance(args.local, str) else args.local or []
        heads = [] if args.corelm_conf.get("parallel_heads") is False else ["parallel"]
        check_gain_criteria(
            args.best_model_criterion,
            heads + [name for name in local if name != "none"],
            args.frame_stacking_factor,
            validation_rows(args),
        )
        same, build = {"corelm": args.corelm, **inputs.facts}, argparse.Namespace(**vars(args))
        if args.resume:
            before = {**same, "frame_stacking_factor": args.frame_stacking_factor}
            check_earlier_run(Path(args.output_dir), before, lambda: cls.build_model(build), args.trust)
        check_frozen(args)
        if args.init_from is not None:
            write_initial_weights(args, same, lambda: cls.build_model(build))

    @classmethod
    @typechecked
    def main_worker(cls, args: argparse.Namespace) -> None:
        """Train, collect statistics, or measure one step; called in every process of a training.

        Args:
            args: parsed options.
        """
        check_espnet(espnet2.__version__)
        torch.set_float32_matmul_precision("medium" if args.matmul_precision == "bf16" else args.matmul_precision)
        if args.dry_run or args.collect_stats:  # ESPnet sets the log up too late for what is said here
            logging.basicConfig(level=args.log_level, format="%(asctime)s %(levelname)s: %(message)s")
        if args.dry_run:
            dry_run.dry_run(cls, args, inputs_of(args))
            return
        first = writes_files(args)
        with claim(args.output_dir) if first else nullcontext(), atomic_saves(), data_only_loads(args.trust):
            if args.collect_stats:
                inputs_of(args).report()
            elif first:
                inputs_of(args).keep()
                forget(Path(args.output_dir) / "config.yaml")  # ESPnet writes it anew
            super().main_worker(args)


class Counting:
    """A preprocessor for statistics, which tell the lengths of texts as well that the core LM does not read.

    A recipe makes batches by the lengths of what it names, whatever the core LM reads of it.

    Args:
        preprocess: that of the core LM.
        read: names of data that the core LM knows.
    """

    def __init__(self, preprocess: Preprocess, read: Collection[str]) -> None:
        self.preprocess, self.read = preprocess, read

    def __call__(self, utt_id: str, data: Mapping[str, str | NDArray[np.integer]]) -> dict[str, Array]:
        """The arrays of the core LM, and of every other text as many zeros as it has letters."""
        others = {name: len(value) for name, value in data.items() if name not in self.read and isinstance(value, str)}
        zeros = {name: np.zeros(length, dtype=np.int64) for name, length in others.items()}
        return {**zeros, **self.preprocess(utt_id, data)}


def inputs_of(args: argparse.Namespace) -> Inputs:
    """What the core LM of the options is given."""
    return input_kinds[ModelOptions.of(args).reads](args)


def writes_files(args: argparse.Namespace) -> bool:
    """Whether this process is the only one, or the first one, of a training."""
    return not args.distributed or get_rank(args.dist_rank, args.dist_launcher) == 0


def validation_rows(args: argparse.Namespace) -> int:
    """Utterances of a batch of validation; as many as there are where batches are limited by their size."""
    kind = args.valid_batch_type or args.batch_type
    if kind in ("length", "numel"):
        return sys.maxsize
    return args.batch_size if args.valid_batch_size is None else args.valid_batch_size


def one_or_several(text: str) -> str | list[str]:
    """A name, or the names between the commas."""
    names = text.lower().split(",")
    return names if len(names) > 1 else names[0]
