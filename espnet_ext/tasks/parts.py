"""Options of a training for what is trained beside a model, and the weights that it leaves as they are."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from espnet2.utils.nested_dict_action import NestedDictAction
from torch import Tensor, nn

from espnet_ext.errors import UserError
from espnet_ext.model.parts import parts


def add_arguments(group: argparse._ArgumentGroup) -> None:
    """The options, besides those of the model."""
    group.add_argument(
        "--parts", action=NestedDictAction, default={},
        help=f"What is trained beside the model, by name with options: {list(parts)}",
    )  # fmt: skip
    group.add_argument(
        "--train_only", type=names, default=[],
        help="Names of parts, separated by commas, that alone are trained: all other weights stay as they are",
    )  # fmt: skip


def names(text: str) -> list[str]:
    """The names between the commas."""
    return [name for name in text.split(",") if name]


def check_frozen(args: argparse.Namespace) -> None:
    """Refuse to train parts beside a model that nobody has trained.

    Args:
        args: parsed options.

    Raises:
        UserError: if there are no weights to begin with.
    """
    continued = args.resume and (Path(args.output_dir) / "checkpoint.pth").is_file()
    if args.train_only and not (args.init_from or args.init_param or continued):
        raise UserError(f"init_from must be given with train_only {args.train_only}, got none")


def frozen_weights(
    model: nn.Module, others: Mapping[str, Tensor], trained: Sequence[str], source: Path
) -> dict[str, Tensor]:
    """All of another model that this one keeps as it is, buffers too.

    Args:
        model: this model.
        others: name → tensor of the other one.
        trained: names of the parts that are trained.
        source: experiment of the other model.

    Returns:
        Name → tensor of everything but those parts.

    Raises:
        UserError: if the other model is not this one but for its parts; the message names the first difference.
    """
    beside = tuple(f"corelm.parts.{name}." for name in trained)
    own = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(beside)}
    unknown = [name for name in others if name not in own and not name.startswith("corelm.parts.")]
    differ = [name for name, tensor in own.items() if name not in others or others[name].shape != tensor.shape]
    if unknown or differ:
        first = f"without a fitting {differ[0]}" if differ else f"with {unknown[0]} besides"
        raise UserError(
            f"init_from must be of the same model with train_only {list(trained)}, got {source} {first} "
            f"({len(unknown) + len(differ)} such)"
        )
    return {name: others[name] for name in own}
