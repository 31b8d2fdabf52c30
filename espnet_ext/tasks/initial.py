"""A training that begins with the weights of another experiment: other frames per step, other heads, more speakers."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from espnet_ext.errors import UserError
from espnet_ext.storage.checkpoint import atomic_saves, averaged_model_file, check_finite, read_weights, weights_file
from espnet_ext.storage.yaml_files import read_yaml
from espnet_ext.tasks.parts import frozen_weights

FILE = "initial.pth"
SHOWN = 8  # names of parameters that begin anew


def write_initial_weights(args: argparse.Namespace, facts: Mapping[str, Any], build: Callable[[], nn.Module]) -> None:
    """Put the weights of `--init_from`, fitted to this model, where ESPnet reads them: `init_param` is set to the file.

    A training that is continued has weights of its own, and nothing is done.

    Args:
        args: parsed options.
        facts: what both experiments must have in common, by its name in config.yaml.
        build: makes the model of this run.

    Raises:
        FileNotFoundError: if the experiment has no weights.
        UserError: if it is of another codec, text or core LM, has weights that are not finite, or `init_param` is given
            as well, or parts alone are to be trained beside another model.
    """
    source, output = Path(args.init_from), Path(args.output_dir)
    if args.resume and (output / "checkpoint.pth").is_file():
        return
    if args.init_param:
        raise UserError(f"init_param must be left out with init_from, got {args.init_param}")
    config = {"g2p": "none", **read_yaml(source / "config.yaml", "init_from")}  # the first version had no g2p
    for name, now in facts.items():
        if config.get(name) != now:
            raise UserError(f"init_from must be an experiment with the same {name}, got {source}")
    checkpoint = source / weights_file(source, averaged_model_file(config))
    weights = read_weights(checkpoint, "init_from")
    check_finite(weights, checkpoint)
    torch.manual_seed(args.seed)  # what is not taken over may be written as well
    model = build()
    taken = fit_weights(model, weights, facts["codec_info"]["spec"]["num_codebooks"])
    if args.train_only:
        taken |= frozen_weights(model, weights, args.train_only, source)
    output.mkdir(parents=True, exist_ok=True)
    with atomic_saves():
        torch.save(taken, output / FILE)
    args.init_param, args.ignore_init_mismatch = [str(output / FILE)], False


def say_what_begins_anew(args: argparse.Namespace, model: nn.Module) -> None:
    """Log which parameters `--init_from` did not give, once the log is there.

    Args:
        args: parsed options, behind `write_initial_weights`.
        model: of this run.
    """
    if not args.init_param:  # the training is continued
        return
    taken = read_weights(Path(args.init_param[0]), "init_param")
    anew = [name for name, _ in model.named_parameters() if name not in taken]
    more = "" if len(anew) <= SHOWN else f" and {len(anew) - SHOWN} more"
    logging.info("init_from %s: %d tensors; anew: %s%s", args.init_from, len(taken), ", ".join(anew[:SHOWN]), more)


def fit_weights(model: nn.Module, others: Mapping[str, Tensor], codebooks: int) -> dict[str, Tensor]:
    """Another model's weights as far as they fit into this one.

    Parameters of the same name and shape are taken; buffers are facts of a model and no weights. A local transformer's
    positions are taken frame by frame, so that with more frames per step every one begins as the frame of the other
    model. Tables and classifiers fit where the frames of a step share them (`frame_tables: tied`), or where both models
    have the same frames per step. The classifiers of a local transformer are taken where both are residual or neither
    is: others mean something else.

    Args:
        model: this model.
        others: name → tensor of the other one.
        codebooks: N of both.

    Returns:
        Name → tensor.
    """
    taken, own = {}, model.state_dict()
    for name, tensor in model.named_parameters():
        other, head = others.get(name), name.rpartition(".heads.")[0]
        marker = f"{head}.adds_to_parallel"
        if other is None or (marker in own) != (marker in others):
            continue
        if other.shape == tensor.shape:
            taken[name] = other
        elif name.endswith(".position") and other.dim() == 2 and other.shape[1] == tensor.shape[1]:
            taken[name] = per_frame(other, tensor.detach(), codebooks)
    return taken


def per_frame(other: Tensor, own: Tensor, codebooks: int) -> Tensor:
    """Position 0 of the other model, that of the hidden vector, and its slots over and over: the shape of `own`.

    An autoregressive local transformer reads every code but the last; the position of that one stays this model's.
    """
    slots = torch.arange(len(own) - 1) % codebooks + 1
    known = slots < len(other)
    fitted = own.clone()
    fitted[0], fitted[1:][known] = other[0], other[slots[known]]
    return fitted
