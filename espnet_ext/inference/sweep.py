"""What a sweep consists of: every checkpoint with every strategy and every setting that means something to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from espnet_ext.decoding import orders, strategies
from espnet_ext.decoding.options import SAMPLING, DecodeOptions
from espnet_ext.errors import UserError
from espnet_ext.inference.decode_yaml import Base
from espnet_ext.storage.yaml_files import read_yaml

Settings = Mapping[str, Sequence[Any]]  # name of an option → its values


@dataclass(frozen=True)
class Checkpoint:
    """A trained model.

    Attributes:
        exp: experiment directory.
        stacking: S, frames per step.
    """

    exp: Path
    stacking: int

    @classmethod
    def read(cls, exp: Path) -> Checkpoint:
        """The checkpoint of an experiment.

        Args:
            exp: experiment directory.

        Returns:
            The checkpoint.

        Raises:
            FileNotFoundError: if it has no config.yaml.
            UserError: if that is not one of a codec language model.
        """
        stacking = read_yaml(exp / "config.yaml", "config.yaml").get("frame_stacking_factor")
        if not isinstance(stacking, int):
            raise UserError(f"exp must be an experiment of codec_lm_train, got {exp}")
        return cls(exp, stacking)


@dataclass(frozen=True)
class Cell:
    """One row of the table: a checkpoint, a strategy and its settings.

    Attributes:
        name: s{S}_{strategy}, and what was varied.
        checkpoint: the model.
        options: how it is decoded.
        source: the yaml that has what is not varied.
    """

    name: str
    checkpoint: Checkpoint
    options: DecodeOptions
    source: Path


def parse_settings(pairs: Iterable[str]) -> dict[str, list[Any]]:
    """Values of options.

    Args:
        pairs: NAME=VALUE,VALUE,… each.

    Returns:
        Name → values.

    Raises:
        UserError: if one has no "=" or no value, or is given twice.

    >>> parse_settings(["n_rounds=1,3", "order=purity"])
    {'n_rounds': [1, 3], 'order': ['purity']}
    """
    settings: dict[str, list[Any]] = {}
    for pair in pairs:
        name, _, values = pair.partition("=")
        if not name or not values:
            raise UserError(f"--set must be NAME=VALUE,VALUE,…, got {pair!r}")
        if name in settings:
            raise UserError(f"--set must name every option once, got {name!r} twice")
        settings[name] = [yaml.safe_load(value) for value in values.split(",")]
    return settings


def check_settings(settings: Settings, bases: Iterable[Base]) -> None:
    """Refuse an option that means nothing to any of the strategies or their orders, before anything runs.

    Args:
        settings: what is varied.
        bases: the strategies, with the options that are not varied.

    Raises:
        UserError: naming the options that there are.
    """
    told = [base.options for base in bases]
    decodings, steps = (list(dict.fromkeys(getattr(one, name) for one in told)) for name in ("decoding", "order"))
    known = {*SAMPLING, *(name for strategy in decodings for name in strategies.options(strategy))}
    known |= {name for order in steps for name in orders.options(order)}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise UserError(
            f"--set must name options of {decodings}, of the sampler or of order {steps}, {sorted(known)}, "
            f"got {unknown}"
        )


def vary(base: DecodeOptions, settings: Settings) -> list[tuple[str, DecodeOptions]]:
    """Options of every combination of those settings that mean something to the strategy or its order.

    Args:
        base: strategy and options that are not varied.
        settings: what is varied.

    Returns:
        What was varied, as the end of a name, and the options.

    Raises:
        UserError: if a value is impossible.

    >>> [name for name, _ in vary(DecodeOptions("local_maskgit"), {"n_rounds": [1, 3], "threshold": [0.5]})]
    ['_n_rounds-1', '_n_rounds-3']
    """
    own = {*strategies.options(base.decoding), *SAMPLING}
    names = [name for name in settings if name in own or name in orders.options(base.order)]
    found = []
    for values in product(*(settings[name] for name in names)):
        chosen = dict(zip(names, values, strict=True))
        options = base.changed(**{name: value for name, value in chosen.items() if name in own})
        of_order = {name: value for name, value in chosen.items() if name not in own}
        options = replace(options, order_conf={**options.order_conf, **of_order})
        found.append(("".join(f"_{name}-{value}" for name, value in chosen.items()), options))
    return found


def plan(checkpoints: Sequence[Checkpoint], bases: Sequence[Sequence[Base]], settings: Settings) -> list[Cell]:
    """All cells, checkpoint by checkpoint.

    Args:
        checkpoints: the models.
        bases: of each of them, the strategies with the options that are not varied.
        settings: what is varied.

    Returns:
        The cells, with different names: where two models have the same S, that of the experiment is part of them.

    Raises:
        UserError: if a value is impossible, or two models have the same name.
    """
    counts = [one.stacking for one in checkpoints]
    cells = []
    for one, of_model in zip(checkpoints, bases, strict=True):
        model = f"_{one.exp.name}" if counts.count(one.stacking) > 1 else ""
        for base, source in of_model:
            for label, options in vary(base, settings):
                cells.append(Cell(f"s{one.stacking}_{base.decoding}{label}{model}", one, options, source))
    names = [cell.name for cell in cells]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"--exp must be directories of different names, got {twice[0]!r} twice")
    return cells
