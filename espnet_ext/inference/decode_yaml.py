"""The decode yamls that an experiment keeps, one per strategy: how it was decoded when it was measured."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import yaml

from espnet_ext.decoding.options import DecodeOptions
from espnet_ext.errors import UserError
from espnet_ext.storage.atomic import atomic_path
from espnet_ext.storage.yaml_files import read_yaml

FOLDER, PREFIX = "decode", "decode_"
AS_DECODED = "How the recipe decoded its test sets."

Options = TypeVar("Options", bound=DecodeOptions)


class Base(NamedTuple):
    """Options of a strategy, and where they are from.

    Attributes:
        options: the strategy and its options.
        source: the yaml that says so.
    """

    options: DecodeOptions
    source: Path


def yaml_of(place: Path, decoding: str) -> Path:
    """The decode yaml of a strategy in a directory of such files."""
    return place / f"{PREFIX}{decoding}.yaml"


def first_yaml(places: Iterable[Path], decoding: str) -> tuple[Path | None, list[Path]]:
    """The decode yaml of a strategy in the first directory that has one, None if none does, and all in question."""
    paths = list(dict.fromkeys(yaml_of(place, decoding) for place in places))
    return next((path for path in paths if path.is_file()), None), paths


def kept_yaml(exp: Path, decoding: str | None = None) -> Path | None:
    """What an experiment keeps for a strategy.

    Args:
        exp: experiment directory.
        decoding: the strategy; None for the one of `DecodeOptions`, or the first that there is.

    Returns:
        The file; None if there is none.
    """
    named = yaml_of(exp / FOLDER, decoding or DecodeOptions.decoding)
    if named.is_file():
        return named
    return next(iter(sorted((exp / FOLDER).glob(f"{PREFIX}*.yaml"))), None) if decoding is None else None


def yamls_of(exp: Path, decodings: Iterable[str]) -> list[Path]:
    """The decode yamls that an experiment needs elsewhere, to be decoded as here.

    Args:
        exp: experiment directory.
        decodings: strategies for which its recipe is asked, where it keeps no yaml.

    Returns:
        The files; of the recipe none that would change what is decoded where no strategy is named.
    """
    kept = sorted((exp / FOLDER).glob(f"{PREFIX}*.yaml"))
    found = [path for name in decodings if (path := first_yaml(_recipe(exp), name)[0]) is not None]
    default = yaml_of(Path(), DecodeOptions.decoding).name
    if default not in {path.name for path in kept or found}:
        return kept
    return list({path.name: path for path in [*found, *kept]}.values())


def kept_options(
    exp: Path, decoding: str | None, kind: type[Options], objective: str | None = None
) -> tuple[Options, Path | None]:
    """How an experiment is decoded where nothing else is said: as it keeps it, else as its recipe says.

    Args:
        exp: experiment directory.
        decoding: the strategy; None as for `kept_yaml`.
        kind: class of the options.
        objective: of its model, whose order they get if they have that of others; None to look it up.

    Returns:
        The options, and the file that they are from; defaults, which are logged, and None if there is none.

    Raises:
        UserError: naming what is wrong with the file.
    """
    path = kept_yaml(exp, decoding)
    if path is None and kind is DecodeOptions:  # what recipes share is for texts
        path, _ = first_yaml(_recipe(exp), decoding or DecodeOptions.decoding)
    if path is not None:
        options = read_options(path, path.stem.removeprefix(PREFIX), kind)
        return for_model(options, path, objective or objective_of(exp)), path
    options = (kind() if decoding is None else kind(decoding)).for_objective(objective or objective_of(exp))
    logging.warning("%s keeps no decode yaml for %s: it is decoded with the defaults", exp, options.decoding)
    return options, None


def _recipe(exp: Path) -> list[Path]:
    """Where the recipe of an experiment, RECIPE/exp/NAME, has its decode yamls, and where all recipes have theirs."""
    recipe = exp.resolve().parent.parent
    return [place / "conf" for place in (recipe, *recipe.parents[2:3])]


def read_options(path: Path, decoding: str, kind: type[Options]) -> Options:
    """Options of a strategy from its decode yaml; a UserError if it is wrong, or of another strategy."""
    options = kind.from_yaml(path, decoding)
    if options.decoding != decoding:
        raise UserError(f"{path} must be for {decoding}, got decoding {options.decoding}")
    return options


def keep(exp: Path, options: DecodeOptions, *why: str) -> Path:
    """Write the decode yaml of a strategy into its experiment.

    Args:
        exp: experiment directory.
        options: how to decode.
        *why: lines about where they are from.

    Returns:
        The file.
    """
    path = yaml_of(exp / FOLDER, options.decoding)
    content = yaml.safe_dump(options.complete(), sort_keys=False, default_flow_style=None)
    with atomic_path(path) as temporary:
        temporary.write_text("".join(f"# {line}\n" for line in why) + content, encoding="utf-8")
    return path


def keep_unless_chosen(exp: Path, options: DecodeOptions) -> None:
    """Write the decode yaml of a strategy into its experiment, but in the place of none that somebody else wrote."""
    path = yaml_of(exp / FOLDER, options.decoding)
    if not path.is_file() or path.read_text(encoding="utf-8").startswith(f"# {AS_DECODED}\n"):
        keep(exp, options, AS_DECODED)


def find_base(exp: Path, conf_dir: Path | None, decoding: str) -> Base:
    """How a strategy of an experiment is decoded.

    Its decode_<strategy>.yaml is looked for where the user says, in the experiment, in conf/, and in the conf/ of the
    model's recipe and the one that all recipes share.

    Args:
        exp: experiment directory, of a recipe if it is RECIPE/exp/NAME.
        conf_dir: the user's directory of such files; None if nothing is said.
        decoding: the strategy.

    Returns:
        Options and the file that they are from.

    Raises:
        FileNotFoundError: naming the directory or the files that were looked for, none of which is there.
        UserError: if the yaml is wrong, or of another strategy.
    """
    if conf_dir is not None and not conf_dir.is_dir():
        raise FileNotFoundError(f"conf_dir not found: {conf_dir}")
    places = [exp / FOLDER, Path("conf")] if conf_dir is None else [conf_dir, exp / FOLDER]
    places += _recipe(exp)
    found, paths = first_yaml(places, decoding)
    if found is None:
        looked_for = ", ".join(map(str, paths))
        raise FileNotFoundError(f"{decoding} of {exp} has no decode yaml: none of {looked_for} is there")
    return Base(for_model(read_options(found, decoding, DecodeOptions), found, objective_of(exp)), found)


def objective_of(exp: Path) -> str:
    """The objective of an experiment's model; that of the default where its config.yaml says nothing of it."""
    path = exp / "config.yaml"
    conf = read_yaml(path, "config.yaml").get("corelm_conf") if path.is_file() else None
    return str((conf if isinstance(conf, Mapping) else {}).get("objective", "causal"))


def for_model(options: Options, path: Path, objective: str) -> Options:
    """Options with the model's order: yamls that recipes share have that of causal models.

    A decode_<objective>.yaml beside the file says which; without one it is the first that goes with such models.

    Args:
        options: of a yaml.
        path: of it.
        objective: of the model.

    Returns:
        The options; where they have another order, the log tells.
    """
    fitting = options.for_objective(objective)
    if fitting is options:
        return options
    beside = path.with_name(f"{PREFIX}{objective}.yaml")
    if beside.is_file():
        own = DecodeOptions.from_yaml(beside)
        fitting = replace(fitting, order=own.order, order_conf=own.order_conf)
    logging.info("order %s in place of that of %s: the model has objective %s", fitting.order, path, objective)
    return fitting
