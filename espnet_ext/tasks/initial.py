"""A training that begins with the weights of another experiment: other frames per step, other heads, more speakers."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from espnet_ext.checkpoint import atomic_saves, read_weights
from espnet_ext.config import read_yaml

FILE = "initial.pth"


def write_initial_weights(args: argparse.Namespace, facts: Mapping[str, Any], build: Callable[[], nn.Module]) -> None:
    """Put the weights of `--init_from`, fitted to this model, where ESPnet reads them: `init_param` is set to the file.

    Args:
        args: parsed options.
        facts: what both experiments must have in common, by its name in config.yaml.
        build: makes the model of this run.

    Raises:
        FileNotFoundError: if the experiment has no weights.
        ValueError: if it is of another codec, text or core LM.
    """
    source = Path(args.init_from)
    config = read_yaml(source / "config.yaml", "init_from")
    for name, now in facts.items():
        if config.get(name) != now:
            raise ValueError(f"init_from must be an experiment with the same {name}, got {source}")
    criterion = (config.get("best_model_criterion") or [("valid", "loss")])[0]
    weights = read_weights(source / f"{criterion[0]}.{criterion[1]}.ave.pth", "init_from")
    taken, left = fit_weights(build().state_dict(), weights, facts["codec_info"]["spec"]["num_codebooks"])
    logging.info(
        "init_from %s: %d tensors taken; %d begin anew: %s", source, len(taken), len(left), ", ".join(left[:8])
    )
    output = Path(args.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    with atomic_saves():
        torch.save(taken, output / FILE)
    args.init_param, args.ignore_init_mismatch = [str(output / FILE)], False


def fit_weights(
    own: Mapping[str, Tensor], others: Mapping[str, Tensor], codebooks: int
) -> tuple[dict[str, Tensor], list[str]]:
    """Another model's weights as far as they fit into this one, and the names of those that begin anew.

    What has the same name and shape is taken. A local transformer's positions are taken frame by frame, so that with
    more frames per step every one begins as the frame of the other model. Tables and classifiers fit where the frames
    of a step share them (`frame_tables: tied`), or where both models have the same frames per step.

    Args:
        own: name → tensor of this model.
        others: of the other one.
        codebooks: N of both.

    Returns:
        Name → tensor, and names.

    >>> positions = torch.tensor([[0.0], [1.0], [2.0]])  # of the hidden vector, and two codebooks
    >>> fit_weights({"a.position": torch.zeros(5, 1)}, {"a.position": positions}, 2)[0]["a.position"].flatten().tolist()
    [0.0, 1.0, 2.0, 1.0, 2.0]
    """
    taken = {}
    for name, tensor in own.items():
        other = others.get(name)
        if other is None:
            continue
        if other.shape == tensor.shape:
            taken[name] = other
        elif name.endswith(".position") and other.dim() == 2 and other.shape[1] == tensor.shape[1]:
            taken[name] = per_frame(other, tensor, codebooks)
    return taken, sorted(own.keys() - taken.keys())


def per_frame(other: Tensor, own: Tensor, codebooks: int) -> Tensor:
    """Position 0 of the other model, that of the hidden vector, and its slots over and over: the shape of `own`.

    An autoregressive local transformer reads every code but the last; the position of that one stays this model's.
    """
    slots = torch.arange(len(own) - 1) % codebooks + 1
    known = slots < len(other)
    fitted = own.clone()
    fitted[0], fitted[1:][known] = other[0], other[slots[known]]
    return fitted
