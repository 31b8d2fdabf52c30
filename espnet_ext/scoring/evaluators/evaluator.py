"""The choice of an evaluator by name, and a corpus that it hears in shards."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from espnet_ext.errors import missing_package
from espnet_ext.jobs import Work, Workers
from espnet_ext.registry import Registry
from espnet_ext.scoring.evaluators import KINDS, Evaluator
from espnet_ext.scoring.measures.same_audio import Unheard, content_of, judge_each, judge_once

SHARD_SIZE = 8


def registry_of(kind: str) -> Registry[type[Evaluator]]:
    """The evaluators that an option may name: asr, speaker or mos."""
    return KINDS[kind].registry


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
        return missing_package(self.evaluator.requires)

    def label(self) -> str:
        """Its name with the version of its package, its model, and its options where they are few."""
        module = next(iter(self.evaluator.requires), "")
        packages = metadata.packages_distributions().get(module, [])
        version = f" ({packages[0]} {metadata.version(packages[0])})" if packages else ""
        models = {key: value for key, value in registry_of(self.kind).options(self.name).items() if key == "model"}
        said = {**models, **self.conf}
        conf = "".join(f" {key}={value}" for key, value in said.items() if isinstance(value, str | int | float))
        return f"{self.name}{version}{conf}"


@functools.lru_cache(maxsize=3)
def _load_once(choice: Choice) -> Evaluator:
    return choice.evaluator(**choice.conf)


def evaluate_files(
    choice: Choice, groups: Mapping[str, Mapping[str, Path]], workers: Workers, folder: Path | None
) -> dict[str, dict[str, Any]]:
    """What an evaluator says of all files, each heard once, and so are files of the same content.

    Args:
        choice: the evaluator.
        groups: name → utterance → audio file.
        workers: who listens.
        folder: where finished work is kept for a run that continues, all workers must see it; None for a temporary one.

    Returns:
        Name → utterance → value; `Unheard` where the evaluator could not judge.
    """
    request = {"evaluator": choice.label(), "conf": repr(sorted(choice.conf.items()))}
    load = functools.partial(_load_once, choice)
    work = Work(functools.partial(judge_each, load), request, choice.name, SHARD_SIZE, lambda path: [path])
    place = None if folder is None else folder / f"{choice.kind}_{choice.name}"
    return judge_once(work, groups, workers, place, content_of)


__all__ = ["Choice", "Evaluator", "Unheard", "evaluate_files", "registry_of"]
