"""The options of `espnet_ext.bin.evaluate`: which systems, which evaluators, and how."""

from __future__ import annotations

import argparse
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espnet_ext.data.datadir import read_scp
from espnet_ext.errors import UserError
from espnet_ext.jobs import Workers, add_worker_options
from espnet_ext.scoring.evaluators import BY_VOCABULARY, KINDS
from espnet_ext.scoring.evaluators.evaluator import Choice
from espnet_ext.scoring.measures.words import recogniser_for
from espnet_ext.storage.yaml_files import add_pair


@dataclass(frozen=True)
class Named:
    """Directories of everything that is evaluated.

    Attributes:
        systems: name → directory.
        repeats: name → directories of further outputs.
        untranscribed: name → directory of a system that has no text.
    """

    systems: dict[str, Path]
    repeats: dict[str, list[Path]]
    untranscribed: dict[str, Path]

    @property
    def directories(self) -> list[Path]:
        """All of them."""
        further = [path for paths in self.repeats.values() for path in paths]
        return [*self.systems.values(), *further, *self.untranscribed.values()]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add all options of the command."""
    parser.add_argument("--codec_info", type=Path, required=True, help="codec_info.yaml of the codes")
    parser.add_argument(
        "--reference", type=Path, required=True, help="directory of the test set's codes and data files"
    )
    for option, text in {
        "system": "row name and directory with wav.scp",
        "repeat": "a further output of the system, with another seed",
        "untranscribed": "the same of speech that has no text, and therefore no error rate",
    }.items():
        parser.add_argument(f"--{option}", action="append", default=[], metavar="NAME=DIR", help=f"{text}; repeatable")
    parser.add_argument(
        "--train_dir", action="append", default=[], type=Path, help="training to draw learning curves of; repeatable"
    )
    parser.add_argument(
        "--compare", nargs=2, action="append", default=[], metavar=("NAME", "NAME"),
        help="difference between two systems; repeatable; without it those to the parallel one of each experiment",
    )  # fmt: skip
    text = "measure the distance to these codes, not the test set's"
    parser.add_argument("--frechet_reference", type=Path, help=text)
    for option in KINDS:
        add_evaluator_option(parser, option)
    text = "ask them about so many utterances of each output alone; 0: all"
    parser.add_argument("--mos_utterances", type=int, default=0, help=text)
    text = "align speech with its recording for mel-cepstral distortion and log F0"
    parser.add_argument("--distortion", default="true", choices=["true", "false"], help=text)
    add_vocabulary_option(parser)
    parser.add_argument("--output_dir", type=Path, required=True, help="for scores.json, RESULTS.md and figures")
    parser.add_argument("--title", help="heading in the results; default: name of the reference directory")
    add_worker_options(parser)
    parser.add_argument("--num_bootstrap", type=int, default=1000, help="resamples of the utterances")
    parser.add_argument("--seed", type=int, default=0, help="of the resamples")
    parser.add_argument("--num_spectrograms", type=int, default=3, help="sentences shown")
    text = "keep what evaluators said, so that further systems cost only themselves"
    parser.add_argument("--keep_work", action="store_true", help=text)


def add_evaluator_option(parser: argparse.ArgumentParser, option: str) -> None:
    """Add the choice of an evaluator, asr, speaker or mos, and its options."""
    kind = KINDS[option]
    help_text = f"{kind.what} of {list(kind.registry)}, or none"
    parser.add_argument(f"--{option}", default=kind.default, help=help_text)
    parser.add_argument(f"--{option}_conf", action="append", default=[], metavar="K=V", help="option of it; repeatable")


def add_vocabulary_option(parser: argparse.ArgumentParser) -> None:
    """Add --vocabulary_text."""
    parser.add_argument(
        "--vocabulary_text", action="append", default=[], type=Path,
        help="texts whose words the recogniser may hear, too, such as the training set's; repeatable",
    )  # fmt: skip


def texts_of(directory: Path, further: Iterable[Path]) -> list[str]:
    """The texts of a test set and those whose words may be heard, too; none of files that are not there."""
    paths = [directory / "text", *further]
    return [
        text for path in paths if path.is_file() for text in read_scp(path, allow_empty=True, in_order=False).values()
    ]


def _pairs(pairs: Iterable[str], option: str) -> Iterator[tuple[str, Path]]:
    for pair in pairs:
        name, _, directory = pair.partition("=")
        if not name or not directory:
            raise UserError(f"--{option} must be NAME=DIR, got {pair!r}")
        yield name, Path(directory)


def parse_systems(pairs: Iterable[str], option: str = "system", taken: Container[str] = ()) -> dict[str, Path]:
    """Directories of systems by name; a pair without "=", or a name that occurs twice or is taken, is a UserError."""
    systems: dict[str, Path] = {}
    for name, directory in _pairs(pairs, option):
        if name in systems or name in taken:
            raise UserError(f"--{option} must have different names, got {name!r} twice")
        systems[name] = directory
    return systems


def parse_repeats(pairs: Iterable[str], systems: Mapping[str, Path]) -> dict[str, list[Path]]:
    """Further outputs of systems: name → directories, in the given order; a name of no system is a UserError."""
    repeats: dict[str, list[Path]] = {}
    for name, directory in _pairs(pairs, "repeat"):
        if name not in systems:
            raise UserError(f"--repeat must name one of the systems {list(systems)}, got {name!r}")
        repeats.setdefault(name, []).append(directory)
    return repeats


def parse_evaluators(
    args: argparse.Namespace, texts: Iterable[str], options: Iterable[str] = tuple(KINDS)
) -> dict[str, tuple[Choice, ...]]:
    """The evaluators that options name, none where they say none.

    Args:
        args: all options.
        texts: that a recogniser will be given, which decide where the user does not.
        options: those to look at.

    Returns:
        Option → evaluators.

    Raises:
        UserError: if an evaluator or an option of it is unknown
    """
    chosen: dict[str, tuple[Choice, ...]] = {}
    for option in options:
        conf: dict[str, Any] = {}
        for pair in getattr(args, f"{option}_conf"):
            add_pair(conf, pair, f"{option}_conf")
        names = [name for name in getattr(args, option).split() if name != "none"]
        if names == [BY_VOCABULARY]:
            names = [recogniser_for(texts)]
        if len(names) > 1 and (conf or option != "mos"):
            what = f"one of them with --{option}_conf" if option == "mos" else "one name"
            raise UserError(f"--{option} must be {what}, got {getattr(args, option)!r}")
        if conf and not names:
            raise UserError(f"--{option}_conf must be left out with --{option} none, got {conf}")
        chosen[option] = tuple(Choice(option, name, conf) for name in names)
        for choice in chosen[option]:
            choice.check()
    return chosen


def check_options(args: argparse.Namespace) -> Named:
    """What is to be evaluated; an impossible value of an option is a UserError."""
    Workers(args.nj, args.dask_scheduler)
    for name, least in (("num_bootstrap", 1), ("num_spectrograms", 0), ("mos_utterances", 0)):
        if getattr(args, name) < least:
            raise UserError(f"--{name} must be at least {least}, got {getattr(args, name)}")
    systems = parse_systems(args.system)
    if not systems:
        raise UserError("--system must be given at least once")
    untranscribed = parse_systems(args.untranscribed, "untranscribed", systems)
    return Named(systems, parse_repeats(args.repeat, systems), untranscribed)
