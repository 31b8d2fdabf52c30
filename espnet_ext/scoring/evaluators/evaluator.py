"""Evaluators: what hears one audio file at a time, their choice by name, and a corpus heard in shards."""

from __future__ import annotations

import functools
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from espnet_ext.jobs import Work, Workers, run_groups
from espnet_ext.registry import Registry
from espnet_ext.scoring.measures.same_audio import content_of

SHARD_SIZE = 8
# option → the package of its classes, and their registry there; imported when it is asked for, as some are slow
PACKAGES = {
    "asr": ("espnet_ext.scoring.evaluators.recogniser", "recognisers"),
    "speaker": ("espnet_ext.scoring.evaluators.voice", "speaker_encoders"),
    "mos": ("espnet_ext.scoring.evaluators.mos", "mos_predictors"),
}


@dataclass(frozen=True)
class Unheard:
    """What an evaluator says of a file that it cannot judge.

    Attributes:
        reason: one line.
    """

    reason: str


class Evaluator(ABC):
    """Something that hears one file at a time; a subclass adds its options as keyword arguments with defaults.

    What it says of a file must depend on nothing but the file and its options.

    Attributes:
        requires: module that it imports → what pip installs for it. The first one's version is reported.
    """

    requires: ClassVar[Mapping[str, str]]

    @abstractmethod
    def __call__(self, path: Path) -> Any:
        """What it hears: words, a unit vector or a dictionary of numbers; None where there is nothing to say.

        Args:
            path: audio of any sample rate.

        Returns:
            The value.

        Raises:
            UserError: if the file cannot be judged.
        """


def registry_of(kind: str) -> Registry[type[Evaluator]]:
    """The evaluators that an option may name.

    Args:
        kind: the option, asr, speaker or mos.

    Returns:
        Their registry.
    """
    module, name = PACKAGES[kind]
    registry: Registry[type[Evaluator]] = getattr(import_module(module), name)
    return registry


@dataclass(frozen=True)
class Choice:
    """An evaluator and its options, in plain values, so that every worker can be told.

    Attributes:
        kind: the option that chooses it, asr, speaker or mos.
        name: registered name.
        conf: its options.
    """

    kind: str
    name: str
    conf: Mapping[str, Any] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash((self.kind, self.name, repr(sorted(self.conf.items()))))

    @property
    def evaluator(self) -> type[Evaluator]:
        """Its class."""
        return registry_of(self.kind)[self.name]

    def check(self) -> None:
        """Refuse a name or an option that there is not.

        Raises:
            UserError: naming those that there are.
        """
        registry_of(self.kind).check_options(self.name, self.conf)

    def unavailable(self) -> str | None:
        """Why it cannot be used here: which package is missing, and how to install it; None if it can."""
        for module, requirement in self.evaluator.requires.items():
            if find_spec(module) is None:
                return f"{module} is not installed: pip install {requirement}"
        return None

    def label(self) -> str:
        """Its name with the version of its package, and its options where they are few."""
        module = next(iter(self.evaluator.requires))
        packages = metadata.packages_distributions().get(module, [])
        version = f" ({packages[0]} {metadata.version(packages[0])})" if packages else ""
        conf = "".join(f" {key}={value}" for key, value in self.conf.items() if isinstance(value, str | int | float))
        return f"{self.name}{version}{conf}"


@functools.lru_cache(maxsize=3)
def _load_once(choice: Choice) -> Evaluator:
    return choice.evaluator(**choice.conf)


def evaluate_shard(choice: Choice, paths: Mapping[str, Path]) -> dict[str, Any]:
    """What an evaluator says of files.

    Args:
        choice: the evaluator.
        paths: any key → audio file.

    Returns:
        Key → value; `Unheard` where the evaluator could not judge.
    """
    evaluator = _load_once(choice)
    results: dict[str, Any] = {}
    for key, path in paths.items():
        try:
            results[key] = evaluator(path)
        except ValueError as error:
            results[key] = Unheard(" ".join(str(error).split()))
    return results


def evaluate_files(
    choice: Choice, groups: Mapping[str, Iterable[Path]], workers: Workers, folder: Path | None
) -> dict[Path, Any]:
    """What an evaluator says of all files, each heard once, and so are files of the same content.

    Args:
        choice: the evaluator.
        groups: name → audio files; a file of an earlier group belongs to that one alone.
        workers: who listens.
        folder: where finished work is kept for a run that continues, all workers must see it; None for a temporary one.

    Returns:
        Path → value.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix=choice.kind) as name:
            return evaluate_files(choice, groups, workers, Path(name))
    place = folder / f"{choice.kind}_{choice.name}"
    first: dict[str, Path] = {}  # content → the file that is heard
    items: dict[Path, dict[str, Path]] = {}
    heard: dict[Path, Path] = {}
    for name, paths in groups.items():
        items[place / name] = {}
        for path in paths:
            if path in heard:
                continue
            heard[path] = first.setdefault(content_of(path), path)
            if heard[path] == path:
                items[place / name][str(path)] = path
    request = {"evaluator": choice.label(), "conf": repr(sorted(choice.conf.items()))}
    work = Work(functools.partial(evaluate_shard, choice), request, choice.name, SHARD_SIZE, lambda path: [path])
    found: dict[Path, Any] = {}
    for _, _, results in run_groups(work, items, workers):
        found.update({Path(key): value for key, value in results.items()})
    return {path: found[kept] for path, kept in heard.items()}
